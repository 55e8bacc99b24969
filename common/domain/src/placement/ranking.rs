//! The best state for one kind of request, kept up to date by what changed.

use super::state::{State, StateId, States};

/// States per block; the best of each block is kept.
const BLOCK: usize = 64;
/// The score of a state without room.
const NO_ROOM: i64 = i64::MIN;

/// Every state's score for one kind of request.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    leaves: Vec<Leaf>,
    /// Per block the position of its best leaf.
    tops: Vec<usize>,
    /// Changes of the states that are taken into account; `None`: none are.
    synced: Option<u64>,
}

/// One state.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    score: i64,
    /// Its first node: of equal scores the earliest node wins.
    first: u32,
    /// Birth of the state that was scored; 0: none was.
    birth: u64,
}

impl Default for Leaf {
    fn default() -> Self {
        Self { score: NO_ROOM, first: u32::MAX, birth: 0 }
    }
}

impl Leaf {
    fn beats(&self, other: &Self) -> bool {
        (self.score, other.first) > (other.score, self.first)
    }
}

impl Ranking {
    /// Forgets all scores: what they depended on has changed.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Scores what is new or changed; `score` is asked once per state and says `None` where there
    /// is no room.
    pub(super) fn sync(&mut self, states: &States, mut score: impl FnMut(&State) -> Option<i64>) {
        let known = self.synced.and_then(|then| states.since(then));
        match known {
            Some(changed) => {
                self.grow(states.list().len());
                for id in changed {
                    let better = self.update(id, states, &mut score);
                    self.lift(id as usize, better);
                }
            }
            None => self.rebuild(states, &mut score),
        }
        self.synced = Some(states.now());
    }

    /// The best state and its score, of equal ones that with the earliest node.
    pub(super) fn best(&self) -> Option<(i64, StateId)> {
        let mut best: Option<&Leaf> = None;
        let mut at = 0;
        for top in &self.tops {
            let leaf = &self.leaves[*top];
            if best.is_none_or(|best| leaf.beats(best)) {
                (best, at) = (Some(leaf), *top);
            }
        }
        let best = best.filter(|leaf| leaf.score != NO_ROOM)?;
        Some((best.score, StateId::try_from(at).ok()?))
    }

    /// The best node that `allowed` lets through, with its score; of equal ones the earliest.
    pub(super) fn best_node(
        &self,
        states: &States,
        allowed: impl Fn(u32) -> bool,
    ) -> Option<(i64, u32)> {
        let mut best: Option<Leaf> = None;
        for (block, top) in self.tops.iter().enumerate() {
            // A block whose best cannot win is passed over.
            if best.is_some_and(|best| !self.leaves[*top].beats(&best)) {
                continue;
            }
            let from = block * BLOCK;
            for (at, leaf) in self.leaves.iter().enumerate().skip(from).take(BLOCK) {
                if leaf.score == NO_ROOM || best.is_some_and(|best| !leaf.beats(&best)) {
                    continue;
                }
                let nodes = &states.list()[at].nodes;
                if let Some(first) = nodes.iter().copied().find(|node| allowed(*node)) {
                    let found = Leaf { first, ..*leaf };
                    if best.is_none_or(|best| found.beats(&best)) {
                        best = Some(found);
                    }
                }
            }
        }
        best.map(|leaf| (leaf.score, leaf.first))
    }

    fn rebuild(&mut self, states: &States, score: &mut impl FnMut(&State) -> Option<i64>) {
        self.grow(states.list().len());
        for at in 0..states.list().len() {
            if let Ok(id) = StateId::try_from(at) {
                self.update(id, states, score);
            }
        }
        for block in 0..self.tops.len() {
            self.settle(block);
        }
    }

    fn grow(&mut self, states: usize) {
        self.leaves.resize(states.max(self.leaves.len()), Leaf::default());
        for block in self.tops.len()..self.leaves.len().div_ceil(BLOCK) {
            self.tops.push(block * BLOCK);
        }
    }

    /// Brings one leaf up to date; says whether it became better.
    fn update(
        &mut self,
        id: StateId,
        states: &States,
        score: &mut impl FnMut(&State) -> Option<i64>,
    ) -> bool {
        let state = &states.list()[id as usize];
        let leaf = &mut self.leaves[id as usize];
        let before = *leaf;
        match state.first() {
            None => *leaf = Leaf::default(),
            Some(first) => {
                if leaf.birth != state.birth {
                    leaf.score = score(state).unwrap_or(NO_ROOM);
                    leaf.birth = state.birth;
                }
                leaf.first = first;
            }
        }
        leaf.beats(&before)
    }

    /// Keeps the best of a block right after the leaf at `at` has changed.
    fn lift(&mut self, at: usize, better: bool) {
        let block = at / BLOCK;
        let top = self.tops[block];
        if top == at && !better {
            self.settle(block);
        } else if self.leaves[at].beats(&self.leaves[top]) {
            self.tops[block] = at;
        }
    }

    fn settle(&mut self, block: usize) {
        let from = block * BLOCK;
        let to = (from + BLOCK).min(self.leaves.len());
        let mut top = from;
        for at in from..to {
            if self.leaves[at].beats(&self.leaves[top]) {
                top = at;
            }
        }
        self.tops[block] = top;
    }
}

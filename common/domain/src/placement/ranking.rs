//! The best state for one kind of request, kept up to date by what changed.

use super::state::{State, States};

/// States per block; the best of each block is kept.
const BLOCK: usize = 64;
/// The score of a state without room.
const NO_ROOM: i64 = i64::MIN;

/// Every state's score for one kind of request.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    /// By position of the shape.
    shapes: Vec<Tree>,
    /// Epoch and changes of the states that are taken into account; `None`: none are.
    synced: Option<(u64, u64)>,
}

/// The scores of the states of one shape.
#[derive(Debug, Default)]
struct Tree {
    leaves: Vec<Leaf>,
    /// Per block its best leaf and the position of that.
    tops: Vec<(Leaf, usize)>,
}

/// One state.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    score: i64,
    /// Its first node: of equal scores the earliest node wins.
    first: u32,
    /// Birth of the state that was scored; 0: none was.
    birth: u32,
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

    fn plus(&self, extra: i64) -> Self {
        Self { score: self.score.saturating_add(extra), ..*self }
    }
}

impl Ranking {
    /// Forgets all scores: what they depended on has changed.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Scores what is new or changed; `score` is asked once per state, about its first
    /// node, and says `None` where there is no room.
    pub(super) fn sync(&mut self, states: &States, mut score: impl FnMut(u32) -> Option<i64>) {
        if self.synced.is_some_and(|(epoch, _)| epoch != states.epoch()) {
            self.clear();
        }
        self.shapes.resize_with(states.shapes().len(), Tree::default);
        for (tree, list) in self.shapes.iter_mut().zip(states.shapes()) {
            tree.grow(list.len());
        }
        match self.synced.and_then(|(_, then)| states.since(then)) {
            Some(changed) => {
                for id in changed {
                    let tree = &mut self.shapes[id.shape as usize];
                    let better = tree.update(id.at as usize, states.get(id), &mut score);
                    tree.lift(id.at as usize, better);
                }
            }
            None => {
                for (tree, list) in self.shapes.iter_mut().zip(states.shapes()) {
                    tree.rebuild(list, &mut score);
                }
            }
        }
        self.synced = Some((states.epoch(), states.now()));
    }

    /// The best node with its score, of equal ones the earliest. `extra` is added to every score
    /// of a shape.
    pub(super) fn best(&self, extra: impl Fn(usize) -> i64) -> Option<(i64, u32)> {
        let mut best: Option<Leaf> = None;
        for (shape, tree) in self.shapes.iter().enumerate() {
            if let Some(leaf) = tree.best() {
                let leaf = leaf.plus(extra(shape));
                if best.is_none_or(|best| leaf.beats(&best)) {
                    best = Some(leaf);
                }
            }
        }
        best.map(|leaf| (leaf.score, leaf.first))
    }

    /// As [`Ranking::best`], of the nodes that `allowed` lets through.
    pub(super) fn best_allowed(
        &self,
        states: &States,
        extra: impl Fn(usize) -> i64,
        allowed: impl Fn(u32) -> bool,
    ) -> Option<(i64, u32)> {
        let mut best: Option<Leaf> = None;
        for (shape, tree) in self.shapes.iter().enumerate() {
            let first = |at: usize| states.nodes(shape, at).find(|node| allowed(*node));
            tree.improve(&mut best, extra(shape), first);
        }
        best.map(|leaf| (leaf.score, leaf.first))
    }
}

impl Tree {
    fn best(&self) -> Option<Leaf> {
        let mut best: Option<&Leaf> = None;
        for (leaf, _) in &self.tops {
            if best.is_none_or(|best| leaf.beats(best)) {
                best = Some(leaf);
            }
        }
        best.filter(|leaf| leaf.score != NO_ROOM).copied()
    }

    /// Puts the best leaf, seen as its node that `first` lets through, into `best` if it wins.
    fn improve(&self, best: &mut Option<Leaf>, extra: i64, first: impl Fn(usize) -> Option<u32>) {
        let wins = |leaf: &Leaf, best: &Option<Leaf>| {
            leaf.score != NO_ROOM && best.is_none_or(|best| leaf.plus(extra).beats(&best))
        };
        for (block, (top, _)) in self.tops.iter().enumerate() {
            // A block whose best cannot win is passed over.
            if !wins(top, best) {
                continue;
            }
            let leaves = self.leaves.iter().enumerate().skip(block * BLOCK).take(BLOCK);
            for (at, leaf) in leaves {
                if !wins(leaf, best) {
                    continue;
                }
                let found = first(at).map(|first| Leaf { first, ..*leaf });
                if let Some(found) = found.filter(|found| wins(found, best)) {
                    *best = Some(found.plus(extra));
                }
            }
        }
    }

    fn rebuild(&mut self, states: &[State], score: &mut impl FnMut(u32) -> Option<i64>) {
        for (at, state) in states.iter().enumerate() {
            self.update(at, *state, score);
        }
        for block in 0..self.tops.len() {
            self.settle(block);
        }
    }

    fn grow(&mut self, states: usize) {
        self.leaves.resize(states.max(self.leaves.len()), Leaf::default());
        for block in self.tops.len()..self.leaves.len().div_ceil(BLOCK) {
            self.tops.push((Leaf::default(), block * BLOCK));
        }
    }

    /// Brings one leaf up to date; says whether it became better.
    fn update(
        &mut self,
        at: usize,
        state: State,
        score: &mut impl FnMut(u32) -> Option<i64>,
    ) -> bool {
        let leaf = &mut self.leaves[at];
        let before = *leaf;
        if state.first == State::NO_NODE {
            *leaf = Leaf::default();
        } else {
            if leaf.birth != state.birth {
                leaf.score = score(state.first).unwrap_or(NO_ROOM);
                leaf.birth = state.birth;
            }
            leaf.first = state.first;
        }
        leaf.beats(&before)
    }

    /// Keeps the best of a block right after the leaf at `at` has changed.
    fn lift(&mut self, at: usize, better: bool) {
        let block = at / BLOCK;
        let (top, holder) = self.tops[block];
        if holder == at && !better {
            self.settle(block);
        } else if holder == at || self.leaves[at].beats(&top) {
            self.tops[block] = (self.leaves[at], at);
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
        self.tops[block] = (self.leaves[top], top);
    }
}

//! In which order nodes and parts are filled, without a look at all of them for every member.

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Nodes by how many members each takes, to fill those first that take the most of what is left.
pub(super) struct Fullest {
    /// Members at most.
    most: u32,
    /// Room and bonus, and the node.
    nodes: BTreeSet<(u32, Reverse<u32>, usize)>,
    with_bonus: bool,
}

impl Fullest {
    /// Without nodes, for so many members.
    pub(super) fn new(most: u32) -> Self {
        Self { most, nodes: BTreeSet::new(), with_bonus: false }
    }

    /// Adds a node with room for `room` members, preferred as if for `bonus` more.
    pub(super) fn enter(&mut self, node: usize, room: u32, bonus: u32) {
        if room > 0 {
            self.nodes.insert((room.min(self.most), Reverse(bonus), node));
            self.with_bonus |= bonus > 0;
        }
    }

    /// Takes out the node that takes the most of `left` members, of those the tightest, then the
    /// first.
    pub(super) fn take(&mut self, left: u32) -> Option<usize> {
        if left == 0 {
            return None;
        }
        let best = if self.with_bonus { self.best_of_all(left) } else { self.best(left) };
        let best = best?;
        self.nodes.remove(&best);
        Some(best.2)
    }

    fn best(&self, left: u32) -> Option<(u32, Reverse<u32>, usize)> {
        let first = (left, Reverse(u32::MAX), 0);
        if let Some(holds_all) = self.nodes.range(first..).next() {
            return Some(*holds_all);
        }
        let (most, ..) = *self.nodes.last()?;
        self.nodes.range((most, Reverse(u32::MAX), 0)..).next().copied()
    }

    fn best_of_all(&self, left: u32) -> Option<(u32, Reverse<u32>, usize)> {
        let key = |(room, Reverse(bonus), node): &(u32, Reverse<u32>, usize)| {
            (Reverse((*room).min(left).saturating_add(*bonus)), *room, *node)
        };
        self.nodes.iter().min_by_key(|entry| key(entry)).copied()
    }
}

/// Things by a key, of equal ones the first.
pub(super) struct Queue<K> {
    entries: BTreeSet<(K, usize)>,
}

impl<K: Ord> Default for Queue<K> {
    fn default() -> Self {
        Self { entries: BTreeSet::new() }
    }
}

impl<K: Ord> Queue<K> {
    /// Adds a thing that is not there; nothing where it has no key.
    pub(super) fn enter(&mut self, thing: usize, key: Option<K>) {
        self.entries.extend(key.map(|key| (key, thing)));
    }

    /// Takes out the thing with the least key.
    pub(super) fn take(&mut self) -> Option<usize> {
        self.entries.pop_first().map(|(_, thing)| thing)
    }
}

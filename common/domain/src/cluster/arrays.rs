//! Arrays of which only some members may hold a place at once.

use crate::ids::SessionId;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// The members of one array, by age: the oldest that wait have their turn, as many as may.
#[derive(Debug)]
pub(super) struct Array {
    at_once: NonZeroU32,
    /// How many hold a place.
    holding: u32,
    /// Those that wait, and whether they are in the queue or held; `None` until that is judged.
    waiting: BTreeMap<u64, (SessionId, Option<bool>)>,
}

impl Array {
    pub(super) fn new(at_once: NonZeroU32) -> Self {
        Self { at_once, holding: 0, waiting: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holding == 0 && self.waiting.is_empty()
    }

    /// A member got a place, or gave it back.
    pub(super) fn placed(&mut self, placed: bool) {
        self.holding = if placed { self.holding + 1 } else { self.holding.saturating_sub(1) };
    }

    /// A member waits, or does not any more.
    pub(super) fn waits(&mut self, sequence: u64, unit: SessionId, waits: bool) {
        if waits {
            self.waiting.insert(sequence, (unit, None));
        } else {
            self.waiting.remove(&sequence);
        }
    }

    /// A waiting member is in the queue, held, or to be judged.
    pub(super) fn stands(&mut self, sequence: u64, ready: Option<bool>) {
        if let Some((_, stands)) = self.waiting.get_mut(&sequence) {
            *stands = ready;
        }
    }

    /// How many that wait may be in the queue.
    fn free(&self) -> usize {
        let free = self.at_once.get().saturating_sub(self.holding);
        usize::try_from(free).unwrap_or(usize::MAX)
    }

    /// Whether the member of this age has its turn.
    pub(super) fn has_turn(&self, sequence: u64) -> bool {
        self.waiting.keys().take(self.free()).any(|turn| *turn == sequence)
    }

    /// Members in the queue that have no turn, and held ones that have.
    pub(super) fn out_of_turn(&self) -> Vec<SessionId> {
        let free = self.free();
        let members = self.waiting.values().enumerate();
        let wrong = members.filter(|(turn, (_, ready))| ready.is_some_and(|r| r != (*turn < free)));
        wrong.map(|(_, (unit, _))| unit.clone()).collect()
    }
}

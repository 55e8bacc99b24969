//! Nodes in equal state, so that each state is scored once whatever the number of nodes in it.
//!
//! A state is everything a score may depend on: hardware, what is free, how slices are kept apart.
//! Names and labels are not part of it; they are looked at node by node. Only nodes in service are
//! in a state.

use super::entry::Entry;
use super::node::NodeState;
use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Position of a state in [`States`].
pub(super) type StateId = u32;

/// Changes remembered at least, whatever the number of states.
const LEAST_LOG: usize = 1024;

/// One state.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// No two states ever had the same, whatever their position.
    pub(super) birth: u64,
    /// Positions of the nodes in this state.
    pub(super) nodes: BTreeSet<u32>,
    key: Arc<[u64]>,
}

/// All states, and which of them changed when.
#[derive(Debug, Clone, Default)]
pub(super) struct States {
    list: Vec<State>,
    by_key: HashMap<Arc<[u64]>, StateId>,
    vacant: Vec<StateId>,
    births: u64,
    log: Log,
}

/// States that changed, the oldest first: each came up, vanished, or has another first node.
#[derive(Debug, Clone, Default)]
struct Log {
    /// Changes before the first one kept.
    base: u64,
    changed: VecDeque<StateId>,
}

impl State {
    /// The first of its nodes, in the order of the view.
    pub(super) fn first(&self) -> Option<u32> {
        self.nodes.first().copied()
    }
}

impl States {
    pub(super) fn list(&self) -> &[State] {
        &self.list
    }

    /// The number of changes so far.
    pub(super) fn now(&self) -> u64 {
        self.log.base + u64::try_from(self.log.changed.len()).unwrap_or(u64::MAX)
    }

    /// What changed since `then`; `None` where that is no longer known.
    pub(super) fn since(&self, then: u64) -> Option<impl Iterator<Item = StateId>> {
        let from = usize::try_from(then.checked_sub(self.log.base)?).ok()?;
        (from <= self.log.changed.len()).then(|| self.log.changed.range(from..).copied())
    }

    /// Puts the node at `position` into the state `entry` is in; `None` where it is out of service.
    pub(super) fn enter(&mut self, position: u32, entry: &Entry) -> Option<StateId> {
        if entry.node.state != NodeState::Ready {
            return None;
        }
        let id = match self.by_key.entry(key(entry).into()) {
            MapEntry::Occupied(known) => *known.get(),
            MapEntry::Vacant(new) => {
                let id = match self.vacant.pop() {
                    Some(id) => id,
                    None => {
                        self.list.push(State::default());
                        StateId::try_from(self.list.len() - 1).ok()?
                    }
                };
                self.births += 1;
                let state = &mut self.list[id as usize];
                (state.birth, state.key) = (self.births, new.key().clone());
                *new.insert(id)
            }
        };
        let nodes = &mut self.list[id as usize].nodes;
        nodes.insert(position);
        if nodes.first() == Some(&position) {
            self.note(id);
        }
        Some(id)
    }

    /// Takes the node at `position` out of its state.
    pub(super) fn leave(&mut self, position: u32, id: StateId) {
        let state = &mut self.list[id as usize];
        let was_first = state.nodes.first() == Some(&position);
        state.nodes.remove(&position);
        if state.nodes.is_empty() {
            self.by_key.remove(&state.key);
            self.vacant.push(id);
        }
        if was_first {
            self.note(id);
        }
    }

    /// Forgets everything, and lets nobody rely on what was known.
    pub(super) fn clear(&mut self) {
        let base = self.now() + 1;
        let log = Log { base, changed: VecDeque::new() };
        *self = Self { births: self.births, log, ..Self::default() };
    }

    fn note(&mut self, id: StateId) {
        if self.log.changed.len() >= LEAST_LOG.max(self.list.len()) {
            self.log.changed.pop_front();
            self.log.base += 1;
        }
        self.log.changed.push_back(id);
    }
}

/// Equal for two nodes exactly when nothing a score may depend on tells them apart.
fn key(entry: &Entry) -> Vec<u64> {
    let node = &entry.node;
    let enforcer = entry.enforcer.map_or(0, |level| level as u64 + 1);
    let shape = u64::try_from(entry.shape).unwrap_or(u64::MAX);
    let head = [
        shape,
        enforcer << 1 | u64::from(node.allow_shared),
        node.cpu_free.0,
        node.memory_free.0,
        node.cpu_total.0,
        node.memory_total.0,
    ];
    let mut slots: Vec<[u64; 3]> = entry
        .slots
        .iter()
        .map(|slot| {
            let kind = u64::try_from(slot.kind).unwrap_or(u64::MAX);
            let flags = kind << 2 | u64::from(slot.open) << 1 | u64::from(slot.empty);
            [flags, slot.free.memory.0, u64::from(slot.free.compute.0)]
        })
        .collect();
    slots.sort_unstable();
    head.into_iter().chain(slots.into_iter().flatten()).collect()
}

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

/// Where a state is found in [`States`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateId {
    /// Position of the shape its nodes have.
    pub(super) shape: u32,
    /// Position among the states of that shape.
    pub(super) at: u32,
}

/// Changes remembered at least, whatever the number of states.
const LEAST_LOG: usize = 1024;

/// What a ranking wants to know of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// The first of its nodes in the order of the view; [`State::NO_NODE`] where there is none.
    pub(super) first: u32,
    /// Of two states that had the same position, no two have the same; never 0.
    pub(super) birth: u32,
}

/// The nodes in a state.
#[derive(Debug, Clone, Default)]
struct Members {
    /// By position.
    nodes: BTreeSet<u32>,
    key: Arc<[u64]>,
    /// What is free on each.
    free: Supply,
}

/// What is free on nodes in service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Supply {
    /// Thousandths of devices.
    pub(super) milli: i128,
    /// Thousandths of cores.
    pub(super) cpu: i128,
}

/// All states by shape, and which of them changed when.
#[derive(Debug, Clone, Default)]
pub(super) struct States {
    shapes: Vec<Group>,
    /// States in use or vacant.
    len: usize,
    births: u32,
    log: Log,
}

/// The states of one shape.
#[derive(Debug, Clone, Default)]
struct Group {
    /// Apart from the members, as this is read often.
    list: Vec<State>,
    members: Vec<Members>,
    by_key: HashMap<Arc<[u64]>, u32>,
    vacant: Vec<u32>,
    /// What is free on all nodes together.
    supply: Supply,
}

/// States that changed, the oldest first: each came up, vanished, or has another first node.
#[derive(Debug, Clone, Default)]
struct Log {
    /// Changes before the first one kept.
    base: u64,
    changed: VecDeque<StateId>,
    /// Counted up when nothing known before holds any more.
    epoch: u64,
}

impl Log {
    /// Lets nobody rely on what was known.
    fn forget(&mut self) {
        self.base += u64::try_from(self.changed.len()).unwrap_or(u64::MAX) + 1;
        self.changed.clear();
        self.epoch += 1;
    }
}

impl State {
    /// In the place of the first node where there is none.
    pub(super) const NO_NODE: u32 = u32::MAX;
}

impl States {
    pub(super) fn get(&self, id: StateId) -> State {
        self.shapes[id.shape as usize].list[id.at as usize]
    }

    /// The states of every shape, by position of the shape.
    pub(super) fn shapes(&self) -> impl ExactSizeIterator<Item = &[State]> {
        self.shapes.iter().map(|group| group.list.as_slice())
    }

    /// The nodes in the state at `at` of a shape, in the order of the view.
    pub(super) fn nodes(&self, shape: usize, at: usize) -> impl Iterator<Item = u32> {
        self.shapes[shape].members[at].nodes.iter().copied()
    }

    /// What is free on the nodes of a shape.
    pub(super) fn supply(&self, shape: usize) -> Supply {
        self.shapes.get(shape).map(|group| group.supply).unwrap_or_default()
    }

    /// How many states are in use, or were before.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Scores from another epoch mean nothing.
    pub(super) fn epoch(&self) -> u64 {
        self.log.epoch
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
        if self.shapes.len() <= entry.shape {
            self.shapes.resize_with(entry.shape + 1, Group::default);
        }
        let group = &mut self.shapes[entry.shape];
        let at = match group.by_key.entry(key(entry).into()) {
            MapEntry::Occupied(known) => *known.get(),
            MapEntry::Vacant(new) => {
                let at = match group.vacant.pop() {
                    Some(at) => at,
                    None => {
                        self.len += 1;
                        group.list.push(State { first: State::NO_NODE, birth: 0 });
                        group.members.push(Members::default());
                        u32::try_from(group.list.len() - 1).ok()?
                    }
                };
                // After four billion the count starts anew, and nobody may rely on what was known.
                self.births = self.births.checked_add(1).unwrap_or_else(|| {
                    self.log.forget();
                    1
                });
                group.list[at as usize].birth = self.births;
                let members = &mut group.members[at as usize];
                (members.key, members.free) = (new.key().clone(), Supply::of(entry));
                *new.insert(at)
            }
        };
        let members = &mut group.members[at as usize];
        if members.nodes.insert(position) {
            group.supply.milli += members.free.milli;
            group.supply.cpu += members.free.cpu;
        }
        let id = StateId { shape: u32::try_from(entry.shape).ok()?, at };
        let first = &mut group.list[at as usize].first;
        if position < *first {
            *first = position;
            self.note(id);
        }
        Some(id)
    }

    /// Takes the node at `position` out of its state.
    pub(super) fn leave(&mut self, position: u32, id: StateId) {
        let group = &mut self.shapes[id.shape as usize];
        let members = &mut group.members[id.at as usize];
        if members.nodes.remove(&position) {
            group.supply.milli -= members.free.milli;
            group.supply.cpu -= members.free.cpu;
        }
        if members.nodes.is_empty() {
            group.by_key.remove(&members.key);
            group.vacant.push(id.at);
        }
        let first = &mut group.list[id.at as usize].first;
        if position == *first {
            *first = members.nodes.first().copied().unwrap_or(State::NO_NODE);
            self.note(id);
        }
    }

    /// Forgets everything, and lets nobody rely on what was known.
    pub(super) fn clear(&mut self) {
        let mut log = std::mem::take(&mut self.log);
        log.forget();
        *self = Self { log, ..Self::default() };
    }

    fn note(&mut self, id: StateId) {
        if self.log.changed.len() >= LEAST_LOG.max(self.len) {
            self.log.changed.pop_front();
            self.log.base += 1;
        }
        self.log.changed.push_back(id);
    }
}

impl Supply {
    /// That of one node: equal for two nodes in the same state.
    pub(super) fn of(entry: &Entry) -> Self {
        Self { milli: i128::from(entry.gpu_free), cpu: i128::from(entry.node.cpu_free.0) }
    }
}

/// Equal for two nodes exactly when nothing a score may depend on tells them apart.
fn key(entry: &Entry) -> Vec<u64> {
    let node = &entry.node;
    let enforcer = entry.enforcer.map_or(0, |level| level as u64 + 1);
    let head = [
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
            // Which instances lie on one card matters, and is told by what is free of the card.
            let card = if slot.instance { slot.free_milli << 32 } else { 0 };
            [flags, slot.free.memory.0, card | u64::from(slot.free.compute.0)]
        })
        .collect();
    slots.sort_unstable();
    head.into_iter().chain(slots.into_iter().flatten()).collect()
}

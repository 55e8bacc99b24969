//! Nodes in equal state, for plans that look at many nodes: what holds for one holds for the others.

use super::view::{Identity, Versions, View};
use crate::ids::NodeName;

/// What is worked out once for all nodes in equal state.
#[derive(Debug)]
pub(crate) struct ByState<T> {
    /// By shape, then by state.
    known: Vec<Vec<Option<T>>>,
}

impl<T> ByState<T> {
    /// Nothing known of the nodes of `view`.
    pub(crate) fn new(view: &View) -> Self {
        let unknown = |states: usize| std::iter::repeat_with(|| None).take(states).collect();
        Self { known: view.states().shapes().map(|states| unknown(states.len())).collect() }
    }

    /// What is known of the node at this position in `view`, found by `find` for the first in its
    /// state; `None` for a node out of service.
    pub(crate) fn of(
        &mut self,
        view: &View,
        position: usize,
        find: impl FnOnce() -> T,
    ) -> Option<&T> {
        let state = view.entries().get(position)?.state?;
        let known = self.known.get_mut(state.shape as usize)?.get_mut(state.at as usize)?;
        Some(known.get_or_insert_with(find))
    }
}

impl View {
    /// The position of a node among all.
    pub(crate) fn position_of(&self, name: &NodeName) -> Option<usize> {
        self.position(name).ok()
    }
}

/// Which nodes carry which labels, and at which positions: what is worked out from that holds as
/// long as this is equal.
#[derive(Debug)]
pub(crate) struct LabelsOf {
    of: Identity,
    versions: Versions,
    epoch: u64,
    nodes: usize,
}

impl LabelsOf {
    /// The labels in `view` as they are.
    pub(crate) fn new(view: &View) -> Self {
        let (versions, epoch) = (view.versions(), view.states().epoch());
        Self { of: view.identity().same(), versions, epoch, nodes: view.len() }
    }

    /// Whether nothing has changed in `view`.
    pub(crate) fn is(&self, view: &View) -> bool {
        self.of.is(view.identity())
            && self.versions == view.versions()
            && self.epoch == view.states().epoch()
            && self.nodes == view.len()
    }
}

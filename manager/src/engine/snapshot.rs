//! What readers and watchers see.

use fgpu_domain::cluster::Cluster;
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::node::Node;
use fgpu_domain::placement::NodeState;
use fgpu_domain::session::Session;
use imbl::OrdMap;
use std::sync::Arc;

/// The state of the cluster as of one commit. A clone of the maps is cheap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Grows with every commit within a term.
    pub(crate) version: u64,
    pub(crate) sessions: OrdMap<SessionId, Arc<Session>>,
    pub(crate) nodes: OrdMap<NodeName, Arc<Node>>,
    pub(crate) states: OrdMap<NodeName, NodeState>,
}

/// What one commit changed, in order.
#[derive(Debug)]
pub(crate) struct ChangeBatch {
    /// The state after it.
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) changes: Vec<SessionChange>,
}

/// A session that changed or is gone.
#[derive(Debug, Clone)]
pub(crate) enum SessionChange {
    Changed(Arc<Session>),
    /// The record as it was last.
    Removed(Arc<Session>),
}

impl Snapshot {
    /// The state of `cluster`.
    pub(super) fn of(cluster: &Cluster, version: u64) -> Self {
        let names = cluster.nodes().keys();
        let states = names.filter_map(|name| Some((name.clone(), cluster.node_state(name)?)));
        Self {
            version,
            sessions: cluster.sessions().clone(),
            nodes: cluster.nodes().clone(),
            states: states.collect(),
        }
    }

    /// The state of `cluster` after this one, in which only `nodes` have changed theirs.
    pub(super) fn next<'a>(
        &self,
        cluster: &Cluster,
        nodes: impl IntoIterator<Item = &'a NodeName>,
    ) -> Self {
        let mut states = self.states.clone();
        for name in nodes {
            match cluster.node_state(name) {
                Some(state) => states.insert(name.clone(), state),
                None => states.remove(name),
            };
        }
        Self {
            version: self.version + 1,
            sessions: cluster.sessions().clone(),
            nodes: cluster.nodes().clone(),
            states,
        }
    }

    /// The session with this id, as it came over the wire.
    pub(crate) fn session(&self, id: &str) -> Option<&Arc<Session>> {
        id.parse().ok().and_then(|id: SessionId| self.sessions.get(&id))
    }

    /// What happened to sessions between `older` and this.
    pub(crate) fn since(&self, older: &Snapshot) -> Vec<SessionChange> {
        let mut changes = Vec::new();
        for (id, session) in &self.sessions {
            let same = older.sessions.get(id).is_some_and(|old| Arc::ptr_eq(old, session));
            if !same {
                changes.push(SessionChange::Changed(session.clone()));
            }
        }
        let gone = older.sessions.iter().filter(|(id, _)| !self.sessions.contains_key(*id));
        changes.extend(gone.map(|(_, session)| SessionChange::Removed(session.clone())));
        changes
    }
}

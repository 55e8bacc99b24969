//! A cluster from its records.
//!
//! Everything is entered at once instead of record by record, as no step has to be taken back: the
//! view of a node is made when all is known that is held there, and what projects have used is
//! counted once, from the sessions as they are.

use super::{Cluster, Records, RestoreError, Settings, index, promises};
use crate::node::Node;
use crate::session::Session;
use std::sync::Arc;

/// Sessions a restored cluster learns the mix of requests from, the latest ones: what came before has
/// faded.
const LEARNED: usize = 16_384;

impl Cluster {
    /// The cluster these records describe. Its nodes count as never seen until they speak.
    ///
    /// # Errors
    /// [`RestoreError`] when the records contradict each other; nothing is guessed.
    pub fn restore(settings: Settings, records: Records) -> Result<Self, RestoreError> {
        let Records { sessions, nodes, projects, classes, usage } = records;
        let mut cluster = Self::new(settings);
        cluster.restore_projects(projects, classes, usage)?;
        cluster.restore_nodes(nodes)?;
        cluster.restore_sessions(sessions)?;
        cluster.restore_views();
        cluster.rebuild_history();
        cluster.learn_mix();
        cluster.index.promises = promises::Promises::unknown();
        cluster.index.unsettled = true;
        cluster.journal = index::Journal::of(&cluster.index);
        cluster.mend_gangs();
        let broken = crate::check::check(&cluster).err().unwrap_or_default();
        let broken: Vec<_> = broken.into_iter().filter(|broken| !broken.may_come_about()).collect();
        if broken.is_empty() { Ok(cluster) } else { Err(RestoreError::Broken { broken }) }
    }

    /// Enters nodes, without what placement sees of them.
    fn restore_nodes(&mut self, nodes: Vec<Node>) -> Result<(), RestoreError> {
        for node in nodes {
            let node = Arc::new(node);
            self.enter_node(&node);
            if let Some(twice) = self.nodes.insert(node.name.clone(), node) {
                return Err(RestoreError::Twice { what: format!("node {}", twice.name) });
            }
        }
        Ok(())
    }

    fn restore_sessions(&mut self, sessions: Vec<Session>) -> Result<(), RestoreError> {
        self.index.make_room(sessions.len(), self.nodes.len());
        for mut session in sessions {
            session.settle_move();
            self.next_sequence = self.next_sequence.max(session.sequence + 1);
            let session = Arc::new(session);
            self.restore_held(&session)?;
            self.reindex(&session.id, None, Some(&session));
            if let Some(twice) = self.sessions.insert(session.id.clone(), session) {
                return Err(RestoreError::Twice { what: format!("session {}", twice.id) });
            }
        }
        // Now that all are there that others wait for, or are members of the same group.
        for session in self.sessions.clone().values() {
            self.follow(None, Some(session));
        }
        Ok(())
    }

    /// Sums up what a session holds.
    fn restore_held(&mut self, session: &Session) -> Result<(), RestoreError> {
        for (_, grant) in session.takes() {
            if !self.nodes.contains_key(&grant.node) {
                let (session, node) = (session.id.clone(), grant.node.clone());
                return Err(RestoreError::UnknownNode { session, node });
            }
            self.index.on_node.entry(grant.node.clone()).or_default().add(session, grant);
        }
        Ok(())
    }

    /// Makes what placement sees of every node.
    fn restore_views(&mut self) {
        let nodes = self.nodes.clone();
        for name in nodes.keys() {
            self.refresh_view(name);
        }
    }

    /// Lets placement learn from the sessions on record what it learned when they were created.
    fn learn_mix(&mut self) {
        let mut known: Vec<&Arc<Session>> = self.sessions.values().collect();
        let learned = known.len().saturating_sub(LEARNED);
        if learned > 0 {
            known.select_nth_unstable_by_key(learned, |session| session.sequence);
        }
        let mut known: Vec<Arc<Session>> = known[learned..].iter().copied().cloned().collect();
        known.sort_unstable_by_key(|session| session.sequence);
        for session in known {
            let request = self.request(&session.spec);
            self.placer.arrived(&request);
        }
    }
}

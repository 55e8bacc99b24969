//! Failures that are the node's, not the session's: where a session met one it is placed anew, on
//! another node if one fits.

use super::{Attempt, Session};
use crate::ids::NodeName;
use std::collections::BTreeSet;

/// Nodes remembered as ones where a session failed, the latest.
pub const MOST_AVOIDED: usize = 8;
/// Ended placements remembered, the latest.
pub const MOST_ATTEMPTS: usize = 32;
/// Nodes a session is started on before its failure to start counts as its own.
pub const MOST_STARTS: usize = 3;

/// Whether a placement that ended with this code before its command ran may well start elsewhere.
#[must_use]
pub fn is_of_node(code: &str) -> bool {
    matches!(
        code,
        "START_FAILED"
            | "ENGINE_UNAVAILABLE"
            | "ENGINE_RESTARTED"
            | "REGISTRY_UNREACHABLE"
            | "GPU_ATTACH_UNAVAILABLE"
            | "DEVICE_UNKNOWN"
            | "SLICE_CONFLICT"
            | "STATE_UNWRITABLE"
    )
}

impl Session {
    /// The last failure on each node where the session failed by a fault of the node, the latest
    /// first; at most [`MOST_AVOIDED`]. Such a node is used only where no other fits.
    pub fn failed_on(&self) -> impl Iterator<Item = &Attempt> {
        let mut seen = BTreeSet::new();
        let faults = self.attempts.iter().rev().filter(|attempt| attempt.node_fault);
        faults.filter(move |attempt| seen.insert(&attempt.grant.node)).take(MOST_AVOIDED)
    }

    /// The nodes of [`Session::failed_on`].
    #[must_use]
    pub fn avoided(&self) -> BTreeSet<NodeName> {
        self.failed_on().map(|attempt| attempt.grant.node.clone()).collect()
    }

    /// Remembers a placement that has ended; the oldest beyond [`MOST_ATTEMPTS`] are forgotten.
    pub(crate) fn remember(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
        let surplus = self.attempts.len().saturating_sub(MOST_ATTEMPTS);
        self.attempts.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;
    use crate::session::{Phase, Resources, SessionSpec};
    use crate::slice::{Grant, Isolation};
    use crate::time::UnixMillis;
    use crate::units::{CpuMilli, MemoryBytes};
    use std::sync::Arc;

    fn session() -> Session {
        let resources =
            Resources { gpu: None, cpu: CpuMilli(10), memory: MemoryBytes::gib(1), shm: None };
        Session {
            id: SessionId::new("abcdefgh").unwrap(),
            spec: Arc::new(SessionSpec::new(Vec::new(), resources)),
            owner: "ann".parse().unwrap(),
            request_id: None,
            created_at: UnixMillis(0),
            sequence: 1,
            generation: 1,
            group: None,
            placed_at: None,
            by_age: false,
            phase: Phase::Pending { since: UnixMillis(0) },
            stop_grace_ms: None,
            attempts: Vec::new(),
            moving: None,
            stopped_for: None,
            stranded: Vec::new(),
        }
    }

    fn attempt(at: u64, node: &str, node_fault: bool) -> Attempt {
        let node = NodeName::new(node).unwrap();
        let grant = Grant { node, slices: Vec::new(), isolation: Isolation::Shared };
        let reason = "x".to_owned();
        let at = UnixMillis(at);
        Attempt { generation: at.0, grant, placed_at: None, at, reason, node_fault }
    }

    #[test]
    fn only_faults_of_the_node_count_and_each_node_once() {
        let mut session = session();
        for (at, node, fault) in [(1, "a", true), (2, "b", false), (3, "c", true), (4, "a", true)] {
            session.remember(attempt(at, node, fault));
        }
        let failed: Vec<u64> = session.failed_on().map(|attempt| attempt.at.0).collect();
        assert_eq!(failed, [4, 3]);
    }

    #[test]
    fn so_many_nodes_and_attempts_are_remembered_and_no_more() {
        let mut session = session();
        for at in 1..=100 {
            session.remember(attempt(at, &format!("n{at}"), true));
        }
        assert_eq!(session.attempts.len(), MOST_ATTEMPTS);
        assert_eq!(session.attempts[0].at, UnixMillis(69));
        assert_eq!(session.avoided().len(), MOST_AVOIDED);
        assert!(session.avoided().contains("n100"));
    }
}

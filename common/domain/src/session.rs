//! Sessions: what was asked for, and the one lifecycle every session goes through.
//!
//! [`Phase`] is the lifecycle; [`Phase::after`] is the only function that changes it. What exists
//! only in one phase lives in that variant. A grant is held from `Scheduled` on and given back only
//! when the agent reports that nothing of the session runs any more.

mod fault;
mod group;
mod phase;
mod report;
mod spec;
mod transition;

pub use fault::{MOST_ATTEMPTS, MOST_AVOIDED, MOST_STARTS, is_of_node};
pub use group::{ArrayRange, Group, GroupKind, MAX_MEMBERS, Members};
pub use phase::{Attempt, Ended, Outcome, Phase, Progress, PublishedPort, StopReason};
pub use report::{Report, ReportState};
pub(crate) use spec::field;
pub use spec::{
    Arrangement, ComputePolicy, Condition, Dependency, MAX_DEPENDENCIES, Mount, OnDisconnect,
    OnLost, PRIORITY_RANGE, Resources, SessionKind, SessionSpec, SpecError,
};
pub use transition::{Event, IllegalTransition};

use crate::ids::{RequestId, SessionId, UserName};
use crate::slice::Grant;
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A session as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// What was asked for; never changes, so that every version of a session shares it.
    #[serde(with = "shared")]
    pub spec: Arc<SessionSpec>,
    /// Who created it.
    pub owner: UserName,
    /// The caller's id of the create request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// When it was created.
    pub created_at: UnixMillis,
    /// Order of creation in the cluster: age in the queue, exact where clocks are not.
    pub sequence: u64,
    /// How often it has been placed; every placement has its own number, from 1.
    pub generation: u64,
    /// The array or gang it is a member of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// When its latest placement was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed_at: Option<UnixMillis>,
    /// Whether room was kept for that placement for its age, before its turn by share.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_age: bool,
    /// Where it stands.
    pub phase: Phase,
    /// Grace of a stop that named its own, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<u64>,
    /// Earlier placements that have ended, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// While it is moved on purpose: where to, or where from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Box<Moving>>,
    /// For whom its place was taken, while it stops for that and once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_for: Option<SessionId>,
    /// Placements given up while their node was silent: their slices stay taken until that node
    /// reports them gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stranded: Vec<Stranded>,
}

/// The other place of a session that is moved on purpose. It is recorded, so that another manager
/// carries the move to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moving {
    /// While it stops at its old place: the new one, which is kept free for it.
    To(Grant),
    /// Until it runs at its new place: the old one, where it goes back to if it cannot start.
    From(Grant),
}

/// A placement that was given up without word from its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranded {
    /// Which placement.
    pub generation: u64,
    /// What it still holds.
    pub grant: Grant,
    /// Since when.
    pub since: UnixMillis,
}

impl Session {
    /// Every grant that is not given back yet, with its generation: the current one and stranded
    /// ones.
    pub fn held(&self) -> impl Iterator<Item = (u64, &Grant)> + Clone {
        let current = self.phase.grant().map(|grant| (self.generation, grant));
        let stranded = self.stranded.iter().map(|old| (old.generation, &old.grant));
        current.into_iter().chain(stranded)
    }

    /// Everything that nobody else may have: what is [held](Self::held), and the place it is being
    /// moved to.
    pub fn takes(&self) -> impl Iterator<Item = (u64, &Grant)> {
        let kept = self.destination().map(|grant| (self.generation + 1, grant));
        self.held().chain(kept)
    }

    /// The place that is kept free for it while it stops at its old one.
    #[must_use]
    pub fn destination(&self) -> Option<&Grant> {
        match (self.moving.as_deref(), &self.phase) {
            (Some(Moving::To(grant)), Phase::Stopping { reason: StopReason::Moved, .. }) => {
                Some(grant)
            }
            _ => None,
        }
    }

    /// Where it goes back to if it does not start at its new place.
    #[must_use]
    pub fn origin(&self) -> Option<&Grant> {
        let starts = match &self.phase {
            Phase::Scheduled { .. } | Phase::Starting { .. } => true,
            Phase::Stopping { reason: StopReason::Moved, started, .. }
            | Phase::Lost { stopping: None, started, .. } => started.is_none(),
            Phase::Stopping { .. } | Phase::Lost { .. } => false,
            Phase::Pending { .. } | Phase::Running { .. } | Phase::Ended(_) => false,
        };
        match self.moving.as_deref() {
            Some(Moving::From(grant)) if starts => Some(grant),
            _ => None,
        }
    }

    /// Forgets a move that is over, whatever ended it.
    pub(crate) fn settle_move(&mut self) {
        if self.destination().is_none() && self.origin().is_none() {
            self.moving = None;
        }
    }

    /// Whether nothing will change any more, save that it is forgotten one day.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended(_)) && self.stranded.is_empty()
    }
}

/// A shared value is written as the value itself.
mod shared {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Arc<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_older_release_reads_back() {
        let text = r#"{"id":"abcdefgh","owner":"ann","created_at":1,"sequence":1,"generation":0,
            "spec":{"kind":"batch","resources":{"cpu":1000,"memory":1073741824},
                    "stop_grace_ms":10000},
            "phase":{"phase":"pending","since":1}}"#;
        let session: Session = serde_json::from_str(text).unwrap();

        assert_eq!((session.group, session.placed_at), (None, None));
        assert_eq!(session.spec.project().as_str(), "default");
        assert_eq!(session.spec.class().as_str(), "normal");
        assert!(!session.spec.movable && session.spec.after.is_empty());
    }
}

//! Whether a waiting unit may be tried: time, dependencies, its array, its gang.

use super::waiting::{has_ended, limited_array, unit_of};
use super::{Cluster, Refusal};
use crate::ids::{SessionId, UserName};
use crate::session::{Condition, Members, Outcome, Phase, Session, SessionSpec, StopReason};
use crate::time::UnixMillis;
use std::fmt;
use std::sync::Arc;

/// Why a waiting session is not even tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Its time has not come.
    Until {
        /// When it comes.
        at: UnixMillis,
    },
    /// Sessions it is to follow have not ended.
    After {
        /// Which.
        sessions: Vec<SessionId>,
    },
    /// As many members of its array hold a place as may at once.
    Array {
        /// The array, by its first member.
        group: SessionId,
        /// How many may.
        at_once: u32,
    },
    /// Not all members of its gang are back in the queue.
    Gang {
        /// How many are.
        waiting: usize,
        /// How many there must be.
        size: u32,
    },
}

/// What a judgement comes to.
pub(super) enum Verdict {
    Held(Hold),
    Ready {
        priority: i32,
        members: u32,
    },
    /// It can never start; with the reason and a word on it.
    Ends(StopReason, String),
}

/// How what a session is to follow stands.
enum Dependencies {
    Met,
    Open(Vec<SessionId>),
    Failed(SessionId, Outcome),
}

impl Cluster {
    /// How a unit with these waiting members stands.
    pub(super) fn judge(
        &self,
        first: &Arc<Session>,
        members: &[Arc<Session>],
        now: UnixMillis,
    ) -> Verdict {
        let size = first.group.as_ref().filter(|group| group.is_gang()).map(|group| group.size);
        if let Some(size) = size {
            let all = self.group_of(first);
            let whole = u32::try_from(all.len()).is_ok_and(|there| there == size);
            if !whole || all.iter().any(|member| has_ended(member)) {
                return Verdict::Ends(StopReason::GangEnded, StopReason::GangEnded.to_string());
            }
            if members.len() < all.len() {
                return Verdict::Held(Hold::Gang { waiting: members.len(), size });
            }
        }
        match self.dependencies(&first.spec) {
            Dependencies::Met => {}
            Dependencies::Open(sessions) => return Verdict::Held(Hold::After { sessions }),
            Dependencies::Failed(session, outcome) => {
                let message = format!("session {session}, which was to complete first: {outcome}");
                return Verdict::Ends(StopReason::DependencyFailed, message);
            }
        }
        if let Some(at) = first.spec.start_at.filter(|at| *at > now) {
            return Verdict::Held(Hold::Until { at });
        }
        if let Some((group, at_once)) = limited_array(first)
            && let Some(array) = self.index.waiting.arrays.get(group)
            && !array.has_turn(first.sequence)
        {
            return Verdict::Held(Hold::Array { group: group.clone(), at_once: at_once.get() });
        }
        let priority = self.effective_priority(&first.spec);
        Verdict::Ready { priority, members: size.unwrap_or(1) }
    }

    /// Its own priority and that of its class.
    pub(super) fn effective_priority(&self, spec: &SessionSpec) -> i32 {
        let class = self.class(&spec.class()).map_or(0, |class| class.priority);
        class.saturating_add(spec.priority)
    }

    /// How what a session is to follow stands. A session that is not there any more had ended as
    /// it should: one that had not would have ended its followers.
    fn dependencies(&self, spec: &SessionSpec) -> Dependencies {
        let mut open = Vec::new();
        for after in &spec.after {
            for session in self.followed(&after.session) {
                match &session.phase {
                    Phase::Ended(ended) => {
                        let ok = ended.outcome == Outcome::Completed;
                        if after.condition == Condition::Ok && !ok {
                            return Dependencies::Failed(session.id.clone(), ended.outcome);
                        }
                    }
                    _ => open.push(session.id.clone()),
                }
            }
        }
        if open.is_empty() { Dependencies::Met } else { Dependencies::Open(open) }
    }

    /// The sessions meant by one to follow: all members for the first of a group.
    fn followed(&self, id: &SessionId) -> Vec<Arc<Session>> {
        let Some(session) = self.sessions.get(id) else { return Vec::new() };
        match &session.group {
            Some(group) if group.id == *id => self.group_of(session),
            Some(_) | None => vec![session.clone()],
        }
    }

    /// Refuses a create that is to follow what is not there, not the caller's, or failed already.
    pub(super) fn check_after(&self, spec: &SessionSpec, owner: &UserName) -> Result<(), Refusal> {
        let project = spec.project();
        for after in &spec.after {
            let known = self.sessions.get(&after.session);
            let visible = |s: &&Arc<Session>| s.owner == *owner || s.spec.project() == project;
            if known.filter(visible).is_none() {
                let session = after.session.clone();
                return Err(Refusal::DependencyNotFound { session });
            }
        }
        match self.dependencies(spec) {
            Dependencies::Failed(session, outcome) => {
                Err(Refusal::DependencyFailed { session, outcome })
            }
            Dependencies::Met | Dependencies::Open(_) => Ok(()),
        }
    }

    /// Why a waiting session is not even tried; `None` if it is.
    pub(super) fn hold_of(&self, session: &Arc<Session>) -> Option<Hold> {
        let members = self.waiting_members(unit_of(session));
        match self.judge(members.first()?, &members, self.now) {
            Verdict::Held(hold) => Some(hold),
            Verdict::Ready { .. } | Verdict::Ends(..) => None,
        }
    }

    /// What a create of `spec` would be held for.
    pub(super) fn hold_of_new(&self, spec: &SessionSpec) -> Option<Hold> {
        match self.dependencies(spec) {
            Dependencies::Open(sessions) => return Some(Hold::After { sessions }),
            Dependencies::Met | Dependencies::Failed(..) => {}
        }
        spec.start_at.filter(|at| *at > self.now).map(|at| Hold::Until { at })
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until { at } => write!(f, "not before its start time, {at}"),
            Self::After { sessions } => {
                let first: Vec<&str> = sessions.iter().take(3).map(SessionId::as_str).collect();
                write!(f, "waits for {} to end: {}", count(sessions.len()), first.join(", "))?;
                if sessions.len() > first.len() { f.write_str("…") } else { Ok(()) }
            }
            Self::Array { group, at_once } => {
                write!(f, "{at_once} members of array {group} hold a place, as many as may at once")
            }
            Self::Gang { waiting, size } => {
                write!(f, "only {waiting} of {size} members of its gang are back in the queue")
            }
        }
    }
}

fn count(sessions: usize) -> String {
    if sessions == 1 { "1 session".to_owned() } else { format!("{sessions} sessions") }
}

impl Members {
    /// Members that are placed together.
    pub(super) fn at_once(self) -> u32 {
        match self {
            Self::Gang(size) => size.get(),
            Self::One | Self::Array(_) => 1,
        }
    }
}

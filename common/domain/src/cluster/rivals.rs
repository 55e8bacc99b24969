//! Who is in whose way: waiting units that found no room, and what holds a place.
//!
//! This is what plans are made from that keep room free for a blocked unit or take a place for it.
//! The rules are here: only a class that may preempt takes places, only of sessions of a class with
//! a lower priority that is preemptible, and only once they have run for its minimum.

use super::waiting::{has_ended, unit_of};
use super::{Cluster, Refusal};
use crate::class::PriorityClass;
use crate::ids::{ClassName, NodeName, SessionId};
use crate::placement::Allocation;
use crate::plans::gang::GangRequest;
use crate::queue::Place;
use crate::session::{Group, Phase, Resources, Session, SessionSpec, StopReason};
use crate::time::UnixMillis;
use std::collections::{BTreeMap, HashMap};

/// A waiting unit that found no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The session, or the first of its gang.
    pub unit: SessionId,
    /// What its members ask, and how they are to lie.
    pub gang: GangRequest,
    /// Since when it waits.
    pub waiting_since: UnixMillis,
    /// Its priority in the queue.
    pub priority: i32,
    /// The priority of its class; its own plays no part in taking places.
    pub class_priority: i32,
    /// Whether its class may take places.
    pub may_preempt: bool,
    /// How long it may run, milliseconds; `None`: nobody knows.
    pub time_limit_ms: Option<u64>,
}

/// A session, or a gang as a whole, that holds a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The session, or the first of its gang.
    pub id: SessionId,
    /// What it holds and where, one entry for each member.
    pub held: Vec<(NodeName, Allocation)>,
    /// The priority of its class.
    pub class_priority: i32,
    /// When it began to run; when it was placed, if it does not run yet.
    pub started_at: UnixMillis,
    /// When it will have ended at the latest; `None`: nobody knows.
    pub ends_at: Option<UnixMillis>,
    /// Whether its place may be taken at all, and has been held for the minimum.
    pub preemptible: bool,
    /// Whether it has run for the minimum its class promises.
    pub min_run_over: bool,
    /// When it has.
    pub min_run_until: UnixMillis,
    /// How long it takes to go once it is told to, milliseconds.
    pub grace_ms: u64,
    /// Whether it is on its way out already.
    pub stopping: bool,
}

impl Tenant {
    /// Whether `blocked` may take its place.
    #[must_use]
    pub fn yields_to(&self, blocked: &Blocked) -> bool {
        blocked.may_preempt
            && self.preemptible
            && self.min_run_over
            && self.class_priority < blocked.class_priority
    }
}

impl Cluster {
    /// The first units in the order of the queue that found no room; those that wait for a quota
    /// are not among them.
    #[must_use]
    pub fn blocked(&self, limit: usize) -> Vec<Blocked> {
        self.blocked_or(limit, |_| false)
    }

    /// As [`Cluster::blocked`], with those for which `also` holds.
    pub(super) fn blocked_or(
        &self,
        limit: usize,
        also: impl Fn(&SessionId) -> bool,
    ) -> Vec<Blocked> {
        let mut blocked = Vec::new();
        self.walk(&self.index.waiting.queue, |next| {
            let queue = &self.index.waiting.queue;
            if (queue.found_no_room(&next.place) || also(&next.unit))
                && let Some(session) = self.sessions.get(&next.unit)
                && !self.is_over_quota(&next.place, session)
            {
                blocked.push(self.blocked_unit(session));
            }
            blocked.len() < limit
        });
        blocked
    }

    pub(super) fn is_over_quota(&self, place: &Place, session: &Session) -> bool {
        let gang = session.group.as_ref().filter(|group| group.is_gang());
        let least = self.least(&session.spec).times(gang.map_or(1, |group| u64::from(group.size)));
        self.quota_hit(&place.project, &place.user, &least, true).is_some()
    }

    pub(super) fn blocked_unit(&self, session: &Session) -> Blocked {
        let class = self.class_of(&session.spec);
        let gang = session.group.as_ref().filter(|group| group.is_gang());
        let members = gang.map_or(1, |group| usize::try_from(group.size).unwrap_or(usize::MAX));
        Blocked {
            unit: session.id.clone(),
            gang: self.gang(&session.spec, &self.request(&session.spec), members),
            waiting_since: Self::waits_since(session),
            priority: class.priority.saturating_add(session.spec.priority),
            class_priority: class.priority,
            may_preempt: class.may_preempt,
            time_limit_ms: session.spec.time_limit_ms,
        }
    }

    /// Everything that holds a place, in the order of ids. What a lost node may still run, and what
    /// is being stopped, holds its place but yields it to nobody.
    #[must_use]
    pub fn tenants(&self, now: UnixMillis) -> Vec<Tenant> {
        let mut tenants: Vec<Tenant> = Vec::new();
        let mut gangs: HashMap<&SessionId, usize> = HashMap::new();
        let mut classes: BTreeMap<ClassName, PriorityClass> = BTreeMap::new();
        for session in self.sessions.values() {
            if session.held().next().is_none() {
                continue;
            }
            let class = classes.entry(session.spec.class());
            let class = class.or_insert_with(|| self.class_of(&session.spec));
            let tenant = self.tenant(session, class, now);
            let gang = session.group.as_ref().filter(|group| group.is_gang());
            match gang.map(|gang| (gangs.get(&gang.id).copied(), &gang.id)) {
                Some((Some(at), _)) => tenants[at].join(tenant),
                Some((None, gang)) => {
                    gangs.insert(gang, tenants.len());
                    tenants.push(tenant);
                }
                None => tenants.push(tenant),
            }
        }
        tenants.sort_by(|one, other| one.id.cmp(&other.id));
        tenants
    }

    fn tenant(&self, session: &Session, class: &PriorityClass, now: UnixMillis) -> Tenant {
        let placed_at = session.placed_at.unwrap_or(session.created_at);
        let grace_ms = session.stop_grace_ms.unwrap_or(session.spec.stop_grace_ms);
        let limit = session.spec.time_limit_ms.map(|limit| limit.saturating_add(grace_ms));
        let (started_at, ends_at, stays) = match &session.phase {
            Phase::Running { since, .. } => (*since, limit.map(|ms| since.plus(ms)), true),
            Phase::Scheduled { since, .. } | Phase::Starting { since, .. } => {
                let started = since.plus(self.settings.start_timeout_ms);
                (placed_at, limit.map(|ms| started.plus(ms)), true)
            }
            Phase::Stopping { since, started, .. } => {
                (started.unwrap_or(placed_at), Some(since.plus(grace_ms)), false)
            }
            Phase::Lost { started, .. } => (started.unwrap_or(placed_at), None, false),
            Phase::Pending { .. } | Phase::Ended(_) => (placed_at, None, false),
        };
        let Resources { cpu, memory, .. } = session.spec.resources;
        let held = session.held().map(|(_, grant)| {
            let slices = grant.slices.clone();
            (grant.node.clone(), Allocation { cpu, memory, slices })
        });
        Tenant {
            id: unit_of(session).clone(),
            held: held.collect(),
            class_priority: class.priority,
            started_at,
            ends_at,
            preemptible: class.preemptible && stays,
            min_run_over: now.since(started_at) >= class.min_run_ms,
            min_run_until: started_at.plus(class.min_run_ms),
            grace_ms: class.grace_ms.unwrap_or(session.spec.stop_grace_ms),
            stopping: matches!(session.phase, Phase::Stopping { .. }),
        }
    }

    /// Takes the place of a session, or of its whole gang, for `head`, which is of a higher class:
    /// it is stopped with the grace of its class, and ends or waits again as that says.
    ///
    /// # Errors
    /// [`Refusal::WrongPhase`] where its class or its phase does not allow that.
    pub fn preempt(
        &mut self,
        id: &SessionId,
        head: &SessionId,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let session = self.get(id)?.clone();
        let class = self.class_of(&session.spec);
        let gang = session.group.as_ref().is_some_and(Group::is_gang);
        let members = if gang { self.group_of(&session) } else { vec![session.clone()] };
        let live = members.iter().filter(|member| !has_ended(member));
        let mut tenants = live.map(|member| self.tenant(member, &class, now));
        let allows = |tenant: Tenant| tenant.preemptible && tenant.min_run_over;
        if has_ended(&session) || !tenants.all(allows) {
            let rule = "its place may not be taken now";
            let (session, phase) = (id.clone(), session.phase.name());
            return Err(Refusal::WrongPhase { session, phase, rule });
        }
        for member in members.iter().filter(|member| !has_ended(member)) {
            let stopped_for = Some(head.clone());
            self.put_session(Session { stopped_for, ..Session::clone(member) });
        }
        self.stop(id, StopReason::Preempted, class.grace_ms, now).map(drop)
    }

    /// The class of a session. A class that is not there any more counts as `normal`.
    pub(super) fn class_of(&self, spec: &SessionSpec) -> PriorityClass {
        self.class(&spec.class()).unwrap_or_else(|_| PriorityClass::new(spec.class(), 0))
    }
}

impl Tenant {
    /// Adds a member of the same gang: it goes as a whole.
    fn join(&mut self, member: Self) {
        self.held.extend(member.held);
        self.started_at = self.started_at.max(member.started_at);
        self.ends_at = self.ends_at.zip(member.ends_at).map(|(one, other)| one.max(other));
        self.preemptible &= member.preemptible;
        self.min_run_over &= member.min_run_over;
        self.min_run_until = self.min_run_until.max(member.min_run_until);
        self.grace_ms = self.grace_ms.max(member.grace_ms);
        self.stopping &= member.stopping;
    }
}

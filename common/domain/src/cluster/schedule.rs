//! Placing what waits, and what time alone brings about.

use super::accounts::held_by;
use super::promises::{MOST_PROBED, MOST_ROUNDS};
use super::standings::Standings;
use super::{Cluster, index};
use crate::ids::{NodeName, SessionId};
use crate::placement::Request;
use crate::project::Held;
use crate::queue::{Candidate, Pass};
use crate::reconcile::Want;
use crate::session::{Event, Phase, Session, StopReason};
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One placement a node shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The session.
    pub session: Arc<Session>,
    /// Which placement of it.
    pub generation: u64,
    /// What it holds there.
    pub grant: Grant,
    /// What shall become of it.
    pub want: Want,
    /// Variables that say what group it is a member of.
    pub group_environment: BTreeMap<String, String>,
}

/// What trying a unit came to.
enum Tried {
    /// It fits here, one grant for each of its members.
    Fits(Vec<Arc<Session>>, Vec<Grant>),
    NoRoom,
    /// There is room, but it is kept for others.
    Kept,
    OverQuota,
}

impl Cluster {
    /// Places every waiting session that fits now, in the order of the queue; returns how many.
    ///
    /// Looks only at what changed: kinds of request that found no room are tried again once a node
    /// that could take them has changed, and what met a quota once that has.
    pub fn schedule(&mut self, now: UnixMillis) -> usize {
        self.now = self.now.max(now);
        self.settle(self.now);
        self.know_heads();
        let mut placed = 0;
        for _ in 0..MOST_ROUNDS {
            let planned = self.plan_when_due();
            let unsettled = std::mem::take(&mut self.index.unsettled);
            if !planned && !unsettled {
                break;
            }
            self.open_what_changed();
            placed += self.place_what_fits(now);
        }
        placed
    }

    /// One walk over everything that may start.
    fn place_what_fits(&mut self, now: UnixMillis) -> usize {
        let mut placed = 0;
        for priority in self.index.waiting.queue.open_priorities() {
            // First those that were promised a place.
            for head in self.open_heads(priority) {
                placed += self.start(&head, now);
            }
            let mut pass = Pass::open(&self.index.waiting.queue, priority, &self.standings());
            while let Some(next) = pass.next(&self.index.waiting.queue, &self.standings()) {
                let started = self.start(&next, now);
                if started > 0 {
                    placed += started;
                    pass.took(&next, &self.standings());
                }
            }
        }
        placed
    }

    /// Places a unit if it fits; tells how many sessions that are.
    fn start(&mut self, next: &Candidate, now: UnixMillis) -> usize {
        match self.try_unit(next) {
            Tried::Fits(members, grants) => {
                self.bind(next, &members, grants, now);
                members.len()
            }
            otherwise => {
                self.close(next, &otherwise);
                0
            }
        }
    }

    /// As [`Cluster::place_what_fits`] without placing anything: to know who finds no room.
    pub(super) fn probe(&mut self) {
        let mut left = MOST_PROBED;
        for priority in self.index.waiting.queue.open_priorities() {
            let mut pass = Pass::open(&self.index.waiting.queue, priority, &self.standings());
            while let Some(next) = pass.next(&self.index.waiting.queue, &self.standings()) {
                if left == 0 {
                    return;
                }
                left -= 1;
                match self.try_unit(&next) {
                    Tried::Fits(..) => pass.took(&next, &self.standings()),
                    otherwise => self.close(&next, &otherwise),
                }
            }
        }
    }

    /// As [`Cluster::probe`] for those that have waited too long, wherever they are in the order.
    pub(super) fn probe_starving(&mut self) {
        for next in self.open_starving(MOST_PROBED) {
            if self.index.waiting.queue.is_open(&next.place) {
                let tried = self.try_unit(&next);
                self.close(&next, &tried);
            }
        }
    }

    /// Has a unit that cannot start not tried again until that may be otherwise.
    fn close(&mut self, next: &Candidate, tried: &Tried) {
        let kind = next.place.kind;
        let request = self.request_of(&next.unit);
        let queue = &mut self.index.waiting.queue;
        match tried {
            Tried::Fits(..) => return,
            Tried::OverQuota => {
                queue.met_quota(&next.place);
                return self.index.promises.met_quota(&next.unit);
            }
            Tried::NoRoom => queue.no_room(kind, request, &self.view),
            Tried::Kept => queue.refuse(kind, request, &self.view),
        }
        self.index.promises.found_no_room();
    }

    fn standings(&self) -> Standings<'_> {
        Standings::new(self)
    }

    fn try_unit(&mut self, next: &Candidate) -> Tried {
        let members = self.waiting_members(&next.unit);
        let Some(first) = members.first().cloned() else { return Tried::NoRoom };
        let (project, user) = (&next.place.project, &next.place.user);
        let count = members.len();
        let least = self.least(&first.spec).times(u64::try_from(count).unwrap_or(u64::MAX));
        if self.quota_hit(project, user, &least, true).is_some() {
            return Tried::OverQuota;
        }
        let Some(request) = self.unit_request(&members) else { return Tried::NoRoom };
        self.index.waiting.searches += 1;
        let Some(grants) = self.places_for(&first.spec, &request, count) else {
            return Tried::NoRoom;
        };
        let beside = self.beside_heads(&next.unit, &next.place, &first, &request, grants);
        let Some(grants) = beside else { return Tried::Kept };
        // Only the grants tell how much fGPU whole devices are.
        let taken = grants.iter().map(|grant| Held { sessions: 1, ..held_by(&first, grant) });
        let taken = taken.fold(Held::default(), Held::plus);
        match self.quota_hit(project, user, &taken, true) {
            Some(_) => Tried::OverQuota,
            None => Tried::Fits(members, grants),
        }
    }

    fn request_of(&self, unit: &SessionId) -> Request {
        let session = self.sessions.get(unit);
        session.map(|session| self.request(&session.spec)).unwrap_or_default()
    }

    fn bind(
        &mut self,
        next: &Candidate,
        members: &[Arc<Session>],
        grants: Vec<Grant>,
        now: UnixMillis,
    ) {
        let by_age = self.index.promises.is_by_age(&next.unit);
        if let Some(first) = members.first() {
            self.started_beside_heads(&next.unit, &next.place, first, &grants);
        }
        for (session, grant) in members.iter().zip(grants) {
            if let Ok(phase) = session.phase.after(Event::Placed(grant), now) {
                let generation = session.generation + 1;
                let placed_at = Some(now);
                self.put_session(Session {
                    phase,
                    generation,
                    placed_at,
                    by_age,
                    ..Session::clone(session)
                });
            }
        }
    }

    /// Stops what has run out of time, and forgets ended sessions past their retention.
    pub fn tick(&mut self, now: UnixMillis) {
        self.now = self.now.max(now);
        while let Some((_, id)) =
            self.index.deadlines.first().filter(|(deadline, _)| *deadline <= now).cloned()
        {
            let reason = match self.sessions.get(&id).map(|session| &session.phase) {
                Some(Phase::Running { .. }) => StopReason::TimeLimit,
                Some(Phase::Pending { .. }) => StopReason::PendingTimeout,
                // It goes back to where it ran before.
                Some(_) if self.sessions.get(&id).is_some_and(|it| it.origin().is_some()) => {
                    StopReason::Moved
                }
                _ => StopReason::StartTimeout,
            };
            if let Some(session) = self.sessions.get(&id).cloned()
                && matches!(session.phase, Phase::Scheduled { .. } | Phase::Starting { .. })
            {
                self.note_trouble(&session, StopReason::StartTimeout.to_string(), now);
            }
            if self.stop(&id, reason, None, now).is_err() {
                break;
            }
        }
        self.end_hold_offs(now);
        self.settle(self.now);
        self.forget_ended(now);
        self.write_history(now);
    }

    fn forget_ended(&mut self, now: UnixMillis) {
        let keep_ms = self.settings.ended_retention_ms;
        let surplus = self.index.ended.len().saturating_sub(self.settings.ended_limit);
        let old = |(at, _): &&(UnixMillis, SessionId)| at.plus(keep_ms) <= now;
        let expired = self.index.ended.iter().take_while(old).count();
        let due: Vec<SessionId> =
            self.index.ended.iter().take(surplus.max(expired)).map(|(_, id)| id.clone()).collect();
        for id in due {
            self.delete_session(&id);
        }
    }

    /// When [`Cluster::tick`] has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        let phases = self.index.deadlines.first().map(|(at, _)| *at);
        let keep_ms = self.settings.ended_retention_ms;
        let surplus = self.index.ended.len() > self.settings.ended_limit;
        let keep_ms = if surplus { 0 } else { keep_ms };
        let retention = self.index.ended.first().map(|(at, _)| at.plus(keep_ms));
        let history = self.index.accounts.checkpoint;
        let start = self.index.waiting.next_time();
        let plan = self.next_plan();
        phases
            .into_iter()
            .chain(retention)
            .chain(history)
            .chain(start)
            .chain(plan)
            .chain(self.index.troubles.next())
            .min()
    }

    /// Everything one node shall have.
    #[must_use]
    pub fn desired(&self, node: &NodeName) -> Vec<Desired> {
        let mut desired = Vec::new();
        for session in self.sessions_on(node) {
            for (generation, grant) in session.held().filter(|(_, grant)| grant.node == *node) {
                desired.push(Desired {
                    session: session.clone(),
                    generation,
                    grant: grant.clone(),
                    want: index::want(session, generation),
                    group_environment: self.group_environment(session),
                });
            }
        }
        desired
    }
}

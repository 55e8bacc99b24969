//! Placing what waits, and what time alone brings about.

use super::{Cluster, index};
use crate::ids::{NodeName, SessionId};
use crate::placement::Request;
use crate::reconcile::Want;
use crate::session::{Event, Phase, Session, StopReason};
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::sync::Arc;

/// Kinds of request remembered as not placeable within one pass over the queue.
const REMEMBERED_KINDS: usize = 64;

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
}

impl Cluster {
    /// Places every waiting session that fits now, by priority and then age; returns how many.
    ///
    /// Does nothing unless something changed that may have made room.
    pub fn schedule(&mut self, now: UnixMillis) -> usize {
        if !std::mem::take(&mut self.index.unsettled) {
            return 0;
        }
        let waiting: Vec<SessionId> =
            self.index.queue.iter().map(|(_, _, id)| id.clone()).collect();
        let mut hopeless: Vec<Request> = Vec::new();
        let mut placed = 0;
        for id in waiting {
            let Some(session) = self.sessions.get(&id).cloned() else { continue };
            let request = self.request(&session.spec);
            if hopeless.contains(&request) {
                continue;
            }
            match self.placer.find(&request, &self.view) {
                Some(placement) => {
                    self.bind(&session, placement.grant, now);
                    placed += 1;
                }
                None if hopeless.len() < REMEMBERED_KINDS => hopeless.push(request),
                None => {}
            }
        }
        placed
    }

    fn bind(&mut self, session: &Session, grant: Grant, now: UnixMillis) {
        if let Ok(phase) = session.phase.after(Event::Placed(grant), now) {
            let generation = session.generation + 1;
            self.put_session(Session { phase, generation, ..session.clone() });
        }
    }

    /// Stops what has run out of time, and forgets ended sessions past their retention.
    pub fn tick(&mut self, now: UnixMillis) {
        while let Some((_, id)) =
            self.index.deadlines.first().filter(|(deadline, _)| *deadline <= now).cloned()
        {
            let reason = match self.sessions.get(&id).map(|session| &session.phase) {
                Some(Phase::Running { .. }) => StopReason::TimeLimit,
                _ => StopReason::StartTimeout,
            };
            if self.stop(&id, reason, None, now).is_err() {
                break;
            }
        }
        self.forget_ended(now);
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
        phases.into_iter().chain(retention).min()
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
                });
            }
        }
        desired
    }
}

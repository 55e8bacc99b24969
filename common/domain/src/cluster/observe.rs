//! What agents report, held against what is recorded.

use super::input::Applied;
use super::{Cluster, Refusal};
use crate::class::{OnPreempt, PriorityClass};
use crate::ids::{NodeName, SessionId};
use crate::placement::feasible_elsewhere;
use crate::session::{
    Attempt, Event, MOST_STARTS, OnLost, Phase, Report, ReportState, Session, StopReason,
    is_of_node,
};
use crate::time::UnixMillis;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why a placement ends while its session goes on.
struct Back {
    reason: String,
    /// Whether the node is at fault.
    node_fault: bool,
}

impl Cluster {
    /// Takes in how placements on `node` stand. With `full`, what is not named is not there.
    pub(super) fn observe(
        &mut self,
        node: &NodeName,
        reports: Vec<Report>,
        full: bool,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        self.node(node)?;
        let name = |report: &Report| (report.session.clone(), report.generation);
        let named: BTreeSet<(SessionId, u64)> =
            if full { reports.iter().map(name).collect() } else { BTreeSet::new() };
        for report in reports {
            self.take_report(node, report, now);
        }
        if full {
            for id in self.ids_on(node) {
                self.take_absence(node, &id, &named, now);
            }
        }
        Ok(Applied::Nothing)
    }

    fn take_report(&mut self, node: &NodeName, report: Report, now: UnixMillis) {
        // A placement that is not recorded is the agent's to stop: it is not in its desired state.
        let Some(session) = self.sessions.get(&report.session).cloned() else { return };
        let here = session
            .held()
            .any(|(generation, grant)| generation == report.generation && grant.node == *node);
        if !here {
            return;
        }
        if report.generation == session.generation && session.phase.grant().is_some() {
            self.step(&session, report.state.into(), now);
        } else if matches!(report.state, ReportState::Gone { .. }) {
            self.free_stranded(&session, report.generation);
        }
    }

    /// A full report that does not name a placement held here.
    fn take_absence(
        &mut self,
        node: &NodeName,
        id: &SessionId,
        named: &BTreeSet<(SessionId, u64)>,
        now: UnixMillis,
    ) {
        let Some(session) = self.sessions.get(id).cloned() else { return };
        let absent = |generation: u64| !named.contains(&(id.clone(), generation));
        for old in &session.stranded {
            if old.grant.node == *node && absent(old.generation) {
                self.free_stranded(&session, old.generation);
            }
        }
        let Some(session) = self.sessions.get(id).cloned() else { return };
        let here = session.phase.grant().is_some_and(|grant| grant.node == *node);
        if !here || !absent(session.generation) {
            return;
        }
        match &session.phase {
            // The agent has not heard of it yet; its desired state will tell.
            Phase::Scheduled { .. } | Phase::Starting { .. } => {}
            Phase::Lost { started: None, stopping: None, .. } => {
                let reason = format!("node {node} came back without it");
                self.requeue(&session, Back { reason, node_fault: true }, now);
            }
            Phase::Running { .. } | Phase::Lost { .. } | Phase::Stopping { .. } => {
                let gone = Event::Gone {
                    exit_code: None,
                    code: "CONTAINER_VANISHED".to_owned(),
                    message: format!("node {node} came back without its container"),
                };
                self.step(&session, gone, now);
            }
            Phase::Pending { .. } | Phase::Ended(_) => {}
        }
    }

    /// One step of the lifecycle; a word that makes no sense now is no news.
    fn step(&mut self, session: &Arc<Session>, mut event: Event, now: UnixMillis) {
        self.learn_of_start(session, &event, now);
        if let Event::Gone { code, message, .. } = &event
            && let Some(back) = self.goes_on(session, code, message)
        {
            return self.requeue(session, back, now);
        }
        if let Event::Gone { message, .. } = &mut event
            && message.is_empty()
        {
            *message = preempted_for(session).unwrap_or_default();
        }
        if let Ok(phase) = session.phase.after(event, now)
            && phase != session.phase
        {
            self.put_session(Session { phase, ..Session::clone(session) });
            self.gang_follows(&session.id, now);
        }
    }

    /// Why a session that is gone goes back to the queue, if it does.
    fn goes_on(&self, session: &Arc<Session>, code: &str, message: &str) -> Option<Back> {
        let stopped = |reason: StopReason| Back { reason: reason.to_string(), node_fault: false };
        let back = match &session.phase {
            Phase::Stopping { reason, started, .. }
            | Phase::Lost { stopping: Some(reason), started, .. } => match reason {
                StopReason::Drained => {
                    (session.spec.on_lost == OnLost::Replace).then(|| stopped(*reason))
                }
                StopReason::Preempted => {
                    let class = self.class(&session.spec.class());
                    let requeue = |class: PriorityClass| class.on_preempt == OnPreempt::Requeue;
                    let back = || match preempted_for(session) {
                        Some(reason) => Back { reason, node_fault: false },
                        None => stopped(*reason),
                    };
                    class.is_ok_and(requeue).then(back)
                }
                StopReason::Moved => Some(stopped(*reason)),
                StopReason::StartTimeout => (started.is_none() && self.starts_elsewhere(session))
                    .then(|| Back { node_fault: true, ..stopped(*reason) }),
                StopReason::Requested
                | StopReason::TimeLimit
                | StopReason::Disconnected
                | StopReason::PendingTimeout
                | StopReason::DependencyFailed
                | StopReason::GangEnded => None,
            },
            Phase::Scheduled { .. }
            | Phase::Starting { .. }
            | Phase::Lost { stopping: None, started: None, .. } => {
                let node = session.phase.grant().map(|grant| grant.node.to_string());
                let node = node.unwrap_or_default();
                let reason = format!("did not start on node {node}: {message}");
                let node_fault = is_of_node(code);
                let elsewhere = node_fault && self.starts_elsewhere(session);
                let goes_on = session.origin().is_some() || elsewhere;
                goes_on.then_some(Back { reason, node_fault })
            }
            Phase::Lost { stopping: None, started: Some(_), .. }
            | Phase::Pending { .. }
            | Phase::Running { .. }
            | Phase::Ended(_) => None,
        };
        back.filter(|_| self.gang_is_whole(session))
    }

    /// Whether a session that did not start is worth another node: it has not failed on many, and
    /// one is in service that could hold it.
    fn starts_elsewhere(&self, session: &Session) -> bool {
        let faults = session.attempts.iter().filter(|attempt| attempt.node_fault).count();
        let mut tried = session.avoided();
        tried.extend(session.phase.grant().map(|grant| grant.node.clone()));
        faults + 1 < MOST_STARTS
            && feasible_elsewhere(&self.request(&session.spec), &self.view, &tried)
    }

    /// Back to the queue, or straight to the place it is moved to; the placement becomes an attempt.
    fn requeue(&mut self, session: &Arc<Session>, back: Back, now: UnixMillis) {
        let Some(grant) = session.phase.grant().cloned() else { return };
        let Ok(phase) = session.phase.after(Event::Requeued, now) else { return };
        let mut next = Session { phase, ..Session::clone(session) };
        next.stopped_for = None;
        let (generation, placed_at) = (session.generation, session.placed_at);
        let Back { reason, node_fault } = back;
        next.remember(Attempt { generation, grant, placed_at, at: now, reason, node_fault });
        self.put_session(next);
        if !self.goes_on_elsewhere(session, now) {
            self.gang_follows(&session.id, now);
        }
    }

    fn free_stranded(&mut self, session: &Arc<Session>, generation: u64) {
        // Read anew: several may be freed one after another.
        let Some(session) = self.sessions.get(&session.id) else { return };
        let mut next = Session::clone(session);
        next.stranded.retain(|old| old.generation != generation);
        if next.stranded.len() != session.stranded.len() {
            self.put_session(next);
        }
    }
}

/// Whose place it had to make, if it was stopped for that.
fn preempted_for(session: &Session) -> Option<String> {
    let (Phase::Stopping { reason: StopReason::Preempted, .. }
    | Phase::Lost { stopping: Some(StopReason::Preempted), .. }) = &session.phase
    else {
        return None;
    };
    let head = session.stopped_for.as_ref()?;
    Some(format!("stopped to make room for session {head} of a higher class"))
}

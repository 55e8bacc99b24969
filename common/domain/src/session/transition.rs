//! What may happen to a session, and the one function that says what becomes of it.

use super::{Ended, Outcome, Phase, Progress, PublishedPort, StopReason};
use crate::slice::Grant;
use crate::time::UnixMillis;

/// What may happen to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A place was found.
    Placed(Grant),
    /// The agent is at this point of the start.
    Preparing(Progress),
    /// The container runs.
    Started {
        /// When it started.
        at: UnixMillis,
        /// Where its ports can be reached.
        ports: Vec<PublishedPort>,
    },
    /// It shall stop.
    Stop(StopReason),
    /// The agent reports that nothing of it runs, with the end the container had.
    Gone {
        /// Exit code, if the command ran.
        exit_code: Option<i32>,
        /// Stable code of what went wrong; empty when nothing did.
        code: String,
        /// For people.
        message: String,
    },
    /// Its node fell silent.
    NodeLost,
    /// The placement is given up (the node is lost, or never knew of it): back to the queue.
    Requeued,
    /// Given up for good without word from the node.
    Abandoned {
        /// For people.
        message: String,
    },
}

/// An event that makes no sense in a phase: nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a session that is {phase} cannot take {event}")]
pub struct IllegalTransition {
    /// The phase.
    pub phase: &'static str,
    /// The event.
    pub event: &'static str,
}

impl Phase {
    /// The phase after `event` at `now`.
    ///
    /// Repeating an event that has already had its effect changes nothing.
    ///
    /// # Errors
    /// [`IllegalTransition`] where the event makes no sense in this phase.
    pub fn after(&self, event: Event, now: UnixMillis) -> Result<Self, IllegalTransition> {
        let illegal = IllegalTransition { phase: self.name(), event: event.name() };
        match self {
            Self::Pending { .. } => after_pending(event, now).ok_or(illegal),
            Self::Scheduled { grant, since } | Self::Starting { grant, since, .. } => {
                after_preparing(self, grant, *since, event, now).ok_or(illegal)
            }
            Self::Running { grant, since, .. } => {
                after_running(self, grant, *since, event, now).ok_or(illegal)
            }
            Self::Stopping { grant, reason, started, .. } => {
                after_stopping(self, grant, *reason, *started, event, now).ok_or(illegal)
            }
            Self::Lost { grant, stopping, started, .. } => {
                after_lost(self, grant, *stopping, *started, event, now).ok_or(illegal)
            }
            Self::Ended(_) => after_ended(self, &event).ok_or(illegal),
        }
    }
}

fn after_pending(event: Event, now: UnixMillis) -> Option<Phase> {
    match event {
        Event::Placed(grant) => Some(Phase::Scheduled { grant, since: now }),
        Event::Stop(reason) => Some(Phase::Ended(Ended {
            outcome: stopped_outcome(reason),
            at: now,
            started: None,
            exit_code: None,
            code: reason.code().to_owned(),
            message: format!("{reason} before it was placed"),
            grant: None,
        })),
        Event::Preparing(_)
        | Event::Started { .. }
        | Event::Gone { .. }
        | Event::NodeLost
        | Event::Requeued
        | Event::Abandoned { .. } => None,
    }
}

fn after_preparing(
    current: &Phase,
    grant: &Grant,
    since: UnixMillis,
    event: Event,
    now: UnixMillis,
) -> Option<Phase> {
    let grant = grant.clone();
    match event {
        Event::Preparing(progress) => Some(Phase::Starting { grant, since, progress }),
        Event::Started { at, ports } => Some(Phase::Running { grant, since: at, ports }),
        Event::Stop(reason) => Some(Phase::Stopping { grant, since: now, reason, started: None }),
        Event::Gone { exit_code, code, message } => {
            Some(ended(grant, None, None, exit_code, code, message, now))
        }
        Event::NodeLost => Some(Phase::Lost { grant, since: now, stopping: None, started: None }),
        Event::Requeued => Some(Phase::Pending { since: now }),
        Event::Abandoned { message } => Some(abandoned(grant, None, message, now)),
        Event::Placed(again) => (again == grant).then(|| current.clone()),
    }
}

fn after_running(
    current: &Phase,
    grant: &Grant,
    since: UnixMillis,
    event: Event,
    now: UnixMillis,
) -> Option<Phase> {
    let grant = grant.clone();
    let started = Some(since);
    match event {
        Event::Started { at, ports } => Some(Phase::Running { grant, since: at, ports }),
        // A late word from the start of the same placement.
        Event::Preparing(_) => Some(current.clone()),
        Event::Stop(reason) => Some(Phase::Stopping { grant, since: now, reason, started }),
        Event::Gone { exit_code, code, message } => {
            Some(ended(grant, started, None, exit_code, code, message, now))
        }
        Event::NodeLost => Some(Phase::Lost { grant, since: now, stopping: None, started }),
        Event::Requeued => Some(Phase::Pending { since: now }),
        Event::Abandoned { message } => Some(abandoned(grant, started, message, now)),
        Event::Placed(_) => None,
    }
}

fn after_stopping(
    current: &Phase,
    grant: &Grant,
    reason: StopReason,
    started: Option<UnixMillis>,
    event: Event,
    now: UnixMillis,
) -> Option<Phase> {
    match event {
        // What was to go on elsewhere ends after all.
        Event::Stop(last) if outranks(last, reason) => Some(match current.clone() {
            Phase::Stopping { grant, since, started, .. } => {
                Phase::Stopping { grant, since, reason: last, started }
            }
            other => other,
        }),
        // Else the first reason stands; a late word of the start changes nothing.
        Event::Stop(_) | Event::Preparing(_) => Some(current.clone()),
        Event::Started { at, .. } => Some(match current.clone() {
            Phase::Stopping { grant, since, reason, .. } => {
                Phase::Stopping { grant, since, reason, started: Some(at) }
            }
            other => other,
        }),
        Event::Gone { exit_code, code, message } => {
            Some(ended(grant.clone(), started, Some(reason), exit_code, code, message, now))
        }
        Event::NodeLost => {
            Some(Phase::Lost { grant: grant.clone(), since: now, stopping: Some(reason), started })
        }
        Event::Abandoned { message } => Some(abandoned(grant.clone(), started, message, now)),
        // It goes on elsewhere, or waits for its turn again.
        Event::Requeued if reason.may_requeue() => Some(Phase::Pending { since: now }),
        Event::Placed(_) | Event::Requeued => None,
    }
}

fn after_lost(
    current: &Phase,
    grant: &Grant,
    stopping: Option<StopReason>,
    started: Option<UnixMillis>,
    event: Event,
    now: UnixMillis,
) -> Option<Phase> {
    let grant = grant.clone();
    match event {
        Event::NodeLost => Some(current.clone()),
        Event::Preparing(progress) => Some(match stopping {
            Some(reason) => Phase::Stopping { grant, since: now, reason, started },
            None => Phase::Starting { grant, since: now, progress },
        }),
        Event::Started { at, ports } => Some(match stopping {
            Some(reason) => Phase::Stopping { grant, since: now, reason, started: Some(at) },
            None => Phase::Running { grant, since: at, ports },
        }),
        Event::Stop(reason) => match current.clone() {
            Phase::Lost { grant, since, started, .. } => Some(Phase::Lost {
                grant,
                since,
                stopping: stopping.filter(|first| !outranks(reason, *first)).or(Some(reason)),
                started,
            }),
            _ => None,
        },
        Event::Gone { exit_code, code, message } => {
            Some(ended(grant, started, stopping, exit_code, code, message, now))
        }
        Event::Requeued => Some(Phase::Pending { since: now }),
        Event::Abandoned { message } => Some(abandoned(grant, started, message, now)),
        Event::Placed(_) => None,
    }
}

/// Whether a stop for `last` must not be followed by going on elsewhere, as one for `first` is.
fn outranks(last: StopReason, first: StopReason) -> bool {
    first.may_requeue() && !last.may_requeue()
}

/// A terminal phase never changes; word of the end may come again.
fn after_ended(current: &Phase, event: &Event) -> Option<Phase> {
    match event {
        Event::Gone { .. }
        | Event::Stop(_)
        | Event::Preparing(_)
        | Event::Started { .. }
        | Event::NodeLost
        | Event::Abandoned { .. } => Some(current.clone()),
        Event::Placed(_) | Event::Requeued => None,
    }
}

fn ended(
    grant: Grant,
    started: Option<UnixMillis>,
    stopping: Option<StopReason>,
    exit_code: Option<i32>,
    code: String,
    message: String,
    now: UnixMillis,
) -> Phase {
    let outcome = match (stopping, exit_code) {
        (Some(reason), _) => stopped_outcome(reason),
        (None, Some(0)) if code.is_empty() => Outcome::Completed,
        (None, _) => Outcome::Failed,
    };
    let message = match stopping {
        Some(reason) if message.is_empty() => reason.to_string(),
        _ => message,
    };
    let code = match stopping {
        Some(reason) if code.is_empty() => reason.code().to_owned(),
        _ => code,
    };
    Phase::Ended(Ended { outcome, at: now, started, exit_code, code, message, grant: Some(grant) })
}

fn abandoned(grant: Grant, started: Option<UnixMillis>, message: String, now: UnixMillis) -> Phase {
    Phase::Ended(Ended {
        outcome: Outcome::Failed,
        at: now,
        started,
        exit_code: None,
        code: "NODE_LOST".to_owned(),
        message,
        grant: Some(grant),
    })
}

fn stopped_outcome(reason: StopReason) -> Outcome {
    match reason {
        StopReason::Requested => Outcome::Cancelled,
        StopReason::StartTimeout
        | StopReason::PendingTimeout
        | StopReason::DependencyFailed
        | StopReason::GangEnded => Outcome::Failed,
        StopReason::TimeLimit
        | StopReason::Drained
        | StopReason::Disconnected
        | StopReason::Preempted
        | StopReason::Moved => Outcome::Evicted,
    }
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Placed(_) => "a placement",
            Self::Preparing(_) => "word of its preparation",
            Self::Started { .. } => "word of its start",
            Self::Stop(_) => "a stop",
            Self::Gone { .. } => "word of its end",
            Self::NodeLost => "the loss of its node",
            Self::Requeued => "a return to the queue",
            Self::Abandoned { .. } => "being given up",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeName;
    use crate::slice::Isolation;

    const NOW: UnixMillis = UnixMillis(100);

    fn grant() -> Grant {
        let node = NodeName::new("a1").unwrap();
        Grant { node, slices: Vec::new(), isolation: Isolation::Shared }
    }

    fn running() -> Phase {
        Phase::Running { grant: grant(), since: UnixMillis(50), ports: Vec::new() }
    }

    fn gone(exit_code: i32) -> Event {
        Event::Gone { exit_code: Some(exit_code), code: String::new(), message: String::new() }
    }

    fn every_phase() -> Vec<Phase> {
        let stop = running().after(Event::Stop(StopReason::Requested), NOW).unwrap();
        let pending = Phase::Pending { since: NOW };
        let scheduled = pending.after(Event::Placed(grant()), NOW).unwrap();
        let creating = scheduled.after(Event::Preparing(Progress::Creating), NOW).unwrap();
        let lost = running().after(Event::NodeLost, NOW).unwrap();
        let over = running().after(gone(0), NOW).unwrap();
        vec![pending, scheduled, creating, running(), stop, lost, over]
    }

    fn every_event() -> Vec<Event> {
        vec![
            Event::Placed(grant()),
            Event::Preparing(Progress::Creating),
            Event::Started { at: NOW, ports: Vec::new() },
            Event::Stop(StopReason::Requested),
            gone(1),
            Event::NodeLost,
            Event::Requeued,
            Event::Abandoned { message: "node a1 is lost".to_owned() },
        ]
    }

    fn outcome(phase: &Phase) -> Outcome {
        match phase {
            Phase::Ended(ended) => ended.outcome,
            other => panic!("not ended: {other:?}"),
        }
    }

    #[test]
    fn a_terminal_phase_never_changes() {
        let over = running().after(gone(0), NOW).unwrap();
        for event in every_event() {
            if let Ok(after) = over.after(event, UnixMillis(999)) {
                assert_eq!(after, over);
            }
        }
    }

    #[test]
    fn only_word_of_the_end_or_giving_up_ends_a_session_that_holds_a_grant() {
        for phase in every_phase().into_iter().filter(|phase| phase.grant().is_some()) {
            for event in every_event() {
                let ends = matches!(event, Event::Gone { .. } | Event::Abandoned { .. });
                if let Ok(after) = phase.after(event.clone(), NOW) {
                    let ended = matches!(after, Phase::Ended(_));
                    assert_eq!(ended, ends, "{phase:?} with {event:?}");
                }
            }
        }
    }

    #[test]
    fn repeating_an_event_changes_nothing_more() {
        for phase in every_phase() {
            for event in every_event().into_iter().filter(|e| !matches!(e, Event::Requeued)) {
                let Ok(once) = phase.after(event.clone(), NOW) else { continue };
                if let Ok(twice) = once.after(event.clone(), NOW) {
                    assert_eq!(twice, once, "{phase:?} with {event:?}");
                }
            }
        }
    }

    #[test]
    fn the_exit_code_decides_unless_it_was_told_to_stop() {
        assert_eq!(outcome(&running().after(gone(0), NOW).unwrap()), Outcome::Completed);
        assert_eq!(outcome(&running().after(gone(3), NOW).unwrap()), Outcome::Failed);
        let stopping = running().after(Event::Stop(StopReason::Requested), NOW).unwrap();
        assert_eq!(outcome(&stopping.after(gone(143), NOW).unwrap()), Outcome::Cancelled);
        let limit = running().after(Event::Stop(StopReason::TimeLimit), NOW).unwrap();
        assert_eq!(outcome(&limit.after(gone(143), NOW).unwrap()), Outcome::Evicted);
    }

    #[test]
    fn a_session_that_comes_back_from_a_silent_node_goes_on_where_it_was() {
        let lost = running().after(Event::NodeLost, NOW).unwrap();
        let back = lost.after(Event::Started { at: UnixMillis(50), ports: vec![] }, NOW).unwrap();
        assert_eq!(back, running());

        let stopped = lost.after(Event::Stop(StopReason::Requested), NOW).unwrap();
        let back =
            stopped.after(Event::Started { at: UnixMillis(50), ports: vec![] }, NOW).unwrap();
        assert_eq!(back.name(), "stopping");
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        for phase in every_phase() {
            let text = serde_json::to_string(&phase).unwrap();
            assert_eq!(serde_json::from_str::<Phase>(&text).unwrap(), phase);
        }
    }
}

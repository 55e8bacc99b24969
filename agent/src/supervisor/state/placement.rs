//! One placement on the node: its phases and how it goes from one to the next.

use super::{Effect, Now};
use crate::ends::End;
use crate::ledger::{Entry, Running};
use crate::order::Order;
use crate::supervisor::report::StandingState;
use fgpu_domain::reconcile::{ORPHAN_GRACE_MS, PlacementId, Seen};
use fgpu_domain::session::{OnDisconnect, Progress, SessionSpec};
use fgpu_domain::slice::Grant;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// One placement.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct Placement {
    /// What was asked for; `None` until the manager tells, where the ledger was lost.
    pub(super) spec: Option<SessionSpec>,
    /// What it holds.
    pub(in crate::supervisor) grant: Option<Grant>,
    /// The user it belongs to.
    pub(super) owner: String,
    /// Variables that say what group it is a member of; empty also until the manager has said so.
    pub(super) group_environment: BTreeMap<String, String>,
    /// What happens when the agent is cut off.
    pub(super) on_disconnect: OnDisconnect,
    /// Where it stands.
    pub(in crate::supervisor) phase: Phase,
    /// Grows when its report has to be sent once more.
    pub(super) resend: u64,
}

/// Where a placement stands.
#[derive(Debug, Clone)]
pub(in crate::supervisor) enum Phase {
    /// Wanted, and waits for others to give back what it needs.
    Waiting,
    /// The agent before this one had begun to start it.
    Interrupted,
    /// A worker starts it.
    Starting {
        /// How far it is.
        progress: Progress,
    },
    /// Its container runs.
    Running {
        /// The container.
        running: Running,
        /// Since when we know: a list from before cannot tell that it is missing.
        since: Instant,
    },
    /// A worker stops it, or gives up its start.
    Stopping {
        /// The container, if there is one.
        running: Option<Running>,
        /// Why, where it was not the manager who said so.
        reason: Option<Reason>,
        /// From the polite signal to the hard one, milliseconds.
        grace_ms: u64,
    },
    /// It has ended; a worker puts away what is left.
    Finishing {
        /// The container, if there was one.
        running: Option<Running>,
        /// Its end.
        end: End,
    },
    /// Nothing is left of it but its end.
    Gone {
        /// Its end.
        end: End,
        /// Since when: the manager has taken it when it answers what was sent later.
        since: Instant,
    },
}

/// Why the agent itself stopped something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::supervisor) struct Reason {
    /// Stable code.
    pub(super) code: &'static str,
    /// For people.
    pub(super) message: String,
}

/// `end` as it is told where the agent itself was the cause.
pub(super) fn with_reason(end: End, reason: Option<&Reason>) -> End {
    match reason {
        Some(reason) => end.because(reason.code, reason.message.clone()),
        None => end,
    }
}

/// Gone from now on.
pub(super) fn gone(end: End, now: Now) -> Phase {
    Phase::Gone { end, since: now.instant }
}

impl Placement {
    /// A placement of `order` in `phase`.
    pub(super) fn new(order: &Order, phase: Phase) -> Self {
        Self {
            spec: Some(order.spec.clone()),
            grant: Some(order.grant.clone()),
            owner: order.owner.clone(),
            group_environment: order.group_environment.clone(),
            on_disconnect: order.spec.on_disconnect,
            phase,
            resend: 0,
        }
    }

    /// A placement of which nothing is known but that it is over.
    pub(super) fn unknown(end: End, now: Now) -> Self {
        Self {
            spec: None,
            grant: None,
            owner: String::new(),
            group_environment: BTreeMap::new(),
            on_disconnect: OnDisconnect::Keep,
            phase: gone(end, now),
            resend: 0,
        }
    }

    /// What the ledger says, believed until the engine tells otherwise.
    pub(super) fn from_entry(entry: &Entry, now: Now) -> Self {
        let phase = match (&entry.end, &entry.running) {
            (Some(end), _) => gone(end.clone(), now),
            (None, Some(running)) => {
                Phase::Running { running: running.clone(), since: now.instant }
            }
            (None, None) => Phase::Interrupted,
        };
        Self {
            spec: entry.spec.clone(),
            grant: entry.grant.clone(),
            owner: entry.owner.clone(),
            group_environment: BTreeMap::new(),
            on_disconnect: entry.on_disconnect,
            phase,
            resend: 0,
        }
    }

    /// What the ledger is to say.
    pub(super) fn to_entry(&self, id: &PlacementId) -> Entry {
        let (running, end) = match &self.phase {
            Phase::Waiting | Phase::Interrupted | Phase::Starting { .. } => (None, None),
            Phase::Running { running, .. } => (Some(running.clone()), None),
            Phase::Stopping { running, .. } => (running.clone(), None),
            Phase::Finishing { running, end } => (running.clone(), Some(end.clone())),
            Phase::Gone { end, .. } => (None, Some(end.clone())),
        };
        Entry {
            session: id.session.clone(),
            generation: id.generation,
            spec: self.spec.clone(),
            grant: self.grant.clone(),
            owner: self.owner.clone(),
            on_disconnect: self.on_disconnect,
            running,
            end,
        }
    }

    /// Takes over what only the manager knows. What it holds stays as its container says.
    pub(super) fn learn(&mut self, order: &Order) {
        if self.spec.is_none() {
            self.spec = Some(order.spec.clone());
            self.on_disconnect = order.spec.on_disconnect;
        }
        if self.grant.is_none() {
            self.grant = Some(order.grant.clone());
        }
        if self.owner.is_empty() {
            self.owner.clone_from(&order.owner);
        }
        if self.group_environment.is_empty() {
            self.group_environment.clone_from(&order.group_environment);
        }
    }

    /// All that is needed to start it, if it is known.
    pub(in crate::supervisor) fn order(&self) -> Option<Order> {
        let (spec, grant) = (self.spec.clone()?, self.grant.clone()?);
        let group_environment = self.group_environment.clone();
        Some(Order { spec, grant, owner: self.owner.clone(), group_environment })
    }

    /// What the decision core sees; `None` where there is nothing that a start would not bring.
    pub(super) fn seen(&self, wanted_to_run: bool) -> Option<Seen> {
        match &self.phase {
            Phase::Waiting | Phase::Interrupted if wanted_to_run => None,
            Phase::Waiting | Phase::Interrupted | Phase::Starting { .. } => Some(Seen::Starting),
            Phase::Running { .. } => Some(Seen::Running),
            Phase::Stopping { .. } | Phase::Finishing { .. } => Some(Seen::Stopping),
            Phase::Gone { .. } => Some(Seen::Gone),
        }
    }

    /// What is told of it. It runs until it is gone.
    pub(super) fn report_state(&self) -> StandingState {
        match &self.phase {
            Phase::Waiting | Phase::Interrupted => StandingState::Preparing(Progress::Creating),
            Phase::Starting { progress } => StandingState::Preparing(progress.clone()),
            Phase::Running { running, .. }
            | Phase::Stopping { running: Some(running), .. }
            | Phase::Finishing { running: Some(running), .. } => {
                StandingState::Running(running.clone())
            }
            Phase::Stopping { running: None, .. } | Phase::Finishing { running: None, .. } => {
                StandingState::Preparing(Progress::Creating)
            }
            Phase::Gone { end, .. } => StandingState::Gone(end.clone()),
        }
    }

    /// Its container, if it is known.
    pub(super) fn container(&self) -> Option<&str> {
        let container = match &self.phase {
            Phase::Running { running, .. }
            | Phase::Stopping { running: Some(running), .. }
            | Phase::Finishing { running: Some(running), .. } => running.container.as_str(),
            _ => return None,
        };
        (!container.is_empty()).then_some(container)
    }

    /// The grace it asked for.
    pub(super) fn grace_ms(&self) -> u64 {
        self.spec.as_ref().map_or(ORPHAN_GRACE_MS, |spec| spec.stop_grace_ms)
    }

    /// Whether what it holds comes back without anybody asking again.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Finishing { .. })
    }

    /// Whether it holds its slices on the devices. One that waits or was interrupted has none yet.
    pub(super) fn holds(&self) -> bool {
        !matches!(self.phase, Phase::Waiting | Phase::Interrupted | Phase::Gone { .. })
    }

    /// Begins to stop it.
    pub(super) fn stop(
        &mut self,
        id: &PlacementId,
        grace_ms: u64,
        reason: Option<Reason>,
        now: Now,
    ) -> Option<Effect> {
        match &self.phase {
            Phase::Waiting => {
                let end = with_reason(End::never_ran(now.wall), reason.as_ref());
                self.phase = gone(end, now);
                None
            }
            // A half-made container may be there.
            Phase::Interrupted => {
                let end = with_reason(End::never_ran(now.wall), reason.as_ref());
                Some(self.finish(id, None, end))
            }
            Phase::Starting { .. } => {
                self.phase = Phase::Stopping { running: None, reason, grace_ms };
                Some(Effect::Cancel(id.clone()))
            }
            Phase::Running { running, .. } => {
                let running = running.clone();
                let container = running.container.clone();
                self.phase = Phase::Stopping { running: Some(running), reason, grace_ms };
                Some(Effect::Stop { id: id.clone(), container, grace_ms })
            }
            Phase::Stopping { .. } | Phase::Finishing { .. } | Phase::Gone { .. } => None,
        }
    }

    /// It has ended: what is left of it has to be put away.
    pub(super) fn finish(
        &mut self,
        id: &PlacementId,
        running: Option<Running>,
        end: End,
    ) -> Effect {
        let container = running.as_ref().map(|running| running.container.clone());
        self.phase = Phase::Finishing { running, end };
        Effect::Finish { id: id.clone(), container }
    }
}

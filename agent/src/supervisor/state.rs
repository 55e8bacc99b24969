//! The node as the supervisor knows it, and every decision about it. No clock, no I/O.
//!
//! Whatever happens becomes a call here; what has to be done comes back as [`Effect`]s. The
//! supervisor's loop carries them out in worker tasks, whose results come back as calls.

mod adopt;
mod placement;
mod reconcile;

pub(super) use adopt::{Listing, running_of};
pub(super) use placement::{Phase, Placement};

use super::report::{Snapshot, Standing};
use crate::ends::{self, End};
use crate::ledger::{Entry, Ledger, Running};
use crate::order::DesiredState;
use fgpu_domain::device::{Device, with_instances};
use fgpu_domain::ids::{ClusterId, NodeName};
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::session::{OnDisconnect, Progress};
use fgpu_domain::time::UnixMillis;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Prepare, create and start it.
    Start(PlacementId),
    /// Give up a start under way and remove what it made.
    Cancel(PlacementId),
    /// Stop its container.
    Stop {
        /// Which.
        id: PlacementId,
        /// Its container.
        container: String,
        /// From the polite signal to the hard one, milliseconds.
        grace_ms: u64,
    },
    /// It has ended: keep its output, remove its container and its files.
    Finish {
        /// Which.
        id: PlacementId,
        /// Its container, if there is one.
        container: Option<String>,
    },
    /// Remove a container of ours that belongs to nothing that runs.
    RemoveLeftover {
        /// The container.
        container: String,
        /// The placement it was for, where it tells.
        id: Option<PlacementId>,
    },
}

/// The moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For people.
    pub(super) wall: UnixMillis,
    /// For comparing.
    pub(super) instant: Instant,
}

/// Everything the supervisor knows.
#[derive(Debug)]
pub(super) struct State {
    node: NodeName,
    agent_id: String,
    cluster: Option<ClusterId>,
    fence_ms: u64,
    /// The last desired state taken since this agent started.
    desired: Option<DesiredState>,
    /// Epoch and generation of the last one taken by this agent or the one before.
    taken: (i64, u64),
    placements: BTreeMap<PlacementId, Placement>,
    /// With the MIG instances of each.
    devices: Vec<Device>,
    engine: EngineState,
    /// When the newest message was sent that the manager has answered: everything told before it
    /// has been taken.
    answered: Option<Instant>,
    /// Whether the placements known are all there are.
    complete: bool,
    ledger_problem: Option<String>,
}

/// What is known of the container engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EngineState {
    /// Nothing yet.
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Away {
        /// What was said, for people.
        reason: String,
    },
}

/// A desired state from before the one already taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "desired state {}.{} is older than {}.{}, which was taken: refused",
    offered.0, offered.1, taken.0, taken.1
)]
pub struct StaleDesired {
    /// Epoch and generation offered.
    pub offered: (i64, u64),
    /// Epoch and generation taken before.
    pub taken: (i64, u64),
}

impl State {
    /// What the ledger tells, before anything has been observed. `complete` says whether it is
    /// whole, or has to be completed from the labels of the containers.
    pub(super) fn new(node: NodeName, ledger: &Ledger, complete: bool, now: Now) -> Self {
        let placements = ledger
            .placements
            .iter()
            .map(|entry| (entry.id(), Placement::from_entry(entry, now)))
            .collect();
        Self {
            node,
            agent_id: ledger.agent_id.clone(),
            cluster: ledger.cluster.clone(),
            fence_ms: ledger.fence_ms,
            desired: None,
            taken: (ledger.epoch, ledger.generation),
            placements,
            devices: Vec::new(),
            engine: EngineState::Unknown,
            answered: None,
            complete,
            ledger_problem: None,
        }
    }

    pub(super) fn cluster(&self) -> Option<&ClusterId> {
        self.cluster.as_ref()
    }

    pub(super) fn fence_ms(&self) -> u64 {
        self.fence_ms
    }

    pub(super) fn placement(&self, id: &PlacementId) -> Option<&Placement> {
        self.placements.get(id)
    }

    /// Whether anything here has to be stopped when the agent is cut off.
    pub(super) fn must_stop_when_fenced(&self) -> bool {
        self.placements.values().any(|placement| {
            placement.on_disconnect == OnDisconnect::Stop
                && !matches!(placement.phase, Phase::Gone { .. })
        })
    }

    /// A manager has accepted this agent.
    pub(super) fn welcomed(&mut self, cluster: ClusterId, fence_ms: u64) {
        self.cluster = Some(cluster);
        self.fence_ms = fence_ms;
    }

    /// The manager has answered a heartbeat that was sent at `sent`, after all reports before it.
    pub(super) fn answered(&mut self, sent: Instant) {
        self.answered = self.answered.max(Some(sent));
    }

    pub(super) fn set_devices(&mut self, devices: Vec<Device>) {
        self.devices = with_instances(&devices);
    }

    pub(super) fn set_ledger_problem(&mut self, problem: Option<String>) {
        self.ledger_problem = problem;
    }

    /// Takes what the manager wants, unless something newer was taken before.
    pub(super) fn take_desired(&mut self, desired: DesiredState) -> Result<(), StaleDesired> {
        let offered = (desired.epoch, desired.generation);
        // Within an epoch a manager numbers on; a restarted agent compares with its ledger.
        if offered < self.taken {
            return Err(StaleDesired { offered, taken: self.taken });
        }
        self.taken = offered;
        for (id, wanted) in &desired.placements {
            let Some(placement) = self.placements.get_mut(id) else { continue };
            if let Ok(order) = &wanted.order {
                placement.learn(order);
            }
            // The manager still asks about what has ended: it has not taken the end.
            if matches!(placement.phase, Phase::Gone { .. }) {
                placement.resend += 1;
            }
        }
        self.desired = Some(desired);
        Ok(())
    }

    /// The start of `id` is at this point.
    pub(super) fn progressed(&mut self, id: &PlacementId, at: Progress) {
        if let Some(Placement { phase: Phase::Starting { progress }, .. }) =
            self.placements.get_mut(id)
        {
            *progress = at;
        }
    }

    /// The container of `id` runs.
    pub(super) fn started(&mut self, id: &PlacementId, running: Running, now: Now) -> Vec<Effect> {
        let Some(placement) = self.placements.get_mut(id) else { return Vec::new() };
        match &placement.phase {
            Phase::Starting { .. } => {
                placement.phase = Phase::Running { running, since: now.instant };
                Vec::new()
            }
            // Told to stop while the start was at its last step.
            Phase::Stopping { reason, grace_ms, .. } => {
                let (reason, grace_ms) = (reason.clone(), *grace_ms);
                let container = running.container.clone();
                placement.phase = Phase::Stopping { running: Some(running), reason, grace_ms };
                vec![Effect::Stop { id: id.clone(), container, grace_ms }]
            }
            _ => Vec::new(),
        }
    }

    /// The start of `id` came to nothing, and nothing of it is left.
    pub(super) fn start_failed(&mut self, id: &PlacementId, end: End, now: Now) {
        let Some(placement) = self.placements.get_mut(id) else { return };
        placement.phase = match &placement.phase {
            Phase::Starting { .. } => placement::gone(end, now),
            Phase::Stopping { running: None, reason, .. } => {
                let never = End::never_ran(end.at);
                placement::gone(placement::with_reason(never, reason.as_ref()), now)
            }
            _ => return,
        };
    }

    /// The container of `id` has ended after it was told to.
    pub(super) fn stopped(&mut self, id: &PlacementId, end: End) -> Vec<Effect> {
        let Some(placement) = self.placements.get_mut(id) else { return Vec::new() };
        let Phase::Stopping { running, reason, .. } = &placement.phase else { return Vec::new() };
        let end = placement::with_reason(end.after_running(), reason.as_ref());
        let running = running.clone();
        vec![placement.finish(id, running, end)]
    }

    /// What was left of `id` is put away.
    pub(super) fn finished(&mut self, id: &PlacementId, now: Now) {
        let Some(placement) = self.placements.get_mut(id) else { return };
        if let Phase::Finishing { end, .. } = &placement.phase {
            placement.phase = placement::gone(end.clone(), now);
        }
    }

    /// Cut off longer than allowed: what shall not run then is stopped.
    pub(super) fn fenced(&mut self, silent_ms: u64, now: Now) -> Vec<Effect> {
        let message =
            format!("the agent was cut off from the manager for {silent_ms} ms and stopped it");
        let reason = placement::Reason { code: ends::DISCONNECTED, message };
        let mut effects = Vec::new();
        for (id, placement) in &mut self.placements {
            if placement.on_disconnect == OnDisconnect::Stop {
                let grace_ms = placement.grace_ms();
                effects.extend(placement.stop(id, grace_ms, Some(reason.clone()), now));
            }
        }
        effects
    }

    /// What anybody outside may know.
    pub(super) fn snapshot(&self) -> Snapshot {
        let standing = |(id, placement): (&PlacementId, &Placement)| {
            let standing = Standing {
                state: placement.report_state(),
                grant: placement.grant.clone(),
                container: placement.container().map(str::to_owned),
                resend: placement.resend,
            };
            (id.clone(), standing)
        };
        Snapshot {
            cluster: self.cluster.clone(),
            epoch: self.taken.0,
            generation: self.taken.1,
            condition: self.condition(),
            observed: self.engine != EngineState::Unknown,
            complete: self.complete,
            placements: self.placements.iter().map(standing).collect(),
        }
    }

    /// What the ledger is to say.
    pub(super) fn ledger(&self) -> Ledger {
        Ledger {
            cluster: self.cluster.clone(),
            epoch: self.taken.0,
            generation: self.taken.1,
            fence_ms: self.fence_ms,
            placements: self
                .placements
                .iter()
                .map(|(id, placement)| placement.to_entry(id))
                .collect::<Vec<Entry>>(),
            ..Ledger::new(self.agent_id.clone())
        }
    }

    fn condition(&self) -> String {
        let mut parts = Vec::new();
        if let EngineState::Away { reason } = &self.engine {
            parts.push(reason.clone());
        }
        if let Some(problem) = &self.ledger_problem {
            parts.push(format!("the agent cannot write its state: {problem}"));
        }
        parts.join("; ")
    }
}

//! The loop around the state: one input at a time.

use super::observer::{Sight, observe};
use super::state::{Effect, Now, State};
use super::work::{Done, Workshop};
use super::{EngineFacts, Input, RuntimeSlot, Snapshot, SupervisorHandle, SupervisorParts};
use crate::lease::{BootTime, LeaseFile};
use crate::ledger::Ledger;
use fgpu_domain::ids::ClusterId;
use fgpu_runtime::{ContainerRuntime, Owner, RuntimeError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Inputs that may wait. Senders wait when it is full; the loop itself never sends.
const QUEUE: usize = 1024;
/// How long the last change may take to become durable when the agent goes down.
const FLUSH: Duration = Duration::from_secs(5);
/// The cluster of a runtime that is only asked what it is.
const NO_CLUSTER: &str = "unregistered";

/// The task that owns the node. See the module above.
pub struct Supervisor {
    parts: SupervisorParts,
    state: State,
    workshop: Workshop,
    inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    engine: watch::Sender<EngineFacts>,
    runtime: watch::Sender<RuntimeSlot>,
    observer: JoinHandle<()>,
    saved: Ledger,
    revision: u64,
    lease: Lease,
}

/// How long the agent may still act as if the manager were there.
#[derive(Debug)]
struct Lease {
    file: LeaseFile,
    from: Instant,
    fenced: bool,
}

impl Supervisor {
    /// Starts the task and returns how to reach it, and the task itself.
    ///
    /// # Errors
    /// What the runtime says of its own configuration.
    pub fn start(
        parts: SupervisorParts,
    ) -> Result<(SupervisorHandle, JoinHandle<()>), RuntimeError> {
        let node = parts.settings.node.clone();
        let runtime = make_runtime(&parts, parts.ledger.cluster.as_ref())?;
        let (sender, inputs) = mpsc::channel(QUEUE);
        let now = Now { wall: (parts.wall)(), instant: Instant::now() };
        let mut state = State::new(node, &parts.ledger, parts.ledger_complete, now);
        state.set_devices(parts.devices.borrow().clone());
        let (snapshot, snapshots) = watch::channel(Arc::new(state.snapshot()));
        let (engine, engines) = watch::channel(EngineFacts::default());
        let (slot, runtimes) = watch::channel(RuntimeSlot(runtime.clone()));
        let handle = SupervisorHandle {
            inputs: sender.clone(),
            snapshot: snapshots,
            engine: engines,
            runtime: runtimes,
        };
        let observer = tokio::spawn(observe(runtime, sender.clone(), parts.settings.relist));
        let lease = Lease::after_restart(&parts);
        let supervisor = Self {
            workshop: Workshop::new(),
            saved: state.ledger(),
            state,
            inputs,
            sender,
            snapshot,
            engine,
            runtime: slot,
            observer,
            revision: 0,
            lease,
            parts,
        };
        Ok((handle, tokio::spawn(supervisor.run())))
    }

    async fn run(mut self) {
        // Also what was there before has to be on disk, e.g. a new identity.
        self.revision = self.parts.writer.put(self.saved.clone());
        let mut written = self.parts.writer.written();
        let mut devices = self.parts.devices.clone();
        let mut watchdog = self.parts.notifier.watchdog();
        loop {
            let fence = self.fence_at();
            tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(input) => self.take(input),
                    None => break,
                },
                () = sleep_until(fence) => self.fence(),
                Ok(()) = devices.changed() => {
                    self.state.set_devices(devices.borrow_and_update().clone());
                }
                Ok(()) = written.changed() => {
                    let problem = written.borrow_and_update().problem.clone();
                    self.state.set_ledger_problem(problem);
                }
                () = watchdog.due() => self.parts.notifier.alive(),
                () = self.parts.shutdown.cancelled() => break,
            }
            self.settle();
        }
        self.observer.abort();
        self.workshop.abandon();
        self.save();
        self.parts.writer.durable(self.revision, FLUSH).await;
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        let host = self.parts.settings.advertise.clone();
        let effects = match input {
            Input::Welcomed { cluster, fence, sent, done } => {
                self.welcome(cluster, fence, sent);
                // Nobody to tell when the connection has gone meanwhile.
                let _ = done.send(());
                Vec::new()
            }
            Input::Desired { desired, taken } => {
                let _ = taken.send(self.state.take_desired(desired));
                Vec::new()
            }
            Input::Acked { sent } => {
                let kept = self.state.must_stop_when_fenced();
                self.lease.renew(sent, kept);
                self.state.answered(sent);
                Vec::new()
            }
            Input::Work(done) => self.work_done(done, now),
            Input::Seen(Sight::Engine(info, attach)) => {
                self.engine.send_replace(EngineFacts { info: Some(info), attach });
                Vec::new()
            }
            Input::Seen(Sight::Away(reason)) => {
                self.engine_away(reason);
                Vec::new()
            }
            Input::Seen(Sight::Listed(listing)) => {
                if self.state.engine_is_away() {
                    tracing::info!(
                        containers = listing.containers.len(),
                        "the container engine answers again"
                    );
                }
                self.state.listed(listing, &host, now)
            }
            Input::Seen(Sight::Container(container)) => {
                self.state.observed(&container, &host, now).into_iter().collect()
            }
        };
        self.carry_out(effects);
    }

    fn work_done(&mut self, done: Done, now: Now) -> Vec<Effect> {
        match done {
            Done::Progress { id, progress } => {
                self.state.progressed(&id, progress);
                Vec::new()
            }
            Done::Started { id, running } => {
                tracing::info!(session = %id.session, generation = id.generation, container = %running.container, "running");
                self.workshop.start_over(&id);
                self.state.started(&id, running, now)
            }
            Done::StartFailed { id, end } => {
                tracing::warn!(session = %id.session, generation = id.generation, code = %end.code, reason = %end.message, "not started");
                self.workshop.start_over(&id);
                self.state.start_failed(&id, end, now);
                Vec::new()
            }
            Done::Stopped { id, end } => self.state.stopped(&id, end),
            Done::Finished { id } => {
                tracing::info!(session = %id.session, generation = id.generation, "gone");
                self.state.finished(&id, now);
                Vec::new()
            }
            Done::LeftoverRemoved { container } => {
                self.workshop.leftover_removed(&container);
                Vec::new()
            }
        }
    }

    fn welcome(&mut self, cluster: ClusterId, fence: Duration, sent: Instant) {
        let fence_ms = u64::try_from(fence.as_millis()).unwrap_or(u64::MAX);
        let is_new = self.state.cluster() != Some(&cluster);
        self.state.welcomed(cluster.clone(), fence_ms);
        let kept = self.state.must_stop_when_fenced();
        self.lease.renew(sent, kept);
        if !is_new {
            return;
        }
        match make_runtime(&self.parts, Some(&cluster)) {
            Ok(runtime) => {
                self.observer.abort();
                let sender = self.sender.clone();
                let relist = self.parts.settings.relist;
                self.observer = tokio::spawn(observe(runtime.clone(), sender, relist));
                self.runtime.send_replace(RuntimeSlot(runtime));
            }
            // It was made a moment ago from the same configuration.
            Err(error) => tracing::error!(%error, "the runtime of the new cluster cannot be made"),
        }
    }

    fn engine_away(&mut self, reason: String) {
        if !self.state.engine_is_away() {
            tracing::error!(%reason, "the container engine does not answer");
        }
        let live_restore = self.engine.borrow().info.as_ref().is_some_and(|info| info.live_restore);
        self.state.engine_away(reason, live_restore);
    }

    fn fence(&mut self) {
        self.lease.fenced = true;
        let now = self.now();
        let silent = now.instant.saturating_duration_since(self.lease.from);
        let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(silent_ms, "cut off from the manager: sessions that say so are stopped");
        let effects = self.state.fenced(silent_ms, now);
        self.carry_out(effects);
    }

    /// After every input: act on what is wanted, save what changed, tell what is new.
    fn settle(&mut self) {
        let effects = self.state.reconcile(self.now());
        self.save();
        self.carry_out(effects);
        let snapshot = self.state.snapshot();
        self.snapshot.send_if_modified(|old| {
            let new = **old != snapshot;
            if new {
                *old = Arc::new(snapshot);
            }
            new
        });
    }

    fn save(&mut self) {
        let ledger = self.state.ledger();
        if ledger != self.saved {
            self.revision = self.parts.writer.put(ledger.clone());
            self.saved = ledger;
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        // An end is durable before its container is removed.
        self.save();
        let tools = super::work::Tools {
            runtime: self.runtime.borrow().0.clone(),
            settings: self.parts.settings.clone(),
            attach: self.engine.borrow().attach.clone(),
            devices: self.parts.devices.borrow().clone(),
            cluster: self.state.cluster().cloned(),
            writer: self.parts.writer.clone(),
            revision: self.revision,
            wall: self.parts.wall.clone(),
            done: self.sender.clone(),
        };
        for effect in effects {
            let order = match &effect {
                Effect::Start(id) => self.state.placement(id).and_then(|found| found.order()),
                _ => None,
            };
            self.workshop.carry_out(effect, order, &tools);
        }
    }

    fn fence_at(&self) -> Option<Instant> {
        let fence_ms = self.state.fence_ms();
        let active = fence_ms > 0 && !self.lease.fenced;
        active.then(|| self.lease.from + Duration::from_millis(fence_ms))
    }

    fn now(&self) -> Now {
        Now { wall: (self.parts.wall)(), instant: Instant::now() }
    }
}

impl Lease {
    /// The lease goes on where the agent before this one had it.
    fn after_restart(parts: &SupervisorParts) -> Self {
        let file = LeaseFile::new(parts.settings.paths.root());
        let age = BootTime::now().and_then(|now| file.age(&now)).unwrap_or_default();
        let now = Instant::now();
        Self { file, from: now.checked_sub(age).unwrap_or(now), fenced: false }
    }

    /// The manager has answered what was sent at `sent`; `keep` says whether that has to outlive
    /// this process.
    fn renew(&mut self, sent: Instant, keep: bool) {
        if sent < self.from {
            return;
        }
        self.from = sent;
        self.fenced = false;
        if !keep {
            return;
        }
        let Some(mut at) = BootTime::now() else { return };
        let ago = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
        at.millis = at.millis.saturating_sub(ago);
        if let Err(error) = self.file.write(&at) {
            tracing::debug!(%error, "the lease is not kept for a restart");
        }
    }
}

fn make_runtime(
    parts: &SupervisorParts,
    cluster: Option<&ClusterId>,
) -> Result<Arc<dyn ContainerRuntime>, RuntimeError> {
    let cluster = cluster.map_or_else(|| NO_CLUSTER.to_owned(), ToString::to_string);
    (parts.runtimes)(Owner { cluster, node: parts.settings.node.to_string() })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

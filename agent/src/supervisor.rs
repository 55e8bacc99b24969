//! The supervisor: one task that owns the state of the node.
//!
//! Everybody else reaches it through [`SupervisorHandle`] and sees [`Snapshot`]s. Its loop takes
//! one input at a time, asks the pure state what follows, and hands all slow work to worker
//! tasks, one per placement: a call that hangs holds up its own placement and nothing else.
//!
//! What always holds:
//!
//! - nothing is stopped before a manager was heard, but for sessions that say so when cut off;
//! - a placement that has ended never starts again; its end is kept until the manager has taken it;
//! - the end is durable before the container is removed.

mod observer;
mod report;
mod run;
mod state;
mod work;

pub use report::{Snapshot, Standing, StandingState};
pub use run::Supervisor;
pub use state::StaleDesired;

use crate::inject::attach::{AttachChoice, AttachFacts};
use crate::inject::mounts::MountRules;
use crate::logs::LogLimits;
use crate::notify::Notifier;
use crate::order::DesiredState;
use crate::state_dir::Paths;
use fgpu_domain::device::Device;
use fgpu_domain::ids::{ClusterId, NodeName};
use fgpu_domain::time::UnixMillis;
use fgpu_runtime::{ContainerRuntime, Owner, RuntimeError, RuntimeInfo};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Makes the runtime of an owner. The cluster is known only after the first welcome, so this is
/// asked twice by an agent that is new to its cluster.
pub type RuntimeFactory =
    Arc<dyn Fn(Owner) -> Result<Arc<dyn ContainerRuntime>, RuntimeError> + Send + Sync>;

/// The wall clock, for what is shown.
pub type WallClock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// What the supervisor has to know of the node and of its rules.
#[derive(Debug, Clone)]
pub struct SupervisorSettings {
    /// The node.
    pub node: NodeName,
    /// Where the agent's files lie.
    pub paths: Paths,
    /// What sessions may mount.
    pub mounts: MountRules,
    /// How devices get into containers.
    pub attach: AttachChoice,
    /// Address published ports listen on.
    pub publish_on: IpAddr,
    /// Address they are told to be reached at.
    pub advertise: String,
    /// Where the kernel tells about the machine (`/sys`).
    pub sysfs: PathBuf,
    /// How long a start is tried while the engine is away.
    pub engine_patience: Duration,
    /// How often all containers are listed without any reason.
    pub relist: Duration,
    /// What is kept of the output of what has ended.
    pub logs: LogLimits,
}

/// What the engine says of itself, and what that means for GPUs.
#[derive(Debug, Clone, Default)]
pub struct EngineFacts {
    /// `None` before it answered for the first time.
    pub info: Option<Arc<RuntimeInfo>>,
    /// What it offers for GPUs.
    pub attach: AttachFacts,
}

/// Everything that may happen to the supervisor.
#[derive(Debug)]
enum Input {
    /// A manager has accepted this agent.
    Welcomed { cluster: ClusterId, fence: Duration, sent: Instant, done: oneshot::Sender<()> },
    /// What the manager wants.
    Desired { desired: DesiredState, taken: oneshot::Sender<Result<(), StaleDesired>> },
    /// A heartbeat that was sent then has been answered.
    Acked { sent: Instant },
    /// From a worker.
    Work(work::Done),
    /// From the observer.
    Seen(observer::Sight),
}

/// Reaches the supervisor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    inputs: mpsc::Sender<Input>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    engine: watch::Receiver<EngineFacts>,
    runtime: watch::Receiver<RuntimeSlot>,
}

/// The runtime in use; another one once the cluster is known.
#[derive(Clone)]
pub(crate) struct RuntimeSlot(pub(crate) Arc<dyn ContainerRuntime>);

impl std::fmt::Debug for RuntimeSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RuntimeSlot").field(&self.0.kind()).finish()
    }
}

/// The supervisor has ended: the agent is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is shutting down")]
pub struct SupervisorGone;

/// Everything the supervisor is made of.
pub struct SupervisorParts {
    /// Rules and places.
    pub settings: SupervisorSettings,
    /// What the agent before this one left.
    pub ledger: crate::ledger::Ledger,
    /// Whether that is all there was.
    pub ledger_complete: bool,
    /// Writes the ledger.
    pub writer: crate::ledger::LedgerWriter,
    /// Makes the runtime.
    pub runtimes: RuntimeFactory,
    /// The devices of the node, as they are found.
    pub devices: watch::Receiver<Vec<Device>>,
    /// Tells systemd that the loop is alive.
    pub notifier: Notifier,
    /// The wall clock.
    pub wall: WallClock,
    /// Ends the loop. Containers stay.
    pub shutdown: tokio_util::sync::CancellationToken,
}

impl SupervisorHandle {
    /// Tells that a manager of `cluster` has accepted this agent, and how long it may be cut off.
    /// `sent` is when the registration it answers was sent.
    ///
    /// # Errors
    /// [`SupervisorGone`].
    pub async fn welcomed(
        &self,
        cluster: ClusterId,
        fence: Duration,
        sent: Instant,
    ) -> Result<(), SupervisorGone> {
        let (done, waited) = oneshot::channel();
        self.send(Input::Welcomed { cluster, fence, sent, done }).await?;
        waited.await.map_err(|_| SupervisorGone)
    }

    /// Hands over what the manager wants. The inner result says whether it was taken.
    ///
    /// # Errors
    /// [`SupervisorGone`].
    pub async fn desired(
        &self,
        desired: DesiredState,
    ) -> Result<Result<(), StaleDesired>, SupervisorGone> {
        let (taken, answer) = oneshot::channel();
        self.send(Input::Desired { desired, taken }).await?;
        answer.await.map_err(|_| SupervisorGone)
    }

    /// Tells that a heartbeat that was sent at `sent` has been answered.
    ///
    /// # Errors
    /// [`SupervisorGone`].
    pub async fn acked(&self, sent: Instant) -> Result<(), SupervisorGone> {
        self.send(Input::Acked { sent }).await
    }

    /// The node, now and after every change.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The node now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// What the engine says of itself, now and after every change.
    #[must_use]
    pub fn engine(&self) -> watch::Receiver<EngineFacts> {
        self.engine.clone()
    }

    /// The runtime in use.
    #[must_use]
    pub fn runtime(&self) -> Arc<dyn ContainerRuntime> {
        self.runtime.borrow().0.clone()
    }

    async fn send(&self, input: Input) -> Result<(), SupervisorGone> {
        self.inputs.send(input).await.map_err(|_| SupervisorGone)
    }
}

//! The agent as a whole.

use crate::config::AgentConfig;
use crate::images::watch_images;
use crate::inject::mounts::MountRules;
use crate::inventory::{DeviceWatch, DiscoverError, watch_inventory};
use crate::ledger::{self, LedgerError, LedgerWriter};
use crate::link::{self, LinkError, LinkParts};
use crate::parts::AgentParts;
use crate::state_dir::{StateDir, StateDirError};
use crate::supervisor::{
    Snapshot, Supervisor, SupervisorHandle, SupervisorParts, SupervisorSettings,
};
use fgpu_runtime::RuntimeError;
use fgpu_service::tls::{TlsError, load_client};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Its ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Its devices.
    #[error(transparent)]
    Devices(#[from] DiscoverError),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its container runtime.
    #[error("the container runtime cannot be used")]
    Runtime(#[from] RuntimeError),
    /// Its manager.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A task ended that never should.
    #[error("a part of the agent failed: {0}")]
    Task(String),
}

/// An agent that runs in this process.
#[derive(Debug)]
pub struct Agent {
    supervisor: SupervisorHandle,
    task: JoinHandle<Result<(), AgentError>>,
    shutdown: CancellationToken,
}

/// Runs an agent until `shutdown`. Its containers stay.
///
/// # Errors
/// [`AgentError`] where it cannot start, or where it is new and its manager refuses it.
pub async fn run(
    config: AgentConfig,
    parts: AgentParts,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let notifier = parts.notifier;
    let agent = Agent::start_until(config, parts, shutdown).await?;
    let ended = agent.join().await;
    notifier.stopping();
    ended
}

impl Agent {
    /// Starts an agent and returns when its supervisor runs; it may not have found a manager yet.
    ///
    /// # Errors
    /// [`AgentError`] where it cannot start.
    pub async fn start(config: AgentConfig, parts: AgentParts) -> Result<Self, AgentError> {
        Self::start_until(config, parts, CancellationToken::new()).await
    }

    async fn start_until(
        config: AgentConfig,
        parts: AgentParts,
        shutdown: CancellationToken,
    ) -> Result<Self, AgentError> {
        let state_dir = StateDir::open(&config.state_dir)?;
        let tls = match config.managers.iter().any(|url| url.starts_with("https://")) {
            true => Some(load_client(&config.tls)?),
            false => None,
        };
        let loaded = ledger::load(&config.state_dir, (parts.wall)().0)?;
        if let Some((aside, problem)) = &loaded.corrupt {
            tracing::error!(moved_to = %aside.display(), %problem, "the ledger cannot be read: placements are rebuilt from the labels of the containers");
        }
        let ledger = loaded.ledger;
        let devices = DeviceWatch::start(parts.accelerator.clone()).await?;
        // What ran before the ledger was lost can only be found by the cluster's label.
        let ledger_complete = loaded.corrupt.is_none() || ledger.cluster.is_none();
        // Stops the parts after the link, so that nothing ends with the manager looking on.
        let inner = CancellationToken::new();
        let (agent_id, cluster) = (ledger.agent_id.clone(), ledger.cluster.clone());
        let (supervisor, supervising) = Supervisor::start(SupervisorParts {
            settings: settings(&config, &state_dir),
            writer: LedgerWriter::start(config.state_dir.clone(), ledger.clone()),
            ledger,
            ledger_complete,
            runtimes: parts.runtimes.clone(),
            devices: devices.devices.clone(),
            notifier: parts.notifier,
            wall: parts.wall.clone(),
            shutdown: inner.clone(),
        })?;
        let kind = supervisor.runtime().kind();
        let condition = condition_of(supervisor.snapshots());
        let engine = supervisor.engine();
        let machine = &parts.machine;
        let (inventory, _) = watch_inventory(&config, machine, kind, devices, engine, condition);
        let images = (kind == "docker").then(|| watch_images(supervisor.clone(), config.relist));
        let link = LinkParts {
            managers: config.managers.clone(),
            tls,
            token: config.token.clone(),
            node: config.node.clone(),
            agent_id,
            cluster,
            supervisor: supervisor.clone(),
            inventory,
            images,
            accelerator: parts.accelerator,
            paths: state_dir.paths(),
            publish_on: config.publish_on,
            notifier: parts.notifier,
            shutdown: shutdown.clone(),
        };
        let task = tokio::spawn(until_ended(link, supervising, inner, state_dir));
        Ok(Self { supervisor, task, shutdown })
    }

    /// The state of its node.
    #[must_use]
    pub fn supervisor(&self) -> &SupervisorHandle {
        &self.supervisor
    }

    /// Ends it as SIGTERM does: its containers stay.
    ///
    /// # Errors
    /// What it failed with, if it had ended before.
    pub async fn stop(self) -> Result<(), AgentError> {
        self.shutdown.cancel();
        self.join().await
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// What it failed with.
    pub async fn join(self) -> Result<(), AgentError> {
        self.task.await.unwrap_or_else(|error| Err(AgentError::Task(error.to_string())))
    }
}

/// Keeps the link up; when it ends, so does all else. The folder is held to the last.
async fn until_ended(
    link: LinkParts,
    mut supervising: JoinHandle<()>,
    inner: CancellationToken,
    state_dir: StateDir,
) -> Result<(), AgentError> {
    let ended = tokio::select! {
        ended = link::run(link) => ended.map_err(AgentError::from),
        ended = &mut supervising => {
            let reason = ended.map_or_else(|error| error.to_string(), |()| "it ended".to_owned());
            return Err(AgentError::Task(format!("supervisor: {reason}")));
        }
    };
    inner.cancel();
    let stopped = supervising.await;
    drop(state_dir);
    ended?;
    stopped.map_err(|error| AgentError::Task(error.to_string()))
}

fn settings(config: &AgentConfig, state_dir: &StateDir) -> SupervisorSettings {
    let socket = config.docker.strip_prefix("unix://").unwrap_or(&config.docker);
    SupervisorSettings {
        node: config.node.clone(),
        paths: state_dir.paths(),
        mounts: MountRules {
            allowed: config.allowed_mounts.clone(),
            forbidden: vec![PathBuf::from(socket), config.state_dir.clone()],
        },
        attach: config.gpu_attach,
        publish_on: config.publish_on,
        advertise: config.advertise.clone(),
        sysfs: PathBuf::from("/sys"),
        engine_patience: config.engine_patience,
        relist: config.relist,
        logs: config.logs,
    }
}

/// The condition alone, so that the inventory is not made anew with every other change.
fn condition_of(mut snapshots: watch::Receiver<Arc<Snapshot>>) -> watch::Receiver<String> {
    let first = snapshots.borrow_and_update().condition.clone();
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        while snapshots.changed().await.is_ok() {
            let condition = snapshots.borrow_and_update().condition.clone();
            sender.send_if_modified(|old| {
                let changed = *old != condition;
                if changed {
                    *old = condition;
                }
                changed
            });
        }
    });
    receiver
}

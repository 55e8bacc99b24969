//! Opening what an agent is made of: the accelerator and the runtime the configuration chooses.

use crate::config::{AgentConfig, RuntimeChoice};
use crate::facts::Machine;
use crate::notify::Notifier;
use crate::supervisor::{RuntimeFactory, WallClock};
use fgpu_accelerator::{Accelerator, AcceleratorError};
use fgpu_domain::time::UnixMillis;
use fgpu_runtime::docker::{DockerConfig, DockerRuntime};
use fgpu_runtime::process::{ProcessConfig, ProcessRuntime};
use fgpu_runtime::{ContainerRuntime, Owner, RuntimeError};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long Docker may take to answer when it is up to us to choose.
const PROBE: Duration = Duration::from_secs(5);

/// What an agent is made of. Every part has a real form and a fake.
#[derive(Clone)]
pub struct AgentParts {
    /// The devices.
    pub accelerator: Arc<dyn Accelerator>,
    /// Makes the runtime, once it is known whose it is.
    pub runtimes: RuntimeFactory,
    /// The machine.
    pub machine: Machine,
    /// Tells systemd.
    pub notifier: Notifier,
    /// The wall clock.
    pub wall: WallClock,
}

/// Why a part cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The accelerator.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
    /// The runtime.
    #[error("the container runtime cannot be used")]
    Runtime(#[from] RuntimeError),
}

impl AgentParts {
    /// Opens the parts `config` chooses. `shim` is the program and the arguments that lead to
    /// [`fgpu_runtime::process::shim_main`].
    ///
    /// # Errors
    /// [`OpenError`] says what is missing and what to do about it.
    pub async fn open(
        config: &AgentConfig,
        shim: Vec<OsString>,
        machine: Machine,
    ) -> Result<Self, OpenError> {
        let accelerator = fgpu_accelerator::open(&config.accelerator, config.node.as_str())?;
        let kind = match config.runtime {
            RuntimeChoice::Auto => choose(config).await?,
            chosen => chosen,
        };
        let runtimes: RuntimeFactory = match kind {
            RuntimeChoice::Process => processes(config, shim),
            RuntimeChoice::Docker | RuntimeChoice::Auto => docker(config),
        };
        Ok(Self {
            accelerator: Arc::from(accelerator),
            runtimes,
            machine,
            notifier: Notifier::Silent,
            wall: system_clock(),
        })
    }
}

/// The wall clock of the system.
fn system_clock() -> WallClock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    })
}

/// Docker where it answers, else plain processes; but what runs already decides, lest an engine
/// that is away for a moment costs the agent its containers.
async fn choose(config: &AgentConfig) -> Result<RuntimeChoice, OpenError> {
    if let Some(before) = chosen_before(&config.state_dir) {
        return Ok(before);
    }
    let owner = Owner { cluster: "probe".to_owned(), node: config.node.to_string() };
    let engine = DockerRuntime::new(docker_config(config, owner))?;
    let answers = matches!(tokio::time::timeout(PROBE, engine.info()).await, Ok(Ok(_)));
    let chosen = if answers { RuntimeChoice::Docker } else { RuntimeChoice::Process };
    if !answers {
        tracing::warn!(engine = %config.docker, "no container engine answers: sessions run as plain processes");
    }
    remember(&config.state_dir, chosen);
    Ok(chosen)
}

const CHOICE: &str = "runtime";

/// What was chosen when the placements in the ledger were started, if there are any.
fn chosen_before(state_dir: &Path) -> Option<RuntimeChoice> {
    let text = std::fs::read_to_string(state_dir.join(CHOICE)).ok()?;
    let live = crate::ledger::has_live_placements(state_dir);
    live.then(|| text.trim().parse().ok()).flatten()
}

fn remember(state_dir: &Path, chosen: RuntimeChoice) {
    let text = if chosen == RuntimeChoice::Docker { "docker\n" } else { "process\n" };
    let kept = std::fs::create_dir_all(state_dir)
        .and_then(|()| std::fs::write(state_dir.join(CHOICE), text));
    if let Err(error) = kept {
        tracing::warn!(%error, "the choice of a runtime is not kept");
    }
}

fn docker_config(config: &AgentConfig, owner: Owner) -> DockerConfig {
    let mut docker = DockerConfig::new(owner);
    docker.endpoint.clone_from(&config.docker);
    docker.cgroup_root.clone_from(&config.cgroup_root);
    docker
}

fn docker(config: &AgentConfig) -> RuntimeFactory {
    let config = config.clone();
    Arc::new(move |owner| {
        let runtime = DockerRuntime::new(docker_config(&config, owner))?;
        Ok(Arc::new(runtime) as Arc<dyn ContainerRuntime>)
    })
}

fn processes(config: &AgentConfig, shim: Vec<OsString>) -> RuntimeFactory {
    let config = config.clone();
    Arc::new(move |owner| {
        let folder = config.state_dir.join("processes");
        let mut process = ProcessConfig::new(owner, shim.clone(), folder);
        process.cgroup_root.clone_from(&config.cgroup_root);
        let runtime = ProcessRuntime::new(process)?;
        Ok(Arc::new(runtime) as Arc<dyn ContainerRuntime>)
    })
}

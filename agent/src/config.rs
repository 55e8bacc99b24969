//! What an agent is told: file, environment (`FGPU_AGENT_…`) and flags, all faults at once.
//!
//! [`AgentSettings`] is the form of the file, all of it optional; [`AgentConfig`] is what comes
//! out, complete and checked.

mod resolve;
mod settings;

pub use settings::{AgentSettings, FIELDS};

use crate::facts::Machine;
use crate::inject::attach::AttachChoice;
use crate::logs::LogLimits;
use fgpu_accelerator::AcceleratorSpec;
use fgpu_domain::ids::NodeName;
use fgpu_domain::units::{CpuMilli, MemoryBytes};
use fgpu_service::config::{ConfigFaults, Layers};
use fgpu_service::logging::LogConfig;
use fgpu_service::secret::Secret;
use fgpu_service::tls::ClientTlsFiles;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything an agent is told.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Managers to dial in turn, as URLs.
    pub managers: Vec<String>,
    /// The name this node has in the cluster.
    pub node: NodeName,
    /// The token it shows.
    pub token: Option<Secret>,
    /// Certificates, for managers reached by `https`.
    pub tls: ClientTlsFiles,
    /// Where it keeps its files.
    pub state_dir: PathBuf,
    /// Which devices there are.
    pub accelerator: AcceleratorSpec,
    /// What runs containers.
    pub runtime: RuntimeChoice,
    /// The container engine.
    pub docker: String,
    /// How devices get into containers.
    pub gpu_attach: AttachChoice,
    /// Address at which published ports are told to be reached.
    pub advertise: String,
    /// Address they listen on.
    pub publish_on: IpAddr,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// CPU it may give.
    pub cpu: CpuMilli,
    /// Host memory it may give.
    pub memory: MemoryBytes,
    /// Whether it takes sessions that nothing keeps to their slice.
    pub allow_shared: bool,
    /// Folders sessions may mount from.
    pub allowed_mounts: Vec<PathBuf>,
    /// Cgroup that holds those of the sessions.
    pub cgroup_root: String,
    /// How long a start is tried while the engine is away.
    pub engine_patience: Duration,
    /// How often all containers are listed without any reason.
    pub relist: Duration,
    /// What is kept of the output of what has ended.
    pub logs: LogLimits,
    /// What is logged.
    pub log: LogConfig,
}

/// What runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// Docker where its socket answers, else plain processes.
    #[default]
    Auto,
    /// Docker.
    Docker,
    /// Plain processes.
    Process,
}

impl std::str::FromStr for RuntimeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "docker" => Ok(Self::Docker),
            "process" => Ok(Self::Process),
            _ => Err("write auto, docker or process".to_owned()),
        }
    }
}

impl AgentConfig {
    /// Reads `file`, then the environment through `lookup`, then `flags` (as written, setting,
    /// text); later ones win. What nobody says follows from `machine`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        file: Option<&Path>,
        lookup: impl Fn(&str) -> Option<String>,
        flags: &[(&str, &str, String)],
        machine: &Machine,
    ) -> Result<Self, ConfigFaults> {
        let mut layers = Layers::new();
        if let Some(file) = file {
            layers = layers.file(file);
        }
        layers = layers.environment("FGPU_AGENT", FIELDS, &lookup);
        for (flag, field, text) in flags {
            layers = layers.flag(flag, field, text.as_str());
        }
        let (settings, origins) = layers.finish::<AgentSettings>()?;
        settings.resolve(&origins, machine)
    }

    /// An agent of the manager at `manager` with its files under `state_dir`, and defaults for all
    /// else.
    #[must_use]
    pub fn local(node: NodeName, manager: &str, state_dir: &Path, machine: &Machine) -> Self {
        Self {
            managers: vec![manager.to_owned()],
            node,
            token: None,
            tls: ClientTlsFiles::default(),
            state_dir: state_dir.to_owned(),
            accelerator: AcceleratorSpec::Auto,
            runtime: RuntimeChoice::Auto,
            docker: settings::DEFAULT_DOCKER.to_owned(),
            gpu_attach: AttachChoice::Auto,
            advertise: settings::DEFAULT_ADVERTISE.to_owned(),
            publish_on: IpAddr::from([127, 0, 0, 1]),
            labels: BTreeMap::new(),
            cpu: machine.cpu,
            memory: machine.memory,
            allow_shared: false,
            allowed_mounts: Vec::new(),
            cgroup_root: fgpu_runtime::cgroup::DEFAULT_ROOT.to_owned(),
            engine_patience: settings::ENGINE_PATIENCE,
            relist: settings::RELIST,
            logs: LogLimits::default(),
            log: LogConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests;

//! What a manager is told: file, environment (`FGPU_MANAGER_…`) and flags, all faults at once.
//!
//! [`ManagerSettings`] is the form of the file, all of it optional; [`ManagerConfig`] is what comes
//! out, complete and checked.

mod resolve;
mod settings;

pub use settings::{FIELDS, ManagerSettings};

use fgpu_domain::cluster::Settings;
use fgpu_domain::placement::Policy;
use fgpu_domain::slice::UnitPolicy;
use fgpu_domain::units::{CpuMilli, MemoryBytes};
use fgpu_service::config::{ConfigFaults, Layers};
use fgpu_service::logging::LogConfig;
use fgpu_service::secret::Token;
use fgpu_service::tls::ServerTlsFiles;
use fgpu_store::EtcdConfig;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything a manager is told.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// How agents and clients reach it, as a URL; `None`: as it listens.
    pub advertise: Option<String>,
    /// Where it keeps its files.
    pub data_dir: PathBuf,
    /// Where the state is kept.
    pub store: StoreConfig,
    /// What one fGPU is.
    pub units: UnitPolicy,
    /// How nodes are chosen.
    pub policy: Policy,
    /// Whether slices nothing enforces may be given without being asked for.
    pub allow_shared: bool,
    /// CPU of a session that names none.
    pub default_cpu: CpuMilli,
    /// Host memory of a session that names none.
    pub default_memory: MemoryBytes,
    /// Times that belong together.
    pub timings: Timings,
    /// How many ended sessions are remembered at most.
    pub ended_limit: usize,
    /// How changes are gathered for the store.
    pub commits: CommitLimits,
    /// Certificates; `None`: plaintext, on loopback only.
    pub tls: Option<ServerTlsFiles>,
    /// The first tokens of a new cluster.
    pub bootstrap: BootstrapConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// How changes are gathered for the store. No settings: only measurements lower them, by the
/// variables `FGPU_BENCH_MAX_BATCH` and `FGPU_BENCH_IN_FLIGHT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitLimits {
    /// Changes committed together at most.
    pub batch: usize,
    /// Transactions on their way to the store at a time.
    pub in_flight: usize,
}

impl Default for CommitLimits {
    fn default() -> Self {
        // More in flight is no faster on two cores, and comes to etcd out of order more often.
        Self { batch: 256, in_flight: 2 }
    }
}

/// Where the state is kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In one file of this machine.
    Embedded {
        /// The file.
        path: PathBuf,
    },
    /// In etcd.
    Etcd(EtcdConfig),
}

/// Times that belong together: heartbeat < suspect < fence < lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// How often agents speak.
    pub heartbeat: Duration,
    /// Silence after which a node gets nothing new.
    pub suspect: Duration,
    /// Silence after which an agent acts by itself.
    pub fence: Duration,
    /// Silence after which a node is lost.
    pub lost: Duration,
    /// How long the leadership outlives its holder.
    pub leader_ttl: Duration,
    /// From being placed to running.
    pub start_timeout: Duration,
    /// How long the first of the queue wait for room before nodes are closed for them on which
    /// sessions run that nobody knows the end of.
    pub reservation_patience: Duration,
    /// How long ended sessions are remembered.
    pub ended_retention: Duration,
}

/// The first tokens of a new cluster. Used only while the store has no token at all.
#[derive(Debug, Clone)]
pub struct BootstrapConfig {
    /// Where the administrator's token is written if it is made here (mode 0600).
    pub token_file: PathBuf,
    /// The administrator's token, if it is given from outside.
    pub token: Option<Token>,
    /// A token for agents, if one is given from outside.
    pub agent_token: Option<Token>,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(3),
            suspect: Duration::from_secs(10),
            fence: Duration::from_secs(30),
            lost: Duration::from_secs(40),
            leader_ttl: Duration::from_secs(10),
            start_timeout: Duration::from_secs(30 * 60),
            reservation_patience: Duration::from_secs(10 * 60),
            ended_retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl ManagerConfig {
    /// Reads `file`, then the environment through `lookup`, then `flags` (as written, setting,
    /// text); later ones win.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        file: Option<&Path>,
        lookup: impl Fn(&str) -> Option<String>,
        flags: &[(&str, &str, String)],
    ) -> Result<Self, ConfigFaults> {
        let mut layers = Layers::new();
        if let Some(file) = file {
            layers = layers.file(file);
        }
        layers = layers.environment("FGPU_MANAGER", FIELDS, &lookup);
        for (flag, field, text) in flags {
            layers = layers.flag(flag, field, text.as_str());
        }
        let (settings, origins) = layers.finish::<ManagerSettings>()?;
        settings.resolve(&origins, lookup)
    }

    /// A manager on a free loopback port with an embedded store under `data_dir` and defaults for
    /// all else.
    #[must_use]
    pub fn local(data_dir: &Path) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            data_dir: data_dir.to_owned(),
            store: StoreConfig::Embedded { path: data_dir.join(settings::STORE_FILE) },
            units: UnitPolicy::default(),
            policy: Policy::default(),
            allow_shared: false,
            default_cpu: CpuMilli::cores(1),
            default_memory: MemoryBytes::gib(2),
            timings: Timings::default(),
            ended_limit: settings::ENDED_LIMIT,
            commits: CommitLimits::default(),
            tls: None,
            bootstrap: BootstrapConfig {
                token_file: data_dir.join(settings::TOKEN_FILE),
                token: None,
                agent_token: None,
            },
            log: LogConfig::default(),
        }
    }

    /// The part the rules need.
    pub(crate) fn domain_settings(&self, seed: u64) -> Settings {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Settings {
            units: self.units.clone(),
            policy: self.policy,
            seed,
            default_cpu: self.default_cpu,
            default_memory: self.default_memory,
            allow_shared: self.allow_shared,
            start_timeout_ms: millis(self.timings.start_timeout),
            ended_retention_ms: millis(self.timings.ended_retention),
            ended_limit: self.ended_limit,
            reservation_patience_ms: millis(self.timings.reservation_patience),
            ..Settings::default()
        }
    }
}

#[cfg(test)]
mod tests;

//! Settings of the Docker runtime.

use std::path::PathBuf;
use std::time::Duration;

use crate::Owner;
use crate::cgroup::DEFAULT_ROOT;

/// Capabilities a container keeps by default: what ordinary images need while they run as root to
/// hand files to a user, become that user and listen on low ports.
///
/// A container that runs as another user has none of them in effect, and cannot get any: new
/// privileges are always forbidden.
pub const DEFAULT_CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// Settings of the Docker runtime.
///
/// Whatever is set here, a container never gets new privileges, the host's PID, IPC or network
/// namespace, or a mount that holds the socket of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig {
    /// Who the containers belong to.
    pub owner: Owner,
    /// `unix:///path/of/socket`, or the path alone.
    pub endpoint: String,
    /// Name of the cgroup, or slice, that holds those of the sessions.
    pub cgroup_root: String,
    /// Docker's own `config.json` with the credentials of registries; `None` pulls without.
    pub registry_config: Option<PathBuf>,
    /// Capabilities a container keeps, without `CAP_`; all others are dropped.
    pub capabilities: Vec<String>,
    /// Longest time a call that only reads may take, and a sign of life may stay out.
    pub call_deadline: Duration,
    /// Longest time a pull may go without any progress.
    pub pull_idle_deadline: Duration,
    /// Size in bytes at which the log of a container is rotated.
    pub log_file_bytes: u64,
    /// Log files kept per container, at least 1.
    pub log_files: u32,
    /// Network of containers; `None` is the engine's default bridge.
    pub network: Option<String>,
}

impl DockerConfig {
    /// The defaults for `owner`: the endpoint of this machine, the registry credentials of the
    /// user we run as, 8 seconds per call, 2 minutes without progress of a pull, three log files
    /// of 16 MiB per container.
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            endpoint: default_endpoint(std::env::var("DOCKER_HOST").ok()),
            cgroup_root: DEFAULT_ROOT.to_owned(),
            registry_config: default_registry_config(),
            capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
            call_deadline: Duration::from_secs(8),
            pull_idle_deadline: Duration::from_secs(120),
            log_file_bytes: 16 << 20,
            log_files: 3,
            network: None,
        }
    }
}

/// The endpoint of this machine, from the value of `DOCKER_HOST`.
pub fn default_endpoint(docker_host: Option<String>) -> String {
    docker_host
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
}

fn default_registry_config() -> Option<PathBuf> {
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

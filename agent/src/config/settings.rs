//! The form of the file.

use fgpu_service::config::{Text, TextList};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const DEFAULT_MANAGER: &str = "http://127.0.0.1:7070";
pub(super) const DEFAULT_STATE_DIR: &str = "/var/lib/fgpu/agent";
pub(super) const DEFAULT_DOCKER: &str = "unix:///var/run/docker.sock";
pub(super) const DEFAULT_ADVERTISE: &str = "127.0.0.1";
pub(super) const ENGINE_PATIENCE: Duration = Duration::from_secs(300);
pub(super) const RELIST: Duration = Duration::from_secs(5);

/// Every setting, as in the file; those of the environment are `FGPU_AGENT_` and the name in upper
/// case, `_` for `.`.
pub const FIELDS: &[&str] = &[
    "managers",
    "node",
    "token",
    "token_file",
    "tls.ca",
    "tls.cert",
    "tls.key",
    "tls.server_name",
    "state_dir",
    "accelerator",
    "runtime",
    "docker",
    "gpu_attach",
    "advertise_address",
    "publish_address",
    "labels",
    "cpu",
    "memory",
    "reserve_cpu",
    "reserve_memory",
    "allow_shared",
    "allowed_mounts",
    "cgroup_root",
    "engine_patience",
    "relist",
    "logs.placement_size",
    "logs.total_size",
    "logs.count",
    "logs.age",
    "log.filter",
    "log.format",
];

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSettings {
    /// Managers to dial in turn: `https://host:7070`.
    pub managers: Option<TextList>,
    /// Name of the node; the host name by default.
    pub node: Option<Text>,
    /// The token to show; better in a file.
    pub token: Option<Text>,
    /// File with the token.
    pub token_file: Option<Text>,
    /// Certificates.
    pub tls: TlsSettings,
    /// Folder of the agent's files.
    pub state_dir: Option<Text>,
    /// `auto`, `nvml`, `nvml:/path`, `sim:8xH100-80GB` or `sim:/path`.
    pub accelerator: Option<Text>,
    /// `auto`, `docker` or `process`.
    pub runtime: Option<Text>,
    /// Socket of the container engine.
    pub docker: Option<Text>,
    /// `auto`, `cdi`, `device-request`, `runtime` or `none`.
    pub gpu_attach: Option<Text>,
    /// Address at which published ports can be reached.
    pub advertise_address: Option<Text>,
    /// Address published ports listen on; follows from the advertised one.
    pub publish_address: Option<Text>,
    /// Labels of the node: `rack=r1`.
    pub labels: Option<Labels>,
    /// CPU to give; all of the machine by default.
    pub cpu: Option<Text>,
    /// Memory to give; all of the machine by default.
    pub memory: Option<Text>,
    /// CPU kept back.
    pub reserve_cpu: Option<Text>,
    /// Memory kept back.
    pub reserve_memory: Option<Text>,
    /// Whether to take sessions that nothing keeps to their slice.
    pub allow_shared: Option<Text>,
    /// Folders sessions may mount from.
    pub allowed_mounts: Option<TextList>,
    /// Cgroup of the sessions.
    pub cgroup_root: Option<Text>,
    /// How long a start is tried while the engine is away.
    pub engine_patience: Option<Text>,
    /// How often all containers are listed.
    pub relist: Option<Text>,
    /// Kept output.
    pub logs: LogSettings,
    /// Our own log.
    pub log: OwnLogSettings,
}

/// Labels as a table of the file, or as a list of `key=value`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Labels {
    /// `labels.rack = "r1"`.
    Table(BTreeMap<String, Text>),
    /// `labels = ["rack=r1"]`, and in the environment `rack=r1,zone=a`.
    List(TextList),
}

/// Certificates.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Authority of the managers' certificates.
    pub ca: Option<Text>,
    /// Certificate to show.
    pub cert: Option<Text>,
    /// Its key.
    pub key: Option<Text>,
    /// Name in the managers' certificate, if not the host dialled.
    pub server_name: Option<Text>,
}

/// What is kept of the output of what has ended.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Of each placement.
    pub placement_size: Option<Text>,
    /// Of all together.
    pub total_size: Option<Text>,
    /// How many placements.
    pub count: Option<Text>,
    /// How long.
    pub age: Option<Text>,
}

/// Our own log.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnLogSettings {
    /// What is logged, e.g. `info` or `fgpu_agent=debug`.
    pub filter: Option<Text>,
    /// `text` or `json`.
    pub format: Option<Text>,
}

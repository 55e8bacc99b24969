//! The form of the configuration file.

use fgpu_service::config::{Text, TextList};
use serde::Deserialize;
use std::collections::BTreeMap;

pub(super) const STORE_FILE: &str = "store.fgpu";
pub(super) const TOKEN_FILE: &str = "admin.token";
pub(super) const ENDED_LIMIT: usize = 10_000;

/// Every setting but those by device model, by the name it has in the file. In the environment
/// `timings.lost` is `FGPU_MANAGER_TIMINGS_LOST`.
pub const FIELDS: &[&str] = &[
    "listen",
    "advertise",
    "data_dir",
    "policy",
    "allow_shared",
    "bootstrap_token_file",
    "store.path",
    "store.etcd",
    "store.etcd_prefix",
    "store.etcd_user",
    "store.etcd_password_file",
    "store.etcd_ca",
    "store.etcd_cert",
    "store.etcd_key",
    "units.fgpu_per_device",
    "units.unit_memory",
    "units.quantum",
    "defaults.cpu",
    "defaults.memory",
    "timings.heartbeat",
    "timings.suspect",
    "timings.fence",
    "timings.lost",
    "timings.leader_ttl",
    "timings.start_timeout",
    "timings.reservation_patience",
    "sessions.ended_retention",
    "sessions.ended_limit",
    "tls.cert",
    "tls.key",
    "tls.client_ca",
    "log.format",
    "log.filter",
];

/// A configuration file as written; everything may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ManagerSettings {
    /// Address and port to listen on; default `127.0.0.1:7070`.
    pub listen: Option<Text>,
    /// URL under which agents and clients reach this manager.
    pub advertise: Option<Text>,
    /// Folder for the store and the first token; default `/var/lib/fgpu/manager`.
    pub data_dir: Option<Text>,
    /// `fragmentation` (default), `binpack`, `spread`, `best-fit`, `dot-product`, `fgd` or `random`.
    pub policy: Option<Text>,
    /// `true` to give slices nothing enforces without being asked.
    pub allow_shared: Option<Text>,
    /// Where the first administrator's token is written.
    pub bootstrap_token_file: Option<Text>,
    /// Where the state is kept.
    pub store: StoreSettings,
    /// What one fGPU is.
    pub units: UnitSettings,
    /// What a session that says nothing gets.
    pub defaults: DefaultSettings,
    /// Times that belong together.
    pub timings: TimingSettings,
    /// What is remembered.
    pub sessions: SessionSettings,
    /// Certificates.
    pub tls: TlsSettings,
    /// Logging.
    pub log: LogSettings,
}

/// Where the state is kept: a file, or etcd.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// The file of the embedded store; default `store.fgpu` in `data_dir`.
    pub path: Option<Text>,
    /// URLs of etcd members; then no file is used.
    pub etcd: Option<TextList>,
    /// What every key is put under; default `/fgpu/v1/`.
    pub etcd_prefix: Option<Text>,
    /// etcd user.
    pub etcd_user: Option<Text>,
    /// File with the etcd user's password.
    pub etcd_password_file: Option<Text>,
    /// Authority of etcd's certificates.
    pub etcd_ca: Option<Text>,
    /// Our certificate for etcd.
    pub etcd_cert: Option<Text>,
    /// Its key.
    pub etcd_key: Option<Text>,
}

/// What one fGPU is: one of the two rules.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnitSettings {
    /// One device is this many fGPU; default 10.
    pub fgpu_per_device: Option<Text>,
    /// One fGPU is this much memory.
    pub unit_memory: Option<Text>,
    /// Smallest step of a request; default 0.1.
    pub quantum: Option<Text>,
    /// Rules for single models, by the name the driver gives.
    pub by_model: BTreeMap<String, UnitRuleSettings>,
}

/// What one fGPU is on one model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnitRuleSettings {
    /// One device is this many fGPU.
    pub fgpu_per_device: Option<Text>,
    /// One fGPU is this much memory.
    pub unit_memory: Option<Text>,
}

/// What a session that says nothing gets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DefaultSettings {
    /// Cores; default 1.
    pub cpu: Option<Text>,
    /// Host memory; default 2GiB.
    pub memory: Option<Text>,
}

/// Times that belong together: heartbeat < suspect < fence < lost.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimingSettings {
    /// How often agents speak; default 3s.
    pub heartbeat: Option<Text>,
    /// Silence after which a node gets nothing new; default 10s.
    pub suspect: Option<Text>,
    /// Silence after which an agent acts by itself; default 30s.
    pub fence: Option<Text>,
    /// Silence after which a node is lost; default 40s.
    pub lost: Option<Text>,
    /// How long the leadership outlives its holder; default 10s.
    pub leader_ttl: Option<Text>,
    /// From being placed to running; default 30m.
    pub start_timeout: Option<Text>,
    /// How long the first of the queue waits before nodes are closed for it; default 10m.
    pub reservation_patience: Option<Text>,
}

/// What is remembered of ended sessions.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSettings {
    /// For how long; default 7d.
    pub ended_retention: Option<Text>,
    /// How many at most; default 10000.
    pub ended_limit: Option<Text>,
}

/// Certificates of the manager.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Certificate chain, PEM.
    pub cert: Option<Text>,
    /// Private key, PEM.
    pub key: Option<Text>,
    /// Clients must show a certificate of this authority.
    pub client_ca: Option<Text>,
}

/// Logging.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `text` (default) or `json`.
    pub format: Option<Text>,
    /// Such as `info` or `info,fgpu_manager=debug`.
    pub filter: Option<Text>,
}

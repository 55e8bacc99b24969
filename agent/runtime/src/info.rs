//! What a runtime says about itself, for the doctor and the node's record.

use crate::cgroup::CgroupVersion;

/// What a runtime is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Kind, as [`crate::ContainerRuntime::kind`].
    pub kind: &'static str,
    /// Where it is reached: a socket, or the folder of its state.
    pub endpoint: String,
    /// Version of the engine, or our own.
    pub version: String,
    /// Version of the API spoken; empty where there is none.
    pub api_version: String,
    /// Who manages cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Version of the cgroup hierarchy; `None` where there is none.
    pub cgroup_version: Option<CgroupVersion>,
    /// Storage driver; empty where there is none.
    pub storage_driver: String,
    /// OCI runtimes, sorted.
    pub runtimes: Vec<String>,
    /// Runtime used where none is named.
    pub default_runtime: String,
    /// Folders of Container Device Interface files; empty where the engine knows no CDI.
    pub cdi_spec_dirs: Vec<String>,
    /// Whether containers keep running while the engine restarts.
    pub live_restore: bool,
    /// Security options of the engine.
    pub security_options: Vec<String>,
    /// Whether an init process can be put before the main process.
    pub init_available: bool,
    /// Whether limits of CPU, memory and processes hold.
    pub limits: LimitSupport,
    /// Where published ports are.
    pub network: NetworkKind,
    /// Warnings of the engine about itself.
    pub warnings: Vec<String>,
}

/// Who manages the cgroups of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Files written directly.
    Cgroupfs,
    /// Units of systemd.
    Systemd,
    /// Nobody: there are no cgroups for us.
    None,
}

/// Whether limits hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitSupport {
    /// The kernel holds them.
    Enforced,
    /// They are recorded and shown, but nothing holds them.
    NotEnforced {
        /// Why, and what to do about it.
        reason: String,
    },
}

/// What network a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// Its own; ports are published on ephemeral ports of the node.
    Bridge,
    /// That of the node; a port is reached under its own number.
    Host,
}

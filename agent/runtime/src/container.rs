//! What is observed of a container.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Labels, Protocol, labels::LABEL_SESSION};

/// A container of ours as the runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Id on the node, never used twice.
    pub id: String,
    /// Name on the node.
    pub name: String,
    /// All its labels.
    pub labels: Labels,
    /// Image it was made from, as asked for.
    pub image: String,
    /// What it is doing.
    pub state: ContainerState,
    /// Ports published on the node; empty while it is not running.
    pub ports: Vec<PublishedPort>,
}

impl Container {
    /// The session it runs, from its labels.
    pub fn session(&self) -> &str {
        self.labels.get(LABEL_SESSION).map_or("", String::as_str)
    }
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its main process runs.
    Running {
        /// When it started, in milliseconds since 1970.
        started_at_unix_ms: u64,
        /// Main process, as the node numbers it.
        pid: u32,
    },
    /// Its main process has ended, or could not be started.
    Exited {
        /// Exit code; 128 plus the signal where a signal ended it.
        code: i32,
        /// Whether the kernel killed one of its processes for lack of memory.
        oom_killed: bool,
        /// When it ended, in milliseconds since 1970; 0 where unknown.
        finished_at_unix_ms: u64,
        /// Why it could not be started, or why the code is not known exactly.
        error: Option<String>,
        /// Whether `error` says that the command was not found or is not executable.
        command_missing: bool,
    },
}

impl ContainerState {
    /// Says whether the main process runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// The exit code, where it has ended.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited { code, .. } => Some(*code),
            Self::Created | Self::Running { .. } => None,
        }
    }
}

/// A port of a container as it is reached on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Port in the container.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address of the node it listens on.
    pub host_ip: IpAddr,
    /// Port of the node it listens on.
    pub host_port: u16,
}

/// What a container uses right now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerStats {
    /// CPU time since it started, in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory in use in bytes, without file cache that the kernel can drop.
    pub memory_bytes: u64,
    /// Memory limit in bytes; `None` is unlimited.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Its processes as the node numbers them, for usage of the GPU by process.
    pub host_pids: Vec<u32>,
}

/// Something happened to a container: a hint to list again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// The container.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Its main process started.
    Started,
    /// Its main process ended.
    Exited,
    /// The kernel killed one of its processes for lack of memory.
    Oom,
    /// It is gone.
    Removed,
}

//! The container runtimes of a node behind one trait, and the cgroups their sessions live in.
//!
//! Start at [`ContainerRuntime`]: the supervisor of a node talks to nothing else. Two forms of it
//! exist and pass one contract suite (`tests/contract`):
//!
//! - [`docker::DockerRuntime`] drives a Docker engine through its socket;
//! - [`process::ProcessRuntime`] runs plain processes, each under a small shim that outlives us.
//!
//! What always holds:
//!
//! - A runtime sees and touches only containers that carry both labels of its [`Owner`]. All others
//!   do not exist for it.
//! - Every call may be repeated. `create` returns the container that is there, `stop` and `remove`
//!   of what is already gone succeed.
//! - Every call to an engine ends within a deadline. A hung engine is
//!   [`RuntimeError::EngineUnavailable`] within 15 seconds, never a task that waits for ever.
//! - The containers do not depend on this process: they keep running when it is killed, and the
//!   next one finds them with [`ContainerRuntime::list`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cgroup;
mod container;
pub mod docker;
mod error;
mod exec;
mod info;
mod labels;
mod logs;
pub mod process;
mod runtime;
mod spec;
mod time;

pub use container::{
    Container, ContainerState, ContainerStats, EventKind, PublishedPort, RuntimeEvent,
};
pub use error::{Cause, RuntimeError};
pub use exec::{ExecResizer, ExecSession, ExecSpec};
pub use info::{CgroupDriver, LimitSupport, NetworkKind, RuntimeInfo};
pub use labels::{
    LABEL_CLUSTER, LABEL_GENERATION, LABEL_NODE, LABEL_SESSION, Labels, Owner, generation_of,
};
pub use logs::{LogChunk, LogOptions, LogStream, prefix_timestamp};
pub use runtime::{
    ContainerRuntime, EventStream, LogChunkStream, PullPhase, PullPolicy, PullProgress,
};
pub use spec::{
    ContainerSpec, GpuAttachment, Limits, MINIMUM_CPU_MILLI, MINIMUM_MEMORY_BYTES, Mount, PortSpec,
    Protocol,
};

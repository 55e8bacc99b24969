//! The lifecycle of a session: one enum; [`transition`](super::transition) has the one function that
//! changes it.
//!
//! ```text
//! Pending → Scheduled → Starting{Pulling, Creating} → Running → Stopping → Ended
//!                 └───────────── Lost ⇄ (any phase with a grant) ─────────┘
//! ```

use crate::slice::Grant;
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a session stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Waits for a place.
    Pending {
        /// Since when.
        since: UnixMillis,
    },
    /// Has a place; its agent has not confirmed yet.
    Scheduled {
        /// What it holds.
        grant: Grant,
        /// Since when.
        since: UnixMillis,
    },
    /// Its agent prepares it.
    Starting {
        /// What it holds.
        grant: Grant,
        /// Since when this placement is being prepared.
        since: UnixMillis,
        /// How far it is.
        progress: Progress,
    },
    /// Its container runs.
    Running {
        /// What it holds.
        grant: Grant,
        /// When the container started.
        since: UnixMillis,
        /// Where its ports can be reached.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ports: Vec<PublishedPort>,
    },
    /// Told to stop; its agent has not reported it gone yet.
    Stopping {
        /// What it still holds.
        grant: Grant,
        /// Since when.
        since: UnixMillis,
        /// Why it stops.
        reason: StopReason,
        /// When the container started, if it had.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started: Option<UnixMillis>,
    },
    /// Its node is silent; whether it still runs is not known.
    Lost {
        /// What it holds until the node speaks again.
        grant: Grant,
        /// Since when.
        since: UnixMillis,
        /// Why it was stopping, if it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stopping: Option<StopReason>,
        /// When the container started, if it had.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started: Option<UnixMillis>,
    },
    /// Over, for good.
    Ended(Ended),
}

/// How far the start of a session is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Progress {
    /// The image is being fetched.
    Pulling {
        /// Bytes fetched.
        done: u64,
        /// Bytes to fetch, as far as known; 0 when nothing is known.
        total: u64,
    },
    /// The container is being made and started.
    Creating,
}

/// Where a container's port can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The port inside.
    pub container_port: u16,
    /// Address to dial, as the agent advertises it.
    pub host: String,
    /// Port to dial.
    pub host_port: u16,
}

/// Why a session was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A person asked.
    Requested,
    /// It ran as long as its time limit allows.
    TimeLimit,
    /// Its node is being drained.
    Drained,
    /// It did not reach the next phase in time.
    StartTimeout,
    /// Its agent was cut off, and the session said to stop then.
    Disconnected,
    /// It waited longer for a place than it was willing to.
    PendingTimeout,
    /// A session it was to follow did not complete.
    DependencyFailed,
    /// Another member of its gang ended, and a gang runs as a whole or not at all.
    GangEnded,
    /// Its place was taken for a session of a higher class.
    Preempted,
    /// It goes on elsewhere, to free a whole device.
    Moved,
}

impl StopReason {
    /// Whether a session stopped for this may go back to the queue instead of ending.
    #[must_use]
    pub fn may_requeue(self) -> bool {
        match self {
            Self::Drained | Self::Preempted | Self::Moved | Self::StartTimeout => true,
            Self::Requested
            | Self::TimeLimit
            | Self::Disconnected
            | Self::PendingTimeout
            | Self::DependencyFailed
            | Self::GangEnded => false,
        }
    }

    /// The code a session that was stopped for this ends with; empty where the outcome says it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Requested
            | Self::TimeLimit
            | Self::Drained
            | Self::StartTimeout
            | Self::Disconnected => "",
            Self::PendingTimeout => "PENDING_TIMEOUT",
            Self::DependencyFailed => "DEPENDENCY_FAILED",
            Self::GangEnded => "GANG_ENDED",
            Self::Preempted => "PREEMPTED",
            Self::Moved => "MOVED",
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// In one word.
    pub outcome: Outcome,
    /// When.
    pub at: UnixMillis,
    /// When its container started, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<UnixMillis>,
    /// Exit code of the command, if it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// A stable code for what went wrong, empty when nothing did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The reason for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What it held last; given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
}

/// The end in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command ended with exit code 0.
    Completed,
    /// It could not be started, or ended with another code.
    Failed,
    /// A person stopped it.
    Cancelled,
    /// The system stopped it.
    Evicted,
}

/// A placement that came to an end while the session went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which placement.
    pub generation: u64,
    /// What it held.
    pub grant: Grant,
    /// When it was placed; absent in records of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed_at: Option<UnixMillis>,
    /// When it ended.
    pub at: UnixMillis,
    /// Why.
    pub reason: String,
    /// Whether it failed by a fault of the node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_fault: bool,
}

impl Phase {
    /// What the session holds, if anything.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Scheduled { grant, .. }
            | Self::Starting { grant, .. }
            | Self::Running { grant, .. }
            | Self::Stopping { grant, .. }
            | Self::Lost { grant, .. } => Some(grant),
            Self::Pending { .. } | Self::Ended(_) => None,
        }
    }

    /// The phase in one word, as users see it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Scheduled { .. } => "scheduled",
            Self::Starting { progress: Progress::Pulling { .. }, .. } => "pulling",
            Self::Starting { progress: Progress::Creating, .. } => "creating",
            Self::Running { .. } => "running",
            Self::Stopping { .. } => "stopping",
            Self::Lost { .. } => "lost",
            Self::Ended(_) => "ended",
        }
    }

    /// When the container started, if it has.
    #[must_use]
    pub fn started(&self) -> Option<UnixMillis> {
        match self {
            Self::Pending { .. } | Self::Scheduled { .. } | Self::Starting { .. } => None,
            Self::Running { since, .. } => Some(*since),
            Self::Stopping { started, .. } | Self::Lost { started, .. } => *started,
            Self::Ended(ended) => ended.started,
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Requested => "stopped on request",
            Self::TimeLimit => "stopped at its time limit",
            Self::Drained => "stopped because its node was drained",
            Self::StartTimeout => "stopped because it did not start in time",
            Self::Disconnected => "stopped because its agent was cut off from the manager",
            Self::PendingTimeout => "given up because no place was found in time",
            Self::DependencyFailed => {
                "given up because a session it was to follow did not complete"
            }
            Self::GangEnded => "stopped because another member of its gang ended",
            Self::Preempted => "stopped to make room for a session of a higher class",
            Self::Moved => "stopped to go on elsewhere",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Evicted => "evicted",
        })
    }
}

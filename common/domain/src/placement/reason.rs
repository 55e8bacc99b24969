//! Why a node was passed over, in numbers.

use super::node::DeviceBlock;
use crate::ids::NodeName;
use crate::slice::{Isolation, MigProfile};
use crate::units::{ComputeMilli, CpuMilli, MemoryBytes};
use std::fmt;

/// Why one node cannot take a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Another node was asked for.
    WrongNode {
        /// The one asked for.
        wanted: NodeName,
    },
    /// The node is registered but was not heard from yet.
    NeverSeen,
    /// The node has been silent for too long.
    Lost,
    /// The node is silent at the moment.
    Suspect,
    /// The node's sessions are being moved away.
    Draining,
    /// An administrator stopped new sessions.
    Cordoned,
    /// Sessions did not come to start there lately: it takes nothing new for a while.
    HeldOff,
    /// The request names the node as one not to use.
    Avoided,
    /// A label is missing or different.
    Label {
        /// Which.
        key: String,
        /// The value asked for.
        wanted: String,
        /// The value there, if any.
        found: Option<String>,
    },
    /// It has no device at all.
    NoGpu,
    /// None of its devices is of a model asked for.
    Model {
        /// Models asked for.
        wanted: String,
        /// Models there.
        has: String,
    },
    /// None of its cards has a MIG instance of the profile asked for.
    MigProfile {
        /// The profile.
        wanted: MigProfile,
        /// Profiles there, with their numbers; empty: none.
        has: String,
    },
    /// Too few of its MIG instances are free.
    MigInstances {
        /// The profile.
        profile: MigProfile,
        /// Asked for.
        wanted: u32,
        /// Free.
        free: u32,
        /// When empty.
        total: u32,
    },
    /// Slices cannot be kept apart here as well as was asked.
    Isolation {
        /// The weakest level accepted.
        wanted: Isolation,
        /// What the node offers for a part of a device.
        offers: Isolation,
    },
    /// All devices that could be used take nothing new.
    DeviceBlocked {
        /// How many.
        devices: usize,
        /// Why the first of them does not.
        block: DeviceBlock,
    },
    /// Not enough CPU.
    Cpu {
        /// Asked for.
        wanted: CpuMilli,
        /// Not allocated.
        free: CpuMilli,
        /// When empty.
        total: CpuMilli,
    },
    /// Not enough host memory.
    Memory {
        /// Asked for.
        wanted: MemoryBytes,
        /// Not allocated.
        free: MemoryBytes,
        /// When empty.
        total: MemoryBytes,
    },
    /// No device has the memory the largest part needs.
    GpuMemory {
        /// Bytes the part needs on one device.
        wanted: MemoryBytes,
        /// The most free on one device.
        largest_free: MemoryBytes,
    },
    /// No device has the compute the largest part needs.
    GpuCompute {
        /// What the part needs of one device.
        wanted: ComputeMilli,
        /// The most free on one device.
        largest_free: ComputeMilli,
    },
    /// Too few devices with room at the same time.
    Devices {
        /// Devices needed.
        wanted: u32,
        /// Devices with room.
        with_room: u32,
    },
    /// The request cannot be granted anywhere, whatever the load.
    NeverFits,
}

impl Reason {
    /// A stable word for programs; also what reasons are counted by.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::WrongNode { .. } => "wrong_node",
            Self::NeverSeen => "never_seen",
            Self::Lost => "lost",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Cordoned => "cordoned",
            Self::HeldOff => "held_off",
            Self::Avoided => "avoided",
            Self::Label { .. } => "label",
            Self::NoGpu => "no_gpu",
            Self::Model { .. } => "model",
            Self::MigProfile { .. } => "mig_profile",
            Self::MigInstances { .. } => "mig_instances",
            Self::Isolation { .. } => "isolation",
            Self::DeviceBlocked { .. } => "device_blocked",
            Self::Cpu { .. } => "cpu",
            Self::Memory { .. } => "memory",
            Self::GpuMemory { .. } => "gpu_memory",
            Self::GpuCompute { .. } => "gpu_compute",
            Self::Devices { .. } => "devices",
            Self::NeverFits => "never_fits",
        }
    }

    /// How far the node is from taking the request: first what would have to change, then how
    /// much of it is missing (thousandths of what is asked). Smaller is closer.
    pub(super) fn distance(&self) -> (u32, u64) {
        match self {
            Self::Cpu { wanted, free, .. } => (0, short(wanted.0, free.0)),
            Self::Memory { wanted, free, .. } => (0, short(wanted.0, free.0)),
            Self::GpuMemory { wanted, largest_free } => (0, short(wanted.0, largest_free.0)),
            Self::GpuCompute { wanted, largest_free } => {
                (0, short(u64::from(wanted.0), u64::from(largest_free.0)))
            }
            Self::Devices { wanted, with_room } => {
                (0, short(u64::from(*wanted), u64::from(*with_room)))
            }
            Self::MigInstances { wanted, free, .. } => {
                (0, short(u64::from(*wanted), u64::from(*free)))
            }
            Self::Cordoned => (1, 0),
            Self::DeviceBlocked { .. } => (2, 0),
            Self::Suspect | Self::HeldOff => (3, 0),
            Self::Draining => (4, 0),
            Self::Avoided => (5, 0),
            Self::Isolation { .. } => (6, 0),
            Self::Lost => (7, 0),
            Self::NeverSeen => (8, 0),
            Self::NeverFits => (9, 0),
            Self::Label { .. } => (10, 0),
            Self::Model { .. } | Self::MigProfile { .. } => (11, 0),
            Self::NoGpu => (12, 0),
            Self::WrongNode { .. } => (13, 0),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongNode { wanted } => write!(f, "only node {wanted} was asked for"),
            Self::NeverSeen => f.write_str("not heard from since the manager started"),
            Self::Lost => f.write_str("lost: its agent has been silent for too long"),
            Self::Suspect => f.write_str("its agent is silent at the moment"),
            Self::Draining => f.write_str("draining"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::HeldOff => {
                f.write_str("held off for a while: the last sessions did not come to start there")
            }
            Self::Avoided => f.write_str("kept off it: the node cannot run it"),
            Self::Label { key, wanted, found: Some(found) } => {
                write!(f, "needs label {key}={wanted}, has {key}={found}")
            }
            Self::Label { key, wanted, found: None } => {
                write!(f, "needs label {key}={wanted}, has no label {key}")
            }
            Self::NoGpu => f.write_str("has no GPU"),
            Self::Model { wanted, has } => write!(f, "needs GPU model {wanted}, has {has}"),
            Self::MigProfile { wanted, has } if has.is_empty() => {
                write!(f, "needs a MIG instance of {wanted}, has no MIG instance")
            }
            Self::MigProfile { wanted, has } => {
                write!(f, "needs a MIG instance of {wanted}, has {has}")
            }
            Self::MigInstances { profile, wanted, free, total } => {
                let plural = if *wanted == 1 { "" } else { "s" };
                write!(
                    f,
                    "needs {wanted} MIG instance{plural} of {profile}, {free} of {total} are free"
                )
            }
            Self::Isolation { wanted, offers } => {
                write!(f, "needs isolation {wanted} or stronger, offers {offers}")
            }
            Self::DeviceBlocked { devices, block } => {
                write!(f, "none of its {devices} GPUs takes anything new, the first is {block}")
            }
            Self::Cpu { wanted, free, total } => {
                write!(f, "needs {wanted} cores, {free} of {total} are free")
            }
            Self::Memory { wanted, free, total } => {
                write!(f, "needs {wanted} of memory, {free} of {total} is free")
            }
            Self::GpuMemory { wanted, largest_free } => {
                write!(
                    f,
                    "needs {wanted} of GPU memory, the most free on one GPU is {largest_free}"
                )
            }
            Self::GpuCompute { wanted, largest_free } => write!(
                f,
                "needs {wanted} of GPU compute, the most free on one GPU is {largest_free}"
            ),
            Self::Devices { wanted, with_room } => {
                write!(f, "needs {wanted} GPUs with room, {with_room} have it")
            }
            Self::NeverFits => f.write_str("no node can hold the request, even when empty"),
        }
    }
}

impl fmt::Display for DeviceBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unhealthy { reason } => write!(f, "unhealthy: {reason}"),
            Self::MigEnabled => f.write_str("partitioned by MIG"),
            Self::Cordoned => f.write_str("cordoned"),
        }
    }
}

fn short(wanted: u64, free: u64) -> u64 {
    let missing = u128::from(wanted.saturating_sub(free)) * 1000 / u128::from(wanted.max(1));
    u64::try_from(missing).unwrap_or(u64::MAX)
}

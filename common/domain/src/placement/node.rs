//! Nodes and devices as placement sees them.

use super::Request;
use crate::ids::{DeviceUuid, NodeName};
use crate::slice::{Demand, DeviceUnits, GpuRequest, Grant, Isolation, MigOrigin, Slice};
use crate::units::{CpuMilli, MemoryBytes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One device as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// The driver's UUID.
    pub uuid: DeviceUuid,
    /// Position on its node; unique there.
    pub index: u32,
    /// Model as the driver names it.
    pub model: String,
    /// What it holds when empty.
    pub units: DeviceUnits,
    /// What is not allocated.
    pub free: Demand,
    /// Why nothing new may land on it; `None`: it may.
    pub blocked: Option<DeviceBlock>,
    /// NUMA node of the host it hangs on.
    pub numa_node: Option<u32>,
    /// Devices reachable by an active NVLink.
    pub nvlink_peers: Vec<DeviceUuid>,
    /// Slices on it.
    pub sessions: u32,
    /// For a MIG instance: which, and of which card. It is given whole, to those who ask for it.
    pub mig: Option<MigOrigin>,
}

impl DeviceView {
    /// The profile of a MIG instance; `None` for a whole card.
    #[must_use]
    pub fn profile(&self) -> Option<&str> {
        self.mig.as_ref().map(|origin| origin.profile.as_str())
    }

    /// Whether `gpu` may be served from it, as far as its kind goes.
    #[must_use]
    pub fn is_allowed(&self, gpu: &GpuRequest) -> bool {
        gpu.allows_mig(self.profile()) && gpu.allows_model(&self.model)
    }
}

/// Why a device takes nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceBlock {
    /// It failed a check.
    Unhealthy {
        /// What was seen.
        reason: String,
    },
    /// It is partitioned by MIG and can only be given in instances.
    MigEnabled,
    /// An administrator took it out.
    Cordoned,
}

/// Whether a node takes new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It does.
    Ready,
    /// An administrator stopped new sessions.
    Cordoned,
    /// An administrator is moving its sessions away.
    Draining,
    /// Silent for a short while.
    Suspect,
    /// Silent for so long that its sessions may be elsewhere.
    Lost,
    /// Registered, but not heard from since this manager started.
    NeverSeen,
    /// Kept free for a while, as sessions did not come to start there.
    HeldOff,
}

/// One node as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its name; unique in a view.
    pub name: NodeName,
    /// Whether it takes new sessions.
    pub state: NodeState,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// CPU it may give when empty.
    pub cpu_total: CpuMilli,
    /// CPU not allocated.
    pub cpu_free: CpuMilli,
    /// Memory it may give when empty, bytes.
    pub memory_total: MemoryBytes,
    /// Memory not allocated, bytes.
    pub memory_free: MemoryBytes,
    /// Its devices; a view keeps them in the order of their index.
    pub devices: Vec<DeviceView>,
    /// Whether slices nothing enforces may be given here without being asked for.
    pub allow_shared: bool,
    /// What the agent can enforce for a part of a device.
    pub enforcers: Vec<Isolation>,
}

/// What one session takes from a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allocation {
    /// CPU.
    pub cpu: CpuMilli,
    /// Host memory, bytes.
    pub memory: MemoryBytes,
    /// Slices, each on a device of its own.
    pub slices: Vec<Slice>,
}

impl Allocation {
    /// What `grant`, made for `request`, takes from its node.
    #[must_use]
    pub fn of(request: &Request, grant: &Grant) -> Self {
        Self { cpu: request.cpu, memory: request.memory, slices: grant.slices.clone() }
    }
}

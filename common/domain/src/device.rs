//! Devices: one physical GPU each, known by UUID, as an agent reports them.

use crate::ids::DeviceUuid;
use crate::units::MemoryBytes;
use serde::{Deserialize, Serialize};

/// One physical GPU of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The driver's UUID; stable over restarts and reboots.
    pub uuid: DeviceUuid,
    /// Position on its node as NVML enumerates, from 0. May change at reboot: never a key.
    pub index: u32,
    /// Marketing name, e.g. `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// Total memory in bytes, as the driver reports it.
    pub memory: MemoryBytes,
    /// Streaming multiprocessors; `None` where the driver does not tell.
    pub multiprocessors: Option<u32>,
    /// PCI address, e.g. `00000000:3B:00.0`.
    pub pci_bus_id: Option<String>,
    /// NUMA node of the host the device hangs on.
    pub numa_node: Option<u32>,
    /// UUIDs of devices reachable by an active NVLink, sorted.
    pub nvlink_peers: Vec<DeviceUuid>,
    /// Whether the card is partitioned by MIG.
    pub mig: MigState,
    /// Whether new sessions may use it.
    pub health: DeviceHealth,
    /// True for a device that exists only in a simulation; shown wherever the device is.
    pub simulated: bool,
}

/// Whether and how a card is partitioned by MIG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MigState {
    /// The card cannot be partitioned.
    Unsupported,
    /// It can be, and is not.
    Disabled,
    /// It is; the instances that exist now.
    Enabled {
        /// Instances, by UUID.
        instances: Vec<MigInstance>,
    },
    /// It no longer is, but slices are still held on these instances: until they are given back the
    /// card gives nothing. Known to the manager alone.
    Leaving {
        /// Instances that are held.
        instances: Vec<MigInstance>,
    },
}

/// One MIG instance of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigInstance {
    /// The instance's own UUID (`MIG-…`).
    pub uuid: DeviceUuid,
    /// NVIDIA's profile name, e.g. `1g.10gb`.
    pub profile: String,
    /// Memory of the instance in bytes.
    pub memory: MemoryBytes,
    /// Its streaming multiprocessors.
    pub multiprocessors: u32,
    /// Whether new sessions may use it, its card left aside.
    #[serde(default, skip_serializing_if = "DeviceHealth::is_healthy")]
    pub health: DeviceHealth,
}

/// Whether a device may take new sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DeviceHealth {
    /// Nothing known against it.
    #[default]
    Healthy,
    /// It failed a check; running sessions stay, new ones are not placed on it.
    Unhealthy {
        /// What was seen, e.g. `Xid 79: fallen off the bus`.
        reason: String,
    },
}

impl Device {
    /// The MIG instances that exist on it now.
    #[must_use]
    pub fn instances(&self) -> &[MigInstance] {
        match &self.mig {
            MigState::Enabled { instances } | MigState::Leaving { instances } => instances,
            MigState::Unsupported | MigState::Disabled => &[],
        }
    }

    /// Whether it can only be given in MIG instances.
    #[must_use]
    pub fn is_partitioned(&self) -> bool {
        matches!(self.mig, MigState::Enabled { .. } | MigState::Leaving { .. })
    }

    /// A MIG instance of this card as a device of its own, which is what a session holds and sees.
    #[must_use]
    pub fn of_instance(&self, instance: &MigInstance) -> Self {
        let health = if self.health.is_healthy() { &instance.health } else { &self.health };
        Self {
            uuid: instance.uuid.clone(),
            model: format!("{} MIG {}", self.model, instance.profile),
            memory: instance.memory,
            multiprocessors: Some(instance.multiprocessors),
            nvlink_peers: Vec::new(),
            mig: MigState::Unsupported,
            health: health.clone(),
            pci_bus_id: self.pci_bus_id.clone(),
            ..*self
        }
    }
}

/// All that slices may lie on: `devices`, and every MIG instance of them as a device of its own.
#[must_use]
pub fn with_instances(devices: &[Device]) -> Vec<Device> {
    let instances = devices
        .iter()
        .flat_map(|card| card.instances().iter().map(|instance| card.of_instance(instance)));
    devices.iter().cloned().chain(instances).collect()
}

impl DeviceHealth {
    /// Whether nothing is known against the device.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy)
    }
}

/// What a device was measured to be doing; never stored, never used for granting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUsage {
    /// Which device.
    pub uuid: DeviceUuid,
    /// Memory in use by everything on it, bytes.
    pub memory_used: MemoryBytes,
    /// Share of the last sample period in which any kernel ran, thousandths; `None` if not told.
    pub utilization_milli: Option<u32>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// Milliwatts.
    pub power_milliwatts: Option<u64>,
    /// Memory by process, where the driver tells it.
    pub processes: Vec<ProcessUsage>,
}

/// Memory one host process holds on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUsage {
    /// Process id in the host's namespace.
    pub pid: u32,
    /// Device memory it holds, bytes; `None` where the driver does not tell (as under MPS).
    pub memory: Option<MemoryBytes>,
}

//! Nodes: the machines of the cluster, as their agents report them.

use crate::device::Device;
use crate::ids::{DeviceUuid, NodeName};
use crate::slice::{DeviceUnits, Isolation, UnitPolicy};
use crate::time::UnixMillis;
use crate::units::{CpuMilli, MemoryBytes};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A node as the store keeps it. What changes with every heartbeat is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The name its agent registers with.
    pub name: NodeName,
    /// Made once by its agent; another one under the same name is another machine.
    pub agent_id: String,
    /// What the agent reported last.
    pub inventory: Inventory,
    /// Labels set through the API; they win over the agent's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether new sessions are kept away.
    #[serde(default)]
    pub cordon: Cordon,
    /// Devices an administrator keeps new slices away from.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cordoned_devices: BTreeSet<DeviceUuid>,
    /// When it first registered.
    pub registered_at: UnixMillis,
}

/// What an agent says its node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Address its published ports can be reached at.
    pub address: String,
    /// Version of the agent.
    pub agent_version: String,
    /// CPU it may give.
    pub cpu: CpuMilli,
    /// Host memory it may give.
    pub memory: MemoryBytes,
    /// Its devices, by index.
    pub devices: Vec<Device>,
    /// What runs containers there.
    pub runtime: RuntimeFacts,
    /// Labels from the agent's configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What is wrong with the node as a whole; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub condition: String,
}

/// What runs containers on a node, and what it can enforce.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuntimeFacts {
    /// `docker` or `process`.
    pub kind: String,
    /// Its version.
    pub version: String,
    /// `systemd` or `cgroupfs`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// How devices get into containers: `cdi`, `device-request`, `runtime` or `none`.
    pub gpu_attach: String,
    /// Levels the agent can enforce for a part of a device, strongest first.
    pub enforcers: Vec<Isolation>,
    /// Whether the node takes sessions that nothing keeps to their slice.
    pub allow_shared: bool,
    /// `nvml` or `sim`.
    pub accelerator: String,
    /// Version of the GPU driver, empty without one.
    pub driver_version: String,
    /// Folders sessions may mount from.
    pub allowed_mounts: Vec<String>,
    /// Operating system.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
}

/// Whether new sessions are kept away from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cordon {
    /// They are not.
    #[default]
    Open,
    /// New ones are; running ones stay.
    Cordoned,
    /// New ones are, and running ones are stopped.
    Draining,
}

/// Whether a node's agent is heard. Never stored: every manager finds out for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Liveness {
    /// Known from the store; not heard since this manager leads.
    #[default]
    NeverSeen,
    /// Heard within the suspect time.
    Live,
    /// Silent longer than the suspect time: no new placements.
    Suspect,
    /// Silent longer than the lost time.
    Lost,
}

impl RuntimeFacts {
    /// Whether sessions may mount `source`: it is, or lies under, an allowed folder.
    #[must_use]
    pub fn allows_mount(&self, source: &str) -> bool {
        self.allowed_mounts.iter().any(|folder| {
            let folder = folder.trim_end_matches('/');
            source.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl Node {
    /// The labels in force: the agent's own, overridden by those set through the API.
    #[must_use]
    pub fn effective_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.inventory.labels.clone();
        labels.extend(self.labels.iter().map(|(k, v)| (k.clone(), v.clone())));
        labels
    }

    /// The device with this UUID, if the node has it.
    #[must_use]
    pub fn device(&self, uuid: &DeviceUuid) -> Option<&Device> {
        self.inventory.devices.iter().find(|device| device.uuid == *uuid)
    }

    /// Everything slices may lie on: its devices and their MIG instances.
    pub fn slots(&self) -> impl Iterator<Item = &DeviceUuid> {
        self.inventory.devices.iter().flat_map(|device| {
            std::iter::once(&device.uuid)
                .chain(device.instances().iter().map(|instance| &instance.uuid))
        })
    }

    /// The units of the device, or the MIG instance, with this UUID, if the node has it.
    #[must_use]
    pub fn units(&self, uuid: &DeviceUuid, policy: &UnitPolicy) -> Option<DeviceUnits> {
        self.inventory.devices.iter().find_map(|card| {
            if card.uuid == *uuid {
                return Some(policy.units_of(&card.model, card.memory));
            }
            let instance = card.instances().iter().find(|instance| instance.uuid == *uuid)?;
            Some(policy.units_of_instance(&card.model, card.memory, instance.memory))
        })
    }
}

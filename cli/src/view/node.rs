//! Nodes, devices, tokens and the cluster.

use fgpu_wire::v1;
use serde::Serialize;
use std::collections::BTreeMap;

use super::word;

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) state: Option<String>,
    pub(crate) cordoned: bool,
    pub(crate) condition: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) agent_version: String,
    pub(crate) address: String,
    pub(crate) cpu_milli: u64,
    pub(crate) cpu_allocated_milli: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_allocated_bytes: u64,
    pub(crate) sessions: u32,
    pub(crate) registered_at_ms: u64,
    pub(crate) last_seen_ms: Option<u64>,
    pub(crate) runtime: RuntimeView,
    pub(crate) devices: Vec<DeviceView>,
    pub(crate) usage: Vec<ContainerUsageView>,
    /// Images known to be there; only where one node is looked at.
    pub(crate) images: Vec<String>,
}

/// What runs containers on a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RuntimeView {
    pub(crate) kind: String,
    pub(crate) version: String,
    pub(crate) cgroup_driver: String,
    pub(crate) cgroup_version: String,
    pub(crate) gpu_attach: String,
    pub(crate) enforcers: Vec<String>,
    pub(crate) allow_shared: bool,
    pub(crate) accelerator: String,
    pub(crate) driver_version: String,
    pub(crate) allowed_mounts: Vec<String>,
    pub(crate) os: String,
    pub(crate) kernel: String,
}

/// What a container was measured to be doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ContainerUsageView {
    pub(crate) session_id: String,
    pub(crate) cpu_usage_ns: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) pids: u32,
    pub(crate) device_memory_bytes: BTreeMap<String, u64>,
}

/// A device with its slices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DeviceView {
    pub(crate) uuid: String,
    pub(crate) node: String,
    pub(crate) index: u32,
    pub(crate) model: String,
    pub(crate) simulated: bool,
    pub(crate) memory_bytes: u64,
    pub(crate) multiprocessors: Option<u32>,
    pub(crate) pci_bus_id: String,
    pub(crate) numa_node: Option<u32>,
    pub(crate) nvlink_peers: Vec<String>,
    pub(crate) mig_mode: Option<String>,
    pub(crate) mig_instances: Vec<MigView>,
    pub(crate) unhealthy_reason: Option<String>,
    pub(crate) cordoned: bool,
    pub(crate) blocked: Option<String>,
    pub(crate) capacity_fgpu_milli: u64,
    pub(crate) memory_per_fgpu_bytes: u64,
    pub(crate) leftover_memory_bytes: u64,
    pub(crate) allocated_memory_bytes: u64,
    pub(crate) allocated_compute_milli: u32,
    pub(crate) free_memory_bytes: u64,
    pub(crate) free_compute_milli: u32,
    pub(crate) free_fgpu_milli: u64,
    /// For a MIG instance.
    pub(crate) mig_profile: Option<String>,
    pub(crate) mig_card: Option<String>,
    pub(crate) slices: Vec<DeviceSliceView>,
    pub(crate) usage: Option<DeviceUsageView>,
}

/// A MIG instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MigView {
    pub(crate) uuid: String,
    pub(crate) profile: String,
    pub(crate) memory_bytes: u64,
    pub(crate) multiprocessors: u32,
}

/// A slice of a device and the session that holds it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DeviceSliceView {
    pub(crate) session_id: String,
    pub(crate) session_name: Option<String>,
    pub(crate) owner: String,
    pub(crate) phase: Option<String>,
    pub(crate) isolation: Option<String>,
    pub(crate) fgpu_milli: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) compute_milli: u32,
    pub(crate) memory_used_bytes: Option<u64>,
}

/// What a device was measured to be doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DeviceUsageView {
    pub(crate) memory_used_bytes: u64,
    pub(crate) utilization_milli: Option<u32>,
    pub(crate) temperature_celsius: Option<u32>,
    pub(crate) power_milliwatts: Option<u64>,
}

/// A token; its secret is known to nobody but its holder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TokenView {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) role: Option<String>,
    pub(crate) created_at_ms: u64,
    pub(crate) expires_at_ms: Option<u64>,
    /// Only in the answer that created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
}

/// The cluster and who the caller is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ClusterView {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) store: String,
    pub(crate) leader: String,
    pub(crate) epoch: i64,
    pub(crate) policy: String,
    pub(crate) quantum_fgpu_milli: u64,
    pub(crate) default_unit: Option<UnitRuleView>,
    pub(crate) units_by_model: BTreeMap<String, UnitRuleView>,
    pub(crate) allow_shared: bool,
    pub(crate) user: String,
    pub(crate) role: Option<String>,
    pub(crate) nodes: u32,
    pub(crate) devices: u32,
    pub(crate) sessions: u32,
}

/// What one fGPU is; one of the two is set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UnitRuleView {
    pub(crate) fgpu_per_device_milli: Option<u64>,
    pub(crate) unit_memory_bytes: Option<u64>,
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<v1::Node> for NodeView {
    fn from(node: v1::Node) -> Self {
        let usage = |usage: v1::ContainerUsage| ContainerUsageView {
            session_id: usage.session_id,
            cpu_usage_ns: usage.cpu_usage_ns,
            memory_bytes: usage.memory_bytes,
            pids: usage.pids,
            device_memory_bytes: usage.device_memory_bytes,
        };
        Self {
            state: word(node.state().as_str_name(), "NODE_STATE_"),
            name: node.name,
            cordoned: node.cordoned,
            condition: some(node.condition),
            labels: node.labels,
            agent_version: node.agent_version,
            address: node.address,
            cpu_milli: node.cpu_milli,
            cpu_allocated_milli: node.cpu_allocated_milli,
            memory_bytes: node.memory_bytes,
            memory_allocated_bytes: node.memory_allocated_bytes,
            sessions: node.sessions,
            registered_at_ms: node.registered_at_ms,
            last_seen_ms: Some(node.last_seen_ms).filter(|at| *at > 0),
            runtime: node.runtime.unwrap_or_default().into(),
            devices: node.devices.into_iter().map(Into::into).collect(),
            usage: node.usage.into_iter().map(usage).collect(),
            images: node.images,
        }
    }
}

impl From<v1::NodeRuntime> for RuntimeView {
    fn from(runtime: v1::NodeRuntime) -> Self {
        let levels = runtime.enforcers().filter_map(|l| word(l.as_str_name(), "ISOLATION_"));
        Self {
            enforcers: levels.collect(),
            kind: runtime.kind,
            version: runtime.version,
            cgroup_driver: runtime.cgroup_driver,
            cgroup_version: runtime.cgroup_version,
            gpu_attach: runtime.gpu_attach,
            allow_shared: runtime.allow_shared,
            accelerator: runtime.accelerator,
            driver_version: runtime.driver_version,
            allowed_mounts: runtime.allowed_mounts,
            os: runtime.os,
            kernel: runtime.kernel,
        }
    }
}

impl From<v1::Device> for DeviceView {
    fn from(device: v1::Device) -> Self {
        let info = device.info.unwrap_or_default();
        let free_memory = info.memory_bytes.saturating_sub(device.allocated_memory_bytes);
        Self {
            mig_mode: word(info.mig_mode().as_str_name(), "MIG_MODE_"),
            uuid: info.uuid,
            node: device.node,
            index: info.index,
            model: info.model,
            simulated: info.simulated,
            memory_bytes: info.memory_bytes,
            multiprocessors: Some(info.multiprocessors).filter(|count| *count > 0),
            pci_bus_id: info.pci_bus_id,
            numa_node: info.numa_node,
            nvlink_peers: info.nvlink_peers,
            mig_instances: info.mig_instances.into_iter().map(Into::into).collect(),
            unhealthy_reason: some(info.unhealthy_reason),
            cordoned: device.cordoned,
            blocked: some(device.blocked),
            capacity_fgpu_milli: device.capacity_fgpu_milli,
            memory_per_fgpu_bytes: device.memory_per_fgpu_bytes,
            leftover_memory_bytes: device.leftover_memory_bytes,
            allocated_memory_bytes: device.allocated_memory_bytes,
            allocated_compute_milli: device.allocated_compute_milli,
            free_memory_bytes: free_memory,
            free_compute_milli: 1000_u32.saturating_sub(device.allocated_compute_milli),
            free_fgpu_milli: device.allocatable_fgpu_milli,
            mig_profile: some(device.mig_profile),
            mig_card: some(device.mig_card),
            slices: device.slices.into_iter().map(Into::into).collect(),
            usage: device.usage.map(Into::into),
        }
    }
}

impl DeviceView {
    /// In a few words: `yes`, or why nothing new is given.
    pub(crate) fn state(&self) -> String {
        let reason = self.unhealthy_reason.as_ref().or(self.blocked.as_ref());
        match reason {
            Some(reason) => reason.clone(),
            None if self.cordoned => "cordoned".to_owned(),
            None => "ready".to_owned(),
        }
    }
}

impl From<v1::MigInstance> for MigView {
    fn from(instance: v1::MigInstance) -> Self {
        Self {
            uuid: instance.uuid,
            profile: instance.profile,
            memory_bytes: instance.memory_bytes,
            multiprocessors: instance.multiprocessors,
        }
    }
}

impl From<v1::DeviceSlice> for DeviceSliceView {
    fn from(slice: v1::DeviceSlice) -> Self {
        let share = slice.slice.clone().unwrap_or_default();
        Self {
            phase: word(slice.phase().as_str_name(), "PHASE_"),
            isolation: word(slice.isolation().as_str_name(), "ISOLATION_"),
            session_id: slice.session_id,
            session_name: some(slice.session_name),
            owner: slice.owner,
            fgpu_milli: share.fgpu_milli,
            memory_bytes: share.memory_bytes,
            compute_milli: share.compute_milli,
            memory_used_bytes: slice.memory_used_bytes,
        }
    }
}

impl From<v1::DeviceUsage> for DeviceUsageView {
    fn from(usage: v1::DeviceUsage) -> Self {
        Self {
            memory_used_bytes: usage.memory_used_bytes,
            utilization_milli: usage.utilization_milli,
            temperature_celsius: usage.temperature_celsius,
            power_milliwatts: usage.power_milliwatts,
        }
    }
}

impl From<v1::Token> for TokenView {
    fn from(token: v1::Token) -> Self {
        Self {
            role: word(token.role().as_str_name(), "ROLE_"),
            id: token.id,
            user: token.user,
            created_at_ms: token.created_at_ms,
            expires_at_ms: Some(token.expires_at_ms).filter(|at| *at > 0),
            secret: None,
        }
    }
}

impl From<v1::UnitRule> for UnitRuleView {
    fn from(rule: v1::UnitRule) -> Self {
        use v1::unit_rule::Rule;
        let (per_device, unit) = match rule.rule {
            Some(Rule::FgpuPerDeviceMilli(milli)) => (Some(milli), None),
            Some(Rule::UnitMemoryBytes(bytes)) => (None, Some(bytes)),
            None => (None, None),
        };
        Self { fgpu_per_device_milli: per_device, unit_memory_bytes: unit }
    }
}

impl UnitRuleView {
    /// `one device is 10 fGPU`, or `one fGPU is 8 GiB`.
    pub(crate) fn summary(&self) -> String {
        match (self.fgpu_per_device_milli, self.unit_memory_bytes) {
            (Some(milli), _) => format!("one device is {}", super::fgpu(milli)),
            (None, Some(bytes)) => format!("one fGPU is {}", super::gib(bytes)),
            (None, None) => String::new(),
        }
    }
}

impl From<v1::Cluster> for ClusterView {
    fn from(cluster: v1::Cluster) -> Self {
        let role = word(cluster.role().as_str_name(), "ROLE_");
        let units = cluster.units.unwrap_or_default();
        let by_model = units.by_model.into_iter().map(|(model, rule)| (model, rule.into()));
        Self {
            id: cluster.id,
            version: cluster.version,
            store: cluster.store,
            leader: cluster.leader,
            epoch: cluster.epoch,
            policy: cluster.policy,
            quantum_fgpu_milli: units.quantum_milli,
            default_unit: units.default_rule.map(Into::into),
            units_by_model: by_model.collect(),
            allow_shared: cluster.allow_shared,
            user: cluster.user,
            role,
            nodes: cluster.nodes,
            devices: cluster.devices,
            sessions: cluster.sessions,
        }
    }
}

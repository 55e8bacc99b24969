//! Nodes, devices and what they are measured to be doing.

use super::spec::isolation;
use super::{id, nonzero, optional_text};
use crate::error::CallError;
use crate::v1;
use fgpu_domain::device::{Device, DeviceHealth, DeviceUsage, MigInstance, MigState, ProcessUsage};
use fgpu_domain::node::{Inventory, RuntimeFacts};
use fgpu_domain::slice::{Isolation, UnitPolicy, UnitRule};
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};

/// Reads a device.
///
/// # Errors
/// A uuid that is none.
pub fn device(device: v1::DeviceInfo) -> Result<Device, CallError> {
    let mig = match device.mig_mode() {
        v1::MigMode::Unsupported => MigState::Unsupported,
        v1::MigMode::Disabled => MigState::Disabled,
        v1::MigMode::Enabled => {
            let instances = device.mig_instances.into_iter().map(mig_instance);
            MigState::Enabled { instances: instances.collect::<Result<_, _>>()? }
        }
    };
    let peers = device.nvlink_peers.iter().map(|peer| id("nvlink_peers", peer));
    Ok(Device {
        uuid: id("uuid", &device.uuid)?,
        index: device.index,
        nvlink_peers: peers.collect::<Result<_, _>>()?,
        model: device.model,
        memory: MemoryBytes(device.memory_bytes),
        multiprocessors: (device.multiprocessors != 0).then_some(device.multiprocessors),
        pci_bus_id: optional_text(device.pci_bus_id),
        numa_node: device.numa_node,
        mig,
        health: health(device.unhealthy_reason),
        simulated: device.simulated,
    })
}

fn mig_instance(instance: v1::MigInstance) -> Result<MigInstance, CallError> {
    Ok(MigInstance {
        uuid: id("mig uuid", &instance.uuid)?,
        profile: instance.profile,
        memory: MemoryBytes(instance.memory_bytes),
        multiprocessors: instance.multiprocessors,
        health: health(instance.unhealthy_reason),
    })
}

fn health(unhealthy_reason: String) -> DeviceHealth {
    match optional_text(unhealthy_reason) {
        None => DeviceHealth::Healthy,
        Some(reason) => DeviceHealth::Unhealthy { reason },
    }
}

fn unhealthy_reason(health: &DeviceHealth) -> String {
    match health {
        DeviceHealth::Healthy => String::new(),
        DeviceHealth::Unhealthy { reason } => reason.clone(),
    }
}

/// Reads what a device was measured to be doing.
///
/// # Errors
/// A uuid that is none.
pub fn device_usage(usage: v1::DeviceUsage) -> Result<DeviceUsage, CallError> {
    let process = |process: v1::ProcessUsage| ProcessUsage {
        pid: process.pid,
        memory: process.memory_bytes.map(MemoryBytes),
    };
    Ok(DeviceUsage {
        uuid: id("uuid", &usage.uuid)?,
        memory_used: MemoryBytes(usage.memory_used_bytes),
        utilization_milli: usage.utilization_milli,
        temperature_celsius: usage.temperature_celsius,
        power_milliwatts: usage.power_milliwatts,
        processes: usage.processes.into_iter().map(process).collect(),
    })
}

/// Reads what an agent says its node is. `agent_version` comes from its registration.
///
/// # Errors
/// A device that cannot be read, or two with one uuid.
pub fn inventory(
    inventory: v1::NodeInventory,
    agent_version: &str,
) -> Result<Inventory, CallError> {
    let devices: Vec<Device> =
        inventory.devices.into_iter().map(device).collect::<Result<_, _>>()?;
    let mut seen = std::collections::BTreeSet::new();
    let instances = devices.iter().flat_map(|card| card.instances()).map(|instance| &instance.uuid);
    let mut uuids = devices.iter().map(|device| &device.uuid).chain(instances);
    if let Some(twice) = uuids.find(|uuid| !seen.insert(*uuid)) {
        return Err(CallError::field("devices", twice, "each uuid appears once"));
    }
    Ok(Inventory {
        address: inventory.address,
        agent_version: agent_version.to_owned(),
        cpu: CpuMilli(inventory.cpu_milli),
        memory: MemoryBytes(inventory.memory_bytes),
        devices,
        runtime: runtime_facts(inventory.runtime.unwrap_or_default()),
        labels: inventory.labels,
        condition: inventory.condition,
    })
}

/// Reads what runs containers on a node.
#[must_use]
pub fn runtime_facts(runtime: v1::NodeRuntime) -> RuntimeFacts {
    let mut enforcers: Vec<Isolation> = runtime.enforcers().filter_map(isolation).collect();
    enforcers.sort_unstable();
    RuntimeFacts {
        enforcers,
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

/// Reads a unit policy.
///
/// # Errors
/// A rule that says nothing, or an amount of zero.
pub fn unit_policy(policy: v1::UnitPolicy) -> Result<UnitPolicy, CallError> {
    let missing = || CallError::field("units", "", "a rule says what one fGPU is");
    let by_model = policy.by_model.into_iter().map(|(model, rule)| Ok((model, unit_rule(rule)?)));
    let quantum = nonzero(policy.quantum_milli).map(Fgpu);
    Ok(UnitPolicy {
        default: unit_rule(policy.default_rule.ok_or_else(missing)?)?,
        by_model: by_model.collect::<Result<_, CallError>>()?,
        quantum: quantum.ok_or_else(|| CallError::field("quantum", 0, "more than zero"))?,
    })
}

fn unit_rule(rule: v1::UnitRule) -> Result<UnitRule, CallError> {
    match rule.rule {
        Some(v1::unit_rule::Rule::FgpuPerDeviceMilli(milli)) if milli > 0 => {
            Ok(UnitRule::FgpuPerDevice(Fgpu(milli)))
        }
        Some(v1::unit_rule::Rule::UnitMemoryBytes(bytes)) if bytes > 0 => {
            Ok(UnitRule::UnitMemory(MemoryBytes(bytes)))
        }
        _ => Err(CallError::field("units", 0, "one fGPU is more than nothing")),
    }
}

impl From<&Device> for v1::DeviceInfo {
    fn from(device: &Device) -> Self {
        let (mig_mode, instances) = match &device.mig {
            MigState::Unsupported => (v1::MigMode::Unsupported, &[][..]),
            MigState::Disabled => (v1::MigMode::Disabled, &[][..]),
            MigState::Enabled { instances } | MigState::Leaving { instances } => {
                (v1::MigMode::Enabled, instances.as_slice())
            }
        };
        Self {
            uuid: device.uuid.to_string(),
            index: device.index,
            model: device.model.clone(),
            memory_bytes: device.memory.0,
            multiprocessors: device.multiprocessors.unwrap_or(0),
            pci_bus_id: device.pci_bus_id.clone().unwrap_or_default(),
            numa_node: device.numa_node,
            nvlink_peers: device.nvlink_peers.iter().map(ToString::to_string).collect(),
            mig_mode: mig_mode.into(),
            mig_instances: instances.iter().map(Into::into).collect(),
            unhealthy_reason: unhealthy_reason(&device.health),
            simulated: device.simulated,
        }
    }
}

impl From<&MigInstance> for v1::MigInstance {
    fn from(instance: &MigInstance) -> Self {
        Self {
            uuid: instance.uuid.to_string(),
            profile: instance.profile.clone(),
            memory_bytes: instance.memory.0,
            multiprocessors: instance.multiprocessors,
            unhealthy_reason: unhealthy_reason(&instance.health),
        }
    }
}

impl From<&DeviceUsage> for v1::DeviceUsage {
    fn from(usage: &DeviceUsage) -> Self {
        let process = |process: &ProcessUsage| v1::ProcessUsage {
            pid: process.pid,
            memory_bytes: process.memory.map(|memory| memory.0),
        };
        Self {
            uuid: usage.uuid.to_string(),
            memory_used_bytes: usage.memory_used.0,
            utilization_milli: usage.utilization_milli,
            temperature_celsius: usage.temperature_celsius,
            power_milliwatts: usage.power_milliwatts,
            processes: usage.processes.iter().map(process).collect(),
        }
    }
}

impl From<&Inventory> for v1::NodeInventory {
    fn from(inventory: &Inventory) -> Self {
        Self {
            address: inventory.address.clone(),
            cpu_milli: inventory.cpu.0,
            memory_bytes: inventory.memory.0,
            devices: inventory.devices.iter().map(Into::into).collect(),
            runtime: Some((&inventory.runtime).into()),
            labels: inventory.labels.clone(),
            condition: inventory.condition.clone(),
        }
    }
}

impl From<&RuntimeFacts> for v1::NodeRuntime {
    fn from(facts: &RuntimeFacts) -> Self {
        let level = |level: &Isolation| i32::from(v1::Isolation::from(*level));
        Self {
            kind: facts.kind.clone(),
            version: facts.version.clone(),
            cgroup_driver: facts.cgroup_driver.clone(),
            cgroup_version: facts.cgroup_version.clone(),
            gpu_attach: facts.gpu_attach.clone(),
            enforcers: facts.enforcers.iter().map(level).collect(),
            allow_shared: facts.allow_shared,
            accelerator: facts.accelerator.clone(),
            driver_version: facts.driver_version.clone(),
            allowed_mounts: facts.allowed_mounts.clone(),
            os: facts.os.clone(),
            kernel: facts.kernel.clone(),
        }
    }
}

impl From<&UnitPolicy> for v1::UnitPolicy {
    fn from(policy: &UnitPolicy) -> Self {
        let by_model = policy.by_model.iter().map(|(model, rule)| (model.clone(), (*rule).into()));
        Self {
            default_rule: Some(policy.default.into()),
            by_model: by_model.collect(),
            quantum_milli: policy.quantum.0,
        }
    }
}

impl From<UnitRule> for v1::UnitRule {
    fn from(rule: UnitRule) -> Self {
        use v1::unit_rule::Rule;
        let rule = match rule {
            UnitRule::FgpuPerDevice(amount) => Rule::FgpuPerDeviceMilli(amount.0),
            UnitRule::UnitMemory(memory) => Rule::UnitMemoryBytes(memory.0),
        };
        Self { rule: Some(rule) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(uuid: &str) -> Device {
        let instance = MigInstance {
            uuid: "MIG-1".parse().unwrap(),
            profile: "1g.10gb".into(),
            memory: MemoryBytes::gib(10),
            multiprocessors: 16,
            health: DeviceHealth::Unhealthy { reason: "gone".into() },
        };
        Device {
            uuid: uuid.parse().unwrap(),
            index: 3,
            model: "NVIDIA H100".into(),
            memory: MemoryBytes::gib(80),
            multiprocessors: Some(132),
            pci_bus_id: Some("00000000:3B:00.0".into()),
            numa_node: Some(0),
            nvlink_peers: vec!["GPU-9".parse().unwrap()],
            mig: MigState::Enabled { instances: vec![instance] },
            health: DeviceHealth::Unhealthy { reason: "Xid 79".into() },
            simulated: true,
        }
    }

    fn facts() -> Inventory {
        Inventory {
            address: "10.0.0.1".into(),
            agent_version: "0.1.0".into(),
            cpu: CpuMilli::cores(64),
            memory: MemoryBytes::gib(512),
            devices: vec![card("GPU-1")],
            runtime: RuntimeFacts {
                kind: "docker".into(),
                enforcers: vec![Isolation::Mig, Isolation::Interposer],
                allow_shared: true,
                ..RuntimeFacts::default()
            },
            labels: [("rack".to_owned(), "r1".to_owned())].into_iter().collect(),
            condition: "engine away".into(),
        }
    }

    #[test]
    fn an_inventory_comes_back_as_it_was_sent() {
        assert_eq!(inventory((&facts()).into(), "0.1.0"), Ok(facts()));
    }

    #[test]
    fn two_devices_with_one_uuid_are_refused() {
        let mut doubled = facts();
        doubled.devices.push(card("GPU-1"));
        assert!(inventory((&doubled).into(), "0.1.0").is_err());

        let mut same_instance = facts();
        same_instance.devices.push(card("GPU-2"));
        assert!(inventory((&same_instance).into(), "0.1.0").is_err());
    }

    #[test]
    fn a_unit_policy_comes_back_and_one_without_amount_is_refused() {
        let policy = UnitPolicy::default();
        assert_eq!(unit_policy((&policy).into()), Ok(policy));
        assert!(unit_policy(v1::UnitPolicy::default()).is_err());
    }
}

//! What one device is.

use super::cores;
use super::failure::optional;
use fgpu_domain::device::{Device, DeviceHealth, MigInstance, MigState};
use fgpu_domain::ids::DeviceUuid;
use fgpu_domain::units::{MIB, MemoryBytes};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::PciInfo;
use std::ffi::c_ulong;
use std::path::Path;

/// NVML's scope for the memory nearest to a device by NUMA node (`NVML_AFFINITY_SCOPE_NODE`).
const NODE_SCOPE: u32 = 0;
/// NUMA nodes asked about: a word of bits each; 1024 is Linux's own limit.
const NODE_WORDS: usize = 1024 / c_ulong::BITS as usize;

/// Describes a device that answers. What it stops telling (as one that fails right now does) stays
/// as it was `before`. NVLinks and health are for others to fill in.
pub(super) fn describe(
    index: u32,
    uuid: &DeviceUuid,
    device: &nvml_wrapper::Device<'_>,
    before: Option<&Device>,
    sysfs: &Path,
) -> Device {
    let pci = optional("PCI address", device.pci_info());
    let total = optional("memory", device.memory_info()).map(|memory| MemoryBytes(memory.total));
    let memory = total.or(before.map(|before| before.memory)).unwrap_or_default();
    let name = optional("name", device.name()).or(before.map(|before| before.model.clone()));
    Device {
        uuid: uuid.clone(),
        index,
        model: name.unwrap_or_else(|| "unknown".to_owned()),
        memory,
        multiprocessors: multiprocessors(device)
            .or_else(|| before.and_then(|before| before.multiprocessors)),
        pci_bus_id: pci
            .as_ref()
            .map(|pci| pci.bus_id.clone())
            .or_else(|| before.and_then(|before| before.pci_bus_id.clone())),
        numa_node: numa_node(device, pci.as_ref(), sysfs)
            .or_else(|| before.and_then(|before| before.numa_node)),
        nvlink_peers: Vec::new(),
        mig: mig(device, memory, before),
        health: DeviceHealth::Healthy,
        simulated: false,
    }
}

fn multiprocessors(device: &nvml_wrapper::Device<'_>) -> Option<u32> {
    let cores = optional("CUDA cores", device.num_cores())?;
    let capability = optional("compute capability", device.cuda_compute_capability())?;
    cores::multiprocessors(cores, (capability.major, capability.minor))
}

/// The host's NUMA node the device hangs on: the kernel's word, else NVML's memory affinity.
/// (`nvmlDeviceGetNumaNodeId` is another thing: the node a device's own memory is, on machines
/// where it is one.)
fn numa_node(
    device: &nvml_wrapper::Device<'_>,
    pci: Option<&PciInfo>,
    sysfs: &Path,
) -> Option<u32> {
    let told = pci.and_then(|pci| {
        let address = format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device);
        let path = sysfs.join("bus/pci/devices").join(address).join("numa_node");
        // -1 stands for a machine that has no nodes, or does not tell.
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    });
    told.or_else(|| {
        let words = optional("memory affinity", device.memory_affinity(NODE_WORDS, NODE_SCOPE))?;
        let (at, word) = (0_u32..).zip(words).find(|(_, word)| *word != 0)?;
        Some(at * c_ulong::BITS + word.trailing_zeros())
    })
}

fn mig(
    device: &nvml_wrapper::Device<'_>,
    card_memory: MemoryBytes,
    before: Option<&Device>,
) -> MigState {
    match device.mig_mode() {
        Ok(mode) if mode.current == 0 => MigState::Disabled,
        Ok(_) => MigState::Enabled { instances: instances(device, card_memory) },
        Err(NvmlError::NotSupported) => MigState::Unsupported,
        Err(_) => before.map_or(MigState::Unsupported, |before| before.mig.clone()),
    }
}

fn instances(device: &nvml_wrapper::Device<'_>, card_memory: MemoryBytes) -> Vec<MigInstance> {
    let most = optional("number of MIG devices", device.mig_device_count()).unwrap_or(0);
    let mut instances: Vec<_> = (0..most)
        // Numbers without an instance between those with one are usual.
        .filter_map(|index| device.mig_device_by_index(index).ok())
        .filter_map(|instance| optional("MIG instance", describe_instance(&instance, card_memory)))
        .collect();
    instances.sort_by(|one, two| one.uuid.cmp(&two.uuid));
    instances
}

fn describe_instance(
    instance: &nvml_wrapper::Device<'_>,
    card_memory: MemoryBytes,
) -> Result<MigInstance, NvmlError> {
    let uuid = DeviceUuid::new(instance.uuid()?).map_err(|_| NvmlError::Unknown)?;
    let attributes = instance.attributes()?;
    let name = optional("name of a MIG instance", instance.name()).unwrap_or_default();
    let profile = match name.rsplit_once(" MIG ") {
        Some((_, profile)) => profile.to_owned(),
        None => cores::profile_name(
            attributes.compute_instance_slice_count,
            attributes.gpu_instance_slice_count,
            attributes.memory_size_mb,
            card_memory.0,
        ),
    };
    Ok(MigInstance {
        uuid,
        profile,
        memory: MemoryBytes(attributes.memory_size_mb * MIB),
        multiprocessors: attributes.multiprocessor_count,
        health: DeviceHealth::Healthy,
    })
}

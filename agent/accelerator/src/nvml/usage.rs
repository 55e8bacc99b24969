//! What one device is doing.

use super::failure::optional;
use fgpu_domain::device::{DeviceUsage, ProcessUsage};
use fgpu_domain::ids::DeviceUuid;
use fgpu_domain::units::MemoryBytes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use std::collections::BTreeMap;

/// How often a list of processes is asked for again that grew while it was read.
const TRIES: usize = 3;

/// What the device tells now.
pub(super) fn measure(uuid: &DeviceUuid, device: &nvml_wrapper::Device<'_>) -> DeviceUsage {
    let memory = optional("memory", device.memory_info());
    let utilization = optional("utilization", device.utilization_rates());
    DeviceUsage {
        uuid: uuid.clone(),
        memory_used: memory.map(|memory| MemoryBytes(memory.used)).unwrap_or_default(),
        utilization_milli: utilization.map(|rates| rates.gpu.min(100) * 10),
        temperature_celsius: optional("temperature", device.temperature(TemperatureSensor::Gpu)),
        power_milliwatts: optional("power", device.power_usage()).map(u64::from),
        processes: processes(device),
    }
}

/// What the MIG instances of `card` tell now, of those known by their UUIDs: memory and processes. An
/// instance has no temperature, power or utilization of its own.
pub(super) fn measure_instances<'a>(
    known: impl Iterator<Item = &'a DeviceUuid>,
    card: &nvml_wrapper::Device<'_>,
) -> Vec<DeviceUsage> {
    let mut known = known.peekable();
    if known.peek().is_none() {
        return Vec::new();
    }
    let most = optional("number of MIG devices", card.mig_device_count()).unwrap_or(0);
    let handles: Vec<_> = (0..most)
        .filter_map(|index| card.mig_device_by_index(index).ok())
        .filter_map(|handle| Some((handle.uuid().ok()?, handle)))
        .collect();
    let measured = known.map(|uuid| {
        let found = handles.iter().find(|(own, _)| own == uuid.as_str());
        found.map_or_else(|| nothing(uuid), |(_, handle)| measure_instance(uuid, handle))
    });
    measured.collect()
}

fn measure_instance(uuid: &DeviceUuid, instance: &nvml_wrapper::Device<'_>) -> DeviceUsage {
    let memory = optional("memory of a MIG instance", instance.memory_info());
    DeviceUsage {
        memory_used: memory.map(|memory| MemoryBytes(memory.used)).unwrap_or_default(),
        processes: processes(instance),
        ..nothing(uuid)
    }
}

fn processes(device: &nvml_wrapper::Device<'_>) -> Vec<ProcessUsage> {
    merge([
        list("compute processes", || device.running_compute_processes()),
        list("graphics processes", || device.running_graphics_processes()),
        list("MPS processes", || device.mps_running_compute_processes()),
    ])
}

/// For a device that does not answer: nothing measured.
pub(super) fn nothing(uuid: &DeviceUuid) -> DeviceUsage {
    DeviceUsage {
        uuid: uuid.clone(),
        memory_used: MemoryBytes::ZERO,
        utilization_milli: None,
        temperature_celsius: None,
        power_milliwatts: None,
        processes: Vec::new(),
    }
}

fn list(
    what: &'static str,
    ask: impl Fn() -> Result<Vec<ProcessInfo>, NvmlError>,
) -> Vec<ProcessInfo> {
    let mut answer = ask();
    for _ in 1..TRIES {
        if !matches!(answer, Err(NvmlError::InsufficientSize(_))) {
            break;
        }
        answer = ask();
    }
    optional(what, answer).unwrap_or_default()
}

/// One entry per process. The same memory is told in every list a process is in, so the largest
/// counts; on different MIG instances it is different memory, so it adds up.
fn merge(lists: [Vec<ProcessInfo>; 3]) -> Vec<ProcessUsage> {
    type Place = (Option<u32>, Option<u32>);
    let mut by_pid: BTreeMap<u32, BTreeMap<Place, Option<u64>>> = BTreeMap::new();
    for process in lists.into_iter().flatten() {
        let places = by_pid.entry(process.pid).or_default();
        let told = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let place = (process.gpu_instance_id, process.compute_instance_id);
        let held = places.entry(place).or_default();
        *held = (*held).max(told);
    }
    by_pid
        .into_iter()
        .map(|(pid, places)| {
            let mut told = places.into_values().flatten().map(MemoryBytes).peekable();
            let memory = told.peek().is_some().then(|| told.sum());
            ProcessUsage { pid, memory }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, bytes: Option<u64>, instance: Option<u32>) -> ProcessInfo {
        ProcessInfo {
            pid,
            used_gpu_memory: bytes.map_or(UsedGpuMemory::Unavailable, UsedGpuMemory::Used),
            gpu_instance_id: instance,
            compute_instance_id: instance.map(|_| 0),
        }
    }

    #[test]
    fn a_process_in_several_lists_is_counted_once() {
        let merged = merge([
            vec![process(7, Some(100), None), process(3, Some(10), None)],
            vec![process(7, Some(100), None)],
            vec![process(7, None, None), process(9, None, None)],
        ]);

        let seen: Vec<_> = merged.iter().map(|p| (p.pid, p.memory.map(|m| m.0))).collect();
        assert_eq!(seen, [(3, Some(10)), (7, Some(100)), (9, None)]);
    }

    #[test]
    fn a_process_on_two_mig_instances_holds_the_sum() {
        let instances = vec![process(7, Some(100), Some(1)), process(7, Some(50), Some(2))];

        let merged = merge([instances, Vec::new(), Vec::new()]);

        assert_eq!(merged[0].memory, Some(MemoryBytes(150)));
    }
}

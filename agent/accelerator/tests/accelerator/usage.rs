//! What NVML's devices are measured to do.

use crate::{Rig, h100s};
use fgpu_accelerator::Accelerator;
use fgpu_domain::units::MemoryBytes;
use fgpu_testkit::nvml::config::Process;

fn process(pid: u32, mib: Option<u64>) -> Process {
    Process { pid, memory: mib.map(|mib| mib << 20), gpu_instance: None }
}

#[test]
fn usage_is_what_the_driver_measures_now() {
    let mut rig = Rig::new(h100s(2));
    assert_eq!(rig.accelerator.usage().unwrap()[1].memory_used, MemoryBytes::ZERO);

    rig.change(|config| {
        let device = &mut config.devices[1];
        device.memory_used = 10 << 30;
        device.utilization_percent = Some(37);
        device.temperature_celsius = Some(61);
        device.power_milliwatts = Some(412_345);
    });

    let usage = rig.accelerator.usage().unwrap();
    assert_eq!(usage[1].uuid, rig.uuid(1));
    assert_eq!(usage[1].memory_used, MemoryBytes::gib(10));
    assert_eq!(usage[1].utilization_milli, Some(370));
    assert_eq!(usage[1].temperature_celsius, Some(61));
    assert_eq!(usage[1].power_milliwatts, Some(412_345));
    assert_eq!(usage[0].memory_used, MemoryBytes::ZERO);
}

#[test]
fn processes_of_all_kinds_are_listed_once_each() {
    let mut rig = Rig::new(h100s(1));

    rig.change(|config| {
        let device = &mut config.devices[0];
        device.compute_processes = Some(vec![process(40, Some(100)), process(20, Some(30))]);
        device.graphics_processes = Some(vec![process(40, Some(100)), process(50, Some(5))]);
        device.mps_processes = Some(vec![process(60, None)]);
    });

    let usage = rig.accelerator.usage().unwrap();
    let seen: Vec<_> = usage[0].processes.iter().map(|p| (p.pid, p.memory)).collect();
    let mib = |count| Some(MemoryBytes::mib(count));
    assert_eq!(seen, [(20, mib(30)), (40, mib(100)), (50, mib(5)), (60, None)]);
}

#[test]
fn one_refused_value_leaves_the_others() {
    let mut rig = Rig::new(h100s(1));

    rig.change(|config| {
        config.devices[0].temperature_celsius = Some(55);
        *config = config
            .clone()
            .with_error("nvmlDeviceGetUtilizationRates", 3)
            .with_error("nvmlDeviceGetComputeRunningProcesses", 4)
            .with_error("nvmlDeviceGetPowerUsage", 999);
    });

    let usage = rig.accelerator.usage().unwrap();
    assert_eq!(usage[0].temperature_celsius, Some(55));
    assert_eq!(usage[0].utilization_milli, None);
    assert_eq!(usage[0].power_milliwatts, None);
}

//! What NVML's devices are measured to do.

use crate::{Rig, h100s};
use fgpu_accelerator::Accelerator;
use fgpu_domain::units::MemoryBytes;
use fgpu_testkit::nvml::config::{MigConfig, MigInstanceConfig, Process};

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
fn an_instance_has_memory_and_processes_of_its_own() {
    let instance = |uuid: &str, memory_used| MigInstanceConfig {
        uuid: uuid.to_owned(),
        profile: Some("1g.10gb".to_owned()),
        memory_mib: 9_856,
        memory_used,
        multiprocessors: 16,
        slices: 1,
    };
    let mut devices = h100s(2);
    devices[0].mig =
        MigConfig::Enabled(vec![instance("MIG-1", 3 << 30), instance("MIG-2", 1 << 20)]);
    // As the driver numbers instances: from 1.
    let on = |pid, gpu_instance| Process { gpu_instance, ..process(pid, Some(100)) };
    devices[0].compute_processes = Some(vec![on(20, Some(1)), on(40, Some(2)), on(50, Some(1))]);
    let mut rig = Rig::new(devices);

    let usage = rig.accelerator.usage().unwrap();
    let listed: Vec<&str> = usage[2..].iter().map(|usage| usage.uuid.as_str()).collect();
    assert_eq!(listed, ["MIG-1", "MIG-2"]);
    let pids = |at: usize| usage[at].processes.iter().map(|p| p.pid).collect::<Vec<_>>();
    assert_eq!((pids(0), pids(2), pids(3)), (vec![20, 40, 50], vec![20, 50], vec![40]));
    assert_eq!(usage[2].memory_used, MemoryBytes::gib(3));
    assert_eq!((usage[3].memory_used, usage[3].utilization_milli), (MemoryBytes::mib(1), None));

    rig.change(|config| config.devices[0].mig = MigConfig::Enabled(Vec::new()));
    let usage = rig.accelerator.usage().unwrap();
    assert_eq!((usage.len(), usage[2].memory_used), (4, MemoryBytes::ZERO), "until the next look");
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

//! Simulated devices by file: faults and usage put in while it runs, and what is refused.

use fgpu_accelerator::{Accelerator, AcceleratorError, SimulatedAccelerator};
use fgpu_domain::device::{DeviceHealth, MigState};
use fgpu_domain::units::MemoryBytes;
use std::error::Error;
use std::path::PathBuf;
use tempfile::TempDir;

struct Devices {
    _folder: TempDir,
    path: PathBuf,
}

impl Devices {
    fn new(name: &str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Self { _folder: folder, path }
    }

    fn set(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    fn open(&self) -> Result<SimulatedAccelerator, AcceleratorError> {
        SimulatedAccelerator::from_file(&self.path, "a1")
    }
}

#[test]
fn a_file_says_everything_a_device_has() {
    let text = r#"
        [[devices]]
        model = "H100-80GB"
        count = 2
        nvlink_group = "a"
        numa_node = 1

        [[devices]]
        model = "NVIDIA A100-SXM4-40GB"
        memory = "40GB"
        mig_instances = [{ profile = "3g.20gb" }, { profile = "odd", memory = "1GiB", multiprocessors = 5 }]
        memory_used = "512MiB"
        utilization_percent = 35
        temperature_celsius = 50
        power_milliwatts = 90000
        processes = [{ pid = 4711, memory = "512MiB" }, { pid = 4712 }]
    "#;
    let file = Devices::new("devices.toml", text);
    let accelerator = file.open().unwrap();

    let devices = accelerator.discover().unwrap();
    assert_eq!(devices.len(), 3);
    assert_eq!(devices[0].nvlink_peers, [devices[1].uuid.clone()]);
    assert_eq!((devices[1].numa_node, devices[1].multiprocessors), (Some(1), Some(132)));
    assert!(devices[2].nvlink_peers.is_empty());
    assert_eq!(devices[2].memory, MemoryBytes::gib(40));
    let MigState::Enabled { instances } = &devices[2].mig else { panic!("{:?}", devices[2].mig) };
    let seen: Vec<_> =
        instances.iter().map(|i| (i.profile.as_str(), i.memory, i.multiprocessors)).collect();
    assert_eq!(seen, [("3g.20gb", MemoryBytes::gib(20), 42), ("odd", MemoryBytes::gib(1), 5)]);
    let usage = &accelerator.usage().unwrap()[2];
    assert_eq!((usage.memory_used, usage.utilization_milli), (MemoryBytes::mib(512), Some(350)));
    assert_eq!((usage.temperature_celsius, usage.power_milliwatts), (Some(50), Some(90_000)));
    assert_eq!(usage.processes[0].memory, Some(MemoryBytes::mib(512)));
    assert_eq!((usage.processes[1].pid, usage.processes[1].memory), (4712, None));
}

#[test]
fn json_has_the_same_keys() {
    let text = r#"{"devices": [{"model": "T4-16GB", "count": 2, "mig_capable": false}]}"#;

    let file = Devices::new("devices.json", text);
    let devices = file.open().unwrap().discover().unwrap();

    assert_eq!((devices.len(), devices[0].memory), (2, MemoryBytes::gib(16)));
}

#[test]
fn a_fault_put_into_the_file_shows_at_the_next_call() {
    let healthy = "[[devices]]\nmodel = \"T4-16GB\"\ncount = 2\n";
    let file = Devices::new("devices.toml", healthy);
    let accelerator = file.open().unwrap();
    let before = accelerator.discover().unwrap();
    assert!(before.iter().all(|device| device.health.is_healthy()));

    file.set("[[devices]]\nmodel = \"T4-16GB\"\n\n[[devices]]\nmodel = \"T4-16GB\"\nunhealthy = \"Xid 79\"\n");

    let health = accelerator.health().unwrap();
    assert!(health[0].1.is_healthy());
    assert_eq!(health[1].1, DeviceHealth::Unhealthy { reason: "Xid 79".to_owned() });
    assert_eq!(health[1].0, before[1].uuid, "it is the same device");
    file.set(healthy);
    assert!(accelerator.health().unwrap().iter().all(|(_, health)| health.is_healthy()));
}

#[test]
fn a_file_that_says_nothing_useful_is_refused_with_the_place() {
    for (text, expected) in [
        ("[[devices]]\nmodel = \"H100\"\n", "memory is not known"),
        ("[[devices]]\nmodel = \"H100-80GB\"\nmemroy = \"8GB\"\n", "memroy"),
        ("[[devices]]\nmodel = \"H100-80GB\"\nmemory = \"8\"\n", "not a memory size"),
        ("[[devices]]\nmodel = \"H100-80GB\"\nutilization_percent = 101\n", "more than 100 %"),
        ("[[devices]]\nmodel = \"H100-80GB\"\ncount = 1025\n", "1025"),
        (
            "[[devices]]\nmodel = \"My-8GB\"\nmig_instances = [{ profile = \"1g.1gb\" }]\n",
            "multiprocessors",
        ),
        ("not toml", "expected"),
    ] {
        let refused = Devices::new("devices.toml", text).open().unwrap_err();
        assert!(refused.to_string().contains("devices.toml"), "{refused}");
        let cause = refused.source().unwrap().to_string();
        assert!(cause.contains(expected), "{text}: {cause}");
    }
    let missing = SimulatedAccelerator::from_file("/nowhere/d.toml".as_ref(), "a1").unwrap_err();
    assert!(missing.to_string().contains("/nowhere/d.toml"), "{missing}");
}

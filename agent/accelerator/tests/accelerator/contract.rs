//! What every accelerator promises, checked on each kind of them.

use crate::{Rig, h100s};
use fgpu_accelerator::{Accelerator, AcceleratorSpec, open};
use fgpu_domain::device::{Device, MigState, with_instances};
use fgpu_testkit::nvml::FakeNvml;
use fgpu_testkit::nvml::config::{Config, DeviceConfig, MigConfig, MigInstanceConfig};
use std::collections::BTreeSet;

/// Checks the promises; `expected` is how many devices there are.
fn check(accelerator: &dyn Accelerator, expected: usize) {
    let devices = accelerator.discover().unwrap();
    let again = accelerator.discover().unwrap();
    assert_eq!(devices, again, "nothing changed, so discovery says the same");
    assert_eq!(devices.len(), expected);

    let uuids: BTreeSet<_> = devices.iter().map(|device| &device.uuid).collect();
    assert_eq!(uuids.len(), expected, "uuids are unique: {uuids:?}");
    let indices: Vec<_> = devices.iter().map(|device| device.index as usize).collect();
    assert_eq!(indices, (0..expected).collect::<Vec<_>>(), "indices count from 0, in order");

    let usage = accelerator.usage().unwrap();
    let used: Vec<_> = usage.iter().map(|usage| &usage.uuid).collect();
    let all = with_instances(&devices);
    let listed: Vec<_> = all.iter().map(|device| &device.uuid).collect();
    assert_eq!(used, listed, "usage covers exactly the devices and instances, in their order");
    let health = accelerator.health().unwrap();
    let judged: Vec<_> = health.iter().map(|(uuid, health)| (uuid, health)).collect();
    let found: Vec<_> = devices.iter().map(|device| (&device.uuid, &device.health)).collect();
    assert_eq!(judged, found, "health covers exactly the devices and agrees with discovery");

    for device in &devices {
        check_device(device, &devices);
        assert_eq!(device.simulated, accelerator.info().simulated);
    }
    assert_eq!(accelerator.kind(), accelerator.info().kind);
}

fn check_device(device: &Device, all: &[Device]) {
    assert!(!device.memory.is_zero(), "{device:?}");
    assert!(!device.model.is_empty(), "{device:?}");
    assert!(device.nvlink_peers.is_sorted(), "{device:?}");
    for peer in &device.nvlink_peers {
        let peer = all.iter().find(|other| other.uuid == *peer).expect("a peer is a device");
        assert!(peer.nvlink_peers.contains(&device.uuid), "links join both ends");
        assert_ne!(peer.uuid, device.uuid, "no device is its own peer");
    }
    if let MigState::Enabled { instances } = &device.mig {
        let uuids: BTreeSet<_> = instances.iter().map(|instance| &instance.uuid).collect();
        assert_eq!(uuids.len(), instances.len(), "instances have their own uuids");
        assert!(instances.iter().all(|instance| instance.memory < device.memory));
    }
}

fn varied() -> Config {
    let mut config = Config::with_devices(h100s(4));
    config.devices.extend([DeviceConfig::a100(4), DeviceConfig::t4(5)]);
    config.link_all(&[0, 1, 2, 3]);
    let instance = |number: u32| MigInstanceConfig {
        uuid: format!("MIG-{number}"),
        profile: Some("1g.5gb".to_owned()),
        memory_mib: 4864,
        memory_used: 0,
        multiprocessors: 14,
        slices: 1,
    };
    config.devices[4].mig = MigConfig::Enabled((0..7).map(instance).collect());
    config
}

#[test]
fn nvml_keeps_the_promises() {
    check(&Rig::new(Vec::new()).accelerator, 0);
    check(&Rig::new(h100s(8)).accelerator, 8);
    check(&Rig::with(varied()).accelerator, 6);
}

#[test]
fn nvml_keeps_the_promises_while_devices_fail() {
    let mut rig = Rig::with(varied());
    rig.change(|config| config.devices[1].lost = true);
    rig.devices();

    check(&rig.accelerator, 6);
    rig.change(|config| config.devices[4].xids = vec![79]);
    rig.devices();
    check(&rig.accelerator, 6);
}

#[test]
fn a_simulation_by_text_keeps_the_promises() {
    for (text, count) in [("sim:8xH100-80GB", 8), ("sim:4xA100-40GB,2xT4-16GB", 6)] {
        let spec: AcceleratorSpec = text.parse().unwrap();
        check(&*open(&spec, "a1").unwrap(), count);
    }
}

#[test]
fn a_simulation_by_file_keeps_the_promises() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("devices.toml");
    let text = r#"
        [[devices]]
        model = "H100-80GB"
        count = 4
        nvlink_group = "a"
        mig_capable = true

        [[devices]]
        model = "A100-40GB"
        mig_instances = [{ profile = "3g.20gb" }, { profile = "1g.5gb" }]
        unhealthy = "Xid 79: fallen off the bus"
    "#;
    std::fs::write(&path, text).unwrap();
    let spec: AcceleratorSpec = format!("sim:{}", path.display()).parse().unwrap();

    check(&*open(&spec, "a1").unwrap(), 5);
}

#[test]
fn the_flag_opens_a_library_by_its_path() {
    let fake = FakeNvml::new(&varied());
    let spec: AcceleratorSpec = format!("nvml:{}", fake.library().display()).parse().unwrap();

    check(&*open(&spec, "a1").unwrap(), 6);
}

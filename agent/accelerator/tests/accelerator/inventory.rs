//! What NVML's devices are taken for.

use crate::{Rig, h100s};
use fgpu_domain::device::MigState;
use fgpu_domain::units::MemoryBytes;
use fgpu_testkit::nvml::config::{
    Config, DeviceConfig, MigConfig, MigInstanceConfig, NvLink, Remote,
};

#[test]
fn eight_devices_are_described_as_the_driver_has_them() {
    let rig = Rig::new(h100s(8));

    let devices = rig.devices();

    assert_eq!(devices.len(), 8);
    let third = &devices[3];
    assert_eq!(third.index, 3);
    assert_eq!(third.uuid, rig.uuid(3));
    assert_eq!(third.model, "NVIDIA H100 80GB HBM3");
    assert_eq!(third.memory, MemoryBytes::mib(81_559));
    assert_eq!(third.multiprocessors, Some(132));
    assert_eq!(third.pci_bus_id.as_deref(), Some("00000000:13:00.0"));
    assert_eq!(third.mig, MigState::Disabled);
    assert!(third.health.is_healthy() && !third.simulated);
    assert!(third.nvlink_peers.is_empty());
}

#[test]
fn models_may_be_mixed() {
    let rig = Rig::new(vec![DeviceConfig::h100(0), DeviceConfig::a100(1), DeviceConfig::t4(2)]);

    let seen: Vec<_> =
        rig.devices().iter().map(|d| (d.model.clone(), d.multiprocessors, d.mig.clone())).collect();

    assert_eq!(seen[1], ("NVIDIA A100-SXM4-40GB".to_owned(), Some(108), MigState::Disabled));
    assert_eq!(seen[2], ("Tesla T4".to_owned(), Some(40), MigState::Unsupported));
}

#[test]
fn what_a_device_does_not_support_is_absent_and_nothing_else() {
    let bare = DeviceConfig {
        cores: None,
        compute_capability: None,
        utilization_percent: None,
        temperature_celsius: None,
        power_milliwatts: None,
        compute_processes: None,
        graphics_processes: None,
        mps_processes: None,
        ecc_uncorrected: None,
        retired_pages_pending: None,
        events_supported: false,
        ..DeviceConfig::t4(0)
    };
    let rig = Rig::with(Config::with_devices(vec![bare]).with_error("nvmlDeviceGetPciInfo", 3));

    let device = &rig.devices()[0];
    let usage = &fgpu_accelerator::Accelerator::usage(&rig.accelerator).unwrap()[0];

    assert_eq!(device.memory, MemoryBytes::mib(15_360));
    assert!(device.health.is_healthy(), "{:?}", device.health);
    assert_eq!((device.multiprocessors, device.numa_node), (None, None));
    assert_eq!(device.pci_bus_id, None);
    assert_eq!((usage.utilization_milli, usage.temperature_celsius), (None, None));
    assert_eq!(usage.power_milliwatts, None);
    assert!(usage.processes.is_empty());
}

#[test]
fn mig_instances_are_listed_with_profile_and_size() {
    let instance = |uuid: &str, profile: Option<&str>, memory_mib, multiprocessors, slices| {
        MigInstanceConfig {
            uuid: uuid.to_owned(),
            profile: profile.map(str::to_owned),
            memory_mib,
            memory_used: 0,
            multiprocessors,
            slices,
        }
    };
    let instances = vec![
        instance("MIG-b", Some("3g.40gb"), 40_448, 60, 3),
        instance("MIG-a", None, 9_856, 16, 1),
    ];
    let mut device = DeviceConfig::h100(0);
    device.mig = MigConfig::Enabled(instances);
    let rig = Rig::new(vec![device, DeviceConfig::h100(1)]);

    let devices = rig.devices();

    let MigState::Enabled { instances } = &devices[0].mig else { panic!("{:?}", devices[0].mig) };
    let seen: Vec<_> = instances
        .iter()
        .map(|i| (i.uuid.as_str(), i.profile.as_str(), i.memory, i.multiprocessors))
        .collect();
    assert_eq!(
        seen,
        [
            ("MIG-a", "1g.10gb", MemoryBytes::mib(9_856), 16),
            ("MIG-b", "3g.40gb", MemoryBytes::mib(40_448), 60),
        ]
    );
    assert_eq!(devices[1].mig, MigState::Disabled);
}

#[test]
fn the_numa_node_is_the_kernel_s_word_then_the_driver_s() {
    let mut config = Config::with_devices(h100s(4));
    config.devices[1].numa_node = Some(3);
    config.devices[2].numa_node = Some(70);
    let numa = [("0000:10:00.0", "1\n"), ("0000:11:00.0", "0\n"), ("0000:12:00.0", "-1\n")];

    let rig = Rig::with_sysfs(config, &numa);

    let nodes: Vec<_> = rig.devices().iter().map(|device| device.numa_node).collect();
    assert_eq!(nodes, [Some(1), Some(0), Some(70), None]);
}

#[test]
fn active_nvlinks_between_devices_make_peers() {
    let mut config = Config::with_devices(h100s(5));
    config.link_all(&[0, 1]);
    config.link_all(&[2, 3]);
    config.link_all(&[3, 4]);
    for device in [3, 4] {
        config.devices[device].nvlinks.last_mut().unwrap().active = false;
    }

    let rig = Rig::with(config);

    let peers: Vec<_> = rig.devices().into_iter().map(|device| device.nvlink_peers).collect();
    assert_eq!(peers[0], [rig.uuid(1)]);
    assert_eq!(peers[1], [rig.uuid(0)]);
    assert_eq!(peers[2], [rig.uuid(3)]);
    assert_eq!(peers[3], [rig.uuid(2)]);
    assert!(peers[4].is_empty(), "its only link is down");
}

#[test]
fn devices_behind_nvswitches_are_peers_of_each_other() {
    let mut config = Config::with_devices(h100s(3));
    for device in &mut config.devices[..2] {
        let remote = Remote::Switch("00000000:F0:00.0".to_owned());
        device.nvlinks = vec![NvLink { active: true, remote }];
    }

    let mut rig = Rig::with(config);

    let peers: Vec<_> = rig.devices().into_iter().map(|device| device.nvlink_peers).collect();
    assert_eq!(peers, [vec![rig.uuid(1)], vec![rig.uuid(0)], vec![]]);
    rig.change(|config| *config = config.clone().with_error("nvmlDeviceGetP2PStatus", 3));
    let unproven = rig.devices();
    assert!(unproven.iter().all(|device| device.nvlink_peers.is_empty()), "not told, not assumed");
}

#[test]
fn a_link_may_stand_behind_one_that_is_not_there() {
    let mut config = Config::with_devices(h100s(2));
    config.link_all(&[0, 1]);
    for (device, other) in [(0, 1), (1, 0)] {
        let down = NvLink { active: false, remote: Remote::Device(other) };
        config.devices[device].nvlinks.insert(0, down);
    }

    let rig = Rig::with(config);

    assert_eq!(rig.devices()[0].nvlink_peers, [rig.uuid(1)]);
}

#[test]
fn a_change_is_seen_at_the_next_call() {
    let mut rig = Rig::new(h100s(2));

    rig.change(|config| config.devices.push(DeviceConfig::t4(2)));
    rig.change(|config| config.devices[0].mig = MigConfig::Enabled(Vec::new()));

    let devices = rig.devices();
    assert_eq!(devices.len(), 3);
    assert_eq!(devices[0].mig, MigState::Enabled { instances: Vec::new() });
}

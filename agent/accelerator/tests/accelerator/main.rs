//! The accelerators against what they stand for: a fake NVML library, files, and, where the driver
//! is not loaded, NVIDIA's real library.
#![allow(clippy::unwrap_used, missing_docs)]

mod contract;
mod faults;
mod inventory;
mod opening;
mod real_library;
mod simulation;
mod usage;

use fgpu_accelerator::{Accelerator, NvmlAccelerator, NvmlConfig};
use fgpu_domain::device::{Device, DeviceHealth};
use fgpu_domain::ids::DeviceUuid;
use fgpu_testkit::nvml::FakeNvml;
use fgpu_testkit::nvml::config::{Config, DeviceConfig};

/// An accelerator over a fake driver, and the driver to change.
struct Rig {
    accelerator: NvmlAccelerator,
    config: Config,
    fake: FakeNvml,
    _sysfs: tempfile::TempDir,
}

impl Rig {
    fn new(devices: Vec<DeviceConfig>) -> Self {
        Self::with(Config::with_devices(devices))
    }

    fn with(config: Config) -> Self {
        Self::with_sysfs(config, &[])
    }

    /// `numa` are lines of sysfs: PCI address and what its `numa_node` says.
    fn with_sysfs(config: Config, numa: &[(&str, &str)]) -> Self {
        let fake = FakeNvml::new(&config);
        let sysfs = tempfile::tempdir().unwrap();
        for (address, node) in numa {
            let folder = sysfs.path().join("bus/pci/devices").join(address);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("numa_node"), node).unwrap();
        }
        let accelerator = NvmlAccelerator::open(NvmlConfig {
            library: Some(fake.library()),
            sysfs: sysfs.path().to_owned(),
            ..NvmlConfig::default()
        });
        Self { accelerator: accelerator.unwrap(), config, fake, _sysfs: sysfs }
    }

    /// Changes what the driver says from the next call on.
    fn change(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.fake.set(&self.config);
    }

    fn devices(&self) -> Vec<Device> {
        self.accelerator.discover().unwrap()
    }

    fn uuid(&self, index: usize) -> DeviceUuid {
        DeviceUuid::new(self.config.devices[index].uuid.clone()).unwrap()
    }

    /// The reason against the device at `index`, by its health and by a new discovery alike.
    fn reason(&self, index: usize) -> Option<String> {
        let polled = reason_in(self.accelerator.health().unwrap(), &self.uuid(index));
        let discovered = self.devices().into_iter().map(|device| (device.uuid, device.health));
        assert_eq!(polled, reason_in(discovered.collect(), &self.uuid(index)));
        polled
    }

    /// Which devices have something against them.
    fn unhealthy(&self) -> Vec<usize> {
        (0..self.config.devices.len()).filter(|index| self.reason(*index).is_some()).collect()
    }
}

fn reason_in(health: Vec<(DeviceUuid, DeviceHealth)>, uuid: &DeviceUuid) -> Option<String> {
    let (_, health) =
        health.into_iter().find(|(of, _)| of == uuid).expect("every device has health");
    match health {
        DeviceHealth::Healthy => None,
        DeviceHealth::Unhealthy { reason } => Some(reason),
    }
}

fn h100s(count: u8) -> Vec<DeviceConfig> {
    (0..count).map(DeviceConfig::h100).collect()
}

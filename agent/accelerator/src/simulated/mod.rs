//! Devices that exist only in a simulation, from a text or a file.
//!
//! [`models`] knows the cards people name, [`text`] reads `8xH100-80GB`, [`mod@file`] reads the file;
//! both give [`SimulatedDevice`]s, and this module makes devices of them. Nothing is measured:
//! usage is what the file says, and idle otherwise.

mod file;
mod models;
mod text;

use crate::error::AcceleratorError;
use crate::spec::SpecError;
use crate::{Accelerator, AcceleratorInfo};
use fgpu_domain::device::{Device, DeviceHealth, DeviceUsage, MigInstance, MigState, ProcessUsage};
use fgpu_domain::ids::DeviceUuid;
use fgpu_domain::units::MemoryBytes;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The most devices one simulated node may have.
const MAX_DEVICES: u32 = 1024;

/// Simulated devices of one node. UUIDs (`SIM-…`) depend on the seed and the index alone.
#[derive(Debug)]
pub struct SimulatedAccelerator {
    seed: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Text(Vec<SimulatedDevice>),
    File { path: PathBuf, read: Mutex<Option<file::Read>> },
}

/// One device as it is to be simulated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct SimulatedDevice {
    model: String,
    memory: MemoryBytes,
    multiprocessors: Option<u32>,
    numa_node: Option<u32>,
    nvlink_group: Option<String>,
    /// `None`: the card has no MIG.
    mig: Option<Mig>,
    unhealthy: Option<String>,
    memory_used: MemoryBytes,
    utilization_milli: u32,
    temperature_celsius: Option<u32>,
    power_milliwatts: Option<u64>,
    processes: Vec<ProcessUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mig {
    Disabled,
    Enabled(Vec<SimulatedInstance>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SimulatedInstance {
    profile: String,
    memory: MemoryBytes,
    multiprocessors: u32,
}

impl SimulatedAccelerator {
    /// Devices from a text such as `4xA100-40GB,2xT4-16GB`: groups of `[COUNTx]MODEL-SIZE`.
    ///
    /// `80GB` means 80 GiB here, as on the label of a card (which reports a little less), so that
    /// default units come out even; `80GiB` and `512MiB` may be written as well.
    ///
    /// # Errors
    /// [`AcceleratorError::Simulation`] names the group that is not understood.
    pub fn from_text(devices: &str, seed: &str) -> Result<Self, AcceleratorError> {
        let devices = text::parse(devices)?;
        Ok(Self { seed: seed.to_owned(), source: Source::Text(devices) })
    }

    /// Devices from a file, TOML, or JSON if its name ends so. It is read again at every call: a
    /// change (a device made unhealthy, memory in use) shows at the next one.
    ///
    /// # Errors
    /// [`AcceleratorError::SimulationFile`] names the file and what is wrong in it.
    pub fn from_file(path: &Path, seed: &str) -> Result<Self, AcceleratorError> {
        let source = Source::File { path: path.to_owned(), read: Mutex::new(None) };
        let accelerator = Self { seed: seed.to_owned(), source };
        accelerator.devices()?;
        Ok(accelerator)
    }

    fn devices(&self) -> Result<Vec<SimulatedDevice>, AcceleratorError> {
        match &self.source {
            Source::Text(devices) => Ok(devices.clone()),
            Source::File { path, read } => {
                let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
                file::read_again(path, &mut read).map_err(|source| {
                    AcceleratorError::SimulationFile { path: path.clone(), source }
                })
            }
        }
    }

    /// The devices with their indices and UUIDs.
    fn identified(&self) -> Result<Vec<(u32, DeviceUuid, SimulatedDevice)>, AcceleratorError> {
        let devices = self.devices()?;
        Ok((0_u32..)
            .zip(devices)
            .map(|(index, device)| (index, uuid("SIM", &self.seed, &[index]), device))
            .collect())
    }

    fn mig(&self, index: u32, device: &SimulatedDevice) -> MigState {
        let instances = match &device.mig {
            None => return MigState::Unsupported,
            Some(Mig::Disabled) => return MigState::Disabled,
            Some(Mig::Enabled(instances)) => instances,
        };
        let identified = (0_u32..).zip(instances).map(|(number, instance)| MigInstance {
            uuid: uuid("MIG", &self.seed, &[index, number]),
            profile: instance.profile.clone(),
            memory: instance.memory,
            multiprocessors: instance.multiprocessors,
            health: DeviceHealth::Healthy,
        });
        MigState::Enabled { instances: identified.collect() }
    }
}

impl Accelerator for SimulatedAccelerator {
    fn kind(&self) -> &'static str {
        "sim"
    }

    fn info(&self) -> AcceleratorInfo {
        AcceleratorInfo {
            kind: self.kind(),
            driver_version: None,
            nvml_version: None,
            cuda_version: None,
            simulated: true,
        }
    }

    fn discover(&self) -> Result<Vec<Device>, AcceleratorError> {
        let devices = self.identified()?;
        Ok(devices
            .iter()
            .map(|(index, uuid, device)| Device {
                uuid: uuid.clone(),
                index: *index,
                model: device.model.clone(),
                memory: device.memory,
                multiprocessors: device.multiprocessors,
                pci_bus_id: None,
                numa_node: device.numa_node,
                nvlink_peers: peers(uuid, device, &devices),
                mig: self.mig(*index, device),
                health: health(device),
                simulated: true,
            })
            .collect())
    }

    fn usage(&self) -> Result<Vec<DeviceUsage>, AcceleratorError> {
        let devices = self.identified()?;
        Ok(devices
            .into_iter()
            .map(|(_, uuid, device)| DeviceUsage {
                uuid,
                memory_used: device.memory_used,
                utilization_milli: Some(device.utilization_milli),
                temperature_celsius: device.temperature_celsius,
                power_milliwatts: device.power_milliwatts,
                processes: device.processes,
            })
            .collect())
    }

    fn health(&self) -> Result<Vec<(DeviceUuid, DeviceHealth)>, AcceleratorError> {
        let devices = self.identified()?;
        Ok(devices.into_iter().map(|(_, uuid, device)| (uuid, health(&device))).collect())
    }
}

/// The other devices of the same NVLink group, unless there is none.
fn peers(
    own: &DeviceUuid,
    device: &SimulatedDevice,
    all: &[(u32, DeviceUuid, SimulatedDevice)],
) -> Vec<DeviceUuid> {
    let Some(group) = &device.nvlink_group else { return Vec::new() };
    let mut peers: Vec<_> = all
        .iter()
        .filter(|(_, uuid, other)| uuid != own && other.nvlink_group.as_ref() == Some(group))
        .map(|(_, uuid, _)| uuid.clone())
        .collect();
    peers.sort();
    peers
}

fn health(device: &SimulatedDevice) -> DeviceHealth {
    match &device.unhealthy {
        None => DeviceHealth::Healthy,
        Some(reason) => DeviceHealth::Unhealthy { reason: reason.clone() },
    }
}

/// Whether `devices` is a text that [`SimulatedAccelerator::from_text`] takes.
pub(crate) fn check(devices: &str) -> Result<(), SpecError> {
    text::parse(devices).map(drop)
}

/// A UUID in the usual five groups, from the seed and the numbers alone.
fn uuid(prefix: &str, seed: &str, numbers: &[u32]) -> DeviceUuid {
    let mut hash = Sha256::new();
    hash.update(prefix.as_bytes());
    hash.update((seed.len() as u64).to_le_bytes());
    hash.update(seed.as_bytes());
    for number in numbers {
        hash.update(number.to_le_bytes());
    }
    let mut text = format!("{prefix}-");
    for (at, byte) in hash.finalize().iter().take(16).enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    DeviceUuid::new(text).expect("letters, digits and `-`, shorter than the limit")
}

/// Refuses more devices than a node may have.
fn limited(count: u64) -> Result<(), SpecError> {
    if count > u64::from(MAX_DEVICES) {
        return Err(SpecError::TooMany { count, limit: MAX_DEVICES });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_keeps_its_uuid_and_no_two_nodes_share_one() {
        let of = |seed| SimulatedAccelerator::from_text("8xH100-80GB", seed).unwrap();
        let uuids = |accelerator: &SimulatedAccelerator| -> Vec<_> {
            accelerator.discover().unwrap().into_iter().map(|device| device.uuid).collect()
        };

        let (first, again, other) = (uuids(&of("a1")), uuids(&of("a1")), uuids(&of("b2")));

        assert_eq!(first, again);
        assert!(first.iter().all(|uuid| !other.contains(uuid)));
        assert!(first[0].as_str().starts_with("SIM-"), "{}", first[0]);
        assert_ne!(uuid("SIM", "a", &[1]), uuid("SIM", "a\u{1}", &[]));
    }

    #[test]
    fn a_simulated_device_says_so_and_is_idle() {
        let accelerator = SimulatedAccelerator::from_text("T4-16GB", "a1").unwrap();

        assert!(accelerator.info().simulated);
        assert!(accelerator.discover().unwrap().iter().all(|device| device.simulated));
        let usage = accelerator.usage().unwrap();
        assert_eq!(usage[0].memory_used, MemoryBytes::ZERO);
        assert_eq!(usage[0].utilization_milli, Some(0));
    }
}

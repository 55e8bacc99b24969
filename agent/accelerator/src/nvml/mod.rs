//! Devices through NVIDIA's library.
//!
//! [`sweep`] asks for every device once; [`inventory`], [`nvlink`], [`usage`] and [`health`] ask one
//! device for one subject; [`xid`] listens for faults that are told only once. This module keeps
//! what must outlive a device's failure: who it was, and what was seen of it.
//!
//! A value a device does not support is absent; a device that does not answer is unhealthy; only a
//! library that does not answer is an error.

mod cores;
mod failure;
mod health;
mod inventory;
mod nvlink;
mod sweep;
mod usage;
mod xid;

pub use xid::APPLICATION_XIDS;

use crate::error::AcceleratorError;
use crate::{Accelerator, AcceleratorInfo};
use fgpu_domain::device::{Device, DeviceHealth, DeviceUsage};
use fgpu_domain::ids::DeviceUuid;
use nvml_wrapper::Nvml;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sweep::{Seen, Sweep};

/// How to reach NVML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmlConfig {
    /// The library; `libnvidia-ml.so.1` by the loader's own search if absent.
    pub library: Option<PathBuf>,
    /// Where sysfs is, for the NUMA node of a device.
    pub sysfs: PathBuf,
    /// Xid errors that say nothing against the device, because a program causes them.
    pub ignored_xids: Vec<u64>,
}

impl Default for NvmlConfig {
    fn default() -> Self {
        Self {
            library: None,
            sysfs: PathBuf::from("/sys"),
            ignored_xids: APPLICATION_XIDS.to_vec(),
        }
    }
}

/// The devices NVIDIA's driver has.
///
/// A device with a serious Xid stays unhealthy until the accelerator is opened anew; every other
/// fault ends when the driver no longer tells it.
pub struct NvmlAccelerator {
    nvml: Arc<Nvml>,
    config: NvmlConfig,
    watcher: xid::Watcher,
    memory: Mutex<Memory>,
}

/// What is kept between calls.
#[derive(Default)]
struct Memory {
    /// The devices of the last discovery.
    known: BTreeMap<DeviceUuid, Device>,
    /// Serious Xids seen, in order, each once.
    xids: BTreeMap<DeviceUuid, Vec<u64>>,
}

impl NvmlAccelerator {
    /// Loads NVML and finds the devices. A machine without devices is no error.
    ///
    /// # Errors
    /// [`AcceleratorError`] distinguishes a missing library, a missing driver, missing permission
    /// and a version mismatch, each with its next step.
    pub fn open(config: NvmlConfig) -> Result<Self, AcceleratorError> {
        let mut builder = Nvml::builder();
        if let Some(library) = &config.library {
            builder.lib_path(library.as_os_str());
        }
        let nvml =
            builder.init().map_err(|error| failure::opening(config.library.as_deref(), error))?;
        check_age(&nvml)?;
        let nvml = Arc::new(nvml);
        let watcher = xid::Watcher::start(nvml.clone()).map_err(|source| {
            AcceleratorError::Other { call: "starting to watch events", source: source.into() }
        })?;
        let accelerator = Self { nvml, config, watcher, memory: Mutex::default() };
        accelerator.discover()?;
        Ok(accelerator)
    }

    /// As [`open`](Self::open), but a machine without devices is an error.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`AcceleratorError::NoDevices`].
    pub fn open_with_devices(config: NvmlConfig) -> Result<Self, AcceleratorError> {
        let accelerator = Self::open(config)?;
        if accelerator.memory().known.is_empty() {
            return Err(AcceleratorError::NoDevices);
        }
        Ok(accelerator)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the Xids told since the last time.
    fn listen(&self, memory: &mut Memory) {
        for event in self.watcher.drain() {
            if self.config.ignored_xids.contains(&event.xid) {
                tracing::info!(device = %event.device, xid = event.xid, "a program made an Xid");
                continue;
            }
            tracing::warn!(device = %event.device, xid = event.xid, "the device made an Xid");
            let seen = memory.xids.entry(event.device).or_default();
            if !seen.contains(&event.xid) {
                seen.push(event.xid);
            }
        }
    }

    /// Whether a device may take work, from how it answers now and what is remembered of it.
    fn judge(memory: &Memory, uuid: &DeviceUuid, seen: Option<&Seen<'_>>) -> DeviceHealth {
        let mut reasons: Vec<String> =
            memory.xids.get(uuid).into_iter().flatten().map(|xid| xid::describe(*xid)).collect();
        match seen {
            Some(Seen::Present { device, .. }) => reasons.extend(health::faults(device)),
            Some(Seen::Failed { error, .. }) => reasons.push(failure::of_device(error)),
            None => reasons.push("the driver no longer lists the device".to_owned()),
        }
        if reasons.is_empty() {
            return DeviceHealth::Healthy;
        }
        DeviceHealth::Unhealthy { reason: reasons.join("; ") }
    }
}

/// Refuses a driver that cannot tell a device's memory, without which nothing can be given.
fn check_age(nvml: &Nvml) -> Result<(), AcceleratorError> {
    if nvml.lib().nvmlDeviceGetMemoryInfo_v2.is_ok() {
        return Ok(());
    }
    Err(AcceleratorError::DriverTooOld {
        version: nvml.sys_driver_version().unwrap_or_else(|_| "of unknown version".to_owned()),
        function: "nvmlDeviceGetMemoryInfo_v2",
        needed: 510,
    })
}

impl Accelerator for NvmlAccelerator {
    fn kind(&self) -> &'static str {
        "nvml"
    }

    fn info(&self) -> AcceleratorInfo {
        let cuda = self.nvml.sys_cuda_driver_version().ok();
        AcceleratorInfo {
            kind: self.kind(),
            driver_version: self.nvml.sys_driver_version().ok(),
            nvml_version: self.nvml.sys_nvml_version().ok(),
            cuda_version: cuda.map(|cuda| format!("{}.{}", cuda / 1000, cuda % 1000 / 10)),
            simulated: false,
        }
    }

    fn discover(&self) -> Result<Vec<Device>, AcceleratorError> {
        let mut memory = self.memory();
        self.listen(&mut memory);
        let sweep = Sweep::of(&self.nvml, &memory.known)?;
        for (index, error) in &sweep.unidentified {
            tracing::warn!(index, %error, "a device does not say which one it is: left out");
        }
        let mut devices: Vec<Device> = sweep
            .present()
            .map(|(index, uuid, device)| {
                inventory::describe(index, uuid, device, memory.known.get(uuid), &self.config.sysfs)
            })
            .collect();
        nvlink::connect(&sweep, &mut devices);
        devices.extend(sweep.absent(&memory.known).map(|device| Device {
            // No link of a device that does not answer leads anywhere.
            nvlink_peers: Vec::new(),
            ..device.clone()
        }));
        for device in &mut devices {
            device.health = Self::judge(&memory, &device.uuid, sweep.find(&device.uuid));
        }
        number(&mut devices, |uuid| sweep.find(uuid).is_some());
        memory.known = devices.iter().map(|device| (device.uuid.clone(), device.clone())).collect();
        Ok(devices)
    }

    fn usage(&self) -> Result<Vec<DeviceUsage>, AcceleratorError> {
        let memory = self.memory();
        let sweep = Sweep::of(&self.nvml, &memory.known)?;
        let (mut cards, mut instances) = (Vec::new(), Vec::new());
        for known in memory.by_index() {
            let of_card = known.instances().iter().map(|instance| &instance.uuid);
            match sweep.find(&known.uuid) {
                Some(Seen::Present { device, .. }) => {
                    cards.push(usage::measure(&known.uuid, device));
                    instances.extend(usage::measure_instances(of_card, device));
                }
                Some(Seen::Failed { .. }) | None => {
                    cards.push(usage::nothing(&known.uuid));
                    instances.extend(of_card.map(usage::nothing));
                }
            }
        }
        cards.append(&mut instances);
        Ok(cards)
    }

    fn health(&self) -> Result<Vec<(DeviceUuid, DeviceHealth)>, AcceleratorError> {
        let mut memory = self.memory();
        self.listen(&mut memory);
        let sweep = Sweep::of(&self.nvml, &memory.known)?;
        let judged: Vec<_> = memory
            .by_index()
            .map(|known| {
                let health = Self::judge(&memory, &known.uuid, sweep.find(&known.uuid));
                (known.uuid.clone(), health)
            })
            .collect();
        Ok(judged)
    }
}

impl Memory {
    /// The known devices in the order of their indices.
    fn by_index(&self) -> impl Iterator<Item = &Device> {
        let mut devices: Vec<_> = self.known.values().collect();
        devices.sort_by_key(|device| device.index);
        devices.into_iter()
    }
}

/// Sorts devices as the driver numbers them. One that the driver no longer lists may have lost its
/// number to another: it goes behind the last.
fn number(devices: &mut [Device], listed: impl Fn(&DeviceUuid) -> bool) {
    devices.sort_by_key(|device| (device.index, !listed(&device.uuid)));
    let mut free = devices.last().map_or(0, |last| last.index.saturating_add(1));
    let mut last = None;
    for device in devices.iter_mut() {
        if last == Some(device.index) {
            device.index = free;
            free = free.saturating_add(1);
        } else {
            last = Some(device.index);
        }
    }
    devices.sort_by_key(|device| device.index);
}

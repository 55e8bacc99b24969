//! The accelerators of a node: what devices there are, what they do, and whether they are well.
//!
//! [`Accelerator`] is where the world begins. [`NvmlAccelerator`] asks NVIDIA's library;
//! [`SimulatedAccelerator`] invents devices from a text or a file, so that everything can be tried
//! without a GPU. [`AcceleratorSpec`] is the text a person chooses one with; [`open`] opens it.
//!
//! What always holds, for either: UUIDs are unique and stable, indices are unique (0 to n − 1 unless
//! a device failed before anyone knew which one it is), usage and health cover exactly the devices
//! of the last discovery, and a device that fails makes no other device fail.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod nvml;
mod simulated;
mod spec;

pub use error::AcceleratorError;
pub use nvml::{APPLICATION_XIDS, NvmlAccelerator, NvmlConfig};
pub use simulated::SimulatedAccelerator;
pub use spec::{AcceleratorSpec, SpecError};

use fgpu_domain::device::{Device, DeviceHealth, DeviceUsage};
use fgpu_domain::ids::DeviceUuid;

/// The devices of one node. Calls block (a driver may take milliseconds): run them off the async
/// threads.
pub trait Accelerator: Send + Sync {
    /// Which kind this is, as the flag names it: `nvml` or `sim`.
    fn kind(&self) -> &'static str;

    /// What is behind it.
    fn info(&self) -> AcceleratorInfo;

    /// The whole inventory, health included, by index. Devices that failed since the last call are
    /// in it as they were last known, unhealthy.
    ///
    /// # Errors
    /// [`AcceleratorError`] when the accelerator as a whole does not answer; never for one device.
    fn discover(&self) -> Result<Vec<Device>, AcceleratorError>;

    /// What each device of the last [`discover`](Self::discover) is doing, and behind them each MIG
    /// instance: cheap enough for every heartbeat. A device that does not answer is in it with nothing
    /// measured.
    ///
    /// # Errors
    /// As [`discover`](Self::discover).
    fn usage(&self) -> Result<Vec<DeviceUsage>, AcceleratorError>;

    /// Whether each device of the last [`discover`](Self::discover) may take new work. To be called
    /// every few seconds: some faults are told only once, and are kept here.
    ///
    /// # Errors
    /// As [`discover`](Self::discover).
    fn health(&self) -> Result<Vec<(DeviceUuid, DeviceHealth)>, AcceleratorError>;
}

/// What is behind an accelerator, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceleratorInfo {
    /// As [`Accelerator::kind`].
    pub kind: &'static str,
    /// Version of the kernel driver, if it tells.
    pub driver_version: Option<String>,
    /// Version of NVML, if it tells.
    pub nvml_version: Option<String>,
    /// The newest CUDA the driver takes, e.g. `12.8`, if it tells.
    pub cuda_version: Option<String>,
    /// True when the devices exist only in a simulation.
    pub simulated: bool,
}

/// Opens the accelerator `spec` chooses. Simulated devices derive their UUIDs from `seed`: give the
/// node's name, so that no two nodes share a device.
///
/// `auto` is NVML with at least one device; whether to simulate instead is for the caller to decide.
///
/// # Errors
/// [`AcceleratorError`] says what is missing and what to do about it.
pub fn open(spec: &AcceleratorSpec, seed: &str) -> Result<Box<dyn Accelerator>, AcceleratorError> {
    Ok(match spec {
        AcceleratorSpec::Auto => {
            Box::new(NvmlAccelerator::open_with_devices(NvmlConfig::default())?)
        }
        AcceleratorSpec::Nvml { library } => Box::new(NvmlAccelerator::open(NvmlConfig {
            library: library.clone(),
            ..NvmlConfig::default()
        })?),
        AcceleratorSpec::Simulated { devices } => {
            Box::new(SimulatedAccelerator::from_text(devices, seed)?)
        }
        AcceleratorSpec::SimulatedFile { path } => {
            Box::new(SimulatedAccelerator::from_file(path, seed)?)
        }
    })
}

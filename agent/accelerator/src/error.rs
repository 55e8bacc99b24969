//! Why an accelerator does not answer.

use crate::spec::SpecError;
use std::error::Error;
use std::path::PathBuf;

/// Why an accelerator, as a whole, did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AcceleratorError {
    /// There is no NVML library, or what is there is none.
    #[error(
        "cannot load the NVML library `{library}`: install the NVIDIA driver, name the library \
         with `--accelerator nvml:/path/libnvidia-ml.so.1`, or simulate devices with \
         `--accelerator sim:8xH100-80GB`"
    )]
    LibraryNotFound {
        /// The name or path that was tried.
        library: String,
        /// What the loader said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The library is there, the kernel driver is not.
    #[error(
        "the NVIDIA kernel driver is not loaded: `modprobe nvidia`, see `dmesg`, or simulate \
         devices with `--accelerator sim:8xH100-80GB`"
    )]
    DriverNotLoaded,
    /// The driver refuses this user.
    #[error(
        "no permission to talk to the NVIDIA driver: run as root, or let this user open \
         `/dev/nvidia*`"
    )]
    NoPermission,
    /// Library and kernel driver are of different versions, as after an upgrade.
    #[error(
        "driver/library version mismatch: the loaded kernel driver is not the installed one; \
         reboot, or unload and load the nvidia modules"
    )]
    VersionMismatch,
    /// The library lacks a function that nothing can be done without.
    #[error(
        "the NVIDIA driver {version} is too old: its NVML lacks `{function}`; install driver \
         {needed} or newer"
    )]
    DriverTooOld {
        /// The driver's version, as it says.
        version: String,
        /// What is missing.
        function: &'static str,
        /// The first driver branch that has it.
        needed: u32,
    },
    /// Everything works and there is nothing.
    #[error(
        "the NVIDIA driver finds no device: see `nvidia-smi -L`, or simulate devices with \
         `--accelerator sim:8xH100-80GB`"
    )]
    NoDevices,
    /// The devices to simulate are not understood.
    #[error("cannot simulate devices")]
    Simulation(#[from] SpecError),
    /// The file of devices to simulate cannot be used.
    #[error("cannot simulate devices from `{}`", path.display())]
    SimulationFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Anything else NVML said.
    #[error("NVML call `{call}` failed")]
    Other {
        /// The call.
        call: &'static str,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
}

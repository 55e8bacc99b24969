//! What the fake library answers, as a file.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Everything one fake driver has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The driver's version.
    pub driver_version: String,
    /// The library's version.
    pub nvml_version: String,
    /// CUDA's version as NVML numbers it: 1000 × major + 10 × minor.
    pub cuda_version: i32,
    /// The NVML error that initialising gives, e.g. 9 (driver not loaded) or 18 (mismatch).
    pub init_error: Option<u32>,
    /// Calls that fail.
    pub errors: Vec<CallError>,
    /// The devices, in NVML's order.
    pub devices: Vec<DeviceConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            driver_version: "570.124.06".to_owned(),
            nvml_version: "12.570.124.06".to_owned(),
            cuda_version: 12080,
            init_error: None,
            errors: Vec::new(),
            devices: Vec::new(),
        }
    }
}

impl Config {
    /// A healthy driver with these devices.
    #[must_use]
    pub fn with_devices(devices: Vec<DeviceConfig>) -> Self {
        Self { devices, ..Self::default() }
    }

    /// A driver that answers initialisation with the NVML error `code`.
    #[must_use]
    pub fn failing_init(code: u32) -> Self {
        Self { init_error: Some(code), ..Self::default() }
    }

    /// The same with `call` failing with the NVML error `error`, on every device.
    #[must_use]
    pub fn with_error(mut self, call: &str, error: u32) -> Self {
        self.errors.push(CallError { call: call.to_owned(), device: None, error });
        self
    }

    /// Joins every pair of the devices at `members` by one active NVLink each.
    pub fn link_all(&mut self, members: &[u32]) {
        for &from in members {
            for &to in members.iter().filter(|to| **to != from) {
                if let Some(device) =
                    usize::try_from(from).ok().and_then(|i| self.devices.get_mut(i))
                {
                    device.nvlinks.push(NvLink { active: true, remote: Remote::Device(to) });
                }
            }
        }
    }

    /// Writes the file in one step: a reader sees the old content or the new, never half.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let mut next = path.as_os_str().to_owned();
        next.push(".next");
        std::fs::write(&next, text)?;
        std::fs::rename(&next, path)
    }
}

/// One call that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallError {
    /// The function, with or without its `_v2` ending.
    pub call: String,
    /// Only for the device at this index; for all, and for calls without a device, if absent.
    #[serde(default)]
    pub device: Option<u32>,
    /// The NVML error code it gives, e.g. 3 (not supported).
    pub error: u32,
}

/// One fake device. A field that is `None` answers "not supported".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Marketing name.
    pub name: String,
    /// UUID, `GPU-…`.
    pub uuid: String,
    /// PCI address, `DDDDDDDD:BB:DD.0` in hexadecimal.
    pub pci_bus_id: String,
    /// Total memory, bytes.
    pub memory_total: u64,
    /// Memory in use by processes, bytes.
    #[serde(default)]
    pub memory_used: u64,
    /// Memory the driver keeps, bytes.
    #[serde(default)]
    pub memory_reserved: u64,
    /// CUDA cores.
    #[serde(default)]
    pub cores: Option<u32>,
    /// CUDA compute capability, major and minor.
    #[serde(default)]
    pub compute_capability: Option<(i32, i32)>,
    /// Share of time with a kernel running, percent.
    #[serde(default)]
    pub utilization_percent: Option<u32>,
    /// Degrees Celsius.
    #[serde(default)]
    pub temperature_celsius: Option<u32>,
    /// Milliwatts.
    #[serde(default)]
    pub power_milliwatts: Option<u32>,
    /// The host's NUMA node nearest to it (memory affinity).
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// MIG.
    #[serde(default)]
    pub mig: MigConfig,
    /// NVLinks by number.
    #[serde(default)]
    pub nvlinks: Vec<NvLink>,
    /// Processes with a compute context; `None`: not supported.
    #[serde(default = "no_processes")]
    pub compute_processes: Option<Vec<Process>>,
    /// Processes with a graphics context; `None`: not supported.
    #[serde(default = "no_processes")]
    pub graphics_processes: Option<Vec<Process>>,
    /// Clients of MPS; `None`: not supported.
    #[serde(default)]
    pub mps_processes: Option<Vec<Process>>,
    /// Uncorrected ECC errors since the driver was loaded; `None`: no ECC.
    #[serde(default)]
    pub ecc_uncorrected: Option<u64>,
    /// Row remapping; `None`: not supported.
    #[serde(default)]
    pub remapped_rows: Option<RemappedRows>,
    /// Whether pages wait to be retired; `None`: not supported.
    #[serde(default)]
    pub retired_pages_pending: Option<bool>,
    /// Xid errors, each given once to every event set, in this order.
    #[serde(default)]
    pub xids: Vec<u64>,
    /// Whether events can be waited for.
    #[serde(default = "yes")]
    pub events_supported: bool,
    /// Fallen off the bus: every call on it says "GPU is lost".
    #[serde(default)]
    pub lost: bool,
}

fn yes() -> bool {
    true
}

#[allow(clippy::unnecessary_wraps, reason = "the default of an optional field")]
fn no_processes() -> Option<Vec<Process>> {
    Some(Vec::new())
}

impl DeviceConfig {
    /// An H100 SXM with 80 GB, as the driver reports one; `index` makes the identity.
    #[must_use]
    pub fn h100(index: u8) -> Self {
        Self {
            remapped_rows: Some(RemappedRows::default()),
            mig: MigConfig::Disabled,
            ..Self::new("NVIDIA H100 80GB HBM3", index, 81_559, 16_896, (9, 0))
        }
    }

    /// An A100 SXM with 40 GB.
    #[must_use]
    pub fn a100(index: u8) -> Self {
        Self {
            remapped_rows: Some(RemappedRows::default()),
            mig: MigConfig::Disabled,
            ..Self::new("NVIDIA A100-SXM4-40GB", index, 40_960, 6_912, (8, 0))
        }
    }

    /// A T4 with 16 GB: no MIG, no NVLink, page retirement instead of row remapping.
    #[must_use]
    pub fn t4(index: u8) -> Self {
        Self {
            retired_pages_pending: Some(false),
            ..Self::new("Tesla T4", index, 15_360, 2_560, (7, 5))
        }
    }

    fn new(name: &str, index: u8, mib: u64, cores: u32, compute_capability: (i32, i32)) -> Self {
        Self {
            name: name.to_owned(),
            uuid: format!("GPU-{index:08x}-0000-4000-8000-{index:012x}"),
            pci_bus_id: format!("00000000:{:02X}:00.0", index.saturating_add(0x10)),
            memory_total: mib << 20,
            memory_used: 0,
            memory_reserved: 512 << 20,
            cores: Some(cores),
            compute_capability: Some(compute_capability),
            utilization_percent: Some(0),
            temperature_celsius: Some(30),
            power_milliwatts: Some(70_000),
            numa_node: None,
            mig: MigConfig::Unsupported,
            nvlinks: Vec::new(),
            compute_processes: no_processes(),
            graphics_processes: no_processes(),
            mps_processes: no_processes(),
            ecc_uncorrected: Some(0),
            remapped_rows: None,
            retired_pages_pending: None,
            xids: Vec::new(),
            events_supported: true,
            lost: false,
        }
    }
}

/// MIG of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigConfig {
    /// The card has none.
    #[default]
    Unsupported,
    /// It is off.
    Disabled,
    /// It is on, with these instances.
    Enabled(Vec<MigInstanceConfig>),
}

/// One MIG instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigInstanceConfig {
    /// UUID, `MIG-…`.
    pub uuid: String,
    /// The name NVML gives it; `None`: the name of the card alone, as old drivers do.
    #[serde(default)]
    pub profile: Option<String>,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Memory in use, bytes.
    #[serde(default)]
    pub memory_used: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Compute slices of its GPU instance, 1 to 7.
    pub slices: u32,
}

/// One NVLink of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvLink {
    /// Whether it is up.
    pub active: bool,
    /// What is at its other end.
    pub remote: Remote,
}

/// The other end of an NVLink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    /// The device at this index.
    Device(u32),
    /// An NVSwitch with this PCI address.
    Switch(String),
}

/// One process on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Memory it holds, bytes; `None`: not available.
    #[serde(default)]
    pub memory: Option<u64>,
    /// The MIG GPU instance it runs on.
    #[serde(default)]
    pub gpu_instance: Option<u32>,
}

/// State of row remapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemappedRows {
    /// A remapping waits for a reset.
    pub pending: bool,
    /// A remapping failed.
    pub failed: bool,
}

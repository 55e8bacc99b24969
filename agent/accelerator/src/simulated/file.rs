//! Devices by file. TOML:
//!
//! ```toml
//! [[devices]]
//! model = "H100-80GB"           # its size is the memory, unless `memory` says otherwise
//! count = 2
//! nvlink_group = "a"            # devices of one group are NVLink peers
//! numa_node = 0
//! mig_capable = true
//!
//! [[devices]]
//! model = "A100-40GB"
//! mig_instances = [{ profile = "3g.20gb" }, { profile = "1g.5gb" }]
//! unhealthy = "Xid 79: fallen off the bus"
//! memory_used = "10GiB"
//! utilization_percent = 35
//! processes = [{ pid = 4711, memory = "10GiB" }]
//! ```
//!
//! JSON has the same keys.

use super::text::size_on_label;
use super::{Mig, SimulatedDevice, SimulatedInstance, limited, models};
use crate::spec::SpecError;
use fgpu_domain::device::ProcessUsage;
use fgpu_domain::units::MemoryBytes;
use serde::{Deserialize, Deserializer, de};
use std::error::Error;
use std::path::Path;

/// What was read, to read again only what changed.
#[derive(Debug)]
pub(super) struct Read {
    content: Vec<u8>,
    devices: Vec<SimulatedDevice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Devices {
    #[serde(default)]
    devices: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    model: String,
    #[serde(default = "one")]
    count: u32,
    #[serde(default, deserialize_with = "size")]
    memory: Option<MemoryBytes>,
    multiprocessors: Option<u32>,
    numa_node: Option<u32>,
    nvlink_group: Option<String>,
    #[serde(default)]
    mig_capable: bool,
    mig_instances: Option<Vec<Instance>>,
    unhealthy: Option<String>,
    #[serde(default, deserialize_with = "size")]
    memory_used: Option<MemoryBytes>,
    #[serde(default)]
    utilization_percent: Percent,
    temperature_celsius: Option<u32>,
    power_milliwatts: Option<u64>,
    #[serde(default)]
    processes: Vec<Process>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Instance {
    profile: String,
    #[serde(default, deserialize_with = "size")]
    memory: Option<MemoryBytes>,
    multiprocessors: Option<u32>,
    #[serde(default, deserialize_with = "size")]
    memory_used: Option<MemoryBytes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Process {
    pid: u32,
    #[serde(default, deserialize_with = "size")]
    memory: Option<MemoryBytes>,
}

/// 0 to 100.
#[derive(Default, Deserialize)]
#[serde(try_from = "u32")]
struct Percent(u32);

impl TryFrom<u32> for Percent {
    type Error = String;

    fn try_from(value: u32) -> Result<Self, String> {
        match value {
            0..=100 => Ok(Self(value)),
            _ => Err(format!("{value} % is more than 100 %")),
        }
    }
}

fn one() -> u32 {
    1
}

/// A memory size as text, `GB` as on a label.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MemoryBytes>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "0" {
        return Ok(Some(MemoryBytes::ZERO));
    }
    let size = size_on_label(&text);
    size.map(Some).ok_or_else(|| {
        de::Error::custom(format!("`{text}` is not a memory size: write e.g. `80GB` or `512MiB`"))
    })
}

/// The devices in the file at `path`; `read` is what the last call gave.
pub(super) fn read_again(
    path: &Path,
    read: &mut Option<Read>,
) -> Result<Vec<SimulatedDevice>, Box<dyn Error + Send + Sync>> {
    let content = std::fs::read(path)?;
    if let Some(last) = read.as_ref().filter(|last| last.content == content) {
        return Ok(last.devices.clone());
    }
    let parsed: Devices = if path.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_slice(&content)?
    } else {
        toml::from_str(std::str::from_utf8(&content)?)?
    };
    limited(parsed.devices.iter().map(|group| u64::from(group.count)).sum())?;
    let mut devices = Vec::new();
    for group in parsed.devices {
        let count = group.count as usize;
        devices.extend(std::iter::repeat_n(device(group)?, count));
    }
    *read = Some(Read { content, devices: devices.clone() });
    Ok(devices)
}

fn device(group: Group) -> Result<SimulatedDevice, SpecError> {
    let labelled = group.model.rsplit_once('-').and_then(|(_, size)| size_on_label(size));
    let Some(memory) = group.memory.filter(|memory| !memory.is_zero()).or(labelled) else {
        let reason = "its memory is not known: write `memory = \"80GB\"`";
        return Err(SpecError::Group { part: group.model, reason });
    };
    let mig = match &group.mig_instances {
        None if group.mig_capable => Some(Mig::Disabled),
        None => None,
        Some(instances) => {
            let made = instances.iter().map(|made| instance(&group.model, made));
            Some(Mig::Enabled(made.collect::<Result<_, _>>()?))
        }
    };
    Ok(SimulatedDevice {
        memory,
        multiprocessors: group.multiprocessors.or_else(|| models::multiprocessors(&group.model)),
        numa_node: group.numa_node,
        nvlink_group: group.nvlink_group,
        mig,
        unhealthy: group.unhealthy,
        memory_used: group.memory_used.unwrap_or_default(),
        utilization_milli: group.utilization_percent.0 * 10,
        temperature_celsius: group.temperature_celsius,
        power_milliwatts: group.power_milliwatts,
        processes: group
            .processes
            .into_iter()
            .map(|process| ProcessUsage { pid: process.pid, memory: process.memory })
            .collect(),
        model: group.model,
    })
}

/// An instance; what it does not say follows from its profile, `3g.40gb`, and its card.
fn instance(model: &str, given: &Instance) -> Result<SimulatedInstance, SpecError> {
    let missing = |missing, key| SpecError::MigInstance {
        profile: given.profile.clone(),
        model: model.to_owned(),
        missing,
        key,
    };
    let named = given.profile.split_once("g.");
    let gigabytes = || named?.1.strip_suffix("gb")?.parse().ok().map(MemoryBytes::gib);
    let slices =
        || named?.0.parse::<u32>().ok()?.checked_mul(models::multiprocessors_per_slice(model)?);
    Ok(SimulatedInstance {
        profile: given.profile.clone(),
        memory_used: given.memory_used.unwrap_or_default(),
        memory: given.memory.or_else(gigabytes).ok_or_else(|| missing("its memory", "memory"))?,
        multiprocessors: given
            .multiprocessors
            .or_else(slices)
            .ok_or_else(|| missing("how many multiprocessors it has", "multiprocessors"))?,
    })
}

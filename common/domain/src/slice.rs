//! Slices: how a request for GPU becomes exact amounts on named devices.
//!
//! The rules of granting: exactly what was asked, or a refusal with numbers. A request is checked
//! against the quantum; a split is made in whole quanta that sum to it. How many devices a request
//! takes depends on what *empty* devices hold, not on the load of the moment ([`DevicePlan`]):
//! what fits one empty allowed device is never split unless `--devices` or `--split` says so.

mod mig;
mod unit;

pub use mig::{MigOrigin, MigProfile, NoMigProfile};
pub use unit::{DeviceUnits, UnitPolicy, UnitRule};

use crate::ids::{DeviceUuid, NodeName};
use crate::units::{ComputeMilli, Fgpu, MIB, MemoryBytes};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// The GPU part of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuRequest {
    /// How much.
    pub amount: GpuAmount,
    /// On exactly this many different devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<NonZeroU32>,
    /// How to divide it, which also allows dividing what one empty device could hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Device models allowed, compared without case as a part of the name; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// MIG instances of this profile, given whole, instead of devices: the amount is their number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<MigProfile>,
}

/// How much GPU is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuAmount {
    /// Memory and compute in proportion, in fGPU, over all devices together.
    Fgpu(Fgpu),
    /// This many whole devices.
    Whole(NonZeroU32),
    /// Memory over all devices together, and compute of each.
    Direct {
        /// Bytes over all devices; follows from the compute share when absent.
        memory: Option<MemoryBytes>,
        /// Compute of each device.
        compute: ComputeRequest,
    },
}

/// How much compute a direct request asks of each device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeRequest {
    /// The same share as of the memory, floored to thousandths.
    Proportional,
    /// This share, from 0.1 %.
    Share(ComputeMilli),
    /// No share of its own: what others leave.
    Shared,
}

/// How an amount is divided over several devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// As evenly as quanta allow (what tensor parallelism wants).
    Even,
    /// Full devices first, the rest on the last.
    Fill,
}

/// One session's share of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Which device.
    pub device: DeviceUuid,
    /// Memory limit in bytes.
    pub memory: MemoryBytes,
    /// Compute limit; zero means no share of its own (`--gpu-compute shared`).
    pub compute: ComputeMilli,
    /// The amount in fGPU, where it was asked for so; else the memory in fGPU, rounded down.
    pub fgpu: Fgpu,
}

/// Where a session runs and what it holds there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The node.
    pub node: NodeName,
    /// Its slices, in the order of the device index; empty for a session without GPU.
    pub slices: Vec<Slice>,
    /// How well the slices are kept apart from those of others.
    pub isolation: Isolation,
}

/// How a slice is kept to its limits, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// All of the device belongs to the session.
    Whole,
    /// A hardware partition (MIG).
    Mig,
    /// The driver's own cgroup memory limit or MPS.
    Driver,
    /// The library inside the container.
    Interposer,
    /// Nothing enforces the limits: the session is trusted to keep to what it is told.
    Shared,
}

/// A part of a request that lands on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// This much fGPU.
    Fgpu(Fgpu),
    /// All of the device.
    Whole,
    /// Amounts given directly; `None` follows from the other.
    Direct {
        /// Bytes on this device.
        memory: Option<MemoryBytes>,
        /// Compute of this device.
        compute: ComputeRequest,
    },
}

/// What a part takes from one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Bytes.
    pub memory: MemoryBytes,
    /// Thousandths of its compute.
    pub compute: ComputeMilli,
}

/// On how many devices a request may be placed, in the order they are tried.
///
/// Fixed for a request and a cluster's hardware; independent of what is allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// Device counts, fewest first; never empty.
    pub counts: Vec<u32>,
    /// How the amount is divided.
    pub split: Split,
}

/// Why a GPU request cannot be granted whatever the load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// Zero of something.
    #[error("{what} of 0 asks for nothing: leave it out for a session without GPU")]
    Zero {
        /// The field.
        what: &'static str,
    },
    /// Not a multiple of the quantum.
    #[error("{asked} fGPU is not a multiple of the quantum {quantum}: ask for {below} or {above}")]
    Quantum {
        /// What was asked.
        asked: Fgpu,
        /// The quantum.
        quantum: Fgpu,
        /// The nearest amount below that may be asked for.
        below: Fgpu,
        /// The nearest amount above.
        above: Fgpu,
    },
    /// Cannot be divided over that many devices in whole quanta.
    #[error("{asked} cannot be divided over {devices} devices: each must get at least {least}")]
    TooFewQuanta {
        /// What was asked.
        asked: String,
        /// Devices wanted.
        devices: u32,
        /// The least a device can give.
        least: String,
    },
    /// `--devices` contradicts `--gpus` or `--mig`.
    #[error("{gpus} whole devices cannot lie on {devices}: leave out `--devices`")]
    WholeCount {
        /// Whole devices asked for.
        gpus: u32,
        /// Devices asked for.
        devices: u32,
    },
    /// No allowed device model exists.
    #[error("no device matches the model {wanted}: the cluster has {available}")]
    NoSuchModel {
        /// What was asked.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// MIG instances are given whole.
    #[error(
        "MIG instances of {profile} are given whole: `--mig {profile}` or `--mig {profile}:COUNT` says it all"
    )]
    PartOfMig {
        /// The profile.
        profile: MigProfile,
    },
    /// No node has an instance of the profile.
    #[error("no card has a MIG instance of {wanted}: the cluster has {available}")]
    NoSuchProfile {
        /// What was asked.
        wanted: MigProfile,
        /// The profiles there are, and on how many nodes.
        available: String,
    },
    /// More MIG instances than any node has.
    #[error("{asked} is more than any node has: the most is {most}")]
    MoreInstancesThanAnyNode {
        /// What was asked.
        asked: String,
        /// The profile.
        profile: MigProfile,
        /// The most one node has.
        most: usize,
    },
    /// More than any node has even when empty.
    #[error("{asked} is more than any node holds: the most is {most}")]
    MoreThanAnyNode {
        /// What was asked.
        asked: String,
        /// The largest amount one node holds when empty.
        most: String,
    },
}

impl Demand {
    /// Whether both dimensions are within `free`.
    #[must_use]
    pub fn fits(self, free: Demand) -> bool {
        self.memory <= free.memory && self.compute <= free.compute
    }

    /// What is left of `self` after `other`, `None` if either dimension would be negative.
    #[must_use]
    pub fn checked_sub(self, other: Demand) -> Option<Demand> {
        Some(Demand {
            memory: self.memory.checked_sub(other.memory)?,
            compute: self.compute.checked_sub(other.compute)?,
        })
    }

    /// Both dimensions added, saturating.
    #[must_use]
    pub fn saturating_add(self, other: Demand) -> Demand {
        Demand {
            memory: self.memory.saturating_add(other.memory),
            compute: self.compute.saturating_add(other.compute),
        }
    }
}

impl Slice {
    /// What the slice takes from its device.
    #[must_use]
    pub fn demand(&self) -> Demand {
        Demand { memory: self.memory, compute: self.compute }
    }
}

impl GpuRequest {
    /// A request for `amount` with nothing else said.
    #[must_use]
    pub fn new(amount: GpuAmount) -> Self {
        Self { amount, devices: None, split: None, models: Vec::new(), mig: None }
    }

    /// Whether a device of `model` may serve this request.
    #[must_use]
    pub fn allows_model(&self, model: &str) -> bool {
        let model = model.to_ascii_lowercase();
        self.models.is_empty()
            || self.models.iter().any(|wanted| model.contains(&wanted.to_ascii_lowercase()))
    }

    /// A request for `count` MIG instances of `profile`.
    #[must_use]
    pub fn mig(profile: MigProfile, count: NonZeroU32) -> Self {
        Self { mig: Some(profile), ..Self::new(GpuAmount::Whole(count)) }
    }

    /// Whether a device may serve this request that is a MIG instance of the profile `instance`, or a
    /// whole card where there is none.
    #[must_use]
    pub fn allows_mig(&self, instance: Option<&str>) -> bool {
        match (&self.mig, instance) {
            (None, None) => true,
            (Some(wanted), Some(profile)) => wanted.is(profile),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// On how many devices the request may lie, given the units of the *allowed* devices of each
    /// node when empty (one inner list per node; nodes without allowed devices may be left out).
    ///
    /// # Errors
    /// [`SliceError::MoreThanAnyNode`] when no node could hold it even when empty.
    pub fn device_plan(
        &self,
        nodes: &[Vec<DeviceUnits>],
        quantum: Fgpu,
    ) -> Result<DevicePlan, SliceError> {
        let split = self.split.unwrap_or(Split::Even);
        let widest = nodes.iter().map(Vec::len).max().unwrap_or(0);
        let holds = |count: u32| {
            nodes.iter().any(|devices| self.fits_empty(devices, count, split, quantum))
        };
        let counts: Vec<u32> = match (self.amount, self.devices) {
            (GpuAmount::Whole(gpus), _) => vec![gpus.get()],
            (_, Some(devices)) => vec![devices.get()],
            _ => (1..=u32::try_from(widest).unwrap_or(u32::MAX)).collect(),
        };
        let mut held: Vec<u32> = counts.into_iter().filter(|count| holds(*count)).collect();
        if self.split.is_none() {
            held.truncate(1);
        }
        if held.is_empty() {
            return Err(match &self.mig {
                Some(profile) => SliceError::MoreInstancesThanAnyNode {
                    asked: self.to_string(),
                    profile: profile.clone(),
                    most: widest,
                },
                None => {
                    SliceError::MoreThanAnyNode { asked: self.to_string(), most: most_held(nodes) }
                }
            });
        }
        Ok(DevicePlan { counts: held, split })
    }

    /// The parts of the request on `count` devices of one node, largest first, or `None` where it
    /// cannot be divided so. `devices` are the units of that node's allowed devices.
    #[must_use]
    pub fn parts(
        &self,
        devices: &[DeviceUnits],
        count: u32,
        split: Split,
        quantum: Fgpu,
    ) -> Option<Vec<Part>> {
        let wanted = usize::try_from(count).ok()?;
        if count == 0 || wanted > devices.len() {
            return None;
        }
        match self.amount {
            GpuAmount::Whole(_) => Some(vec![Part::Whole; wanted]),
            GpuAmount::Fgpu(amount) => {
                let capacities = devices.iter().map(|units| units.capacity.0);
                let amounts = divide(amount.0, quantum.0, count, split, capacities)?;
                Some(amounts.into_iter().map(|amount| Part::Fgpu(Fgpu(amount))).collect())
            }
            GpuAmount::Direct { memory: None, compute } => {
                Some(vec![Part::Direct { memory: None, compute }; wanted])
            }
            // One device gets the very bytes asked for; a split is made in MiB.
            GpuAmount::Direct { memory, compute } if count == 1 => {
                Some(vec![Part::Direct { memory, compute }])
            }
            GpuAmount::Direct { memory: Some(memory), compute } => {
                let capacities = devices.iter().map(|units| units.memory.0);
                let amounts = divide(memory.0, MIB, count, split, capacities)?;
                let part = |bytes| Part::Direct { memory: Some(MemoryBytes(bytes)), compute };
                Some(amounts.into_iter().map(part).collect())
            }
        }
    }

    fn fits_empty(&self, devices: &[DeviceUnits], count: u32, split: Split, quantum: Fgpu) -> bool {
        let Some(parts) = self.parts(devices, count, split, quantum) else { return false };
        let mut sorted: Vec<&DeviceUnits> = devices.iter().collect();
        sorted.sort_by_key(|units| std::cmp::Reverse((units.capacity, units.memory)));
        parts.iter().zip(sorted).all(|(part, units)| {
            let within_units = match part {
                Part::Fgpu(amount) => *amount <= units.capacity,
                Part::Whole | Part::Direct { .. } => true,
            };
            within_units && units.demand(*part).fits(units.whole())
        })
    }
}

impl std::fmt::Display for GpuRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.amount {
            GpuAmount::Fgpu(amount) => write!(f, "{amount} fGPU")?,
            GpuAmount::Whole(count) if self.mig.is_some() => {
                let profile = self.mig.as_ref().map_or("", MigProfile::as_str);
                let plural = if count.get() == 1 { "" } else { "s" };
                write!(f, "{count} MIG instance{plural} of {profile}")?;
            }
            GpuAmount::Whole(count) => write!(f, "{count} whole devices")?,
            GpuAmount::Direct { memory, compute } => {
                let memory = memory.map(|memory| format!("{memory} of device memory"));
                let compute = match compute {
                    ComputeRequest::Share(milli) => Some(format!("{milli} of compute")),
                    ComputeRequest::Shared => Some("shared compute".to_owned()),
                    ComputeRequest::Proportional => None,
                };
                let said: Vec<String> = memory.into_iter().chain(compute).collect();
                f.write_str(&said.join(" and "))?;
            }
        }
        match self.devices {
            Some(devices) if !matches!(self.amount, GpuAmount::Whole(_)) => {
                write!(f, " on {devices} devices")
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Whole => "whole",
            Self::Mig => "mig",
            Self::Driver => "driver",
            Self::Interposer => "interposer",
            Self::Shared => "shared",
        })
    }
}

/// Divides `amount` over `count` devices in steps of `step`, largest first; what is below a step
/// goes to the first. `None` where a device would get nothing.
fn divide(
    amount: u64,
    step: u64,
    count: u32,
    split: Split,
    capacities: impl Iterator<Item = u64>,
) -> Option<Vec<u64>> {
    let (step, count64) = (step.max(1), u64::from(count));
    let (steps, rest) = (amount / step, amount % step);
    if steps < count64 {
        return None;
    }
    let mut parts: Vec<u64> = match split {
        Split::Even => (0..count64)
            .map(|i| (steps / count64 + u64::from(i < steps % count64)) * step)
            .collect(),
        Split::Fill => {
            let mut sorted: Vec<u64> = capacities.map(|capacity| capacity / step).collect();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            fill(steps, &sorted[..usize::try_from(count).ok()?])?
                .into_iter()
                .map(|steps| steps * step)
                .collect()
        }
    };
    parts[0] += rest;
    Some(parts)
}

/// Fills `capacities` one after another, leaving at least one step for each that follows.
fn fill(steps: u64, capacities: &[u64]) -> Option<Vec<u64>> {
    let mut left = steps;
    let mut parts = Vec::with_capacity(capacities.len());
    for (i, capacity) in capacities.iter().enumerate() {
        let after = u64::try_from(capacities.len() - i - 1).ok()?;
        let part = (*capacity).min(left.checked_sub(after)?);
        left -= part;
        parts.push(part);
    }
    (left == 0 && parts.iter().all(|part| *part > 0)).then_some(parts)
}

fn most_held(nodes: &[Vec<DeviceUnits>]) -> String {
    let best =
        nodes.iter().max_by_key(|devices| devices.iter().map(|units| units.capacity).sum::<Fgpu>());
    match best.filter(|devices| !devices.is_empty()) {
        None => "no device".to_owned(),
        Some(devices) => {
            let fgpu: Fgpu = devices.iter().map(|units| units.capacity).sum();
            let memory: MemoryBytes = devices.iter().map(|units| units.memory).sum();
            let largest = devices.iter().map(|units| units.capacity).max().unwrap_or_default();
            format!("{fgpu} fGPU ({memory}) on {} devices, {largest} fGPU on one", devices.len())
        }
    }
}

#[cfg(test)]
mod tests;

//! Units: what one fGPU is on each kind of device, and how amounts turn into memory and compute there.

use super::{ComputeRequest, Demand, GpuAmount, GpuRequest, Part, Slice, SliceError};
use crate::ids::DeviceUuid;
use crate::units::{ComputeMilli, Fgpu, MIB, MemoryBytes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// What one fGPU is, for every device model of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitPolicy {
    /// The rule for models without one of their own.
    pub default: UnitRule,
    /// Rules by device model, as the driver names it.
    #[serde(default)]
    pub by_model: BTreeMap<String, UnitRule>,
    /// The smallest step of a request; not zero.
    pub quantum: Fgpu,
}

/// What one fGPU is on one kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitRule {
    /// One device is this many fGPU, whatever its memory.
    FgpuPerDevice(Fgpu),
    /// One fGPU is this much memory; the capacity of a device follows from its own.
    UnitMemory(MemoryBytes),
}

/// The units of one device: what it holds, and what an amount of fGPU is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceUnits {
    /// fGPU the device holds when empty.
    pub capacity: Fgpu,
    /// Memory of one fGPU, floored to MiB.
    pub memory_per_fgpu: MemoryBytes,
    /// All memory of the device.
    pub memory: MemoryBytes,
}

impl Default for UnitPolicy {
    /// One device is 10 fGPU, in steps of 0.1.
    fn default() -> Self {
        Self {
            default: UnitRule::FgpuPerDevice(Fgpu::whole(10)),
            by_model: BTreeMap::new(),
            quantum: Fgpu(100),
        }
    }
}

impl UnitPolicy {
    /// The units of a device of `model` with `memory`.
    ///
    /// With [`UnitRule::UnitMemory`] the capacity is memory ÷ unit, floored to the quantum; with
    /// [`UnitRule::FgpuPerDevice`] the memory of one fGPU is memory ÷ capacity, floored to MiB.
    #[must_use]
    pub fn units_of(&self, model: &str, memory: MemoryBytes) -> DeviceUnits {
        let rule = self.by_model.get(model).unwrap_or(&self.default);
        let quantum = self.quantum.0.max(1);
        match rule {
            UnitRule::FgpuPerDevice(capacity) => {
                let bytes = wide_div(memory.0, 1000, capacity.0.max(1));
                let memory_per_fgpu = MemoryBytes(bytes).floor_mib();
                DeviceUnits { capacity: *capacity, memory_per_fgpu, memory }
            }
            UnitRule::UnitMemory(unit) => {
                let capacity = wide_div(memory.0, 1000, unit.0.max(1)) / quantum * quantum;
                DeviceUnits { capacity: Fgpu(capacity), memory_per_fgpu: *unit, memory }
            }
        }
    }

    /// The units of a MIG instance with `memory`, of a card of `model` with `card_memory`: its part of
    /// the card's fGPU, by memory.
    #[must_use]
    pub fn units_of_instance(
        &self,
        model: &str,
        card_memory: MemoryBytes,
        memory: MemoryBytes,
    ) -> DeviceUnits {
        let card = self.units_of(model, card_memory);
        let capacity = wide_div(card.capacity.0, memory.0, card_memory.0).min(card.capacity.0);
        // An instance is never for nothing, however small.
        let capacity = Fgpu(capacity.max(1));
        DeviceUnits { capacity, memory_per_fgpu: card.memory_per_fgpu, memory }
    }

    /// Checks what can be checked of `request` without knowing any device.
    ///
    /// # Errors
    /// [`SliceError`] names the amount, the limit and what may be asked instead.
    pub fn check(&self, request: &GpuRequest) -> Result<(), SliceError> {
        let devices = request.devices.map_or(1, NonZeroU32::get);
        if let Some(profile) = &request.mig
            && !matches!(request.amount, GpuAmount::Whole(_))
        {
            return Err(SliceError::PartOfMig { profile: profile.clone() });
        }
        match request.amount {
            GpuAmount::Fgpu(amount) => self.check_fgpu(amount, devices),
            GpuAmount::Whole(gpus) => match request.devices {
                Some(count) if count != gpus => {
                    Err(SliceError::WholeCount { gpus: gpus.get(), devices })
                }
                _ => Ok(()),
            },
            GpuAmount::Direct { memory, compute } => check_direct(memory, compute, devices),
        }
    }

    fn check_fgpu(&self, amount: Fgpu, devices: u32) -> Result<(), SliceError> {
        if amount.is_zero() {
            return Err(SliceError::Zero { what: "--fgpu" });
        }
        let quantum = self.quantum.0.max(1);
        if !amount.0.is_multiple_of(quantum) {
            let below = amount.0 / quantum * quantum;
            return Err(SliceError::Quantum {
                asked: amount,
                quantum: self.quantum,
                below: Fgpu(below.max(quantum)),
                above: Fgpu(below.saturating_add(quantum)),
            });
        }
        if amount.0 / quantum < u64::from(devices) {
            return Err(SliceError::TooFewQuanta {
                asked: format!("{amount} fGPU"),
                devices,
                least: format!("{} fGPU", self.quantum),
            });
        }
        Ok(())
    }
}

fn check_direct(
    memory: Option<MemoryBytes>,
    compute: ComputeRequest,
    devices: u32,
) -> Result<(), SliceError> {
    if memory.is_some_and(MemoryBytes::is_zero) {
        return Err(SliceError::Zero { what: "--gpu-memory" });
    }
    if compute == ComputeRequest::Share(ComputeMilli::ZERO) {
        return Err(SliceError::Zero { what: "--gpu-compute" });
    }
    match memory {
        Some(memory) if memory.0 / MIB < u64::from(devices) => Err(SliceError::TooFewQuanta {
            asked: memory.to_string(),
            devices,
            least: "1 MiB".to_owned(),
        }),
        None if !matches!(compute, ComputeRequest::Share(_)) => {
            Err(SliceError::Zero { what: "--gpu-memory" })
        }
        _ => Ok(()),
    }
}

impl DeviceUnits {
    /// What `part` takes from this device: memory of fGPU floors to MiB, compute to thousandths.
    #[must_use]
    pub fn demand(&self, part: Part) -> Demand {
        match part {
            Part::Fgpu(amount) => {
                Demand { memory: self.memory_of(amount), compute: self.compute_of(amount) }
            }
            Part::Whole => Demand { memory: self.memory, compute: ComputeMilli::WHOLE },
            Part::Direct { memory, compute } => self.direct_demand(memory, compute),
        }
    }

    /// Memory of `amount` fGPU on this device, in bytes; a multiple of MiB.
    #[must_use]
    pub fn memory_of(&self, amount: Fgpu) -> MemoryBytes {
        MemoryBytes(wide_div(self.memory_per_fgpu.0, amount.0, 1000)).floor_mib()
    }

    /// Compute of `amount` fGPU on this device, floored to thousandths.
    #[must_use]
    pub fn compute_of(&self, amount: Fgpu) -> ComputeMilli {
        let milli = wide_div(amount.0, 1000, self.capacity.0.max(1));
        ComputeMilli(u32::try_from(milli).unwrap_or(u32::MAX))
    }

    /// The fGPU that `free` still holds, floored to thousandths: the lesser of both dimensions.
    #[must_use]
    pub fn fgpu_in(&self, free: Demand) -> Fgpu {
        let by_memory = wide_div(free.memory.0, 1000, self.memory_per_fgpu.0.max(1));
        let by_compute = wide_div(u64::from(free.compute.0), self.capacity.0, 1000);
        Fgpu(by_memory.min(by_compute).min(self.capacity.0))
    }

    /// Memory that no fGPU covers because a unit floors to MiB; it stays with the device.
    #[must_use]
    pub fn leftover_memory(&self) -> MemoryBytes {
        self.memory.saturating_sub(self.memory_of(self.capacity))
    }

    /// All of the device, as a demand.
    #[must_use]
    pub fn whole(&self) -> Demand {
        Demand { memory: self.memory, compute: ComputeMilli::WHOLE }
    }

    /// The slice of `device` that grants `part`.
    #[must_use]
    pub fn slice(&self, device: DeviceUuid, part: Part) -> Slice {
        let Demand { memory, compute } = self.demand(part);
        let fgpu = match part {
            Part::Fgpu(amount) => amount,
            Part::Whole => self.capacity,
            Part::Direct { .. } => Fgpu(wide_div(memory.0, 1000, self.memory_per_fgpu.0.max(1))),
        };
        Slice { device, memory, compute, fgpu }
    }

    fn direct_demand(&self, memory: Option<MemoryBytes>, compute: ComputeRequest) -> Demand {
        let milli = match compute {
            ComputeRequest::Share(milli) => milli,
            ComputeRequest::Shared => ComputeMilli::ZERO,
            ComputeRequest::Proportional => {
                let asked = memory.unwrap_or(MemoryBytes::ZERO);
                let milli = wide_div(asked.0, 1000, self.memory.0.max(1));
                ComputeMilli(u32::try_from(milli).unwrap_or(u32::MAX))
            }
        };
        let memory = memory.unwrap_or_else(|| {
            MemoryBytes(wide_div(self.memory.0, u64::from(milli.0), 1000)).floor_mib()
        });
        Demand { memory, compute: milli }
    }
}

/// a × b ÷ c without overflow in between, saturating at the end of the range.
fn wide_div(a: u64, b: u64, c: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b) / u128::from(c.max(1));
    u64::try_from(wide).unwrap_or(u64::MAX)
}

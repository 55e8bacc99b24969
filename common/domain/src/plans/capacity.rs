//! Upper bounds of what a node can take, without trying: they decide where a trial is worth it.

use super::trial::Settled;
use crate::placement::{DeviceView, NodeState, NodeView, Request};
use crate::slice::{Demand, DeviceUnits, GpuAmount, GpuRequest, Part, Split};
use crate::units::Fgpu;
use std::num::NonZeroU32;

/// How many of at most `most` equal requests may have room on a node: never fewer than do.
pub(super) fn at_most(settled: &Settled, node: &NodeView, quantum: Fgpu, most: u32) -> u32 {
    let request = &settled.tries()[0];
    if !in_question(request, node) {
        return 0;
    }
    let most = most
        .min(times(node.cpu_free.0, request.cpu.0))
        .min(times(node.memory_free.0, request.memory.0));
    if most == 0 {
        return 0;
    }
    let on_devices = |request: &Request| match &request.gpu {
        None => most,
        Some(gpu) => on_devices(gpu, node, quantum, most),
    };
    // Requests on different counts of devices may stand beside each other.
    settled.tries().iter().map(on_devices).fold(0, u32::saturating_add).min(most)
}

/// Whether a node may be looked at for the request whatever is free there.
pub(super) fn in_question(request: &Request, node: &NodeView) -> bool {
    node.state == NodeState::Ready
        && request.node.as_ref().is_none_or(|name| *name == node.name)
        && !request.avoid.contains(&node.name)
        && request.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
}

fn on_devices(gpu: &GpuRequest, node: &NodeView, quantum: Fgpu, most: u32) -> u32 {
    let allowed = allowed_devices(gpu, node);
    let units: Vec<DeviceUnits> = allowed.iter().map(|device| device.units).collect();
    let count = match gpu.amount {
        GpuAmount::Whole(gpus) => gpus.get(),
        GpuAmount::Fgpu(_) | GpuAmount::Direct { .. } => gpu.devices.map_or(1, NonZeroU32::get),
    };
    let split = gpu.split.unwrap_or(Split::Even);
    let Some(parts) = gpu.parts(&units, count, split, quantum) else { return 0 };
    // Parts come largest first; the smallest bounds what a device holds.
    let Some(part) = parts.last() else { return 0 };
    let open = allowed.iter().filter(|device| device.blocked.is_none());
    let held: Vec<u32> = open.map(|device| held_by(device, *part).min(most)).collect();
    let mut bound = most;
    // No device holds two parts of one request, so it counts for at most as many as there are.
    loop {
        let sum = held.iter().fold(0_u32, |sum, held| sum.saturating_add((*held).min(bound)));
        let next = (sum / count.max(1)).min(bound);
        if next == bound {
            return bound;
        }
        bound = next;
    }
}

/// The devices whose model is allowed.
fn allowed_devices<'a>(gpu: &GpuRequest, node: &'a NodeView) -> Vec<&'a DeviceView> {
    // Devices of one node mostly have one model: it is compared once for a run of equals.
    let mut last: Option<(&str, bool)> = None;
    let mut devices = Vec::with_capacity(node.devices.len());
    for device in &node.devices {
        let allowed = match last {
            Some((model, allowed)) if model == device.model => allowed,
            _ => gpu.allows_model(&device.model),
        };
        last = Some((&device.model, allowed));
        if allowed {
            devices.push(device);
        }
    }
    devices
}

fn held_by(device: &DeviceView, part: Part) -> u32 {
    if matches!(part, Part::Whole) {
        return u32::from(device.sessions == 0);
    }
    let demand: Demand = device.units.demand(part);
    times(device.free.memory.0, demand.memory.0)
        .min(times(u64::from(device.free.compute.0), u64::from(demand.compute.0)))
}

/// How often `each` is in `free`; without end where it is nothing.
fn times(free: u64, each: u64) -> u32 {
    match free.checked_div(each) {
        None => u32::MAX,
        Some(times) => u32::try_from(times).unwrap_or(u32::MAX),
    }
}

/// The sum of bounds.
pub(super) fn sum(bounds: impl Iterator<Item = u32>) -> u32 {
    bounds.fold(0, u32::saturating_add)
}

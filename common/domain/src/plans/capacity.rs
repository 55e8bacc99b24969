//! Upper bounds of what a node can take, without trying: they decide where a trial is worth it.

use super::trial::Settled;
use crate::placement::{Allocation, DeviceView, NodeState, NodeView, Request};
use crate::slice::{Demand, DeviceUnits, GpuAmount, GpuRequest, Part, Split};
use crate::units::Fgpu;
use std::num::NonZeroU32;

/// What is free on a node, small enough to look ahead with.
#[derive(Debug, Clone)]
pub(super) struct Room {
    cpu: u64,
    memory: u64,
    /// Per device of the node what is free, and the slices on it.
    devices: Vec<(Demand, u32)>,
}

/// An allocation with the positions of its devices on their node.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    cpu: u64,
    memory: u64,
    slices: Vec<(usize, Demand)>,
}

impl Room {
    pub(super) fn of(node: &NodeView) -> Self {
        let devices = node.devices.iter().map(|device| (device.free, device.sessions)).collect();
        Self { cpu: node.cpu_free.0, memory: node.memory_free.0, devices }
    }

    pub(super) fn give_back(&mut self, taken: &Taken) {
        self.cpu = self.cpu.saturating_add(taken.cpu);
        self.memory = self.memory.saturating_add(taken.memory);
        for (at, demand) in &taken.slices {
            if let Some((free, sessions)) = self.devices.get_mut(*at) {
                *free = free.saturating_add(*demand);
                *sessions = sessions.saturating_sub(1);
            }
        }
    }
}

impl Taken {
    pub(super) fn of(allocation: &Allocation, node: &NodeView) -> Self {
        let slices = allocation.slices.iter().filter_map(|slice| {
            let at = node.devices.iter().position(|device| device.uuid == slice.device)?;
            Some((at, slice.demand()))
        });
        let slices = slices.collect();
        Self { cpu: allocation.cpu.0, memory: allocation.memory.0, slices }
    }
}

/// How many of at most `most` equal requests may have room on a node: never fewer than do.
pub(super) fn at_most(settled: &Settled, node: &NodeView, quantum: Fgpu, most: u32) -> u32 {
    if !in_question(&settled.tries()[0], node) {
        return 0;
    }
    at_most_in(&Room::of(node), settled, node, quantum, most)
}

/// As [`at_most`] for what is free in `room`, of a node in question.
pub(super) fn at_most_in(
    room: &Room,
    settled: &Settled,
    node: &NodeView,
    quantum: Fgpu,
    most: u32,
) -> u32 {
    let request = &settled.tries()[0];
    let most = most.min(times(room.cpu, request.cpu.0)).min(times(room.memory, request.memory.0));
    if most == 0 {
        return 0;
    }
    let on_devices = |request: &Request| match &request.gpu {
        None => most,
        Some(gpu) => on_devices(gpu, node, room, quantum, most),
    };
    // Requests on different counts of devices may stand beside each other.
    settled.tries().iter().map(on_devices).fold(0, u32::saturating_add).min(most)
}

/// Whether a node may be looked at for the request whatever is free there.
pub(super) fn in_question(request: &Request, node: &NodeView) -> bool {
    node.state == NodeState::Ready && is_open_to(request, node)
}

/// As [`in_question`] once a node that has not spoken since this manager started has spoken.
pub(super) fn in_question_later(request: &Request, node: &NodeView) -> bool {
    matches!(node.state, NodeState::Ready | NodeState::NeverSeen) && is_open_to(request, node)
}

fn is_open_to(request: &Request, node: &NodeView) -> bool {
    request.node.as_ref().is_none_or(|name| *name == node.name)
        && !request.avoid.contains(&node.name)
        && request.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
}

fn on_devices(gpu: &GpuRequest, node: &NodeView, room: &Room, quantum: Fgpu, most: u32) -> u32 {
    let allowed = allowed_devices(gpu, node);
    let units: Vec<DeviceUnits> = allowed.iter().map(|(_, device)| device.units).collect();
    let count = match gpu.amount {
        GpuAmount::Whole(gpus) => gpus.get(),
        GpuAmount::Fgpu(_) | GpuAmount::Direct { .. } => gpu.devices.map_or(1, NonZeroU32::get),
    };
    let split = gpu.split.unwrap_or(Split::Even);
    let Some(parts) = gpu.parts(&units, count, split, quantum) else { return 0 };
    // Parts come largest first; the smallest bounds what a device holds.
    let Some(part) = parts.last() else { return 0 };
    let open = allowed.iter().filter(|(_, device)| device.blocked.is_none());
    let held = open.filter_map(|(at, device)| Some((room.devices.get(*at)?, device)));
    let held: Vec<u32> = held
        .map(|((free, sessions), device)| held_by(device, *free, *sessions, *part).min(most))
        .collect();
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

/// The devices whose model is allowed, with their positions.
fn allowed_devices<'a>(gpu: &GpuRequest, node: &'a NodeView) -> Vec<(usize, &'a DeviceView)> {
    // Devices of one node mostly have one model: it is compared once for a run of equals.
    let mut last: Option<((&str, Option<&str>), bool)> = None;
    let mut devices = Vec::with_capacity(node.devices.len());
    for (at, device) in node.devices.iter().enumerate() {
        let allowed = match last {
            Some((kind, allowed)) if kind == (device.model.as_str(), device.profile()) => allowed,
            _ => device.is_allowed(gpu),
        };
        last = Some(((&device.model, device.profile()), allowed));
        if allowed {
            devices.push((at, device));
        }
    }
    devices
}

fn held_by(device: &DeviceView, free: Demand, sessions: u32, part: Part) -> u32 {
    if matches!(part, Part::Whole) {
        return u32::from(sessions == 0);
    }
    let demand: Demand = device.units.demand(part);
    times(free.memory.0, demand.memory.0)
        .min(times(u64::from(free.compute.0), u64::from(demand.compute.0)))
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

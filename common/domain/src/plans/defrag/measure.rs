//! How scattered the free capacity of a cluster is.

use crate::placement::{DeviceView, NodeState, NodeView, View};
use crate::units::Fgpu;

/// How scattered what is free is, on nodes in service and devices that take something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fragmentation {
    /// Devices without any slice.
    pub free_devices: usize,
    /// Nodes with devices, all of which are free.
    pub free_nodes: usize,
    /// The most fGPU one device still holds.
    pub largest_fgpu: Fgpu,
    /// The most free devices on one node.
    pub largest_gpus: usize,
    /// Free GPU on devices in use, in thousandths of what is free: no request for whole devices
    /// can have it. Per device the lesser of memory and compute counts.
    pub scattered_milli: u64,
}

impl Fragmentation {
    /// Whether this is at least as good as `other` in every respect.
    #[must_use]
    pub fn no_worse_than(&self, other: &Self) -> bool {
        self.free_devices >= other.free_devices
            && self.free_nodes >= other.free_nodes
            && self.largest_fgpu >= other.largest_fgpu
            && self.largest_gpus >= other.largest_gpus
            && self.scattered_milli <= other.scattered_milli
    }
}

/// Measures what is free.
#[must_use]
pub fn fragmentation(view: &View) -> Fragmentation {
    measure(view, |_, device| device.blocked.is_none() && device.mig.is_none())
}

/// As [`fragmentation`], of the devices `counts` says.
pub(super) fn measure(
    view: &View,
    counts: impl Fn(&NodeView, &DeviceView) -> bool,
) -> Fragmentation {
    let mut found = Fragmentation::default();
    let (mut scattered, mut all) = (0_u64, 0_u64);
    for node in view.iter().filter(|node| node.state == NodeState::Ready) {
        let counted = || node.devices.iter().filter(|device| counts(node, device));
        let free = counted().filter(|device| device.sessions == 0).count();
        found.free_devices += free;
        found.largest_gpus = found.largest_gpus.max(free);
        found.free_nodes += usize::from(is_free(node) && free == cards(node));
        for device in counted() {
            found.largest_fgpu = found.largest_fgpu.max(device.units.fgpu_in(device.free));
            let milli = free_milli(device);
            all = all.saturating_add(milli);
            if device.sessions > 0 {
                scattered = scattered.saturating_add(milli);
            }
        }
    }
    found.scattered_milli = scattered.saturating_mul(1000).checked_div(all).unwrap_or(0);
    found
}

/// Devices that could be given as a whole.
fn cards(node: &NodeView) -> usize {
    node.devices.iter().filter(|device| device.mig.is_none()).count()
}

/// Whether nothing at all runs on a node with devices.
fn is_free(node: &NodeView) -> bool {
    !node.devices.is_empty()
        && node.cpu_free == node.cpu_total
        && node.memory_free == node.memory_total
}

fn free_milli(device: &DeviceView) -> u64 {
    let memory = u128::from(device.free.memory.0) * 1000 / u128::from(device.units.memory.0.max(1));
    u64::try_from(memory).unwrap_or(u64::MAX).min(u64::from(device.free.compute.0))
}

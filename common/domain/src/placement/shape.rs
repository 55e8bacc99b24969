//! Nodes of equal GPU hardware, so that what depends on hardware alone is worked out once.

use crate::slice::{Demand, DeviceUnits, Part};
use crate::units::Fgpu;
use std::collections::BTreeMap;

use super::node::DeviceView;

/// One kind of device within a [`Shape`].
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) model: String,
    /// The profile where these are MIG instances.
    pub(super) mig: Option<String>,
    pub(super) units: DeviceUnits,
    /// What one quantum takes from it.
    pub(super) quantum: Demand,
    /// Devices of this kind on a node.
    pub(super) devices: usize,
}

/// The devices of a node, whatever their order, state and allocation.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) kinds: Vec<Kind>,
    /// Nodes that have it now.
    pub(super) nodes: usize,
}

/// Whole cards come before MIG instances: what is worked out from the first kind speaks of cards.
type KindKey = (Option<String>, String, Fgpu, u64, u64);

/// All shapes a view has met; a node names its own by position, which never changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Shapes {
    list: Vec<Shape>,
    by_key: BTreeMap<Vec<(KindKey, usize)>, usize>,
}

impl Kind {
    /// A part of this kind of device in thousandths of the device, the larger of both dimensions.
    pub(super) fn milli_taken(&self, demand: Demand) -> u64 {
        let memory = demand.memory.0.saturating_mul(1000).div_ceil(self.units.memory.0.max(1));
        memory.max(u64::from(demand.compute.0)).min(1000)
    }

    /// Whether these are MIG instances.
    pub(super) fn is_instance(&self) -> bool {
        self.mig.is_some()
    }

    /// What is free in thousandths of the device, the lesser of both dimensions.
    pub(super) fn milli_free(&self, free: Demand) -> u64 {
        let memory = free.memory.0.saturating_mul(1000) / self.units.memory.0.max(1);
        memory.min(u64::from(free.compute.0))
    }

    /// Whether `demand` leaves less than a quantum of an empty device in both dimensions.
    pub(super) fn fills(&self, demand: Demand) -> bool {
        let Some(left) = self.units.whole().checked_sub(demand) else { return false };
        left.memory.0 < self.quantum.memory.0.max(1)
            && left.compute.0 < self.quantum.compute.0.max(1)
    }
}

impl Shapes {
    pub(super) fn get(&self, position: usize) -> &Shape {
        &self.list[position]
    }

    pub(super) fn list(&self) -> &[Shape] {
        &self.list
    }

    /// Shapes that some node has now.
    pub(super) fn live(&self) -> usize {
        self.list.iter().filter(|shape| shape.nodes > 0).count()
    }

    /// The shape of a node with `devices`, counted up by one node; and per device its kind.
    pub(super) fn enter(&mut self, devices: &[DeviceView], quantum: Fgpu) -> (usize, Vec<usize>) {
        let mut kinds: BTreeMap<KindKey, Vec<&DeviceView>> = BTreeMap::new();
        for device in devices {
            kinds.entry(key_of(device)).or_default().push(device);
        }
        let order: Vec<&KindKey> = kinds.keys().collect();
        let of_device = devices
            .iter()
            .map(|device| order.binary_search(&&key_of(device)).expect("each key was entered"))
            .collect();
        let key = kinds.iter().map(|(key, devices)| (key.clone(), devices.len())).collect();
        let list = &mut self.list;
        let position = *self.by_key.entry(key).or_insert_with(|| {
            let kinds = kinds.values().map(|same| kind_of(same, quantum)).collect();
            list.push(Shape { kinds, nodes: 0 });
            list.len() - 1
        });
        self.list[position].nodes += 1;
        (position, of_device)
    }

    pub(super) fn leave(&mut self, position: usize) {
        self.list[position].nodes -= 1;
    }
}

fn key_of(device: &DeviceView) -> KindKey {
    let units = &device.units;
    let mig = device.profile().map(str::to_owned);
    (mig, device.model.clone(), units.capacity, units.memory_per_fgpu.0, units.memory.0)
}

fn kind_of(same: &[&DeviceView], quantum: Fgpu) -> Kind {
    let first = same[0];
    Kind {
        model: first.model.clone(),
        mig: first.profile().map(str::to_owned),
        units: first.units,
        quantum: first.units.demand(Part::Fgpu(quantum)),
        devices: same.len(),
    }
}

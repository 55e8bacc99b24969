//! What the search looks at: a node, with totals kept beside it.

use super::node::NodeView;
use super::shape::Shapes;
use super::state::StateId;
use crate::slice::{Demand, Isolation};
use std::collections::BTreeMap;

/// A node and what the search wants to know of it without looking at every device.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) node: NodeView,
    /// Position in [`Shapes`].
    pub(super) shape: usize,
    /// The state it is in, while it is in service.
    pub(super) state: Option<StateId>,
    /// One per device, in the same order.
    pub(super) slots: Vec<Slot>,
    /// The MIG instances among them, each with the slot of its card; empty on most nodes.
    instances: Vec<(usize, usize)>,
    /// The most that is free on any open device, each dimension by itself.
    pub(super) most_free: Demand,
    /// Free on open devices, thousandths of a device.
    pub(super) gpu_free: u64,
    /// The strongest level the agent can enforce for a part of a device.
    pub(super) enforcer: Option<Isolation>,
}

/// The part of a device the search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Slot {
    pub(super) free: Demand,
    /// Position in the kinds of the node's shape.
    pub(super) kind: usize,
    /// Thousandths of the device that are free, the lesser of both dimensions; of a MIG instance, what
    /// is free of the instances of its card, in thousandths of the card's memory.
    pub(super) free_milli: u64,
    /// Whether anything may land here.
    pub(super) open: bool,
    /// Whether no slice is on it.
    pub(super) empty: bool,
    /// Whether it is a MIG instance.
    pub(super) instance: bool,
}

impl Slot {
    /// Thousandths of the device that a part of it may be cut from: none of a MIG instance.
    pub(super) fn usable_milli(&self) -> u64 {
        if self.open && !self.instance { self.free_milli } else { 0 }
    }
}

impl Entry {
    /// `kinds` has one per device. Call [`Entry::refresh`] before use.
    pub(super) fn new(node: NodeView, shape: usize, kinds: Vec<usize>) -> Self {
        let slot = |kind| Slot { kind, ..Slot::default() };
        Self {
            instances: instances(&node),
            enforcer: node.enforcers.iter().copied().min(),
            node,
            shape,
            state: None,
            slots: kinds.into_iter().map(slot).collect(),
            most_free: Demand::default(),
            gpu_free: 0,
        }
    }

    /// Thousandths that something may land on, device by device.
    pub(super) fn rests(&self) -> Vec<u64> {
        self.slots.iter().map(Slot::usable_milli).collect()
    }

    /// Works out again what is kept beside the node.
    pub(super) fn refresh(&mut self, shapes: &Shapes) {
        let kinds = &shapes.get(self.shape).kinds;
        (self.most_free, self.gpu_free) = (Demand::default(), 0);
        for (slot, device) in self.slots.iter_mut().zip(&self.node.devices) {
            let kind = &kinds[slot.kind];
            slot.free = device.free;
            slot.free_milli = kind.milli_free(device.free);
            slot.empty = device.sessions == 0;
            // What is left below a quantum stays with the device: nobody joins a session that
            // was promised all of it.
            let full = !slot.empty && device.free.memory < kind.quantum.memory;
            slot.open = device.blocked.is_none() && !full;
            slot.instance = kind.is_instance();
            if slot.open {
                self.gpu_free += slot.usable_milli();
                self.most_free.memory = self.most_free.memory.max(device.free.memory);
                self.most_free.compute = self.most_free.compute.max(device.free.compute);
            }
        }
        if !self.instances.is_empty() {
            self.refresh_instances();
        }
    }

    /// Works out what of the card of every MIG instance is free, which decides between instances.
    fn refresh_instances(&mut self) {
        let devices = &self.node.devices;
        let mut free: BTreeMap<usize, u64> = BTreeMap::new();
        for (at, card) in &self.instances {
            let memory = free.entry(*card).or_default();
            *memory = memory.saturating_add(devices[*at].free.memory.0);
        }
        for (at, card) in &self.instances {
            let whole = u128::from(devices[*card].units.memory.0.max(1));
            let milli = u128::from(free[card]) * 1000 / whole;
            self.slots[*at].free_milli = u64::try_from(milli).unwrap_or(1000).min(1000);
            // A card that is still held as a whole cannot be given in instances as well.
            self.slots[*at].open &= devices[*card].sessions == 0;
        }
    }
}

/// The MIG instances of a node with the positions of their cards; one without its card is left out.
fn instances(node: &NodeView) -> Vec<(usize, usize)> {
    let devices = node.devices.iter().enumerate();
    devices
        .filter_map(|(at, device)| {
            let origin = device.mig.as_ref()?;
            let card = node.devices.iter().position(|other| other.uuid == origin.card)?;
            Some((at, card))
        })
        .collect()
}

//! What placement knows of the cluster: nodes, their devices, and what is free on each.

use super::bounds::{ViewError, check_device, check_node, check_totals, shown};
use super::entry::Entry;
use super::node::{Allocation, DeviceBlock, DeviceView, NodeState, NodeView};
use super::shape::Shapes;
use crate::ids::{DeviceUuid, NodeName};
use crate::slice::{Demand, Slice};
use crate::units::{CpuMilli, Fgpu, MemoryBytes};
use std::collections::HashMap;

/// The cluster as placement sees it: nodes in the order of insertion, which decides ties.
#[derive(Debug, Clone)]
pub struct View {
    quantum: Fgpu,
    entries: Vec<Entry>,
    /// Position by name; never iterated, so its order does not matter.
    index: HashMap<NodeName, usize>,
    shapes: Shapes,
}

/// What becomes of one device.
struct Change {
    slot: usize,
    free: Demand,
    sessions: u32,
}

impl View {
    /// A view without nodes, for requests in steps of `quantum`.
    #[must_use]
    pub fn new(quantum: Fgpu) -> Self {
        let (entries, index, shapes) = (Vec::new(), HashMap::new(), Shapes::default());
        Self { quantum, entries, index, shapes }
    }

    /// The smallest step of a request.
    #[must_use]
    pub fn quantum(&self) -> Fgpu {
        self.quantum
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The node called `name`.
    #[must_use]
    pub fn get(&self, name: &NodeName) -> Option<&NodeView> {
        self.index.get(name).map(|at| &self.entries[*at].node)
    }

    /// All nodes in the order of insertion.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &NodeView> + ExactSizeIterator {
        self.entries.iter().map(|entry| &entry.node)
    }

    /// Adds a node behind all others.
    ///
    /// # Errors
    /// [`ViewError`] when the name is taken or the node contradicts itself.
    pub fn insert(&mut self, node: NodeView) -> Result<(), ViewError> {
        if self.index.contains_key(&node.name) {
            return Err(ViewError::DuplicateNode { node: node.name });
        }
        let entry = self.entry(node)?;
        self.index.insert(entry.node.name.clone(), self.entries.len());
        self.entries.push(entry);
        Ok(())
    }

    /// Puts `node` in the place of the one of the same name, keeping its turn in ties.
    ///
    /// # Errors
    /// [`ViewError`] when there is none, or the node contradicts itself.
    pub fn replace(&mut self, node: NodeView) -> Result<(), ViewError> {
        let at = self.position(&node.name)?;
        let entry = self.entry(node)?;
        self.shapes.leave(self.entries[at].shape);
        self.entries[at] = entry;
        Ok(())
    }

    /// Takes a node out; the work grows with the number of nodes behind it.
    pub fn remove(&mut self, name: &NodeName) -> Option<NodeView> {
        let at = self.index.remove(name)?;
        let entry = self.entries.remove(at);
        self.shapes.leave(entry.shape);
        for (place, entry) in self.entries.iter().enumerate().skip(at) {
            self.index.insert(entry.node.name.clone(), place);
        }
        Some(entry.node)
    }

    /// Changes whether a node takes new sessions.
    ///
    /// # Errors
    /// [`ViewError::UnknownNode`].
    pub fn set_state(&mut self, name: &NodeName, state: NodeState) -> Result<(), ViewError> {
        let at = self.position(name)?;
        self.entries[at].node.state = state;
        Ok(())
    }

    /// Changes whether a device takes anything new.
    ///
    /// # Errors
    /// [`ViewError::UnknownNode`] or [`ViewError::UnknownDevice`].
    pub fn set_blocked(
        &mut self,
        name: &NodeName,
        device: &DeviceUuid,
        blocked: Option<DeviceBlock>,
    ) -> Result<(), ViewError> {
        let at = self.position(name)?;
        let slot = find_device(&self.entries[at].node, device)?;
        self.entries[at].node.devices[slot].blocked = blocked;
        self.refresh(at);
        Ok(())
    }

    /// Takes `allocation` from what is free on a node, whatever the node's state.
    ///
    /// # Errors
    /// [`ViewError`] when anything of it is not free; then nothing is taken.
    pub fn allocate(&mut self, name: &NodeName, allocation: &Allocation) -> Result<(), ViewError> {
        let at = self.position(name)?;
        let node = &self.entries[at].node;
        let not_free = |what: &str, wanted: String, free: String| ViewError::NotFree {
            node: name.clone(),
            what: what.to_owned(),
            wanted,
            free,
        };
        let cpu = node.cpu_free.checked_sub(allocation.cpu).ok_or_else(|| {
            not_free("cpu", allocation.cpu.to_string(), node.cpu_free.to_string())
        })?;
        let memory = node.memory_free.checked_sub(allocation.memory).ok_or_else(|| {
            not_free("memory", allocation.memory.to_string(), node.memory_free.to_string())
        })?;
        let changes = changes(node, allocation, |device, slice| {
            let left = device.free.checked_sub(slice.demand());
            left.zip(device.sessions.checked_add(1)).ok_or_else(|| {
                not_free(device.uuid.as_str(), shown(slice.demand()), shown(device.free))
            })
        })?;
        self.commit(at, cpu, memory, changes);
        Ok(())
    }

    /// Gives `allocation` back to a node.
    ///
    /// # Errors
    /// [`ViewError`] when more would be free than there is; then nothing is given back.
    pub fn release(&mut self, name: &NodeName, allocation: &Allocation) -> Result<(), ViewError> {
        let at = self.position(name)?;
        let node = &self.entries[at].node;
        let cpu = node.cpu_free.saturating_add(allocation.cpu);
        let memory = node.memory_free.saturating_add(allocation.memory);
        check_totals(node, cpu, memory)?;
        let changes = changes(node, allocation, |device, slice| {
            let free = device.free.saturating_add(slice.demand());
            check_device(node, device, free)?;
            let sessions = device.sessions.checked_sub(1);
            sessions.map(|sessions| (free, sessions)).ok_or_else(|| ViewError::BeyondTotal {
                node: name.clone(),
                what: device.uuid.to_string(),
                free: shown(free),
                total: format!("{} and no slice on it", shown(device.free)),
            })
        })?;
        self.commit(at, cpu, memory, changes);
        Ok(())
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    pub(super) fn position(&self, name: &NodeName) -> Result<usize, ViewError> {
        let found = self.index.get(name).copied();
        found.ok_or_else(|| ViewError::UnknownNode { node: name.clone() })
    }

    fn entry(&mut self, mut node: NodeView) -> Result<Entry, ViewError> {
        node.devices.sort_by_key(|device| device.index);
        check_node(&node)?;
        let (shape, kinds) = self.shapes.enter(&node.devices, self.quantum);
        let mut entry = Entry::new(node, shape, kinds);
        entry.refresh(&self.shapes);
        Ok(entry)
    }

    fn commit(&mut self, at: usize, cpu: CpuMilli, memory: MemoryBytes, changes: Vec<Change>) {
        let node = &mut self.entries[at].node;
        node.cpu_free = cpu;
        node.memory_free = memory;
        for Change { slot, free, sessions } in changes {
            node.devices[slot].free = free;
            node.devices[slot].sessions = sessions;
        }
        self.refresh(at);
    }

    fn refresh(&mut self, at: usize) {
        self.entries[at].refresh(&self.shapes);
    }
}

/// What every slice makes of its device: what is free then, and the slices on it.
fn changes(
    node: &NodeView,
    allocation: &Allocation,
    change: impl Fn(&DeviceView, &Slice) -> Result<(Demand, u32), ViewError>,
) -> Result<Vec<Change>, ViewError> {
    let mut changes: Vec<Change> = Vec::with_capacity(allocation.slices.len());
    for slice in &allocation.slices {
        let slot = find_device(node, &slice.device)?;
        if changes.iter().any(|change| change.slot == slot) {
            let (node, device) = (node.name.clone(), slice.device.clone());
            return Err(ViewError::DuplicateDevice { node, device });
        }
        let (free, sessions) = change(&node.devices[slot], slice)?;
        changes.push(Change { slot, free, sessions });
    }
    Ok(changes)
}

fn find_device(node: &NodeView, uuid: &DeviceUuid) -> Result<usize, ViewError> {
    let found = node.devices.iter().position(|device| device.uuid == *uuid);
    found.ok_or_else(|| ViewError::UnknownDevice { node: node.name.clone(), device: uuid.clone() })
}

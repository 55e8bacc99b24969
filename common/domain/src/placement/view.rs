//! What placement knows of the cluster: nodes, their devices, and what is free on each.

use super::bounds::{ViewError, check_device, check_node, check_totals, shown};
use super::entry::Entry;
use super::images::Images;
use super::node::{Allocation, DeviceBlock, DeviceView, NodeState, NodeView};
use super::shape::Shapes;
use super::state::States;
use crate::ids::{DeviceUuid, NodeName};
use crate::slice::{Demand, Slice};
use crate::units::{CpuMilli, Fgpu, MemoryBytes};
use std::collections::HashMap;
use std::sync::Arc;

/// The cluster as placement sees it: nodes in the order of insertion, which decides ties.
#[derive(Debug, Clone)]
pub struct View {
    quantum: Fgpu,
    entries: Vec<Entry>,
    /// Position by name; never iterated, so its order does not matter.
    index: HashMap<NodeName, usize>,
    shapes: Shapes,
    states: States,
    /// Nodes of each hardware: position of the shape, CPU and memory when empty.
    hardware: HashMap<(usize, u64, u64), usize>,
    /// Counted up whenever what hardware there is, or the label of a node, changes.
    versions: Versions,
    images: Images,
    identity: Identity,
}

/// What layouts depend on, counted up when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Versions {
    /// Which kinds of hardware there are.
    pub(super) hardware: u64,
    /// Which node carries which labels.
    pub(super) labels: u64,
}

/// Tells a view from its copies, which go ways of their own.
#[derive(Debug, Default)]
pub(super) struct Identity(Arc<()>);

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Identity {
    /// A second handle on the same identity.
    pub(super) fn same(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
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
        Self {
            quantum,
            entries: Vec::new(),
            index: HashMap::new(),
            shapes: Shapes::default(),
            states: States::default(),
            hardware: HashMap::new(),
            versions: Versions::default(),
            images: Images::default(),
            identity: Identity::default(),
        }
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
        self.versions.labels += u64::from(!entry.node.labels.is_empty());
        self.entries.push(entry);
        self.settle(self.entries.len() - 1);
        Ok(())
    }

    /// Puts `node` in the place of the one of the same name, keeping its turn in ties.
    ///
    /// # Errors
    /// [`ViewError`] when there is none, or the node contradicts itself.
    pub fn replace(&mut self, node: NodeView) -> Result<(), ViewError> {
        let at = self.position(&node.name)?;
        let mut entry = self.entry(node)?;
        let old = &mut self.entries[at];
        entry.state = old.state;
        self.versions.labels += u64::from(entry.node.labels != old.node.labels);
        let old = std::mem::replace(old, entry);
        self.forget_hardware(&old);
        self.settle(at);
        Ok(())
    }

    /// Takes a node out; the work grows with the number of nodes behind it.
    pub fn remove(&mut self, name: &NodeName) -> Option<NodeView> {
        let at = self.index.remove(name)?;
        let entry = self.entries.remove(at);
        self.forget_hardware(&entry);
        for (place, entry) in self.entries.iter().enumerate().skip(at) {
            self.index.insert(entry.node.name.clone(), place);
        }
        if let Ok(place) = u32::try_from(at) {
            self.images.forget(name, place);
        }
        let index = &self.index;
        self.images.reposition(|name| index.get(name).copied());
        // Positions have moved: everything known by position is worked out again.
        self.states.clear();
        for place in 0..self.entries.len() {
            self.entries[place].state = None;
            self.settle(place);
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
        self.settle(at);
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

    pub(super) fn images(&self) -> &Images {
        &self.images
    }

    pub(super) fn images_mut(&mut self) -> &mut Images {
        &mut self.images
    }

    pub(super) fn states(&self) -> &States {
        &self.states
    }

    pub(super) fn versions(&self) -> Versions {
        self.versions
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    fn entry(&mut self, mut node: NodeView) -> Result<Entry, ViewError> {
        node.devices.sort_by_key(|device| device.index);
        check_node(&node)?;
        let (shape, kinds) = self.shapes.enter(&node.devices, self.quantum);
        let nodes = self.hardware.entry((shape, node.cpu_total.0, node.memory_total.0));
        let nodes = nodes.or_default();
        *nodes += 1;
        self.versions.hardware += u64::from(*nodes == 1);
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
        self.settle(at);
    }

    /// Moves a node into the state it is in now.
    fn settle(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        let Ok(position) = u32::try_from(at) else { return };
        if let Some(old) = entry.state {
            self.states.leave(position, old);
        }
        entry.state = self.states.enter(position, entry);
    }

    fn forget_hardware(&mut self, entry: &Entry) {
        self.shapes.leave(entry.shape);
        let key = (entry.shape, entry.node.cpu_total.0, entry.node.memory_total.0);
        if let Some(nodes) = self.hardware.get_mut(&key) {
            *nodes -= 1;
            if *nodes == 0 {
                self.hardware.remove(&key);
                self.versions.hardware += 1;
            }
        }
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

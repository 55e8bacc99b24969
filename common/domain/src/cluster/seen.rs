//! What placement sees of a node, kept in step with what is held there.
//!
//! Sums of what is held lie beside every node, so that a grant that comes or goes changes the view
//! by itself alone. Where the sums exceed the node (hardware that shrank under its sessions), the
//! view shows nothing free instead of less than nothing, and is worked out anew with every change.

use super::Cluster;
use crate::device::{Device, DeviceHealth, MigInstance};
use crate::ids::{DeviceUuid, NodeName, SessionId};
use crate::node::{Cordon, Liveness, Node};
use crate::placement::{Allocation, DeviceBlock, DeviceView, NodeState, NodeView};
use crate::session::Session;
use crate::slice::{Demand, Grant, MigOrigin};
use crate::units::{CpuMilli, MemoryBytes};
use std::collections::BTreeMap;

/// What sessions hold on one node, in sum, with what is kept free for those that are moved there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// How many grants of each session: more than one only after its node was lost.
    sessions: BTreeMap<SessionId, u32>,
    sums: Sums,
    /// Whether the view shows less taken than is: it must not be changed by differences.
    beyond: bool,
}

/// Amounts taken, and slices on each device.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    cpu: CpuMilli,
    memory: MemoryBytes,
    devices: BTreeMap<DeviceUuid, (Demand, u32)>,
}

impl Held {
    /// Sessions that hold something, in the order of their ids.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.sessions.keys()
    }

    /// CPU taken.
    pub(crate) fn cpu(&self) -> CpuMilli {
        self.sums.cpu
    }

    /// Host memory taken.
    pub(crate) fn memory(&self) -> MemoryBytes {
        self.sums.memory
    }

    /// What is taken of each device.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (&DeviceUuid, Demand)> {
        self.sums.devices.iter().map(|(device, (taken, _))| (device, *taken))
    }

    /// Whether anything is taken of a device.
    pub(crate) fn holds(&self, device: &DeviceUuid) -> bool {
        self.sums.devices.contains_key(device)
    }

    pub(crate) fn add(&mut self, session: &Session, grant: &Grant) {
        *self.sessions.entry(session.id.clone()).or_default() += 1;
        self.sums.add(session, grant);
    }

    fn subtract(&mut self, session: &Session, grant: &Grant) {
        if let Some(grants) = self.sessions.get_mut(&session.id) {
            *grants -= 1;
            if *grants == 0 {
                self.sessions.remove(&session.id);
            }
        }
        self.sums.subtract(session, grant);
    }
}

impl Sums {
    fn add(&mut self, session: &Session, grant: &Grant) {
        self.cpu = self.cpu.saturating_add(session.spec.resources.cpu);
        self.memory = self.memory.saturating_add(session.spec.resources.memory);
        for slice in &grant.slices {
            let (demand, slices) = self.devices.entry(slice.device.clone()).or_default();
            *demand = demand.saturating_add(slice.demand());
            *slices += 1;
        }
    }

    fn subtract(&mut self, session: &Session, grant: &Grant) {
        self.cpu = self.cpu.saturating_sub(session.spec.resources.cpu);
        self.memory = self.memory.saturating_sub(session.spec.resources.memory);
        for slice in &grant.slices {
            let Some((demand, slices)) = self.devices.get_mut(&slice.device) else { continue };
            *demand = less(*demand, slice.demand());
            *slices -= 1;
            if *slices == 0 {
                self.devices.remove(&slice.device);
            }
        }
    }

    /// Whether more is taken than `view` has, or on devices it does not have.
    fn exceed(&self, view: &NodeView) -> bool {
        let within = |(uuid, (taken, _)): (&DeviceUuid, &(Demand, u32))| {
            let device = view.devices.iter().find(|device| device.uuid == *uuid);
            device.is_some_and(|device| taken.fits(device.units.whole()))
        };
        self.cpu > view.cpu_total
            || self.memory > view.memory_total
            || !self.devices.iter().all(within)
    }
}

impl Cluster {
    /// Keeps sums and view in step with what `old` held and `new` holds.
    pub(super) fn move_held(&mut self, old: Option<&Session>, new: Option<&Session>) {
        let held = |session: Option<&Session>, grant: (u64, &Grant)| {
            session.is_some_and(|session| session.takes().any(|other| other == grant))
        };
        if let Some(session) = old {
            for grant in session.takes().filter(|grant| !held(new, *grant)) {
                self.give_back(session, grant.1);
            }
        }
        if let Some(session) = new {
            for grant in session.takes().filter(|grant| !held(old, *grant)) {
                self.hold(session, grant.1);
            }
        }
    }

    fn hold(&mut self, session: &Session, grant: &Grant) {
        let held = self.index.on_node.entry(grant.node.clone()).or_default();
        held.add(session, grant);
        let exact = !held.beyond;
        if !exact || self.view.allocate(&grant.node, &allocation(session, grant)).is_err() {
            self.refresh_view(&grant.node);
        }
    }

    fn give_back(&mut self, session: &Session, grant: &Grant) {
        let Some(held) = self.index.on_node.get_mut(&grant.node) else { return };
        held.subtract(session, grant);
        let exact = !held.beyond;
        if held.sessions.is_empty() {
            self.index.on_node.remove(&grant.node);
        }
        if !exact || self.view.release(&grant.node, &allocation(session, grant)).is_err() {
            self.refresh_view(&grant.node);
        }
    }

    /// Works out anew what placement sees of one node, from its record and the sums of what is held
    /// there.
    pub(super) fn refresh_view(&mut self, name: &NodeName) {
        let Some(node) = self.nodes.get(name) else { return };
        let nothing = Sums::default();
        let sums = self.index.on_node.get(name).map_or(&nothing, |held| &held.sums);
        let view = self.node_view(node, sums);
        let beyond = sums.exceed(&view);
        let known = self.view.get(name).is_some();
        let put = if known { self.view.replace(view) } else { self.view.insert(view) };
        if let Err(refused) = put {
            // Registration refuses such nodes; one from an older store takes nothing new.
            debug_assert!(false, "{refused}");
            self.view.remove(name);
        }
        if let Some(held) = self.index.on_node.get_mut(name) {
            held.beyond = beyond;
        }
    }

    /// Whether what is known of `node`, and what placement sees of it, is in step with `held`, which
    /// comes from the records alone.
    pub(crate) fn sees(&self, node: &Node, held: &Held) -> bool {
        let nothing = Held::default();
        let known = self.index.on_node.get(&node.name).unwrap_or(&nothing);
        let mut expected = self.node_view(node, &held.sums);
        expected.devices.sort_by_key(|device| device.index);
        (&known.sessions, &known.sums) == (&held.sessions, &held.sums)
            && self.view.get(&node.name) == Some(&expected)
    }

    fn node_view(&self, node: &Node, sums: &Sums) -> NodeView {
        let cards = &node.inventory.devices;
        let mut devices: Vec<DeviceView> =
            cards.iter().map(|card| self.device_view(node, card, sums)).collect();
        // Instances have no index of their own: they come behind all cards, card by card.
        let mut index = cards.iter().map(|card| card.index.saturating_add(1)).max().unwrap_or(0);
        for card in cards {
            for instance in card.instances() {
                devices.push(self.instance_view(node, card, instance, index, sums));
                index = index.saturating_add(1);
            }
        }
        NodeView {
            name: node.name.clone(),
            state: state(node, self.liveness(&node.name), self.index.troubles.is_held(&node.name)),
            labels: node.effective_labels(),
            cpu_total: node.inventory.cpu,
            cpu_free: node.inventory.cpu.saturating_sub(sums.cpu),
            memory_total: node.inventory.memory,
            memory_free: node.inventory.memory.saturating_sub(sums.memory),
            devices,
            allow_shared: self.settings.allow_shared || node.inventory.runtime.allow_shared,
            enforcers: node.inventory.runtime.enforcers.clone(),
        }
    }

    fn device_view(&self, node: &Node, device: &Device, sums: &Sums) -> DeviceView {
        let (taken, sessions) = sums.devices.get(&device.uuid).copied().unwrap_or_default();
        let units = self.settings.units.units_of(&device.model, device.memory);
        let whole = units.whole();
        let partitioned = || device.is_partitioned().then_some(DeviceBlock::MigEnabled);
        let blocked = block(node, &device.uuid, &device.health).or_else(partitioned);
        DeviceView {
            uuid: device.uuid.clone(),
            index: device.index,
            model: device.model.clone(),
            units,
            free: less(whole, taken),
            blocked,
            numa_node: device.numa_node,
            nvlink_peers: device.nvlink_peers.clone(),
            sessions,
            mig: None,
        }
    }

    /// A MIG instance: what keeps new sessions off its card keeps them off it too, but that the card
    /// is partitioned.
    fn instance_view(
        &self,
        node: &Node,
        card: &Device,
        instance: &MigInstance,
        index: u32,
        sums: &Sums,
    ) -> DeviceView {
        let (taken, sessions) = sums.devices.get(&instance.uuid).copied().unwrap_or_default();
        let units =
            self.settings.units.units_of_instance(&card.model, card.memory, instance.memory);
        DeviceView {
            uuid: instance.uuid.clone(),
            index,
            model: card.model.clone(),
            units,
            free: less(units.whole(), taken),
            blocked: block(node, &card.uuid, &card.health)
                .or_else(|| block(node, &instance.uuid, &instance.health)),
            numa_node: card.numa_node,
            nvlink_peers: Vec::new(),
            sessions,
            mig: Some(MigOrigin { profile: instance.profile.clone(), card: card.uuid.clone() }),
        }
    }
}

/// What was seen of a device, or decided, that keeps new sessions off it.
fn block(node: &Node, uuid: &DeviceUuid, health: &DeviceHealth) -> Option<DeviceBlock> {
    match health {
        DeviceHealth::Unhealthy { reason } => {
            Some(DeviceBlock::Unhealthy { reason: reason.clone() })
        }
        DeviceHealth::Healthy => {
            node.cordoned_devices.contains(uuid).then_some(DeviceBlock::Cordoned)
        }
    }
}

/// What `grant` takes from its node.
pub(super) fn allocation(session: &Session, grant: &Grant) -> Allocation {
    let resources = &session.spec.resources;
    Allocation { cpu: resources.cpu, memory: resources.memory, slices: grant.slices.clone() }
}

fn less(from: Demand, taken: Demand) -> Demand {
    Demand {
        memory: from.memory.saturating_sub(taken.memory),
        compute: from.compute.saturating_sub(taken.compute),
    }
}

fn state(node: &Node, liveness: Liveness, held_off: bool) -> NodeState {
    match (liveness, node.cordon) {
        (Liveness::NeverSeen, _) => NodeState::NeverSeen,
        (Liveness::Lost, _) => NodeState::Lost,
        (Liveness::Suspect, _) => NodeState::Suspect,
        (Liveness::Live, Cordon::Draining) => NodeState::Draining,
        (Liveness::Live, Cordon::Cordoned) => NodeState::Cordoned,
        (Liveness::Live, Cordon::Open) if !node.inventory.condition.is_empty() => {
            NodeState::Suspect
        }
        (Liveness::Live, Cordon::Open) if held_off => NodeState::HeldOff,
        (Liveness::Live, Cordon::Open) => NodeState::Ready,
    }
}

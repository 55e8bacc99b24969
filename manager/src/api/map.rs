//! Nodes and devices as callers see them: records, what is held on them, and what was measured.

use super::Caller;
use crate::engine::Snapshot;
use fgpu_domain::device::{Device, DeviceHealth};
use fgpu_domain::ids::{DeviceUuid, NodeName};
use fgpu_domain::node::{Cordon, Node};
use fgpu_domain::placement::{DeviceBlock, NodeState};
use fgpu_domain::session::Session;
use fgpu_domain::slice::{Demand, DeviceUnits, Grant};
use fgpu_domain::units::{CpuMilli, MemoryBytes};
use fgpu_wire::convert::phase_of;
use fgpu_wire::v1;
use std::collections::HashMap;

/// What is held, by node; worked out once per call.
pub(super) struct NodeMap<'a> {
    caller: &'a Caller,
    snapshot: &'a Snapshot,
    held: HashMap<&'a NodeName, Vec<(&'a Session, &'a Grant)>>,
}

impl<'a> NodeMap<'a> {
    pub(super) fn new(caller: &'a Caller, snapshot: &'a Snapshot) -> Self {
        let mut held: HashMap<_, Vec<_>> = HashMap::new();
        for session in snapshot.sessions.values() {
            for (_, grant) in session.held() {
                held.entry(&grant.node).or_default().push((&**session, grant));
            }
        }
        Self { caller, snapshot, held }
    }

    pub(super) fn node(&mut self, node: &Node) -> v1::Node {
        let held = self.held.get(&node.name).map(Vec::as_slice).unwrap_or_default();
        let resources = held.iter().map(|(session, _)| &session.spec.resources);
        let cpu: CpuMilli = resources.clone().map(|resources| resources.cpu).sum();
        let memory: MemoryBytes = resources.map(|resources| resources.memory).sum();
        let sessions = u32::try_from(held.len()).unwrap_or(u32::MAX);
        let cell = self.caller.term.nodes.find(&node.name);
        let usage = cell.as_ref().and_then(|cell| cell.usage());
        let state = self.snapshot.states.get(&node.name).copied();
        v1::Node {
            name: node.name.to_string(),
            state: node_state(state.unwrap_or(NodeState::NeverSeen)).into(),
            cordoned: node.cordon != Cordon::Open,
            labels: node.effective_labels(),
            agent_version: node.inventory.agent_version.clone(),
            address: node.inventory.address.clone(),
            runtime: Some((&node.inventory.runtime).into()),
            cpu_milli: node.inventory.cpu.0,
            cpu_allocated_milli: cpu.0,
            memory_bytes: node.inventory.memory.0,
            memory_allocated_bytes: memory.0,
            devices: self.devices(node),
            sessions,
            registered_at_ms: node.registered_at.0,
            last_seen_ms: cell.map_or(0, |cell| cell.seen_at()),
            usage: usage.map(|usage| self.visible_usage(&usage)).unwrap_or_default(),
            condition: node.inventory.condition.clone(),
            images: Vec::new(),
        }
    }

    pub(super) fn devices(&mut self, node: &Node) -> Vec<v1::Device> {
        let cell = self.caller.term.nodes.find(&node.name);
        let usage = cell.and_then(|cell| cell.usage());
        let cards = node.inventory.devices.iter();
        cards.flat_map(|card| self.card(node, card, usage.as_ref())).collect()
    }

    /// A card, and behind it the MIG instances it has.
    fn card(&self, node: &Node, card: &Device, usage: Option<&v1::Heartbeat>) -> Vec<v1::Device> {
        let policy = &self.caller.term.config.units;
        let own = policy.units_of(&card.model, card.memory);
        let mut whole = self.device(node, card, own, usage);
        whole.blocked = blocked(node, &card.uuid, &card.health)
            .or_else(|| card.is_partitioned().then_some(DeviceBlock::MigEnabled))
            .map(|block| block.to_string())
            .unwrap_or_default();
        let mut found = Vec::with_capacity(1 + card.instances().len());
        for instance in card.instances() {
            let units = policy.units_of_instance(&card.model, card.memory, instance.memory);
            let mut part = self.device(node, &card.of_instance(instance), units, usage);
            part.mig_profile.clone_from(&instance.profile);
            part.mig_card = card.uuid.to_string();
            part.blocked = blocked(node, &card.uuid, &card.health)
                .or_else(|| blocked(node, &instance.uuid, &instance.health))
                .map(|block| block.to_string())
                .unwrap_or_default();
            // What is held of an instance is held of its card.
            let held: u64 = part
                .slices
                .iter()
                .filter_map(|held| held.slice.as_ref())
                .map(|s| s.fgpu_milli)
                .sum();
            whole.allocatable_fgpu_milli = whole.allocatable_fgpu_milli.saturating_sub(held);
            whole.allocated_memory_bytes += part.allocated_memory_bytes;
            found.push(part);
        }
        found.insert(0, whole);
        found
    }

    fn device(
        &self,
        node: &Node,
        device: &Device,
        units: DeviceUnits,
        usage: Option<&v1::Heartbeat>,
    ) -> v1::Device {
        let held = self.held.get(&node.name).map(Vec::as_slice).unwrap_or_default();
        let mut taken = Demand::default();
        let mut slices = Vec::new();
        for (session, grant) in held {
            for slice in grant.slices.iter().filter(|slice| slice.device == device.uuid) {
                taken = taken.saturating_add(slice.demand());
                slices.push(self.slice(session, grant, slice, usage));
            }
        }
        let whole = units.whole();
        let free = whole.checked_sub(taken).unwrap_or_default();
        let measured = usage
            .and_then(|usage| usage.devices.iter().find(|used| used.uuid == device.uuid.as_str()));
        v1::Device {
            info: Some(device.into()),
            node: node.name.to_string(),
            capacity_fgpu_milli: units.capacity.0,
            memory_per_fgpu_bytes: units.memory_per_fgpu.0,
            leftover_memory_bytes: units.leftover_memory().0,
            allocated_memory_bytes: taken.memory.0,
            allocated_compute_milli: taken.compute.0,
            allocatable_fgpu_milli: units.fgpu_in(free).0,
            slices,
            usage: measured.cloned(),
            cordoned: node.cordoned_devices.contains(&device.uuid),
            ..v1::Device::default()
        }
    }

    /// A slice of someone else's session shows its size, not whose it is.
    fn slice(
        &self,
        session: &Session,
        grant: &Grant,
        slice: &fgpu_domain::slice::Slice,
        usage: Option<&v1::Heartbeat>,
    ) -> v1::DeviceSlice {
        let used = usage.and_then(|usage| {
            let own = |used: &&v1::ContainerUsage| used.session_id == session.id.as_str();
            let container = usage.containers.iter().find(own)?;
            container.device_memory_bytes.get(slice.device.as_str()).copied()
        });
        let mut wire = v1::DeviceSlice {
            slice: Some(slice.into()),
            isolation: v1::Isolation::from(grant.isolation).into(),
            phase: phase_of(&session.phase).into(),
            memory_used_bytes: used,
            ..v1::DeviceSlice::default()
        };
        if self.caller.sees(session) {
            wire.session_id = session.id.to_string();
            wire.session_name =
                session.spec.name.as_ref().map(ToString::to_string).unwrap_or_default();
            wire.owner = session.owner.to_string();
        }
        wire
    }

    fn visible_usage(&self, usage: &v1::Heartbeat) -> Vec<v1::ContainerUsage> {
        let sees = |used: &&v1::ContainerUsage| {
            let session = self.snapshot.session(&used.session_id);
            session.is_some_and(|session| self.caller.sees(session))
        };
        usage.containers.iter().filter(sees).cloned().collect()
    }
}

/// What was seen of a device, or decided, that keeps new slices off it.
fn blocked(node: &Node, uuid: &DeviceUuid, health: &DeviceHealth) -> Option<DeviceBlock> {
    if let DeviceHealth::Unhealthy { reason } = health {
        return Some(DeviceBlock::Unhealthy { reason: reason.clone() });
    }
    node.cordoned_devices.contains(uuid).then_some(DeviceBlock::Cordoned)
}

fn node_state(state: NodeState) -> v1::NodeState {
    match state {
        NodeState::Ready => v1::NodeState::Ready,
        NodeState::Cordoned => v1::NodeState::Cordoned,
        NodeState::Draining => v1::NodeState::Draining,
        NodeState::Suspect => v1::NodeState::Suspect,
        NodeState::Lost => v1::NodeState::Lost,
        NodeState::NeverSeen => v1::NodeState::NeverSeen,
        NodeState::HeldOff => v1::NodeState::HeldOff,
    }
}

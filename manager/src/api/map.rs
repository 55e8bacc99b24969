//! Nodes and devices as callers see them: records, what is held on them, and what was measured.

use super::Caller;
use crate::engine::Snapshot;
use fgpu_domain::device::{Device, DeviceHealth, MigState};
use fgpu_domain::ids::NodeName;
use fgpu_domain::node::{Cordon, Node};
use fgpu_domain::placement::{DeviceBlock, NodeState};
use fgpu_domain::session::Session;
use fgpu_domain::slice::{Demand, Grant};
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
        let devices = node.inventory.devices.iter();
        devices.map(|device| self.device(node, device, usage.as_ref())).collect()
    }

    fn device(&self, node: &Node, device: &Device, usage: Option<&v1::Heartbeat>) -> v1::Device {
        let units = self.caller.term.config.units.units_of(&device.model, device.memory);
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
            blocked: blocked(node, device).map(|block| block.to_string()).unwrap_or_default(),
            cordoned: node.cordoned_devices.contains(&device.uuid),
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
            let session = self.snapshot.sessions.get(used.session_id.as_str());
            session.is_some_and(|session| self.caller.sees(session))
        };
        usage.containers.iter().filter(sees).cloned().collect()
    }
}

/// Why a device takes nothing new, if so.
fn blocked(node: &Node, device: &Device) -> Option<DeviceBlock> {
    if let DeviceHealth::Unhealthy { reason } = &device.health {
        return Some(DeviceBlock::Unhealthy { reason: reason.clone() });
    }
    if node.cordoned_devices.contains(&device.uuid) {
        return Some(DeviceBlock::Cordoned);
    }
    matches!(device.mig, MigState::Enabled { .. }).then_some(DeviceBlock::MigEnabled)
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

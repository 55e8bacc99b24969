//! Kinds of request: units that ask placement for the same are looked at once for all of them.

use crate::ids::NodeName;
use crate::placement::{DeviceView, NodeState, NodeView, Request};
use crate::session::SessionSpec;
use crate::slice::{ComputeRequest, GpuAmount, GpuRequest, Isolation, Part};
use crate::units::{CpuMilli, Fgpu, MIB, MemoryBytes};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The number of a kind; given anew once nothing of it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindId(u64);

/// Everything of a specification that placement looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    cpu: CpuMilli,
    memory: MemoryBytes,
    gpu: Option<GpuRequest>,
    node: Option<NodeName>,
    labels: BTreeMap<String, String>,
    isolation: Option<Isolation>,
    has_image: bool,
    has_command: bool,
    mounts: BTreeSet<String>,
    /// Members placed together; 1 for a session by itself.
    members: u32,
    /// How long it may run, as a power of two of minutes; 0: nobody knows. What is short may be let
    /// in where room is kept for others.
    run: u32,
}

impl Kind {
    pub(crate) fn of(spec: &SessionSpec, members: u32) -> Self {
        Self {
            cpu: spec.resources.cpu,
            memory: spec.resources.memory,
            gpu: spec.resources.gpu.clone(),
            node: spec.node.clone(),
            labels: spec.node_labels.clone(),
            isolation: spec.isolation,
            has_image: !spec.image.is_empty(),
            has_command: !spec.command.is_empty() || !spec.entrypoint.is_empty(),
            mounts: spec.mounts.iter().map(|mount| mount.source.clone()).collect(),
            members,
            run: spec.time_limit_ms.map_or(0, |limit| 1 + (limit / 60_000).max(1).ilog2()),
        }
    }
}

/// All kinds of which something waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Kinds {
    ids: HashMap<Kind, KindId>,
    known: HashMap<KindId, Known>,
    /// Kinds without room, by the memory the largest of their parts needs on one device.
    closed: BTreeMap<u64, BTreeSet<KindId>>,
    next: u64,
}

#[derive(Debug, Clone)]
struct Known {
    kind: Kind,
    request: Request,
    /// How many units wait at each priority.
    units: BTreeMap<i32, usize>,
    closed_at: Option<u64>,
}

impl Kinds {
    pub(super) fn known(&self, kind: &Kind) -> Option<KindId> {
        self.ids.get(kind).copied()
    }

    pub(super) fn id(&mut self, kind: Kind, request: Request) -> KindId {
        if let Some(id) = self.ids.get(&kind) {
            return *id;
        }
        let id = KindId(self.next);
        self.next += 1;
        self.ids.insert(kind.clone(), id);
        self.known.insert(id, Known { kind, request, units: BTreeMap::new(), closed_at: None });
        id
    }

    /// One unit more at a priority; tells whether the kind is open and new there.
    pub(super) fn take(&mut self, id: KindId, priority: i32) -> bool {
        let Some(known) = self.known.get_mut(&id) else { return false };
        let units = known.units.entry(priority).or_default();
        *units += 1;
        *units == 1 && known.closed_at.is_none()
    }

    /// One unit less at a priority; tells whether it was the last there. A kind without units is
    /// forgotten.
    pub(super) fn release(&mut self, id: KindId, priority: i32) -> bool {
        let Some(known) = self.known.get_mut(&id) else { return false };
        let Some(units) = known.units.get_mut(&priority) else { return false };
        *units -= 1;
        if *units > 0 {
            return false;
        }
        known.units.remove(&priority);
        if known.units.is_empty() {
            self.open(id);
            if let Some(known) = self.known.remove(&id) {
                self.ids.remove(&known.kind);
            }
        }
        true
    }

    pub(super) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    pub(super) fn is_open(&self, id: KindId) -> bool {
        self.known.get(&id).is_none_or(|known| known.closed_at.is_none())
    }

    /// Closes a kind; tells at which priorities it waits.
    pub(super) fn close(&mut self, id: KindId, part: u64) -> Vec<i32> {
        let Some(known) = self.known.get_mut(&id) else { return Vec::new() };
        if known.closed_at.is_none() {
            known.closed_at = Some(part);
            self.closed.entry(part).or_default().insert(id);
        }
        known.units.keys().copied().collect()
    }

    /// Opens a kind; tells at which priorities it waits.
    pub(super) fn open(&mut self, id: KindId) -> Vec<i32> {
        let Some(known) = self.known.get_mut(&id) else { return Vec::new() };
        let Some(part) = known.closed_at.take() else { return Vec::new() };
        if let Some(kinds) = self.closed.get_mut(&part) {
            kinds.remove(&id);
            if kinds.is_empty() {
                self.closed.remove(&part);
            }
        }
        known.units.keys().copied().collect()
    }

    pub(super) fn open_all(&mut self) -> Vec<(KindId, Vec<i32>)> {
        let closed: Vec<KindId> = self.closed.values().flatten().copied().collect();
        closed.into_iter().map(|id| (id, self.open(id))).collect()
    }

    /// Opens what `node` could take; tells which kinds, and at which priorities they wait.
    pub(super) fn node_changed(&mut self, node: &NodeView) -> Vec<(KindId, Vec<i32>)> {
        if node.state != NodeState::Ready {
            return Vec::new();
        }
        let open = node.devices.iter().filter(|device| device.blocked.is_none());
        let most = open.map(|device| device.free.memory.0).max().unwrap_or(0);
        let kinds = self.closed.range(..=most).flat_map(|(_, kinds)| kinds);
        let takes = |id: &&KindId| self.known.get(*id).is_some_and(|k| may_take(&k.request, node));
        let opened: Vec<KindId> = kinds.filter(takes).copied().collect();
        opened.into_iter().map(|id| (id, self.open(id))).collect()
    }
}

/// Whether `node` might take `request`: false only where it surely does not.
pub(crate) fn may_take(request: &Request, node: &NodeView) -> bool {
    node.state == NodeState::Ready
        && request.cpu <= node.cpu_free
        && request.memory <= node.memory_free
        && request.node.as_ref().is_none_or(|name| *name == node.name)
        && request.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && request.gpu.as_ref().is_none_or(|gpu| may_hold(gpu, node))
}

fn may_hold(gpu: &GpuRequest, node: &NodeView) -> bool {
    let allowed = node.devices.iter().filter(|device| gpu.allows_model(&device.model));
    let open = || allowed.clone().filter(|device| device.blocked.is_none());
    match gpu.amount {
        GpuAmount::Whole(count) => {
            let empty = open().filter(|device| device.sessions == 0).count();
            u32::try_from(empty).is_ok_and(|empty| empty >= count.get())
        }
        GpuAmount::Fgpu(amount) => {
            let fits =
                |device: &DeviceView| device.units.demand(Part::Fgpu(amount)).fits(device.free);
            // What one empty device could hold is never split unasked.
            let divisible = gpu.devices.is_some() || gpu.split.is_some();
            let one_device =
                !divisible && allowed.clone().any(|device| device.units.capacity >= amount);
            if one_device { open().any(fits) } else { may_sum_to(amount, open()) }
        }
        GpuAmount::Direct { memory, compute } => {
            let free: u64 = open().map(|device| device.free.memory.0).sum();
            let share = match compute {
                ComputeRequest::Share(share) => open().any(|d| d.free.compute >= share),
                ComputeRequest::Proportional | ComputeRequest::Shared => open().next().is_some(),
            };
            share && memory.is_none_or(|memory| memory.0 <= free)
        }
    }
}

/// Whether what is free on `devices` may be as much as `amount`, rounding in its favour.
fn may_sum_to<'a>(amount: Fgpu, devices: impl Iterator<Item = &'a DeviceView>) -> bool {
    let most = devices.map(|device| {
        let rounding = 2
            + device.units.capacity.0 / 1000
            + MIB.saturating_mul(1000) / device.units.memory_per_fgpu.0.max(1);
        device.units.fgpu_in(device.free).0.saturating_add(rounding)
    });
    most.fold(0, u64::saturating_add) >= amount.0
}

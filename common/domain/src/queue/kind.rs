//! Kinds of request: units that ask placement for the same are looked at once for all of them.

use crate::ids::NodeName;
use crate::placement::{Request, Unmet, View};
use crate::session::SessionSpec;
use crate::slice::{GpuRequest, Isolation};
use crate::units::{CpuMilli, MemoryBytes};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

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
    ids: HashMap<Arc<Kind>, KindId>,
    /// Small, so that many lie close together.
    known: HashMap<KindId, Known>,
    /// Kinds without room.
    closed: Unmet<KindId>,
    next: u64,
}

#[derive(Debug, Clone)]
struct Known {
    kind: Arc<Kind>,
    /// How many units wait at each priority.
    units: BTreeMap<i32, usize>,
}

impl Kinds {
    pub(super) fn id(&mut self, kind: Kind) -> KindId {
        if let Some(id) = self.ids.get(&kind) {
            return *id;
        }
        let (id, kind) = (KindId(self.next), Arc::new(kind));
        self.next += 1;
        self.ids.insert(Arc::clone(&kind), id);
        self.known.insert(id, Known { kind, units: BTreeMap::new() });
        id
    }

    /// One unit more at a priority; tells whether the kind is open and new there.
    pub(super) fn take(&mut self, id: KindId, priority: i32) -> bool {
        let Some(known) = self.known.get_mut(&id) else { return false };
        let units = known.units.entry(priority).or_default();
        *units += 1;
        *units == 1 && !self.closed.contains(id)
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
        !self.closed.contains(id)
    }

    /// Closes a kind that asks for `request`; tells at which priorities it waits.
    pub(super) fn close(&mut self, id: KindId, request: Request, view: &View) -> Vec<i32> {
        let Some(known) = self.known.get(&id) else { return Vec::new() };
        self.closed.insert(id, request, view);
        known.units.keys().copied().collect()
    }

    /// Opens a kind; tells at which priorities it waits.
    pub(super) fn open(&mut self, id: KindId) -> Vec<i32> {
        let closed = self.closed.remove(id);
        let known = self.known.get(&id).filter(|_| closed);
        known.map(|known| known.units.keys().copied().collect()).unwrap_or_default()
    }

    /// Opens every kind; tells which were closed, and at which priorities they wait.
    pub(super) fn open_all(&mut self) -> Vec<(KindId, Vec<i32>)> {
        let closed: Vec<KindId> = self.closed.keys().collect();
        closed.into_iter().map(|id| (id, self.open(id))).collect()
    }

    /// Whether the hardware has changed in a way that may give any closed kind room.
    pub(super) fn is_outdated(&self, view: &View) -> bool {
        self.closed.is_outdated(view)
    }

    /// Opens what a node has room for; tells which kinds, and at which priorities they wait.
    pub(super) fn node_changed(&mut self, view: &View, node: &NodeName) -> Vec<(KindId, Vec<i32>)> {
        let opened = self.closed.met_on(view, node);
        opened.into_iter().map(|id| (id, self.open(id))).collect()
    }
}

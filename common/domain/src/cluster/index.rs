//! What is derived from the records, and the journal of what changed.
//!
//! [`Cluster::put_session`] and [`Cluster::put_node`] are the only places where a record enters or
//! leaves; both keep every index and the view in step.

use super::Cluster;
use super::accounts::{Account, Accounts};
use super::waiting::Waiting;
use crate::class::PriorityClass;
use crate::device::{Device, DeviceHealth, MigState};
use crate::ids::{ClassName, NodeName, ProjectName, RequestId, SessionId, SessionName, UserName};
use crate::node::{Cordon, Liveness, Node};
use crate::placement::{DeviceBlock, DeviceView, NodeState, NodeView};
use crate::project::Project;
use crate::reconcile::Want;
use crate::session::{Phase, Session};
use crate::slice::Demand;
use crate::time::UnixMillis;
use crate::units::{CpuMilli, MemoryBytes};
use crate::usage::Usage;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A session.
    Session(Arc<Session>),
    /// A node.
    Node(Arc<Node>),
    /// A project.
    Project(Arc<Project>),
    /// A priority class.
    Class(Arc<PriorityClass>),
    /// A project's history.
    Usage(Arc<Usage>),
}

/// The key of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKey {
    /// A session's.
    Session(SessionId),
    /// A node's.
    Node(NodeName),
    /// A project's.
    Project(ProjectName),
    /// A priority class's.
    Class(ClassName),
    /// That of a project's history.
    Usage(ProjectName),
}

/// Everything that changed since the last time changes were taken.
#[derive(Debug, Default)]
pub struct Changes {
    /// Records to write, each once, as they are now.
    pub puts: Vec<Record>,
    /// Records to delete.
    pub deletes: Vec<RecordKey>,
    /// Nodes whose desired state changed.
    pub desired: BTreeSet<NodeName>,
    undo: Vec<Undo>,
}

impl Changes {
    /// Whether there is nothing to write. (The desired state follows from the records.)
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

/// How to take back one step.
#[derive(Debug)]
pub(super) enum Undo {
    Session(SessionId, Option<Arc<Session>>),
    Node(NodeName, Option<Arc<Node>>),
    Liveness(NodeName, Option<Liveness>),
    Project(ProjectName, Option<Arc<Project>>),
    Class(ClassName, Option<Arc<PriorityClass>>),
    Usage(ProjectName, Option<Arc<Usage>>),
    /// What a project and a user in it held and had used.
    Account(Box<(ProjectName, UserName, Account, Account)>),
}

/// What happened since the last take.
#[derive(Debug, Default)]
pub(super) struct Journal {
    undo: Vec<Undo>,
    desired: BTreeSet<NodeName>,
}

/// Everything found by something else than its id.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub waiting: Waiting,
    pub by_name: HashMap<(UserName, SessionName), SessionId>,
    pub by_request: HashMap<(UserName, RequestId), SessionId>,
    pub on_node: HashMap<NodeName, BTreeSet<SessionId>>,
    pub deadlines: BTreeSet<(UnixMillis, SessionId)>,
    pub ended: BTreeSet<(UnixMillis, SessionId)>,
    pub liveness: HashMap<NodeName, Liveness>,
    pub accounts: Accounts,
    /// Set when something may have become placeable.
    pub unsettled: bool,
}

impl Cluster {
    /// Writes a session record and keeps everything derived in step.
    pub(super) fn put_session(&mut self, session: Session) -> Arc<Session> {
        let session = Arc::new(session);
        let id = session.id.clone();
        let known = self.sessions.get(&id).cloned();
        self.book(known.as_deref(), Some(&session));
        let old = self.replace_session(&id, Some(session.clone()));
        self.journal.undo.push(Undo::Session(id, old));
        session
    }

    pub(super) fn journal_account(&mut self, undo: Undo) {
        self.journal.undo.push(undo);
    }

    pub(super) fn delete_session(&mut self, id: &SessionId) {
        let known = self.sessions.get(id).cloned();
        self.book(known.as_deref(), None);
        let old = self.replace_session(id, None);
        self.journal.undo.push(Undo::Session(id.clone(), old));
    }

    /// Writes a node record and keeps the view in step.
    pub(super) fn put_node(&mut self, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        let name = node.name.clone();
        let old = self.replace_node(&name, Some(node.clone()));
        self.journal.undo.push(Undo::Node(name, old));
        node
    }

    pub(super) fn delete_node(&mut self, name: &NodeName) {
        let old = self.replace_node(name, None);
        self.journal.undo.push(Undo::Node(name.clone(), old));
    }

    pub(super) fn put_project(&mut self, project: Project) -> Arc<Project> {
        let (name, project) = (project.name.clone(), Arc::new(project));
        let old = self.replace_project(&name, Some(project.clone()));
        self.journal.undo.push(Undo::Project(name, old));
        project
    }

    pub(super) fn delete_project(&mut self, name: &ProjectName) {
        let old = self.replace_project(name, None);
        self.journal.undo.push(Undo::Project(name.clone(), old));
    }

    pub(super) fn put_class(&mut self, class: PriorityClass) -> Arc<PriorityClass> {
        let (name, class) = (class.name.clone(), Arc::new(class));
        let old = self.replace_class(&name, Some(class.clone()));
        self.journal.undo.push(Undo::Class(name, old));
        class
    }

    pub(super) fn delete_class(&mut self, name: &ClassName) {
        let old = self.replace_class(name, None);
        self.journal.undo.push(Undo::Class(name.clone(), old));
    }

    pub(super) fn put_usage(&mut self, usage: Usage) {
        let name = usage.project.clone();
        let old = self.replace_usage(&name, Some(Arc::new(usage)));
        self.journal.undo.push(Undo::Usage(name, old));
    }

    pub(super) fn delete_usage(&mut self, name: &ProjectName) {
        let old = self.replace_usage(name, None);
        self.journal.undo.push(Undo::Usage(name.clone(), old));
    }

    fn replace_project(
        &mut self,
        name: &ProjectName,
        new: Option<Arc<Project>>,
    ) -> Option<Arc<Project>> {
        self.quota_changed(name);
        match new {
            Some(project) => self.projects.insert(name.clone(), project),
            None => self.projects.remove(name),
        }
    }

    fn replace_class(
        &mut self,
        name: &ClassName,
        new: Option<Arc<PriorityClass>>,
    ) -> Option<Arc<PriorityClass>> {
        let old = match new {
            Some(class) => self.classes.insert(name.clone(), class),
            None => self.classes.remove(name),
        };
        self.judge_again(|session| session.spec.class() == *name);
        old
    }

    fn replace_usage(&mut self, name: &ProjectName, new: Option<Arc<Usage>>) -> Option<Arc<Usage>> {
        match new {
            Some(usage) => self.usage.insert(name.clone(), usage),
            None => self.usage.remove(name),
        }
    }

    pub(super) fn put_liveness(&mut self, name: &NodeName, liveness: Liveness) {
        let old = self.replace_liveness(name, Some(liveness));
        self.journal.undo.push(Undo::Liveness(name.clone(), old));
    }

    /// Everything since the last take: to be written to the store as one.
    pub fn take_changes(&mut self) -> Changes {
        let Journal { undo, desired } = std::mem::take(&mut self.journal);
        let mut keys = BTreeSet::new();
        for step in &undo {
            match step {
                Undo::Session(id, _) => keys.insert(RecordKey::Session(id.clone())),
                Undo::Node(name, _) => keys.insert(RecordKey::Node(name.clone())),
                Undo::Project(name, _) => keys.insert(RecordKey::Project(name.clone())),
                Undo::Class(name, _) => keys.insert(RecordKey::Class(name.clone())),
                Undo::Usage(name, _) => keys.insert(RecordKey::Usage(name.clone())),
                Undo::Liveness(..) | Undo::Account(..) => false,
            };
        }
        let mut changes = Changes { desired, undo, ..Changes::default() };
        for key in keys {
            match self.record(&key) {
                Some(record) => changes.puts.push(record),
                None => changes.deletes.push(key),
            }
        }
        changes
    }

    fn record(&self, key: &RecordKey) -> Option<Record> {
        match key {
            RecordKey::Session(id) => self.sessions.get(id).cloned().map(Record::Session),
            RecordKey::Node(name) => self.nodes.get(name).cloned().map(Record::Node),
            RecordKey::Project(name) => self.projects.get(name).cloned().map(Record::Project),
            RecordKey::Class(name) => self.classes.get(name).cloned().map(Record::Class),
            RecordKey::Usage(name) => self.usage.get(name).cloned().map(Record::Usage),
        }
    }

    /// Takes `changes` back, as if they had never been made. Must be the last ones taken, with
    /// nothing applied since.
    pub fn rollback(&mut self, changes: Changes) {
        debug_assert!(self.journal.undo.is_empty(), "nothing may be applied in between");
        for step in changes.undo.into_iter().rev() {
            match step {
                Undo::Session(id, old) => drop(self.replace_session(&id, old)),
                Undo::Node(name, old) => drop(self.replace_node(&name, old)),
                Undo::Liveness(name, old) => drop(self.replace_liveness(&name, old)),
                Undo::Project(name, old) => drop(self.replace_project(&name, old)),
                Undo::Class(name, old) => drop(self.replace_class(&name, old)),
                Undo::Usage(name, old) => drop(self.replace_usage(&name, old)),
                Undo::Account(old) => {
                    let (project, user, total, own) = *old;
                    self.set_account(project, user, total, own);
                }
            }
        }
        self.journal = Journal::default();
        self.index.unsettled = true;
    }

    fn replace_session(
        &mut self,
        id: &SessionId,
        new: Option<Arc<Session>>,
    ) -> Option<Arc<Session>> {
        let old = match &new {
            Some(session) => self.sessions.insert(id.clone(), session.clone()),
            None => self.sessions.remove(id),
        };
        let before = old.as_deref().map(wants).unwrap_or_default();
        let after = new.as_deref().map(wants).unwrap_or_default();
        if let Some(old) = &old {
            self.unindex(old);
        }
        if let Some(new) = &new {
            self.index_session(new, self.settings.start_timeout_ms);
        }
        if before != after {
            let nodes: BTreeSet<NodeName> =
                before.keys().chain(after.keys()).map(|(node, _)| node.clone()).collect();
            for node in &nodes {
                self.refresh_view(node);
            }
            self.journal.desired.extend(nodes);
        }
        self.follow(old.as_deref(), new.as_deref());
        old
    }

    fn index_session(&mut self, session: &Session, start_timeout_ms: u64) {
        let id = &session.id;
        match &session.phase {
            Phase::Pending { .. } => {
                self.index.unsettled = true;
            }
            Phase::Ended(ended) => {
                // One that still holds something somewhere cannot be forgotten yet.
                if session.is_over() {
                    self.index.ended.insert((ended.at, id.clone()));
                }
                self.index.unsettled = true;
            }
            Phase::Scheduled { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Lost { .. } => {}
        }
        if !matches!(session.phase, Phase::Ended(_))
            && let Some(name) = &session.spec.name
        {
            self.index.by_name.insert((session.owner.clone(), name.clone()), id.clone());
        }
        if let Some(request) = &session.request_id {
            self.index.by_request.insert((session.owner.clone(), request.clone()), id.clone());
        }
        for (_, grant) in session.held() {
            self.index.on_node.entry(grant.node.clone()).or_default().insert(id.clone());
        }
        if let Some(deadline) = deadline(session, start_timeout_ms) {
            self.index.deadlines.insert((deadline, id.clone()));
        }
    }

    fn unindex(&mut self, session: &Session) {
        let id = &session.id;
        if let Phase::Ended(ended) = &session.phase {
            self.index.ended.remove(&(ended.at, id.clone()));
        }
        if !matches!(session.phase, Phase::Ended(_))
            && let Some(name) = &session.spec.name
        {
            self.index.by_name.remove(&(session.owner.clone(), name.clone()));
        }
        if let Some(request) = &session.request_id {
            self.index.by_request.remove(&(session.owner.clone(), request.clone()));
        }
        for (_, grant) in session.held() {
            if let Some(held) = self.index.on_node.get_mut(&grant.node) {
                held.remove(id);
                if held.is_empty() {
                    self.index.on_node.remove(&grant.node);
                }
            }
        }
        if let Some(deadline) = deadline(session, self.settings.start_timeout_ms) {
            self.index.deadlines.remove(&(deadline, id.clone()));
        }
    }

    fn replace_node(&mut self, name: &NodeName, new: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let gone = new.is_none();
        let old = match new {
            Some(node) => self.nodes.insert(name.clone(), node),
            None => self.nodes.remove(name),
        };
        let now = self.nodes.get(name).map(|node| &**node);
        self.index.accounts.capacity.replace(old.as_deref(), now, &self.settings.units);
        self.index.waiting.hardware_changed();
        if gone {
            self.view.remove(name);
        } else {
            self.refresh_view(name);
        }
        self.index.unsettled = true;
        old
    }

    fn replace_liveness(&mut self, name: &NodeName, new: Option<Liveness>) -> Option<Liveness> {
        let old = match new {
            Some(liveness) => self.index.liveness.insert(name.clone(), liveness),
            None => self.index.liveness.remove(name),
        };
        self.refresh_view(name);
        self.index.waiting.node_changed(name);
        self.index.unsettled = true;
        old
    }

    /// Works out anew what placement sees of one node, from its record and what is held there.
    fn refresh_view(&mut self, name: &NodeName) {
        let Some(node) = self.nodes.get(name) else { return };
        let view = self.node_view(node);
        let known = self.view.get(name).is_some();
        let put = if known { self.view.replace(view) } else { self.view.insert(view) };
        if let Err(refused) = put {
            // Registration refuses such nodes; one from an older store takes nothing new.
            debug_assert!(false, "{refused}");
            self.view.remove(name);
        }
    }

    /// What the view must hold of `node` if it is in step with the records.
    pub(crate) fn expected_view(&self, node: &Node) -> NodeView {
        let mut view = self.node_view(node);
        view.devices.sort_by_key(|device| device.index);
        view
    }

    fn node_view(&self, node: &Node) -> NodeView {
        let mut cpu = CpuMilli::ZERO;
        let mut memory = MemoryBytes::ZERO;
        let mut taken: BTreeMap<&str, (Demand, u32)> = BTreeMap::new();
        for session in self.sessions_on(&node.name) {
            for (_, grant) in session.held().filter(|(_, grant)| grant.node == node.name) {
                cpu = cpu.saturating_add(session.spec.resources.cpu);
                memory = memory.saturating_add(session.spec.resources.memory);
                for slice in &grant.slices {
                    let (demand, slices) = taken.entry(slice.device.as_str()).or_default();
                    *demand = demand.saturating_add(slice.demand());
                    *slices += 1;
                }
            }
        }
        let devices = node.inventory.devices.iter().map(|device| {
            let (taken, sessions) = taken.get(device.uuid.as_str()).copied().unwrap_or_default();
            self.device_view(node, device, taken, sessions)
        });
        NodeView {
            name: node.name.clone(),
            state: state(node, self.liveness(&node.name)),
            labels: node.effective_labels(),
            cpu_total: node.inventory.cpu,
            cpu_free: node.inventory.cpu.saturating_sub(cpu),
            memory_total: node.inventory.memory,
            memory_free: node.inventory.memory.saturating_sub(memory),
            devices: devices.collect(),
            allow_shared: self.settings.allow_shared || node.inventory.runtime.allow_shared,
            enforcers: node.inventory.runtime.enforcers.clone(),
        }
    }

    fn device_view(
        &self,
        node: &Node,
        device: &Device,
        taken: Demand,
        sessions: u32,
    ) -> DeviceView {
        let units = self.settings.units.units_of(&device.model, device.memory);
        let whole = units.whole();
        let blocked = match (&device.health, &device.mig) {
            (DeviceHealth::Unhealthy { reason }, _) => {
                Some(DeviceBlock::Unhealthy { reason: reason.clone() })
            }
            (DeviceHealth::Healthy, _) if node.cordoned_devices.contains(&device.uuid) => {
                Some(DeviceBlock::Cordoned)
            }
            (DeviceHealth::Healthy, MigState::Enabled { .. }) => Some(DeviceBlock::MigEnabled),
            (DeviceHealth::Healthy, MigState::Unsupported | MigState::Disabled) => None,
        };
        DeviceView {
            uuid: device.uuid.clone(),
            index: device.index,
            model: device.model.clone(),
            units,
            free: Demand {
                memory: whole.memory.saturating_sub(taken.memory),
                compute: whole.compute.saturating_sub(taken.compute),
            },
            blocked,
            numa_node: device.numa_node,
            nvlink_peers: device.nvlink_peers.clone(),
            sessions,
        }
    }
}

/// What each node is wanted to do with a session, by generation.
fn wants(session: &Session) -> BTreeMap<(NodeName, u64), Want> {
    let wanted = session
        .held()
        .map(|(generation, grant)| ((grant.node.clone(), generation), want(session, generation)));
    wanted.collect()
}

/// What is wanted of one placement of a session.
pub(super) fn want(session: &Session, generation: u64) -> Want {
    let grace_ms = session.stop_grace_ms.unwrap_or(session.spec.stop_grace_ms);
    let stop = Want::Stop { grace_ms };
    if generation != session.generation {
        return stop;
    }
    match &session.phase {
        Phase::Scheduled { .. }
        | Phase::Starting { .. }
        | Phase::Running { .. }
        | Phase::Lost { stopping: None, .. } => Want::Run,
        Phase::Stopping { .. }
        | Phase::Lost { stopping: Some(_), .. }
        | Phase::Pending { .. }
        | Phase::Ended(_) => stop,
    }
}

/// When the session's phase runs out.
fn deadline(session: &Session, start_timeout_ms: u64) -> Option<UnixMillis> {
    match &session.phase {
        Phase::Scheduled { since, .. } | Phase::Starting { since, .. } => {
            Some(since.plus(start_timeout_ms))
        }
        Phase::Running { since, .. } => session.spec.time_limit_ms.map(|limit| since.plus(limit)),
        Phase::Pending { since } => {
            let from = session.spec.start_at.unwrap_or_default().max(*since);
            session.spec.pending_timeout_ms.map(|timeout| from.plus(timeout))
        }
        Phase::Stopping { .. } | Phase::Lost { .. } | Phase::Ended(_) => None,
    }
}

fn state(node: &Node, liveness: Liveness) -> NodeState {
    match (liveness, node.cordon) {
        (Liveness::NeverSeen, _) => NodeState::NeverSeen,
        (Liveness::Lost, _) => NodeState::Lost,
        (Liveness::Suspect, _) => NodeState::Suspect,
        (Liveness::Live, Cordon::Draining) => NodeState::Draining,
        (Liveness::Live, Cordon::Cordoned) => NodeState::Cordoned,
        (Liveness::Live, Cordon::Open) if !node.inventory.condition.is_empty() => {
            NodeState::Suspect
        }
        (Liveness::Live, Cordon::Open) => NodeState::Ready,
    }
}

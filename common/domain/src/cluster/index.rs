//! What is derived from the records, and the journal of what changed.
//!
//! [`Cluster::put_session`] and [`Cluster::put_node`] are the only places where a record enters or
//! leaves; both keep every index and the view in step.

use super::Cluster;
use super::accounts::{Account, Accounts};
use super::holdoff::{Trouble, Troubles};
use super::promises::Promises;
use super::runtimes::{Runtimes, runs_the_same};
use super::seen::Held;
use super::waiting::Waiting;
use crate::class::PriorityClass;
use crate::device::{Device, MigState};
use crate::ids::{
    ClassName, DeviceUuid, NodeName, ProjectName, RequestId, SessionId, SessionName, UserName,
};
use crate::node::{Liveness, Node};
use crate::project::Project;
use crate::reconcile::Want;
use crate::session::{Phase, Session};
use crate::slice::Grant;
use crate::time::UnixMillis;
use crate::usage::Usage;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
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
    /// Nodes whose record, or whether they are heard, changed, in the order of their names.
    pub nodes: Vec<NodeName>,
    /// Every session that changed, as it was before, in the order of their ids; `None`: it is new.
    before: Vec<(SessionId, Option<Arc<Session>>)>,
    undo: Vec<Undo>,
    promises: Promises,
}

impl Changes {
    /// Whether there is nothing to write. (The desired state follows from the records.)
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }

    /// A changed or deleted session as it was before; `None` for one that is new.
    #[must_use]
    pub fn before(&self, id: &SessionId) -> Option<&Arc<Session>> {
        let index = self.before.binary_search_by(|(known, _)| known.cmp(id)).ok()?;
        self.before.get(index)?.1.as_ref()
    }

    /// Each session that changed, as it was before and as it is now; one that is new was not before,
    /// and one that is forgotten is not now.
    pub fn sessions(&self) -> impl Iterator<Item = (Option<&Arc<Session>>, Option<&Arc<Session>>)> {
        let changed = self.puts.iter().filter_map(|record| match record {
            Record::Session(session) => Some((self.before(&session.id), Some(session))),
            Record::Node(_) | Record::Project(_) | Record::Class(_) | Record::Usage(_) => None,
        });
        let deleted = self.deletes.iter().filter_map(|key| match key {
            RecordKey::Session(id) => Some((Some(self.before(id)?), None)),
            RecordKey::Node(_)
            | RecordKey::Project(_)
            | RecordKey::Class(_)
            | RecordKey::Usage(_) => None,
        });
        changed.chain(deleted)
    }

    /// Nodes that are wanted to do something else than before.
    #[must_use]
    pub fn desired(&self) -> BTreeSet<NodeName> {
        let mut nodes = BTreeSet::new();
        for (before, after) in self.sessions() {
            let then = before.into_iter().flat_map(|session| wanted(session));
            let now = after.into_iter().flat_map(|session| wanted(session));
            if !then.clone().eq(now.clone()) {
                nodes.extend(then.chain(now).map(|(_, grant, _)| grant.node.clone()));
            }
        }
        nodes
    }
}

/// How to take back one step.
#[derive(Debug)]
pub(super) enum Undo {
    Session(SessionId, Option<Arc<Session>>),
    Node(NodeName, Option<Arc<Node>>),
    Liveness(NodeName, Option<Liveness>),
    Trouble(NodeName, Option<Trouble>),
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
    /// What was promised at the last take.
    promises: Promises,
}

impl Journal {
    /// A journal that begins now.
    pub(super) fn of(index: &Index) -> Self {
        Self { promises: index.promises.clone(), ..Self::default() }
    }
}

/// Everything found by something else than its id.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub waiting: Waiting,
    pub promises: Promises,
    pub by_name: HashMap<(UserName, SessionName), SessionId>,
    pub by_request: HashMap<(UserName, RequestId), SessionId>,
    pub on_node: HashMap<NodeName, Held>,
    pub by_device: HashMap<DeviceUuid, BTreeSet<NodeName>>,
    /// Nodes with a card that is no longer partitioned by MIG while its instances are still held.
    pub leaving: BTreeSet<NodeName>,
    pub runtimes: Runtimes,
    pub deadlines: BTreeSet<(UnixMillis, SessionId)>,
    pub ended: BTreeSet<(UnixMillis, SessionId)>,
    pub liveness: HashMap<NodeName, Liveness>,
    pub accounts: Accounts,
    pub troubles: Troubles,
    /// Set when something may have become placeable.
    pub unsettled: bool,
}

impl Index {
    /// Makes room for so many sessions and nodes.
    pub(super) fn make_room(&mut self, sessions: usize, nodes: usize) {
        self.by_request.reserve(sessions);
        self.on_node.reserve(nodes);
    }

    fn enter_node(&mut self, node: &Node) {
        self.runtimes.insert(node);
        let leaves = |card: &Device| matches!(card.mig, MigState::Leaving { .. });
        if node.inventory.devices.iter().any(leaves) {
            self.leaving.insert(node.name.clone());
        }
        for device in node.inventory.slots() {
            let owners = self.by_device.entry(device.clone()).or_default();
            owners.insert(node.name.clone());
        }
    }

    fn forget_node(&mut self, node: &Node) {
        self.runtimes.remove(node);
        self.leaving.remove(&node.name);
        for device in node.inventory.slots() {
            if let Some(owners) = self.by_device.get_mut(device) {
                owners.remove(&node.name);
                if owners.is_empty() {
                    self.by_device.remove(device);
                }
            }
        }
    }
}

impl Cluster {
    /// Writes a session record and keeps everything derived in step.
    pub(super) fn put_session(&mut self, mut session: Session) -> Arc<Session> {
        session.settle_move();
        let session = Arc::new(session);
        let id = session.id.clone();
        let known = self.sessions.get(&id).cloned();
        self.book(known.as_deref(), Some(&session));
        let old = self.replace_session(&id, Some(session.clone()));
        self.journal.undo.push(Undo::Session(id, old));
        session
    }

    pub(super) fn journal_step(&mut self, undo: Undo) {
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
        self.forget_trouble(name);
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
        let journal = Journal::of(&self.index);
        let Journal { undo, promises } = std::mem::replace(&mut self.journal, journal);
        let (mut keys, mut nodes, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for step in &undo {
            match step {
                Undo::Session(id, old) => {
                    keys.push(RecordKey::Session(id.clone()));
                    before.push((id.clone(), old.clone()));
                }
                Undo::Node(name, _) => {
                    keys.push(RecordKey::Node(name.clone()));
                    nodes.push(name.clone());
                }
                Undo::Liveness(name, _) | Undo::Trouble(name, _) => nodes.push(name.clone()),
                Undo::Project(name, _) => keys.push(RecordKey::Project(name.clone())),
                Undo::Class(name, _) => keys.push(RecordKey::Class(name.clone())),
                Undo::Usage(name, _) => keys.push(RecordKey::Usage(name.clone())),
                Undo::Account(..) => {}
            }
        }
        keys.sort_unstable();
        keys.dedup();
        nodes.sort_unstable();
        nodes.dedup();
        // The first step of a session knows how it was before all of them.
        before.sort_by(|one, other| one.0.cmp(&other.0));
        before.dedup_by(|later, first| later.0 == first.0);
        let mut changes = Changes { nodes, before, undo, promises, ..Changes::default() };
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
                Undo::Trouble(name, old) => drop(self.replace_trouble(&name, old)),
                Undo::Project(name, old) => drop(self.replace_project(&name, old)),
                Undo::Class(name, old) => drop(self.replace_class(&name, old)),
                Undo::Usage(name, old) => drop(self.replace_usage(&name, old)),
                Undo::Account(old) => {
                    let (project, user, total, own) = *old;
                    self.set_account(project, user, total, own);
                }
            }
        }
        self.index.promises = changes.promises;
        // Whoever had left by then may have been promised something again.
        self.index.waiting.left.extend(self.index.promises.units().cloned());
        self.index.waiting.queue.open_refused();
        self.journal = Journal::of(&self.index);
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
        let (before, after) = (old.as_deref(), new.as_deref());
        self.reindex(id, before, after);
        self.move_held(before, after);
        self.follow(old.as_deref(), new.as_deref());
        old
    }

    /// Keeps in step what is found by something else than the id; what has not changed is left.
    pub(super) fn reindex(&mut self, id: &SessionId, old: Option<&Session>, new: Option<&Session>) {
        let timeout_ms = self.settings.start_timeout_ms;
        let due = |session: &Session| Some((deadline(session, timeout_ms)?, id.clone()));
        let index = &mut self.index;
        index.unsettled |= new.is_some_and(|session| {
            matches!(session.phase, Phase::Pending { .. } | Phase::Ended(_))
        });
        exchange(&mut index.ended, old.and_then(ended), new.and_then(ended));
        exchange(&mut index.deadlines, old.and_then(due), new.and_then(due));
        exchange_key(&mut index.by_name, old.and_then(name), new.and_then(name), id);
        exchange_key(&mut index.by_request, old.and_then(request), new.and_then(request), id);
    }

    fn replace_node(&mut self, name: &NodeName, new: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let gone = new.is_none();
        if let Some(old) = self.nodes.get(name) {
            self.index.forget_node(old);
        }
        if let Some(new) = &new {
            self.index.enter_node(new);
        }
        let old = match new {
            Some(node) => self.nodes.insert(name.clone(), node),
            None => self.nodes.remove(name),
        };
        let now = self.nodes.get(name).map(|node| &**node);
        self.index.accounts.capacity.replace(old.as_deref(), now, &self.settings.units);
        // What waits knows by name the nodes that cannot run it.
        let other =
            old.as_deref().is_some_and(|old| now.is_none_or(|now| !runs_the_same(old, now)));
        if other {
            self.index.waiting.hardware_changed();
        }
        self.index.waiting.node_changed(name);
        self.index.promises.changed();
        if gone {
            self.view.remove(name);
        } else {
            self.refresh_view(name);
        }
        self.index.unsettled = true;
        old
    }

    /// Keeps in step what is found by something else than the name with a node that is new.
    pub(super) fn enter_node(&mut self, node: &Node) {
        self.index.enter_node(node);
        self.index.accounts.capacity.replace(None, Some(node), &self.settings.units);
        self.index.waiting.node_changed(&node.name);
    }

    pub(super) fn replace_trouble(
        &mut self,
        name: &NodeName,
        new: Option<Trouble>,
    ) -> Option<Trouble> {
        let held = self.index.troubles.is_held(name);
        let old = self.index.troubles.replace(name, new);
        if held != self.index.troubles.is_held(name) {
            self.refresh_view(name);
            self.index.waiting.node_changed(name);
            self.index.unsettled = true;
        }
        old
    }

    fn replace_liveness(&mut self, name: &NodeName, new: Option<Liveness>) -> Option<Liveness> {
        let old = match new {
            Some(liveness) => self.index.liveness.insert(name.clone(), liveness),
            None => self.index.liveness.remove(name),
        };
        self.refresh_view(name);
        self.index.waiting.node_changed(name);
        self.index.promises.changed();
        self.index.unsettled = true;
        old
    }
}

/// Puts `new` in the place of `old`.
fn exchange<T: Ord>(set: &mut BTreeSet<T>, old: Option<T>, new: Option<T>) {
    if old != new {
        if let Some(old) = old {
            set.remove(&old);
        }
        set.extend(new);
    }
}

/// Puts `new` in the place of `old`, as the way to `id`.
fn exchange_key<K: Eq + Hash>(
    map: &mut HashMap<K, SessionId>,
    old: Option<K>,
    new: Option<K>,
    id: &SessionId,
) {
    if old != new {
        if let Some(old) = old {
            map.remove(&old);
        }
        map.extend(new.map(|key| (key, id.clone())));
    }
}

/// What each node is wanted to do with a session, by generation.
pub fn wanted(session: &Session) -> impl Iterator<Item = (u64, &Grant, Want)> + Clone {
    session.held().map(|(generation, grant)| (generation, grant, want(session, generation)))
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

/// When an ended session ended; one that still holds something somewhere cannot be forgotten yet.
fn ended(session: &Session) -> Option<(UnixMillis, SessionId)> {
    match &session.phase {
        Phase::Ended(ended) if session.is_over() => Some((ended.at, session.id.clone())),
        _ => None,
    }
}

/// The name of a session that has not ended.
fn name(session: &Session) -> Option<(UserName, SessionName)> {
    let name = session.spec.name.clone()?;
    let live = !matches!(session.phase, Phase::Ended(_));
    live.then(|| (session.owner.clone(), name))
}

fn request(session: &Session) -> Option<(UserName, RequestId)> {
    Some((session.owner.clone(), session.request_id.clone()?))
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

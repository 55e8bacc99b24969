//! All state of a cluster, and the one way to change it.
//!
//! The records (sessions and nodes) are the truth; everything else here — the queue, names, what is
//! free on every device — is derived from them and updated with every record that changes, so that
//! a cluster rebuilt from its records alone ([`Cluster::restore`]) is the same cluster.
//!
//! The caller applies inputs, lets [`Cluster::schedule`] place what can be placed, takes the
//! [`Changes`] and writes them to its store. If the store refuses, [`Cluster::rollback`] undoes
//! them as if they had never been. Nothing here is ever told to anyone before it is written.

mod accounts;
mod arrange;
mod arrays;
mod create;
mod defrag;
mod explain;
mod gang;
mod holdoff;
mod index;
mod input;
mod judge;
mod moves;
mod nodes;
mod observe;
mod projects;
mod promises;
mod quotas;
mod refusal;
mod restore;
mod rivals;
mod runtimes;
mod schedule;
mod seen;
mod standings;
mod starving;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_explain;
#[cfg(test)]
mod tests_faults;
#[cfg(test)]
mod tests_groups;
#[cfg(test)]
mod tests_mig;
#[cfg(test)]
mod tests_moves;
#[cfg(test)]
mod tests_preempt;
#[cfg(test)]
mod tests_projects;
#[cfg(test)]
mod tests_promises;
#[cfg(test)]
mod tests_queue;
#[cfg(test)]
mod tests_quotas;
#[cfg(test)]
mod tests_random;
#[cfg(test)]
mod tests_restore;
#[cfg(test)]
mod tests_starving;
mod waiting;
mod waiting_check;
mod waits_for;

pub(crate) use accounts::counted;
pub use arrange::TOPOLOGY;
pub use defrag::{DefragQuestion, MoveCost, MovePlan, PlannedMove, PlannedStep};
pub use explain::Explanation;
pub use holdoff::Trouble;
pub use index::{Changes, Record, RecordKey, wanted};
pub use input::{Applied, Input};
pub use judge::Hold;
pub use refusal::{Refusal, RestoreError};
pub use rivals::{Blocked, Tenant};
pub use schedule::Desired;
pub(crate) use seen::Held as HeldOnNode;
pub use waits_for::WaitsFor;

use crate::class::PriorityClass;
use crate::ids::{ClassName, NodeName, ProjectName, SessionId, UserName};
use crate::node::{Liveness, Node};
use crate::placement::{NodeState, Placer, Policy, View};
use crate::plans::gang::Closeness;
use crate::project::Project;
use crate::session::Session;
use crate::slice::UnitPolicy;
use crate::time::UnixMillis;
use crate::units::{CpuMilli, MemoryBytes};
use crate::usage::Usage;
use imbl::OrdMap;
use index::Index;
use std::sync::Arc;

/// How a cluster behaves: set once by its administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What one fGPU is.
    pub units: UnitPolicy,
    /// How nodes are chosen.
    pub policy: Policy,
    /// Decides what a random policy draws.
    pub seed: u64,
    /// CPU of a session that names none.
    pub default_cpu: CpuMilli,
    /// Host memory of a session that names none.
    pub default_memory: MemoryBytes,
    /// Whether slices nothing enforces may be given on every node without being asked for.
    pub allow_shared: bool,
    /// From being placed to running, milliseconds.
    pub start_timeout_ms: u64,
    /// How long an ended session is remembered, milliseconds.
    pub ended_retention_ms: u64,
    /// How many ended sessions are remembered at most; the oldest go first.
    pub ended_limit: usize,
    /// For how many of the first in the queue that find no room one is kept; 0: for none.
    pub reservations: usize,
    /// How long such a session waits before nodes are closed for it on which others have no known
    /// end, milliseconds.
    pub reservation_patience_ms: u64,
    /// Least time between two plans for them, milliseconds; longer on a large cluster. 0: they are
    /// made at once, whatever that costs.
    pub plan_pause_ms: u64,
}

/// Everything a store keeps of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Every session.
    pub sessions: Vec<Session>,
    /// Every node.
    pub nodes: Vec<Node>,
    /// Every project that was made or changed.
    pub projects: Vec<Project>,
    /// Every priority class that was made or changed.
    pub classes: Vec<PriorityClass>,
    /// The history of every project that used something.
    pub usage: Vec<Usage>,
}

/// All state of a cluster.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    sessions: OrdMap<SessionId, Arc<Session>>,
    nodes: OrdMap<NodeName, Arc<Node>>,
    projects: OrdMap<ProjectName, Arc<Project>>,
    classes: OrdMap<ClassName, Arc<PriorityClass>>,
    usage: OrdMap<ProjectName, Arc<Usage>>,
    index: Index,
    view: View,
    placer: Placer,
    /// Which nodes are close, kept for its time alone.
    closeness: Closeness,
    journal: index::Journal,
    next_sequence: u64,
    /// The latest time anything was told.
    now: UnixMillis,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            units: UnitPolicy::default(),
            policy: Policy::default(),
            seed: 0,
            default_cpu: CpuMilli::cores(1),
            default_memory: MemoryBytes::gib(2),
            allow_shared: false,
            start_timeout_ms: 30 * 60 * 1000,
            ended_retention_ms: 7 * 24 * 60 * 60 * 1000,
            ended_limit: 10_000,
            reservations: 4,
            reservation_patience_ms: 10 * 60 * 1000,
            plan_pause_ms: 1000,
        }
    }
}

impl Cluster {
    /// A cluster without nodes and sessions.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let view = View::new(settings.units.quantum);
        let placer = Placer::new(settings.policy, settings.seed);
        Self {
            settings,
            sessions: OrdMap::new(),
            nodes: OrdMap::new(),
            projects: OrdMap::new(),
            classes: OrdMap::new(),
            usage: OrdMap::new(),
            index: Index::default(),
            view,
            placer,
            closeness: Closeness::default(),
            journal: index::Journal::default(),
            next_sequence: 1,
            now: UnixMillis(0),
        }
    }

    /// Applies one input at `now`.
    ///
    /// # Errors
    /// A [`Refusal`] with code, numbers and next step; then nothing was changed.
    pub fn apply(&mut self, input: Input, now: UnixMillis) -> Result<Applied, Refusal> {
        self.now = self.now.max(now);
        let applied = self.take(input, now);
        self.open_left_cards();
        // At once, so that what follows a session knows how it ended before it may be forgotten.
        self.settle(self.now);
        applied
    }

    fn take(&mut self, input: Input, now: UnixMillis) -> Result<Applied, Refusal> {
        match input {
            Input::Create { id, spec, owner, request_id, members } => {
                self.create(id, *spec, owner, request_id, members, now)
            }
            Input::PutProject { project } => self.set_project(*project, now),
            Input::RemoveProject { name } => self.remove_project(&name),
            Input::PutClass { class } => self.set_class(*class),
            Input::RemoveClass { name } => self.remove_class(&name),
            Input::Stop { id, reason, grace_ms } => self.stop(&id, reason, grace_ms, now),
            Input::Move { id, generation, to } => self.move_session(&id, generation, *to, now),
            Input::Remove { id } => self.remove(&id),
            Input::Register { name, agent_id, inventory, reports } => {
                self.register(name, agent_id, *inventory, reports, now)
            }
            Input::Inventory { node, inventory } => self.update_inventory(&node, *inventory),
            Input::Reports { node, reports, full } => self.observe(&node, reports, full, now),
            Input::Images { node, full, added, removed } => {
                self.note_images(&node, full, added, &removed)
            }
            Input::Liveness { node, liveness } => self.set_liveness(&node, liveness, now),
            Input::Cordon { node, cordon } => self.set_cordon(&node, cordon, now),
            Input::Labels { node, set, remove } => self.set_labels(&node, set, &remove),
            Input::CordonDevice { device, cordoned } => self.cordon_device(&device, cordoned),
            Input::RemoveNode { node } => self.remove_node(&node),
        }
    }

    /// How the cluster behaves.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All sessions; a clone is cheap and stays as it is.
    #[must_use]
    pub fn sessions(&self) -> &OrdMap<SessionId, Arc<Session>> {
        &self.sessions
    }

    /// All nodes; a clone is cheap and stays as it is.
    #[must_use]
    pub fn nodes(&self) -> &OrdMap<NodeName, Arc<Node>> {
        &self.nodes
    }

    /// The projects that were made or changed; `default` is there without being among them.
    #[must_use]
    pub fn projects(&self) -> &OrdMap<ProjectName, Arc<Project>> {
        &self.projects
    }

    /// The priority classes that were made or changed; see [`PriorityClass::built_in`] for those
    /// that are there without.
    #[must_use]
    pub fn classes(&self) -> &OrdMap<ClassName, Arc<PriorityClass>> {
        &self.classes
    }

    /// The history of projects as last written.
    #[must_use]
    pub fn usage(&self) -> &OrdMap<ProjectName, Arc<Usage>> {
        &self.usage
    }

    /// One session.
    #[must_use]
    pub fn session(&self, id: &SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(id)
    }

    /// The members of the array or gang a session belongs to that are not forgotten, in the order
    /// of their index; itself without one, nothing for an unknown session.
    #[must_use]
    pub fn members_of(&self, id: &SessionId) -> Vec<Arc<Session>> {
        self.sessions.get(id).map(|session| self.group_of(session)).unwrap_or_default()
    }

    /// What placement sees.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether a node takes new sessions; `None` for an unknown node.
    #[must_use]
    pub fn node_state(&self, name: &NodeName) -> Option<NodeState> {
        self.view.get(name).map(|node| node.state)
    }

    /// Whether a node's agent is heard.
    #[must_use]
    pub fn liveness(&self, name: &NodeName) -> Liveness {
        self.index.liveness.get(name).copied().unwrap_or_default()
    }

    /// Sessions that hold something on a node, in the order of their ids.
    pub fn sessions_on(&self, name: &NodeName) -> impl Iterator<Item = &Arc<Session>> {
        let held = self.index.on_node.get(name);
        held.into_iter().flat_map(|held| held.sessions()).filter_map(|id| self.sessions.get(id))
    }

    /// How many sessions wait for a place.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.index.waiting.sessions()
    }

    /// Searches for a place made so far: what waits without anything changing for it costs none.
    #[must_use]
    pub fn searches(&self) -> u64 {
        self.index.waiting.searches
    }

    /// The session meant by `text`: its id, the name of a live one, or a unique beginning of an id.
    /// With an `owner`, only that user's sessions are looked at.
    ///
    /// # Errors
    /// [`Refusal::SessionNotFound`] or [`Refusal::AmbiguousSession`].
    pub fn find(&self, text: &str, owner: Option<&UserName>) -> Result<SessionId, Refusal> {
        find(&self.sessions, text, owner)
    }
}

/// See [`Cluster::find`]; also for a snapshot of the sessions.
///
/// # Errors
/// [`Refusal::SessionNotFound`] or [`Refusal::AmbiguousSession`].
pub fn find(
    sessions: &OrdMap<SessionId, Arc<Session>>,
    text: &str,
    owner: Option<&UserName>,
) -> Result<SessionId, Refusal> {
    let visible = |session: &Session| owner.is_none_or(|owner| session.owner == *owner);
    let whole = text.parse().ok().and_then(|id: SessionId| sessions.get(&id));
    if let Some(session) = whole.filter(|session| visible(session)) {
        return Ok(session.id.clone());
    }
    let named = sessions.values().filter(|session| {
        visible(session)
            && !matches!(session.phase, crate::session::Phase::Ended(_))
            && session.spec.name.as_ref().is_some_and(|name| name.as_str() == text)
    });
    let mut matches: Vec<&SessionId> = named.map(|session| &session.id).collect();
    if matches.is_empty() && !text.is_empty() {
        let prefixed = sessions.values().filter(|session| session.id.as_str().starts_with(text));
        matches = prefixed.filter(|session| visible(session)).map(|session| &session.id).collect();
    }
    match matches.as_slice() {
        [] => Err(Refusal::SessionNotFound { session: text.to_owned() }),
        [one] => Ok((*one).clone()),
        [first, second, ..] => Err(Refusal::AmbiguousSession {
            session: text.to_owned(),
            matches: format!("{first}, {second}"),
            count: matches.len(),
        }),
    }
}

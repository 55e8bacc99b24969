//! What the manager keeps of each node beside its record: when its agent was heard, what it
//! measured, what it shall have, and how to reach it. Nothing of this is stored.
//!
//! Heartbeats end here: they touch one cell and no one else.

use bytes::Bytes;
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::time::UnixMillis;
use fgpu_wire::v1;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Everything one node shall have, as last committed.
#[derive(Debug, Clone)]
pub(crate) struct DesiredUpdate {
    /// Grows by one with every change within an epoch, from 1.
    pub(crate) generation: u64,
    pub(crate) sessions: Arc<Vec<DesiredEntry>>,
}

/// One placement of a session that a node shall have.
#[derive(Debug, Clone)]
pub(crate) struct DesiredEntry {
    pub(crate) session: SessionId,
    /// Which placement.
    pub(crate) generation: u64,
    /// The `DesiredSession` as it is sent, again and again until it changes.
    pub(crate) encoded: Bytes,
}

/// How what one node shall have changes.
#[derive(Debug)]
pub(crate) enum DesiredEdit {
    /// In the place of what is there of the same placement, if anything.
    Put(DesiredEntry),
    /// A placement it shall not have any more.
    Remove {
        session: SessionId,
        generation: u64,
        /// Whether its agent has said itself that it is gone, so that there is no hurry to tell it.
        known: bool,
    },
}

/// One node, seen from outside the engine.
#[derive(Debug)]
pub(crate) struct NodeCell {
    pub(crate) name: NodeName,
    desired: watch::Sender<DesiredUpdate>,
    /// Monotonic milliseconds + 1 of the last word; 0: never.
    heard: AtomicU64,
    /// Wall-clock milliseconds of the last word; 0: never. Only shown.
    seen_at: AtomicU64,
    /// Whether the node counts as silent, so that its next word is news.
    silent: AtomicBool,
    /// The last heartbeat as it came: seldom read.
    usage: Mutex<Option<Vec<u8>>>,
    link: Mutex<Option<LinkHandle>>,
}

/// The way to a connected agent.
#[derive(Debug, Clone)]
pub(crate) struct LinkHandle {
    pub(crate) id: u64,
    pub(crate) agent_id: String,
    pub(crate) channels: mpsc::Sender<Box<v1::OpenChannel>>,
    /// Cancelled when another connection of the same agent takes its place, or the term ends.
    pub(crate) cancel: CancellationToken,
}

/// All nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    cells: RwLock<BTreeMap<NodeName, Arc<NodeCell>>>,
    /// The highest generation of a forgotten cell: one made anew goes on from there.
    generation: AtomicU64,
    /// Told when a silent node speaks, or a node appears.
    pub(crate) news: Notify,
}

/// The name belongs to another agent that is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameTaken;

impl Nodes {
    /// The cell of `name`, made if there is none.
    pub(crate) fn ensure(&self, name: &NodeName) -> Arc<NodeCell> {
        if let Some(cell) = self.find(name) {
            return cell;
        }
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        let make = || Arc::new(NodeCell::new(name, generation));
        let cell = Arc::clone(cells.entry(name.clone()).or_insert_with(make));
        self.news.notify_one();
        cell
    }

    pub(crate) fn find(&self, name: &NodeName) -> Option<Arc<NodeCell>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<NodeCell>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Makes `link` the way to node `name`, see [`NodeCell::attach`]; nobody can forget the cell in
    /// between.
    pub(crate) fn attach(
        &self,
        name: &NodeName,
        link: LinkHandle,
        monotonic: Duration,
        suspect: Duration,
    ) -> Result<Arc<NodeCell>, NameTaken> {
        loop {
            let cell = self.ensure(name);
            let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
            if cells.get(name).is_some_and(|current| Arc::ptr_eq(current, &cell)) {
                cell.attach(link, monotonic, suspect)?;
                return Ok(cell);
            }
        }
    }

    /// Forgets cells whose node has no record and whose agent is not connected.
    pub(crate) fn retain(&self, recorded: impl Fn(&NodeName) -> bool) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|name, cell| {
            let keep = recorded(name) || cell.link().is_some();
            if !keep {
                let generation = cell.desired.borrow().generation;
                self.generation.fetch_max(generation, Ordering::Relaxed);
            }
            keep
        });
    }

    /// Notes a word of the node's agent.
    pub(crate) fn heard(&self, cell: &NodeCell, monotonic: Duration, now: UnixMillis) {
        cell.heard.store(millis(monotonic) + 1, Ordering::Release);
        cell.seen_at.store(now.0, Ordering::Relaxed);
        if cell.silent.load(Ordering::Acquire) {
            self.news.notify_one();
        }
    }
}

impl NodeCell {
    fn new(name: &NodeName, generation: u64) -> Self {
        Self {
            name: name.clone(),
            desired: watch::Sender::new(DesiredUpdate { generation, sessions: Arc::default() }),
            heard: AtomicU64::new(0),
            seen_at: AtomicU64::new(0),
            silent: AtomicBool::new(true),
            usage: Mutex::new(None),
            link: Mutex::new(None),
        }
    }

    /// When the agent was heard last, by the monotonic clock.
    pub(crate) fn last_heard(&self) -> Option<Duration> {
        self.heard.load(Ordering::Acquire).checked_sub(1).map(Duration::from_millis)
    }

    /// When the agent was heard last, by the wall clock; 0: never.
    pub(crate) fn seen_at(&self) -> u64 {
        self.seen_at.load(Ordering::Relaxed)
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Release);
    }

    /// Publishes what the node shall have.
    pub(crate) fn set_desired(&self, sessions: Vec<DesiredEntry>) {
        self.desired.send_modify(|desired| {
            desired.generation += 1;
            desired.sessions = Arc::new(sessions);
        });
    }

    /// Publishes changes of what the node shall have, in order. If none of them is news to its agent,
    /// nobody is told: the agent hears of it with what comes next, or when its next heartbeat is
    /// answered, see [`desired_after`](Self::desired_after).
    pub(crate) fn change_desired(&self, edits: Vec<DesiredEdit>) {
        self.desired.send_if_modified(|desired| {
            desired.generation += 1;
            let sessions = Arc::make_mut(&mut desired.sessions);
            let news = edits.iter().any(DesiredEdit::is_news);
            for edit in edits {
                edit.apply(sessions);
            }
            news
        });
    }

    /// What the node shall have, if that has changed since `generation`.
    pub(crate) fn desired_after(&self, generation: u64) -> Option<DesiredUpdate> {
        let desired = self.desired.borrow();
        (desired.generation > generation).then(|| desired.clone())
    }

    pub(crate) fn desired(&self) -> watch::Receiver<DesiredUpdate> {
        self.desired.subscribe()
    }

    /// Keeps an encoded heartbeat.
    pub(crate) fn set_usage(&self, heartbeat: Vec<u8>) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = Some(heartbeat);
    }

    /// What the agent measured last, if it can be read.
    pub(crate) fn usage(&self) -> Option<v1::Heartbeat> {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage.as_deref().and_then(|encoded| v1::Heartbeat::decode(encoded).ok())
    }

    pub(crate) fn link(&self) -> Option<LinkHandle> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `link` the way to this node. A link of the same agent is replaced; one of another agent
    /// only if that one has been silent for `suspect`.
    fn attach(
        &self,
        link: LinkHandle,
        monotonic: Duration,
        suspect: Duration,
    ) -> Result<(), NameTaken> {
        let mut current = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = current.as_ref() {
            let heard = self.last_heard().is_some_and(|at| monotonic.saturating_sub(at) < suspect);
            if old.agent_id != link.agent_id && heard {
                return Err(NameTaken);
            }
            old.cancel.cancel();
        }
        *current = Some(link);
        Ok(())
    }

    /// Takes link `id` away, unless another one has replaced it.
    pub(crate) fn detach(&self, id: u64) {
        let mut current = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|link| link.id == id) {
            *current = None;
        }
    }
}

impl DesiredEdit {
    fn is_news(&self) -> bool {
        !matches!(self, Self::Remove { known: true, .. })
    }

    fn apply(self, sessions: &mut Vec<DesiredEntry>) {
        let (id, generation) = match &self {
            Self::Put(entry) => (&entry.session, entry.generation),
            Self::Remove { session, generation, .. } => (session, *generation),
        };
        let known = sessions
            .iter()
            .position(|entry| entry.generation == generation && entry.session == *id);
        match (self, known) {
            (Self::Put(entry), Some(at)) => sessions[at] = entry,
            (Self::Put(entry), None) => sessions.push(entry),
            (Self::Remove { .. }, Some(at)) => drop(sessions.swap_remove(at)),
            (Self::Remove { .. }, None) => {}
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUSPECT: Duration = Duration::from_secs(10);

    fn link(id: u64, agent_id: &str) -> LinkHandle {
        let (channels, _) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        LinkHandle { id, agent_id: agent_id.to_owned(), channels, cancel }
    }

    #[test]
    fn a_name_in_use_goes_to_another_agent_only_once_the_first_is_silent() {
        let nodes = Nodes::default();
        let cell = nodes.ensure(&NodeName::new("a1").unwrap());
        let first = link(1, "one");
        cell.attach(first.clone(), Duration::ZERO, SUSPECT).unwrap();
        nodes.heard(&cell, Duration::from_secs(5), UnixMillis(5));

        let other = cell.attach(link(2, "two"), Duration::from_secs(14), SUSPECT);
        assert_eq!(other, Err(NameTaken));
        assert!(!first.cancel.is_cancelled());

        cell.attach(link(3, "two"), Duration::from_secs(15), SUSPECT).unwrap();
        assert!(first.cancel.is_cancelled());
        cell.detach(1);
        assert_eq!(cell.link().unwrap().id, 3);
        cell.detach(3);
        assert!(cell.link().is_none());
    }

    #[test]
    fn a_node_that_is_forgotten_and_comes_back_goes_on_with_higher_generations() {
        let (nodes, name) = (Nodes::default(), NodeName::new("a1").unwrap());
        nodes.ensure(&name).set_desired(Vec::new());
        let before = nodes.ensure(&name).desired().borrow().generation;
        nodes.retain(|_| false);
        assert!(nodes.find(&name).is_none());
        assert!(nodes.ensure(&name).desired().borrow().generation > before);
    }

    #[test]
    fn what_a_node_shall_have_changes_entry_by_entry_and_every_time_its_generation() {
        let cell = Nodes::default().ensure(&NodeName::new("a1").unwrap());
        let id = |text: &str| SessionId::new(text).unwrap();
        let put = |session: &str, generation, text: &'static str| {
            let encoded = Bytes::from_static(text.as_bytes());
            DesiredEdit::Put(DesiredEntry { session: id(session), generation, encoded })
        };
        let remove = |session: &str, known| DesiredEdit::Remove {
            session: id(session),
            generation: 1,
            known,
        };
        let begin = cell.desired().borrow().generation;
        cell.change_desired(vec![put("aaaaaaaa", 1, "run"), put("bbbbbbbb", 1, "run")]);
        let seen = cell.desired().borrow().clone();
        cell.change_desired(vec![
            put("aaaaaaaa", 1, "stop"),
            put("aaaaaaaa", 2, "run"),
            remove("bbbbbbbb", false),
            remove("cccccccc", false),
        ]);

        let now = cell.desired().borrow().clone();
        let read = |update: &DesiredUpdate| {
            let mut entries: Vec<_> = update
                .sessions
                .iter()
                .map(|e| (e.session.to_string(), e.generation, e.encoded.to_vec()))
                .collect();
            entries.sort();
            entries
        };
        let entry = |id: &str, generation, text: &str| (id.to_owned(), generation, text.into());
        assert_eq!(read(&seen), [entry("aaaaaaaa", 1, "run"), entry("bbbbbbbb", 1, "run")]);
        assert_eq!(read(&now), [entry("aaaaaaaa", 1, "stop"), entry("aaaaaaaa", 2, "run")]);
        assert_eq!((seen.generation, now.generation), (begin + 1, begin + 2));

        let mut told = cell.desired();
        cell.change_desired(vec![remove("aaaaaaaa", true)]);
        assert!(!told.has_changed().unwrap(), "its agent has said so itself");
        let later = cell.desired_after(now.generation).unwrap();
        assert_eq!(read(&later), [entry("aaaaaaaa", 2, "run")]);
        assert!(cell.desired_after(later.generation).is_none());
        cell.change_desired(vec![remove("dddddddd", true), remove("eeeeeeee", false)]);
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
    }

    #[test]
    fn an_agent_that_connects_again_replaces_its_own_link() {
        let cell = Nodes::default().ensure(&NodeName::new("a1").unwrap());
        let first = link(1, "one");
        cell.attach(first.clone(), Duration::ZERO, SUSPECT).unwrap();
        cell.attach(link(2, "one"), Duration::ZERO, SUSPECT).unwrap();
        assert!(first.cancel.is_cancelled());
    }
}

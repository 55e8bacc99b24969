//! The loop of the engine.

use super::commit::{Attempt, Pending};
use super::plan::{Chunk, Limits, Operation, plan};
use super::{
    ChangeBatch, Command, Committer, EngineError, EngineHandle, INBOX, Reply, SessionChange,
    Snapshot,
};
use crate::nodes::Nodes;
use crate::records::{RecordError, encode, keys};
use fgpu_domain::cluster::{Applied, Changes, Cluster, Input, Record, RecordKey, Refusal};
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::session::{Phase, Progress, Session};
use fgpu_domain::time::UnixMillis;
use fgpu_service::clock::Clock;
use fgpu_store::StoreError;
use imbl::OrdMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Records after which no more is taken into a batch.
const ENOUGH_RECORDS: usize = 100;
/// Batches a slow watcher may lag behind before it is brought up to date as a whole.
const WATCH_BACKLOG: usize = 256;
/// How long to sleep when what is due cannot be done yet.
const OVERDUE_SLEEP: Duration = Duration::from_secs(10);
/// The longest sleep, so that a jump of the wall clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

type Sessions = OrdMap<SessionId, Arc<Session>>;

/// The task that owns the state.
pub(crate) struct Engine {
    cluster: Cluster,
    committer: Committer,
    clock: Arc<dyn Clock>,
    nodes: Arc<Nodes>,
    /// Inputs taken into one batch at most.
    max_batch: usize,
    inbox: mpsc::Receiver<Command>,
    published: watch::Sender<Arc<Snapshot>>,
    changes: broadcast::Sender<Arc<ChangeBatch>>,
    stop: CancellationToken,
    /// While the store is away: when it is tried again.
    probe_at: Option<Instant>,
    /// When time was last looked at, by the wall clock.
    ticked_at: UnixMillis,
}

/// What one input, or placing, changed.
struct Unit {
    changes: Changes,
    /// What of it must be written: all but the progress of a pull.
    operations: Result<Vec<Operation>, RecordError>,
    /// Sessions as they were before they were deleted.
    deleted: Vec<Arc<Session>>,
    answer: Option<(Reply, Result<Applied, Refusal>)>,
    touches_nodes: bool,
}

/// The leadership is gone: nothing here may be used any more.
struct Deposed;

impl Engine {
    /// An engine for `cluster`, and the way to it. It ends when `stop` is cancelled, and cancels it
    /// when it finds itself deposed.
    pub(crate) fn new(
        cluster: Cluster,
        committer: Committer,
        clock: Arc<dyn Clock>,
        nodes: Arc<Nodes>,
        max_batch: usize,
        stop: CancellationToken,
    ) -> (Self, EngineHandle) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let first = Arc::new(Snapshot::of(&cluster, 1, None));
        let (published, reader) = watch::channel(first);
        let (changes, _) = broadcast::channel(WATCH_BACKLOG);
        let health = Arc::clone(committer.health());
        let handle =
            EngineHandle { inbox: sender, published: reader, changes: changes.clone(), health };
        for name in cluster.nodes().keys() {
            nodes.ensure(name).set_desired(cluster.desired(name));
        }
        let (probe_at, ticked_at) = (None, UnixMillis(0));
        let engine = Self {
            cluster,
            committer,
            clock,
            nodes,
            max_batch,
            inbox,
            published,
            changes,
            stop,
            probe_at,
            ticked_at,
        };
        (engine, handle)
    }

    /// Works until stopped or deposed.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let worked = async { while self.step().await.is_ok() {} };
        // Dropping a step half way is fine: the state is read anew by the next leader.
        if stop.run_until_cancelled(worked).await.is_some() {
            stop.cancel();
        }
    }

    async fn step(&mut self) -> Result<(), Deposed> {
        let clock = Arc::clone(&self.clock);
        if self.committer.health().away().is_some() {
            let next = || Instant::now() + self.committer.pause();
            let probe_at = *self.probe_at.get_or_insert_with(next);
            return tokio::select! {
                command = self.inbox.recv() => self.take(command).await,
                () = tokio::time::sleep_until(probe_at) => self.probe().await,
            };
        }
        let wake = self.wake_at();
        tokio::select! {
            command = self.inbox.recv() => self.take(command).await,
            () = clock.sleep_until(wake) => self.tick().await,
        }
    }

    /// When time alone may bring something about.
    fn wake_at(&self) -> Duration {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let wait = match self.cluster.next_deadline() {
            // Due at the last look already: something keeps it, so there is no hurry.
            Some(at) if at <= self.ticked_at => OVERDUE_SLEEP,
            Some(at) => Duration::from_millis(at.since(now)),
            None => LONGEST_SLEEP,
        };
        monotonic + wait.min(LONGEST_SLEEP)
    }

    /// Takes `first` and whatever else waits as one batch.
    async fn take(&mut self, first: Option<Command>) -> Result<(), Deposed> {
        let mut next = Some(first.ok_or(Deposed)?);
        let (mut units, mut records) = (Vec::new(), 0);
        while let Some(command) = next {
            if let Some(unit) = self.handle(command) {
                records += unit.operations.as_ref().map_or(1, Vec::len);
                units.push(unit);
            }
            let full = units.len() >= self.max_batch || records >= ENOUGH_RECORDS;
            next = if full { None } else { self.inbox.try_recv().ok() };
        }
        if self.committer.health().away().is_some() {
            self.finish_without_store(units);
            return Ok(());
        }
        self.settle(units).await
    }

    /// Time limits, start timeouts, retention.
    async fn tick(&mut self) -> Result<(), Deposed> {
        let before = self.cluster.sessions().clone();
        self.ticked_at = self.clock.now();
        self.cluster.tick(self.ticked_at);
        let unit = self.unit(&before, None, false);
        self.settle(vec![unit]).await
    }

    /// Whether the store takes writes again; then what waited goes on.
    async fn probe(&mut self) -> Result<(), Deposed> {
        self.probe_at = None;
        match self.write(&Chunk::default()).await? {
            Ok(()) => self.tick().await,
            // Not yet.
            Err(_) => Ok(()),
        }
    }

    /// Applies an input; questions are answered at once.
    fn handle(&mut self, command: Command) -> Option<Unit> {
        match command {
            Command::Apply { input, reply } => {
                let touches_nodes = touches_nodes(&input);
                let before = self.cluster.sessions().clone();
                let result = self.cluster.apply(input, self.clock.now());
                Some(self.unit(&before, Some((reply, result)), touches_nodes))
            }
            Command::Explain { id, reply } => {
                // A caller that has gone needs no answer.
                let _ = reply.send(self.cluster.explain(&id).map_err(Into::into));
                None
            }
            Command::DryRun { spec, owner, reply } => {
                let _ = reply.send(self.cluster.dry_run(&spec, &owner).map_err(Into::into));
                None
            }
            Command::Ask(question) => {
                question.answer(Ok(&self.cluster));
                None
            }
        }
    }

    /// What has changed since `before`, as one unit.
    fn unit(
        &mut self,
        before: &Sessions,
        answer: Option<(Reply, Result<Applied, Refusal>)>,
        touches_nodes: bool,
    ) -> Unit {
        let changes = self.cluster.take_changes();
        let gone = changes.deletes.iter().filter_map(|key| match key {
            RecordKey::Session(id) => before.get(id).cloned(),
            RecordKey::Node(_)
            | RecordKey::Project(_)
            | RecordKey::Class(_)
            | RecordKey::Usage(_) => None,
        });
        let (deleted, operations) = (gone.collect(), operations(&changes, before));
        Unit { changes, operations, deleted, answer, touches_nodes }
    }

    /// While the store is away only what changes no record is accepted.
    fn finish_without_store(&mut self, mut units: Vec<Unit>) {
        let writes = |unit: &Unit| !matches!(&unit.operations, Ok(list) if list.is_empty());
        let first = units.iter().position(writes).unwrap_or(units.len());
        let refused = units.split_off(first);
        let error = self.committer.health().away().unwrap_or(EngineError::StoreUnavailable);
        self.take_back(refused, &error);
        self.tell(units);
    }

    /// Places, writes, and tells.
    async fn settle(&mut self, mut units: Vec<Unit>) -> Result<(), Deposed> {
        let before = self.cluster.sessions().clone();
        self.cluster.schedule(self.clock.now());
        let placed = self.unit(&before, None, false);
        units.push(placed);
        let take = |unit: &mut Unit| std::mem::replace(&mut unit.operations, Ok(Vec::new()));
        let chunks = match units.iter_mut().map(take).collect::<Result<Vec<_>, _>>() {
            Ok(operations) => plan(operations, Limits::default()),
            Err(error) => {
                self.take_back(units, &EngineError::StoreRefused(error.to_string()));
                return Ok(());
            }
        };
        let mut written = if chunks.is_empty() { units.len() } else { 0 };
        let mut failure = None;
        for chunk in &chunks {
            match self.write(chunk).await? {
                Ok(()) => written = chunk.complete,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failure {
            let rest = units.split_off(written);
            self.take_back(rest, &error);
        }
        self.tell(units);
        Ok(())
    }

    /// Writes one transaction; returns when its outcome is certain.
    async fn write(&mut self, chunk: &Chunk) -> Result<Result<(), EngineError>, Deposed> {
        let mut pending = self.committer.prepare(chunk);
        loop {
            let answer = self.send(&pending).await;
            match self.committer.judge(&mut pending, answer).await {
                Attempt::Done => return Ok(Ok(())),
                Attempt::Refused(error) => return Ok(Err(error)),
                Attempt::Deposed => return Err(Deposed),
                Attempt::Again => self.pause(&pending).await,
            }
        }
    }

    /// Sends once. While the store is known to be away, callers are answered instead of kept waiting.
    async fn send(&mut self, pending: &Pending) -> Result<i64, StoreError> {
        let sent = self.committer.send(pending);
        tokio::pin!(sent);
        loop {
            let away = self.committer.health().away();
            tokio::select! {
                answer = &mut sent => return answer,
                Some(command) = self.inbox.recv(), if away.is_some() => self.answer(command, pending),
            }
        }
    }

    async fn pause(&mut self, pending: &Pending) {
        let pause = tokio::time::sleep(self.committer.pause());
        tokio::pin!(pause);
        loop {
            let away = self.committer.health().away();
            tokio::select! {
                () = &mut pause => return,
                Some(command) = self.inbox.recv(), if away.is_some() => self.answer(command, pending),
            }
        }
    }

    /// Answers a command while `pending` is on its way. If that is only a probe, the state here is
    /// what is written, and questions can be answered; else nothing can.
    fn answer(&mut self, command: Command, pending: &Pending) {
        if !pending.is_probe() {
            return refuse(command, self.committer.health().away());
        }
        if let Some(unit) = self.handle(command) {
            self.finish_without_store(vec![unit]);
        }
    }

    /// Undoes units, the last first, and answers their callers.
    fn take_back(&mut self, units: Vec<Unit>, error: &EngineError) {
        for unit in units.into_iter().rev() {
            self.cluster.rollback(unit.changes);
            if let Some((reply, _)) = unit.answer {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }

    /// Publishes what is durable: readers, agents, watchers, and last the callers.
    fn tell(&mut self, units: Vec<Unit>) {
        let mut wanted: BTreeSet<NodeName> = BTreeSet::new();
        let mut news = Vec::new();
        let (mut touches_nodes, mut changed) = (false, false);
        for unit in &units {
            wanted.extend(unit.changes.desired.iter().cloned());
            touches_nodes |= unit.touches_nodes;
            changed |= !unit.changes.is_empty();
            news.extend(unit.changes.puts.iter().filter_map(|record| match record {
                Record::Session(session) => Some(SessionChange::Changed(session.clone())),
                Record::Node(_) | Record::Project(_) | Record::Class(_) | Record::Usage(_) => None,
            }));
            news.extend(unit.deleted.iter().cloned().map(SessionChange::Removed));
        }
        if changed || touches_nodes {
            self.publish(touches_nodes, news);
        }
        for name in wanted {
            self.nodes.ensure(&name).set_desired(self.cluster.desired(&name));
        }
        for (reply, result) in units.into_iter().filter_map(|unit| unit.answer) {
            let _ = reply.send(result.map_err(Into::into));
        }
    }

    fn publish(&mut self, touches_nodes: bool, changes: Vec<SessionChange>) {
        let old = self.published.borrow().clone();
        let states = (!touches_nodes).then(|| Arc::clone(&old.states));
        let snapshot = Arc::new(Snapshot::of(&self.cluster, old.version + 1, states));
        self.published.send_replace(Arc::clone(&snapshot));
        if !changes.is_empty() {
            // Nobody may be watching.
            let _ = self.changes.send(Arc::new(ChangeBatch { snapshot, changes }));
        }
    }
}

fn touches_nodes(input: &Input) -> bool {
    match input {
        Input::Create { .. }
        | Input::Stop { .. }
        | Input::Remove { .. }
        | Input::PutProject { .. }
        | Input::RemoveProject { .. }
        | Input::PutClass { .. }
        | Input::RemoveClass { .. }
        | Input::Reports { .. } => false,
        Input::Register { .. }
        | Input::Inventory { .. }
        | Input::Liveness { .. }
        | Input::Cordon { .. }
        | Input::Labels { .. }
        | Input::CordonDevice { .. }
        | Input::RemoveNode { .. } => true,
    }
}

fn refuse(command: Command, away: Option<EngineError>) {
    let error = away.unwrap_or(EngineError::StoreUnavailable);
    match command {
        Command::Apply { reply, .. } => drop(reply.send(Err(error))),
        Command::Explain { reply, .. } | Command::DryRun { reply, .. } => {
            drop(reply.send(Err(error)));
        }
        Command::Ask(question) => question.answer(Err(error)),
    }
}

/// What of `changes` must be written.
fn operations(changes: &Changes, before: &Sessions) -> Result<Vec<Operation>, RecordError> {
    let mut operations = Vec::with_capacity(changes.puts.len() + changes.deletes.len());
    for record in &changes.puts {
        let (key, value) = match record {
            Record::Session(session) if is_progress(before.get(&session.id), session) => continue,
            Record::Session(session) => {
                let key = keys::session(&session.id);
                let value = encode(&key, &**session)?;
                (key, value)
            }
            Record::Node(node) => {
                let key = keys::node(&node.name);
                let value = encode(&key, &**node)?;
                (key, value)
            }
            Record::Project(project) => {
                let key = keys::project(&project.name);
                let value = encode(&key, &**project)?;
                (key, value)
            }
            Record::Class(class) => {
                let key = keys::class(&class.name);
                let value = encode(&key, &**class)?;
                (key, value)
            }
            Record::Usage(usage) => {
                let key = keys::usage(&usage.project);
                let value = encode(&key, &**usage)?;
                (key, value)
            }
        };
        operations.push((key, Some(value)));
    }
    operations.extend(changes.deletes.iter().map(|key| (keys::of(key), None)));
    Ok(operations)
}

/// Whether nothing but the progress of a pull differs: shown, but not worth a write.
fn is_progress(before: Option<&Arc<Session>>, after: &Session) -> bool {
    let Some(before) = before else { return false };
    let pulls = |session: &Session| {
        matches!(session.phase, Phase::Starting { progress: Progress::Pulling { .. }, .. })
    };
    pulls(before) && pulls(after) && before.generation == after.generation
}

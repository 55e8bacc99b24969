//! The loop of the engine.

use super::batch::{Batch, Unit};
use super::commit::{Attempt, Pending};
use super::desired::{Edits, Entries};
use super::plan::Chunk;
use super::{
    ChangeBatch, Command, Committer, EngineError, EngineHandle, INBOX, SessionChange, Snapshot,
};
use crate::nodes::Nodes;
use fgpu_domain::cluster::Cluster;
use fgpu_domain::time::UnixMillis;
use fgpu_service::clock::Clock;
use fgpu_store::StoreError;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Batches a slow watcher may lag behind before it is brought up to date as a whole.
const WATCH_BACKLOG: usize = 256;
/// How long to sleep when what is due cannot be done yet.
const OVERDUE_SLEEP: Duration = Duration::from_secs(10);
/// How often time is looked at while there is always something to do, milliseconds.
const TICK_MS: u64 = 100;
/// The longest sleep, so that a jump of the wall clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

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
    /// Applied in memory; written next. While a transaction is on its way, what is in here rests on
    /// it.
    open: Batch,
    /// Inputs to be applied anew, before any other: what they rested on was refused.
    redo: VecDeque<Command>,
    /// Asked while not all that is applied was durable; no more is taken until they are answered.
    questions: Vec<Command>,
    /// While the store is away: when it is tried again.
    probe_at: Option<Instant>,
    /// When time was last looked at, by the wall clock.
    ticked_at: UnixMillis,
}

/// What a batch looks like from outside once it is durable.
struct Seen {
    /// `None`: readers see no difference.
    snapshot: Option<Arc<Snapshot>>,
    news: Vec<SessionChange>,
    desired: Edits,
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
        let first = Arc::new(Snapshot::of(&cluster, 1));
        let (published, reader) = watch::channel(first);
        let (changes, _) = broadcast::channel(WATCH_BACKLOG);
        let health = Arc::clone(committer.health());
        let handle =
            EngineHandle { inbox: sender, published: reader, changes: changes.clone(), health };
        let mut entries = Entries::new(&cluster);
        for name in cluster.nodes().keys() {
            nodes.ensure(name).set_desired(entries.all(name));
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
            open: Batch::default(),
            redo: VecDeque::new(),
            questions: Vec::new(),
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
                command = next_command(&mut self.redo, &mut self.inbox) => {
                    self.take_without_store(command.ok_or(Deposed)?);
                    Ok(())
                }
                () = tokio::time::sleep_until(probe_at) => self.probe().await,
            };
        }
        let wake = self.wake_at();
        if self.open.units.is_empty() {
            tokio::select! {
                command = next_command(&mut self.redo, &mut self.inbox) => {
                    self.gather(command.ok_or(Deposed)?, false);
                }
                () = clock.sleep_until(wake) => self.tick(),
            }
        } else if clock.now().since(self.ticked_at) >= TICK_MS {
            self.tick();
        }
        self.fly().await
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

    /// Takes `first` and whatever else waits into the open batch. What is `assumed` rests on a
    /// transaction that is still on its way.
    fn gather(&mut self, first: Command, assumed: bool) {
        let mut next = Some(first);
        while let Some(command) = next {
            self.handle(command, assumed);
            next = if self.takes_more() { self.waiting_command() } else { None };
        }
        if assumed && !self.takes_more() {
            // Nothing more comes in: placing need not wait for the store either.
            self.place();
        }
    }

    fn takes_more(&self) -> bool {
        self.questions.is_empty() && !self.open.is_full(self.max_batch)
    }

    fn waiting_command(&mut self) -> Option<Command> {
        self.redo.pop_front().or_else(|| self.inbox.try_recv().ok())
    }

    /// Time limits, start timeouts, retention.
    fn tick(&mut self) {
        self.ticked_at = self.clock.now();
        self.cluster.tick(self.ticked_at);
        let changes = self.cluster.take_changes();
        if !changes.is_empty() {
            self.open.push(Unit::new(changes, None));
        }
    }

    /// Whether the store takes writes again; then what waited goes on.
    async fn probe(&mut self) -> Result<(), Deposed> {
        self.probe_at = None;
        if self.write(Chunk::default()).await?.is_ok() {
            self.tick();
            self.fly().await?;
        }
        Ok(())
    }

    /// Applies an input; answers a question at once where all that is applied is durable.
    fn handle(&mut self, command: Command, assumed: bool) {
        match command {
            Command::Apply { input, reply } => {
                let again = assumed.then(|| input.clone());
                let result = self.cluster.apply(input, self.clock.now());
                let changes = self.cluster.take_changes();
                let unit = Unit::new(changes, Some((reply, result)));
                self.open.push(unit.with_input(again));
            }
            question if assumed || !self.open.units.is_empty() => self.questions.push(question),
            question => self.tell_answer(question),
        }
    }

    fn tell_answer(&self, question: Command) {
        // A caller that has gone needs no answer.
        match question {
            Command::Explain { id, reply } => {
                let _ = reply.send(self.cluster.explain(&id).map_err(Into::into));
            }
            Command::DryRun { spec, owner, members, reply } => {
                let answer = self.cluster.dry_run_members(&spec, &owner, members);
                let _ = reply.send(answer.map_err(Into::into));
            }
            Command::Ask(question) => question.answer(Ok(&self.cluster)),
            // Not a question; `handle` keeps it away.
            Command::Apply { .. } => {}
        }
    }

    /// While the store is away only what changes no record is accepted.
    fn take_without_store(&mut self, command: Command) {
        self.handle(command, false);
        let mut units = std::mem::take(&mut self.open).units;
        let first = units.iter().position(Unit::writes).unwrap_or(units.len());
        let refused = units.split_off(first);
        let error = self.committer.health().away().unwrap_or(EngineError::StoreUnavailable);
        self.take_back(refused, &error);
        let seen = self.seen(&units);
        self.tell(units, seen);
    }

    /// Places what waits.
    fn place(&mut self) {
        if !self.open.placed {
            self.cluster.schedule(self.clock.now());
            let changes = self.cluster.take_changes();
            if !changes.is_empty() {
                self.open.push(Unit::new(changes, None));
            }
            self.open.placed = true;
        }
    }

    /// Writes the open batch and tells it; meanwhile the next one opens.
    async fn fly(&mut self) -> Result<(), Deposed> {
        self.place();
        let mut batch = std::mem::take(&mut self.open);
        let chunks = match batch.plan() {
            Ok(chunks) => chunks,
            Err(error) => {
                self.take_back(batch.units, &error);
                return Ok(());
            }
        };
        // Now, before anything else is applied.
        let seen = self.seen(&batch.units);
        let mut written = 0;
        for chunk in chunks {
            let complete = chunk.complete;
            match self.write(chunk).await? {
                Ok(()) => written = complete,
                Err(error) => {
                    self.fall_back(batch.units, written, &error);
                    return Ok(());
                }
            }
        }
        self.tell(batch.units, seen);
        if self.open.units.is_empty() {
            for question in std::mem::take(&mut self.questions) {
                self.tell_answer(question);
            }
        }
        Ok(())
    }

    /// The store refused `units` from `written` on: undoes them and what rests on them, which is
    /// then applied anew.
    fn fall_back(&mut self, mut units: Vec<Unit>, written: usize, error: &EngineError) {
        for unit in std::mem::take(&mut self.open).units.into_iter().rev() {
            let (changes, again) = unit.undo();
            self.cluster.rollback(changes);
            if let Some(command) = again {
                self.redo.push_front(command);
            }
        }
        let rest = units.split_off(written);
        self.take_back(rest, error);
        let seen = self.seen(&units);
        self.tell(units, seen);
        self.redo.extend(self.questions.drain(..));
    }

    /// Writes one transaction; returns when its outcome is certain.
    async fn write(&mut self, chunk: Chunk) -> Result<Result<(), EngineError>, Deposed> {
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

    /// Sends once, and takes in what comes meanwhile. While the store is known to be away, callers
    /// are answered instead of kept waiting.
    async fn send(&mut self, pending: &Pending) -> Result<i64, StoreError> {
        let sent = self.committer.send(pending);
        tokio::pin!(sent);
        loop {
            let away = self.committer.health().away().is_some();
            let takes = away || self.takes_more();
            tokio::select! {
                answer = &mut sent => return answer,
                Some(command) = next_command(&mut self.redo, &mut self.inbox), if takes => {
                    if away { self.answer(command, pending) } else { self.gather(command, true) }
                }
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
        self.take_without_store(command);
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

    /// What the state, which ends with `units`, looks like from outside.
    fn seen(&self, units: &[Unit]) -> Seen {
        let mut nodes = units.iter().flat_map(|unit| &unit.changes.nodes).peekable();
        let changed = nodes.peek().is_some() || units.iter().any(|unit| !unit.changes.is_empty());
        let old = self.published.borrow().clone();
        let snapshot = changed.then(|| Arc::new(old.next(&self.cluster, nodes)));
        let mut desired = Edits::new();
        let mut entries = Entries::new(&self.cluster);
        for unit in units {
            entries.add(&mut desired, unit);
        }
        let news = units.iter().flat_map(Unit::news).collect();
        Seen { snapshot, news, desired }
    }

    /// Publishes what is durable: readers, watchers, agents, and last the callers.
    fn tell(&self, units: Vec<Unit>, seen: Seen) {
        if let Some(snapshot) = seen.snapshot {
            self.published.send_replace(Arc::clone(&snapshot));
            if !seen.news.is_empty() {
                // Nobody may be watching.
                let _ = self.changes.send(Arc::new(ChangeBatch { snapshot, changes: seen.news }));
            }
        }
        for (name, desired) in seen.desired {
            self.nodes.ensure(&name).change_desired(desired);
        }
        for (reply, result) in units.into_iter().filter_map(|unit| unit.answer) {
            let _ = reply.send(result.map_err(Into::into));
        }
    }
}

/// The next command: what must be applied anew comes first. Nothing is lost if it is dropped.
async fn next_command(
    redo: &mut VecDeque<Command>,
    inbox: &mut mpsc::Receiver<Command>,
) -> Option<Command> {
    match redo.pop_front() {
        Some(command) => Some(command),
        None => inbox.recv().await,
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

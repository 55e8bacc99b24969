//! The loop of the engine.

use super::batch::{Batch, Gone, Seen, Unit};
use super::desired::{Edits, Entries};
use super::flight::{Flight, Flights, Landing};
use super::plan::Chunk;
use super::{ChangeBatch, Command, Committer, EngineError, EngineHandle, INBOX, Snapshot};
use crate::config::CommitLimits;
use crate::nodes::Nodes;
use fgpu_domain::cluster::Cluster;
use fgpu_domain::time::UnixMillis;
use fgpu_service::clock::Clock;
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
    limits: CommitLimits,
    inbox: mpsc::Receiver<Command>,
    published: watch::Sender<Arc<Snapshot>>,
    changes: broadcast::Sender<Arc<ChangeBatch>>,
    stop: CancellationToken,
    /// Applied in memory; written next. It rests on what is on its way.
    open: Batch,
    flights: Flights,
    /// The state after the last batch that is on its way, or was told.
    latest: Arc<Snapshot>,
    /// Inputs to be applied anew, before any other: what they rested on was refused.
    redo: VecDeque<Command>,
    /// Asked while not all that is applied was durable; no more is taken until they are answered.
    questions: Vec<Command>,
    /// While the store is away: when it is tried again.
    probe_at: Option<Instant>,
    /// When time was last looked at, by the wall clock.
    ticked_at: UnixMillis,
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
        limits: CommitLimits,
        stop: CancellationToken,
    ) -> (Self, EngineHandle) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let first = Arc::new(Snapshot::of(&cluster, 1));
        let (published, reader) = watch::channel(Arc::clone(&first));
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
            limits,
            inbox,
            published,
            changes,
            stop,
            open: Batch::default(),
            flights: Flights::new(limits.in_flight),
            latest: first,
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
        if self.may_launch() {
            if self.clock.now().since(self.ticked_at) >= TICK_MS {
                self.tick();
            }
            self.launch();
        }
        let away = self.committer.health().away();
        let takes = away.is_some() || self.takes_more();
        let (clock, wake) = (Arc::clone(&self.clock), self.wake());
        tokio::select! {
            Some(answer) = self.flights.answer() => {
                let landing = self.flights.judge(answer, &mut self.committer).await;
                self.land(landing)?;
                self.after(away.is_some());
            }
            command = next_command(&mut self.redo, &mut self.inbox), if takes => {
                self.take(command.ok_or(Deposed)?, away);
            }
            () = wake.sleep(&*clock) => self.awake(),
        }
        Ok(())
    }

    /// Whether what is open goes to the store now: at once if nothing is on its way, else when
    /// nothing more comes in.
    fn may_launch(&self) -> bool {
        let grown = self.flights.is_empty() || (!self.flights.is_full() && !self.takes_more());
        grown && !self.open.units.is_empty() && self.committer.health().away().is_none()
    }

    /// What is to be done if neither the store nor anybody says anything.
    fn wake(&mut self) -> Wake {
        if let Some(at) = self.flights.send_at() {
            return Wake::At(at);
        }
        if !self.flights.is_empty() {
            return Wake::Never;
        }
        if self.committer.health().away().is_some() {
            let next = || Instant::now() + self.committer.pause();
            return Wake::At(*self.probe_at.get_or_insert_with(next));
        }
        Wake::AtDeadline(self.deadline())
    }

    /// What [`wake`](Self::wake) waited for has come.
    fn awake(&mut self) {
        if self.flights.send_at().is_some() {
            self.flights.send_due(&self.committer);
        } else if self.committer.health().away().is_some() {
            // Whether the store takes writes again.
            self.probe_at = None;
            let nothing = Seen { snapshot: None, desired: Edits::new() };
            self.flights.launch(Vec::new(), nothing, vec![Chunk::default()], &mut self.committer);
        } else {
            self.tick();
            self.launch();
        }
    }

    /// When time alone may bring something about, by the monotonic clock.
    fn deadline(&self) -> Duration {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let wait = match self.cluster.next_deadline() {
            // Due at the last look already: something keeps it, so there is no hurry.
            Some(at) if at <= self.ticked_at => OVERDUE_SLEEP,
            Some(at) => Duration::from_millis(at.since(now)),
            None => LONGEST_SLEEP,
        };
        monotonic + wait.min(LONGEST_SLEEP)
    }

    fn take(&mut self, command: Command, away: Option<EngineError>) {
        match away {
            None => self.gather(command, !self.flights.is_empty()),
            // What is here is what the store has.
            Some(_) if self.flights.is_probe() => self.take_without_store(command),
            Some(error) => refuse(command, error),
        }
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
        self.questions.is_empty() && !self.open.is_full(self.limits.batch)
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

    /// Applies an input; answers a question at once where all that is applied is durable.
    fn handle(&mut self, command: Command, assumed: bool) {
        match command {
            Command::Apply { input, reply } => {
                let again = assumed.then(|| input.clone());
                let gone = Gone::said_by(&input);
                let result = self.cluster.apply(input, self.clock.now());
                let changes = self.cluster.take_changes();
                let unit = Unit::new(changes, Some((reply, result)));
                self.open.push(unit.with_input(again).with_gone(gone));
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

    /// Sends the open batch to the store, with what can be placed now; the next one opens.
    fn launch(&mut self) {
        self.place();
        let mut batch = std::mem::take(&mut self.open);
        match batch.plan() {
            Ok(chunks) => {
                // Now, before anything else is applied.
                let seen = self.seen(&batch.units);
                let durable = self.flights.launch(batch.units, seen, chunks, &mut self.committer);
                self.durable(durable);
            }
            Err(error) => self.take_back(batch.units, &error),
        }
    }

    fn land(&mut self, landing: Landing) -> Result<(), Deposed> {
        match landing {
            Landing::Nothing => {}
            Landing::Durable(flights) => self.durable(flights),
            Landing::Refused { flights, error } => self.fall_back(flights, &error),
            Landing::Deposed => return Err(Deposed),
        }
        Ok(())
    }

    /// Once the store takes writes again after it was away, what waits goes on.
    fn after(&mut self, was_away: bool) {
        if was_away && self.committer.health().away().is_none() && self.flights.is_empty() {
            self.tick();
            self.launch();
        }
    }

    fn durable(&mut self, flights: Vec<Flight>) {
        for flight in flights {
            self.tell(flight.units, flight.seen);
        }
        if self.open.units.is_empty() && self.flights.is_empty() {
            for question in std::mem::take(&mut self.questions) {
                self.tell_answer(question);
            }
        }
    }

    /// The store refused the first of `flights`, from what is written of it on: undoes that and all
    /// that rests on it, which is then applied anew.
    fn fall_back(&mut self, mut flights: VecDeque<Flight>, error: &EngineError) {
        let refused = flights.pop_front();
        let resting = flights.into_iter().flat_map(|flight| flight.units);
        let resting: Vec<Unit> = resting.chain(std::mem::take(&mut self.open).units).collect();
        for unit in resting.into_iter().rev() {
            let (changes, again) = unit.undo();
            self.cluster.rollback(changes);
            if let Some(command) = again {
                self.redo.push_front(command);
            }
        }
        self.latest = self.published.borrow().clone();
        if let Some(Flight { mut units, written, .. }) = refused {
            let rest = units.split_off(written);
            self.take_back(rest, error);
            let seen = self.seen(&units);
            self.tell(units, seen);
        }
        self.redo.extend(self.questions.drain(..));
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
    fn seen(&mut self, units: &[Unit]) -> Seen {
        let mut nodes = units.iter().flat_map(|unit| &unit.changes.nodes).peekable();
        let changed = nodes.peek().is_some() || units.iter().any(|unit| !unit.changes.is_empty());
        let snapshot = changed.then(|| Arc::new(self.latest.next(&self.cluster, nodes)));
        if let Some(snapshot) = &snapshot {
            self.latest = Arc::clone(snapshot);
        }
        let mut desired = Edits::new();
        let mut entries = Entries::new(&self.cluster);
        for unit in units {
            entries.add(&mut desired, unit);
        }
        Seen { snapshot, desired }
    }

    /// Publishes what is durable: readers, watchers, agents, and last the callers.
    fn tell(&self, units: Vec<Unit>, seen: Seen) {
        if let Some(snapshot) = seen.snapshot {
            self.published.send_replace(Arc::clone(&snapshot));
            // Who begins to watch from here on begins with this snapshot.
            if self.changes.receiver_count() > 0 {
                let changes: Vec<_> = units.iter().flat_map(Unit::news).collect();
                if !changes.is_empty() {
                    // The last watcher may just have gone.
                    let _ = self.changes.send(Arc::new(ChangeBatch { snapshot, changes }));
                }
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

/// What the engine sleeps for.
enum Wake {
    At(Instant),
    /// By the monotonic time of the engine's clock.
    AtDeadline(Duration),
    Never,
}

impl Wake {
    async fn sleep(self, clock: &dyn Clock) {
        match self {
            Self::At(at) => tokio::time::sleep_until(at).await,
            Self::AtDeadline(at) => clock.sleep_until(at).await,
            Self::Never => std::future::pending().await,
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

fn refuse(command: Command, error: EngineError) {
    match command {
        Command::Apply { reply, .. } => drop(reply.send(Err(error))),
        Command::Explain { reply, .. } | Command::DryRun { reply, .. } => {
            drop(reply.send(Err(error)));
        }
        Command::Ask(question) => question.answer(Err(error)),
    }
}

//! Defragmentation: plans of moves, and making them a few at a time.
//!
//! A plan is made on a copy of the cluster, so the engine does not wait for it, and kept here until
//! it is run. Before the first move all of it is checked again, and before every further one what
//! that move rests on: the first thing that has changed ends the run, and what has been done stays.

use super::{Caller, errors};
use crate::engine::EngineError;
use fgpu_domain::cluster::{Applied, Input, MovePlan, PlannedMove, Refusal};
use fgpu_domain::plans::defrag::{DefragLimits, fragmentation};
use fgpu_domain::session::{Phase, Session};
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use fgpu_wire::v1::run_defrag_response::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Plans kept at most; the oldest goes first.
const KEPT: usize = 16;
/// Sessions between two places at once, where the caller does not say.
const AT_ONCE: usize = 4;
/// Events the caller may be behind.
const EVENTS: usize = 64;

/// What a run tells its caller.
pub(super) type Progress = ReceiverStream<Result<v1::RunDefragResponse, Status>>;

/// The latest plans that were not run.
#[derive(Default)]
pub(super) struct Plans {
    inner: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    made: u64,
    plans: VecDeque<(String, Arc<MovePlan>)>,
}

impl Plans {
    /// Keeps a plan; returns its id, which no other manager or term gives.
    fn keep(&self, epoch: i64, plan: Arc<MovePlan>) -> String {
        let mut kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        kept.made += 1;
        let id = format!("{epoch}-{}", kept.made);
        kept.plans.push_back((id.clone(), plan));
        if kept.plans.len() > KEPT {
            kept.plans.pop_front();
        }
        id
    }

    fn find(&self, id: &str) -> Option<Arc<MovePlan>> {
        let kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        kept.plans.iter().find(|(known, _)| known == id).map(|(_, plan)| Arc::clone(plan))
    }

    fn forget(&self, id: &str) {
        let mut kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        kept.plans.retain(|(known, _)| known != id);
    }
}

/// Makes a plan and keeps it.
pub(super) async fn plan(
    caller: &Caller,
    plans: &Plans,
    wanted: &v1::PlanDefragRequest,
) -> Result<v1::DefragPlan, CallError> {
    let node = match wanted.node.as_str() {
        "" => None,
        name => Some(super::nodes::node_name(name)?),
    };
    let mut limits = DefragLimits::default();
    if wanted.max_moves != 0 {
        limits.moves = usize::try_from(wanted.max_moves).unwrap_or(usize::MAX);
    }
    let asked =
        caller.term.engine.read(move |cluster| cluster.defrag_question(node.as_ref())).await;
    let question =
        asked.map_err(errors::from_engine)?.map_err(|refusal| errors::from_refusal(&refusal))?;
    let planned = tokio::task::spawn_blocking(move || question.plan(limits)).await;
    let failed = |error: tokio::task::JoinError| {
        CallError::new(ErrorCode::Internal, format!("cannot plan: {error}"))
    };
    let plan = Arc::new(planned.map_err(failed)?);
    let id = plans.keep(caller.term.epoch, Arc::clone(&plan));
    Ok(shown(caller, id, &plan))
}

/// Begins to make the moves of a plan.
pub(super) async fn run(
    caller: Caller,
    plans: &Plans,
    wanted: &v1::RunDefragRequest,
) -> Result<Progress, CallError> {
    let id = &wanted.plan_id;
    let missing = || {
        CallError::new(ErrorCode::PlanNotFound, format!("there is no plan `{id}`"))
            .with("plan", id)
            .hint("a plan is run once, on the manager that made it: make a new one")
    };
    let plan = plans.find(id).ok_or_else(missing)?;
    let engine = &caller.term.engine;
    let checked = Arc::clone(&plan);
    let holds = engine.read(move |cluster| cluster.check_moves(&checked)).await;
    holds.map_err(errors::from_engine)?.map_err(|refusal| errors::from_refusal(&refusal))?;
    plans.forget(id);
    let at_once = usize::try_from(wanted.at_once).unwrap_or(AT_ONCE);
    let at_once = if at_once == 0 { AT_ONCE } else { at_once };
    tracing::info!(plan = id, moves = plan.moves().count(), by = %caller.identity.user, "moves");
    let (out, events) = mpsc::channel(EVENTS);
    let places = plan.steps.iter().enumerate();
    let next = places.flat_map(|(at, step)| step.moves.iter().cloned().map(move |m| (at, m)));
    let (next, under_way) = (next.collect(), Vec::new());
    let run = Run { caller, plan, next, under_way, at_once, moved: 0, stopped: None, out };
    tokio::spawn(run.work());
    Ok(ReceiverStream::new(events))
}

/// A plan that is being carried out.
struct Run {
    caller: Caller,
    plan: Arc<MovePlan>,
    /// Moves not begun, each with the position of its step.
    next: VecDeque<(usize, PlannedMove)>,
    under_way: Vec<PlannedMove>,
    at_once: usize,
    moved: u32,
    /// Why no further move is begun.
    stopped: Option<String>,
    out: mpsc::Sender<Result<v1::RunDefragResponse, Status>>,
}

/// The caller has gone, or the run failed and it was told.
struct Gone;

/// How a move stands.
enum Standing {
    UnderWay,
    Moved(String),
    /// The session has ended: its old place is free all the same.
    Ended(String),
    /// It is somewhere else than planned.
    Failed(String),
}

/// What came of trying to begin a move.
enum Begun {
    Yes,
    /// Not before one of those under way has ended.
    Later,
    No,
}

impl Run {
    async fn work(mut self) {
        let ended = self.caller.term.ended.clone();
        let out = self.out.clone();
        tokio::select! {
            _ = self.carry_out() => {}
            () = ended.cancelled() => {
                let _ = out.try_send(Err(self.caller.term.not_leader().into()));
            }
            () = out.closed() => {}
        }
    }

    async fn carry_out(&mut self) -> Result<(), Gone> {
        // Before the state is looked at, so that no change is missed.
        let mut changes = self.caller.term.engine.changes();
        loop {
            self.look().await?;
            while self.may_begin() {
                match self.begin().await? {
                    Begun::Yes => {}
                    Begun::Later | Begun::No => break,
                }
            }
            if self.under_way.is_empty() && (self.next.is_empty() || self.stopped.is_some()) {
                return self.done().await;
            }
            if let Err(RecvError::Closed) = changes.recv().await {
                return Err(Gone);
            }
        }
    }

    fn may_begin(&self) -> bool {
        self.stopped.is_none() && !self.next.is_empty() && self.under_way.len() < self.at_once
    }

    /// Takes note of moves that have come to their end.
    async fn look(&mut self) -> Result<(), Gone> {
        let snapshot = self.caller.term.engine.snapshot();
        let mut open = Vec::new();
        for planned in std::mem::take(&mut self.under_way) {
            let session = snapshot.sessions.get(&planned.session).map(|session| &**session);
            let (moved, node, note) = match standing(session, &planned) {
                Standing::UnderWay => {
                    open.push(planned);
                    continue;
                }
                Standing::Moved(node) => {
                    self.moved = self.moved.saturating_add(1);
                    (true, node, String::new())
                }
                Standing::Ended(note) => (false, String::new(), note),
                Standing::Failed(note) => {
                    self.stopped.get_or_insert(format!("session {}: {note}", planned.session));
                    (false, String::new(), note)
                }
            };
            let session_id = planned.session.to_string();
            self.say(Event::Ended(v1::MoveEnded { session_id, moved, node, note })).await?;
        }
        self.under_way = open;
        Ok(())
    }

    /// Begins the next move, if what it rests on still holds.
    async fn begin(&mut self) -> Result<Begun, Gone> {
        let Some((step, planned)) = self.next.front().cloned() else { return Ok(Begun::No) };
        let engine = &self.caller.term.engine;
        let plan = Arc::clone(&self.plan);
        let check = move |cluster: &fgpu_domain::cluster::Cluster| {
            plan.steps.get(step).map_or(Ok(()), |step| cluster.check_step(&plan, step))
        };
        let begun = match engine.read(check).await {
            Ok(Ok(())) => {
                let (id, generation) = (planned.session.clone(), planned.generation);
                let to = Box::new(planned.to.clone());
                engine.submit(Input::Move { id, generation, to }).await.map(drop_applied)
            }
            Ok(Err(refusal)) => Err(EngineError::Refused(refusal)),
            Err(error) => Err(error),
        };
        match begun {
            Ok(()) => {
                self.next.pop_front();
                self.say(Event::Started(self.shown_move(&planned))).await?;
                self.under_way.push(planned);
                Ok(Begun::Yes)
            }
            Err(EngineError::Refused(refusal)) => self.refused(&planned, &refusal).await,
            Err(error) => {
                let _ = self.out.send(Err(errors::from_engine(error).into())).await;
                Err(Gone)
            }
        }
    }

    /// A move that cannot be begun: its session has ended, or it must wait for another, or the plan
    /// does not hold any more.
    async fn refused(&mut self, planned: &PlannedMove, refusal: &Refusal) -> Result<Begun, Gone> {
        let snapshot = self.caller.term.engine.snapshot();
        let session = snapshot.sessions.get(&planned.session).map(|session| &**session);
        if let Standing::Ended(note) = standing(session, planned) {
            self.next.pop_front();
            let session_id = planned.session.to_string();
            let ended = v1::MoveEnded { session_id, note, ..v1::MoveEnded::default() };
            self.say(Event::Ended(ended)).await?;
            return Ok(Begun::Yes);
        }
        if !self.under_way.is_empty() {
            return Ok(Begun::Later);
        }
        self.stopped = Some(refusal.to_string());
        Ok(Begun::No)
    }

    async fn done(&mut self) -> Result<(), Gone> {
        let measured = self.caller.term.engine.read(|cluster| fragmentation(cluster.view())).await;
        let now = measured.ok().map(|now| (&now).into());
        let left = u32::try_from(self.next.len()).unwrap_or(u32::MAX);
        let stopped = self.stopped.take().unwrap_or_default();
        let by = &self.caller.identity.user;
        tracing::info!(moved = self.moved, left, stopped, %by, "moves are over");
        self.say(Event::Done(v1::DefragDone { moved: self.moved, left, stopped, now })).await
    }

    fn shown_move(&self, planned: &PlannedMove) -> v1::SessionMove {
        shown_move(&self.caller, planned)
    }

    async fn say(&self, event: Event) -> Result<(), Gone> {
        let response = v1::RunDefragResponse { event: Some(event) };
        self.out.send(Ok(response)).await.map_err(|_| Gone)
    }
}

fn drop_applied(_: Applied) {}

/// How the move of a session stands, by its record; `None` for one that is forgotten.
fn standing(session: Option<&Session>, planned: &PlannedMove) -> Standing {
    let Some(session) = session else { return Standing::Ended("it has ended".to_owned()) };
    match &session.phase {
        Phase::Ended(ended) if ended.message.is_empty() => {
            Standing::Ended(format!("it has {}", ended.outcome))
        }
        Phase::Ended(ended) => {
            Standing::Ended(format!("it has {}: {}", ended.outcome, ended.message))
        }
        Phase::Running { grant, .. } if *grant == planned.to => {
            Standing::Moved(grant.node.to_string())
        }
        Phase::Running { grant, .. } if session.generation > planned.generation => {
            let why = session.attempts.last().map(|attempt| attempt.reason.as_str());
            let why = why.unwrap_or("its new place took nothing");
            Standing::Failed(format!("it runs on node {} again: {why}", grant.node))
        }
        Phase::Pending { .. } => Standing::Failed("it waits for a place".to_owned()),
        Phase::Lost { grant, .. } => Standing::Failed(format!("node {} is lost", grant.node)),
        Phase::Scheduled { .. }
        | Phase::Starting { .. }
        | Phase::Running { .. }
        | Phase::Stopping { .. } => Standing::UnderWay,
    }
}

fn shown(caller: &Caller, id: String, plan: &MovePlan) -> v1::DefragPlan {
    let mut wire = v1::DefragPlan::from(plan);
    wire.id = id;
    let snapshot = caller.term.engine.snapshot();
    for step in &mut wire.steps {
        for planned in &mut step.moves {
            name(planned, snapshot.session(&planned.session_id));
        }
    }
    wire
}

fn shown_move(caller: &Caller, planned: &PlannedMove) -> v1::SessionMove {
    let mut wire = v1::SessionMove::from(planned);
    name(&mut wire, caller.term.engine.snapshot().sessions.get(&planned.session));
    wire
}

/// Adds whose session it is.
fn name(wire: &mut v1::SessionMove, session: Option<&Arc<Session>>) {
    let Some(session) = session else { return };
    wire.owner = session.owner.to_string();
    wire.session_name = session.spec.name.as_ref().map(ToString::to_string).unwrap_or_default();
}

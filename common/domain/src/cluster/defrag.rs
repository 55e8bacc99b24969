//! Moves that free whole devices and nodes, planned on the cluster as it is.
//!
//! [`Cluster::defrag_question`] copies what planning needs, so that it can be done elsewhere while
//! the cluster goes on; [`DefragQuestion::plan`] plans; [`Cluster::check_moves`] says whether a plan
//! still holds, and [`Input::Move`](super::Input::Move) makes one move.

use super::moves::{has_room, may_move};
use super::seen::allocation;
use super::{Cluster, Refusal};
use crate::ids::{DeviceUuid, NodeName, SessionId};
use crate::placement::View;
use crate::plans::defrag::{
    DefragLimits, DefragPlan, DefragStep, Fragmentation, Freed, MovableSession, plan_defrag,
};
use crate::session::{Group, Phase, Session};
use crate::slice::Grant;
use crate::time::UnixMillis;
use crate::units::MemoryBytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a plan of moves is made from: a copy, which the cluster does not wait for.
#[derive(Debug)]
pub struct DefragQuestion {
    view: View,
    movable: Vec<MovableSession>,
    sessions: BTreeMap<SessionId, Arc<Session>>,
    now: UnixMillis,
}

/// A plan of moves, with what it gains and costs. Nothing has moved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovePlan {
    /// When it was made.
    pub made_at: UnixMillis,
    /// Each frees a device or a node; to be done in order.
    pub steps: Vec<PlannedStep>,
    /// What is free now.
    pub before: Fragmentation,
    /// What is free once all has moved.
    pub after: Fragmentation,
    /// What it costs.
    pub cost: MoveCost,
    /// Running sessions that allow being moved.
    pub movable: usize,
}

/// Moves that free something together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// In the order they must be made.
    pub moves: Vec<PlannedMove>,
    /// What is free afterwards.
    pub frees: Freed,
}

/// One session goes to another place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMove {
    /// Which.
    pub session: SessionId,
    /// The placement of it that is meant.
    pub generation: u64,
    /// Where it is.
    pub from: Grant,
    /// Where it goes.
    pub to: Grant,
    /// How long it has run; it starts anew.
    pub ran_ms: u64,
}

/// What moves cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MoveCost {
    /// Sessions that start anew.
    pub restarts: usize,
    /// How long they have run in sum, milliseconds.
    pub ran_ms: u64,
    /// GPU memory they hold.
    pub gpu_memory: MemoryBytes,
}

impl Cluster {
    /// What a plan of moves is made from: every running session that allows being moved, or those
    /// on one node.
    ///
    /// # Errors
    /// [`Refusal::NodeNotFound`].
    pub fn defrag_question(&self, node: Option<&NodeName>) -> Result<DefragQuestion, Refusal> {
        if let Some(name) = node {
            self.node(name)?;
        }
        let mut question = DefragQuestion {
            view: self.view.clone(),
            movable: Vec::new(),
            sessions: BTreeMap::new(),
            now: self.now,
        };
        for session in self.sessions.values() {
            let Phase::Running { grant, .. } = &session.phase else { continue };
            let gang = session.group.as_ref().is_some_and(Group::is_gang);
            if !session.spec.movable || gang || node.is_some_and(|name| *name != grant.node) {
                continue;
            }
            let Some(mut request) = self.unit_request(std::slice::from_ref(session)) else {
                continue;
            };
            request.avoid.extend(self.kept_from(&session.id, &session.spec));
            question.movable.push(MovableSession {
                id: session.id.clone(),
                node: grant.node.clone(),
                request,
                allocation: allocation(session, grant),
                restarts: true,
            });
            question.sessions.insert(session.id.clone(), session.clone());
        }
        Ok(question)
    }

    /// Whether all moves of a plan can still be made, and free what they were to.
    ///
    /// # Errors
    /// [`Refusal::PlanStale`] with the first thing that has changed.
    pub fn check_moves(&self, plan: &MovePlan) -> Result<(), Refusal> {
        let mut view = self.view.clone();
        for planned in plan.moves() {
            let id = &planned.session;
            let stale = |why: String| Refusal::PlanStale { session: id.clone(), why };
            let Some(session) = self.sessions.get(id) else {
                return Err(stale("it has ended and is forgotten".to_owned()));
            };
            may_move(session, planned.generation).map_err(stale)?;
            let stale = |why: String| Refusal::PlanStale { session: id.clone(), why };
            has_room(session, &planned.to, view.get(&planned.to.node)).map_err(stale)?;
            // Both are there: the one has room, the other is held.
            let taken = view.allocate(&planned.to.node, &allocation(session, &planned.to));
            let given = view.release(&planned.from.node, &allocation(session, &planned.from));
            if taken.is_err() || given.is_err() {
                let why = format!("node {} has changed", planned.from.node);
                return Err(Refusal::PlanStale { session: id.clone(), why });
            }
        }
        plan.steps.iter().try_for_each(|step| self.check_step(plan, step))
    }

    /// Whether a step still frees what it was to: nothing else has been placed there.
    ///
    /// # Errors
    /// [`Refusal::PlanStale`] with what was placed there.
    pub fn check_step(&self, plan: &MovePlan, step: &PlannedStep) -> Result<(), Refusal> {
        let moved: BTreeSet<&SessionId> = plan.moves().map(|planned| &planned.session).collect();
        let (node, device) = match &step.frees {
            Freed::Device { node, device } => (node, Some(device)),
            Freed::Node { node } => (node, None),
        };
        let there = |session: &&Arc<Session>| {
            session.takes().any(|(_, grant)| {
                let here =
                    |device: &DeviceUuid| grant.slices.iter().any(|slice| slice.device == *device);
                grant.node == *node && device.is_none_or(here)
            })
        };
        let mut others = self.sessions_on(node).filter(|session| !moved.contains(&session.id));
        match others.find(there) {
            None => Ok(()),
            Some(session) => {
                let what = device.map_or_else(String::new, |device| format!(" of device {device}"));
                let why = format!("part{what} of node {node}, which was to be freed, is its place");
                Err(Refusal::PlanStale { session: session.id.clone(), why })
            }
        }
    }
}

impl MovePlan {
    /// All moves in order.
    pub fn moves(&self) -> impl Iterator<Item = &PlannedMove> {
        self.steps.iter().flat_map(|step| &step.moves)
    }
}

impl DefragQuestion {
    /// Plans at most `limits.moves` moves.
    #[must_use]
    pub fn plan(&self, limits: DefragLimits) -> MovePlan {
        let DefragPlan { steps, before, after, cost } =
            plan_defrag(&self.view, &self.movable, limits);
        let steps: Vec<PlannedStep> =
            steps.into_iter().map(|step| self.planned_step(step)).collect();
        let ran = steps.iter().flat_map(|step| &step.moves).map(|planned| planned.ran_ms);
        let ran_ms = ran.fold(0, u64::saturating_add);
        let cost = MoveCost { restarts: cost.restarts, ran_ms, gpu_memory: cost.gpu_memory };
        let movable = self.movable.len();
        MovePlan { made_at: self.now, steps, before, after, cost, movable }
    }

    fn planned_step(&self, step: DefragStep) -> PlannedStep {
        let moves = step.moves.into_iter().filter_map(|planned| {
            let session = self.sessions.get(&planned.session)?;
            Some(PlannedMove {
                session: planned.session,
                generation: session.generation,
                from: session.phase.grant()?.clone(),
                to: planned.to,
                ran_ms: session.phase.started().map_or(0, |since| self.now.since(since)),
            })
        });
        PlannedStep { moves: moves.collect(), frees: step.frees }
    }
}

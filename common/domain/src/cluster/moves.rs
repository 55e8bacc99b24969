//! Sessions that are moved on purpose: stopped in one place and started anew in another.
//!
//! The new place is kept free from the moment the move is ordered until the session's agent
//! reports it gone from the old one; then it goes there at once, without the queue. Where the new
//! place takes nothing by then, or the session does not start there, it goes back to the old one,
//! and only where that takes nothing either it waits in the queue. Everything needed is in the
//! record, so another manager carries a move to its end.

use super::input::Applied;
use super::seen::allocation;
use super::{Cluster, Refusal};
use crate::ids::SessionId;
use crate::placement::{NodeState, NodeView};
use crate::session::{Event, Group, Moving, Phase, Session, StopReason};
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::sync::Arc;

impl Cluster {
    /// Stops a session so that it goes on at `to`.
    pub(super) fn move_session(
        &mut self,
        id: &SessionId,
        generation: u64,
        to: Grant,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        let session = self.get(id)?.clone();
        if session.generation == generation && session.destination() == Some(&to) {
            return Ok(Applied::Session { session, existed: true });
        }
        let stale = |why: String| Refusal::PlanStale { session: id.clone(), why };
        may_move(&session, generation).map_err(stale)?;
        let stale = |why: String| Refusal::PlanStale { session: id.clone(), why };
        has_room(&session, &to, self.view.get(&to.node)).map_err(stale)?;
        if let Some(delay) = self.delays(id, &session.spec, std::slice::from_ref(&to)) {
            return Err(Refusal::PlanStale { session: id.clone(), why: delay.to_string() });
        }
        let stop = session.phase.after(Event::Stop(StopReason::Moved), now);
        let Ok(phase) = stop else {
            let why = format!("it is {}", session.phase.name());
            return Err(Refusal::PlanStale { session: id.clone(), why });
        };
        let moving = Some(Box::new(Moving::To(to)));
        let stopped = Session { phase, moving, stop_grace_ms: None, ..Session::clone(&session) };
        Ok(Applied::Session { session: self.put_session(stopped), existed: true })
    }

    /// Lets a session that has just given up its place go straight to the one it prefers, if that
    /// takes it. `before` is the session as it was.
    pub(super) fn goes_on_elsewhere(&mut self, before: &Arc<Session>, now: UnixMillis) -> bool {
        let Some(left) = before.phase.grant() else { return false };
        let moved = matches!(
            before.phase,
            Phase::Stopping { reason: StopReason::Moved, .. }
                | Phase::Lost { stopping: Some(StopReason::Moved), .. }
        );
        let in_gang = before.group.as_ref().is_some_and(Group::is_gang);
        if let Some(origin) = before.origin() {
            return self.takes_place(&before.id, origin.clone(), None, now);
        }
        if let Some(to) = before.destination() {
            let from = Some(Box::new(Moving::From(left.clone())));
            if self.takes_place(&before.id, to.clone(), from, now) {
                return true;
            }
        }
        moved && !in_gang && self.takes_place(&before.id, left.clone(), None, now)
    }

    /// Places a waiting session in one place, if that takes it.
    fn takes_place(
        &mut self,
        id: &SessionId,
        place: Grant,
        moving: Option<Box<Moving>>,
        now: UnixMillis,
    ) -> bool {
        let Some(session) = self.sessions.get(id).cloned() else { return false };
        if has_room(&session, &place, self.view.get(&place.node)).is_err() {
            return false;
        }
        let Ok(phase) = session.phase.after(Event::Placed(place), now) else { return false };
        let (generation, placed_at) = (session.generation + 1, Some(now));
        self.put_session(Session {
            phase,
            generation,
            placed_at,
            moving,
            ..Session::clone(&session)
        });
        true
    }
}

/// Why a session may not be moved as placement `generation` of it was to be, if it may not.
pub(super) fn may_move(session: &Session, generation: u64) -> Result<(), String> {
    if session.generation != generation {
        return Err("it has been placed anew since the plan was made".to_owned());
    }
    match &session.phase {
        Phase::Running { .. } => {}
        phase => return Err(format!("it is {}, no longer running", phase.name())),
    }
    if !session.spec.movable || session.group.as_ref().is_some_and(Group::is_gang) {
        return Err("it does not allow being moved (`--movable`)".to_owned());
    }
    Ok(())
}

/// Why `place` does not take `session`, if it does not; `node` is what is free there.
pub(super) fn has_room(
    session: &Session,
    place: &Grant,
    node: Option<&NodeView>,
) -> Result<(), String> {
    let name = &place.node;
    let Some(node) = node else { return Err(format!("node {name} is gone")) };
    if node.state != NodeState::Ready {
        return Err(format!("node {name} takes nothing new now"));
    }
    let wanted = allocation(session, place);
    if wanted.cpu > node.cpu_free || wanted.memory > node.memory_free {
        let (cpu, memory) = (node.cpu_free, node.memory_free);
        return Err(format!(
            "it needs {} cores and {} on node {name}, where {cpu} and {memory} are free",
            wanted.cpu, wanted.memory
        ));
    }
    for slice in &wanted.slices {
        let uuid = &slice.device;
        let Some(device) = node.devices.iter().find(|device| device.uuid == *uuid) else {
            return Err(format!("node {name} has no device {uuid} any more"));
        };
        if let Some(block) = &device.blocked {
            return Err(format!("device {uuid} of node {name} takes nothing new: {block}"));
        }
        let card = device.mig.as_ref().and_then(|origin| {
            node.devices.iter().find(|card| card.uuid == origin.card && card.sessions > 0)
        });
        if let Some(card) = card {
            return Err(format!("card {} of node {name} is still held as a whole", card.uuid));
        }
        if !slice.demand().fits(device.free) {
            return Err(format!(
                "it needs {} and {} of device {uuid} on node {name}, where {} and {} are free",
                slice.memory, slice.compute, device.free.memory, device.free.compute
            ));
        }
    }
    Ok(())
}

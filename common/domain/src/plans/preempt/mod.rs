//! Preemption: which running sessions should go so that a blocked one fits.
//!
//! Only sessions of strictly lower priority, of a class that allows it, whose minimum run time is
//! over. What counts as least harm, in this order: the highest priority among the victims is the
//! lowest possible, their number, the run time that is lost times what they hold, and what is freed
//! beyond the need. The order and the reprieve of victims that turn out unneeded follow
//! Kubernetes' scheduler (`PostFilter`, default preemption); lost work counts as in Slurm's and
//! Borg's practice of sparing what has run long.
//!
//! What holds: a victim never has the priority of the blocked session or a higher one; every victim
//! is needed where the members are to lie; a session that holds parts on several nodes goes as a
//! whole. For one request the highest priority among the victims is the lowest there is; below that,
//! nodes and sets are compared within bounds (the nodes that look best are tried in depth).
//! Closeness of a gang is not weighed: it takes the places that hurt least.

#[cfg(test)]
mod tests;

use super::clear::{Cleared, Clearing, Occupant};
use super::gang::{Class, GangRefused, GangRequest, classes};
use super::running::{RunningSession, share};
use crate::ids::SessionId;
use crate::placement::View;
use crate::slice::Grant;
use crate::time::UnixMillis;

/// Who goes, and where the blocked session then lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// The sessions that must go, in the order they were given; empty where it fits as it is, or
    /// once those that are on their way out are gone.
    pub victims: Vec<SessionId>,
    /// One grant per member, free once the victims are gone.
    pub grants: Vec<Grant>,
}

/// Why preemption would not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPreemption {
    /// It would not fit even on empty nodes.
    #[error(transparent)]
    Never(#[from] GangRefused),
    /// Those that may be stopped are not enough.
    #[error(
        "stopping all {eligible} sessions that may be preempted would make room for {fit} of \
         {members}: of the others {not_lower} have no lower priority, {class} are of a class that \
         is never preempted, {young} have not run for their minimum"
    )]
    NotEnough {
        /// Members of the blocked session; 1 for one that is no gang.
        members: usize,
        /// How many of them would find room.
        fit: usize,
        /// Running sessions that may be preempted for it.
        eligible: usize,
        /// Running sessions of the same or a higher priority.
        not_lower: usize,
        /// Of lower priority, but protected by their class.
        class: usize,
        /// Of lower priority and a class that allows it, but not long enough there.
        young: usize,
    },
}

/// The least harmful set of `running` sessions without which `gang` fits. Nothing is changed.
///
/// # Errors
/// [`NoPreemption`], where stopping sessions would not help: then none is named.
pub fn plan_preemption(
    gang: &GangRequest,
    priority: i32,
    view: &View,
    running: &[RunningSession],
    now: UnixMillis,
) -> Result<Preemption, NoPreemption> {
    let classes = classes(gang, view)?;
    match least_harm(gang, &classes, priority, view, running, now) {
        Ok(Leaving { gone, grants }) => {
            let victims = gone.into_iter().map(|at| &running[at]);
            let victims = victims.filter(|session| !session.stopping);
            Ok(Preemption { victims: victims.map(|session| session.id.clone()).collect(), grants })
        }
        Err(fit) => Err(not_enough(gang.members.len(), fit, priority, running)),
    }
}

/// Who leaves, those that are on their way out already among them.
pub(super) struct Leaving {
    /// Positions among the running sessions, ascending.
    pub(super) gone: Vec<usize>,
    /// One grant per member.
    pub(super) grants: Vec<Grant>,
}

/// As [`plan_preemption`]; or how many members would find room.
pub(super) fn least_harm(
    gang: &GangRequest,
    classes: &[Class],
    priority: i32,
    view: &View,
    running: &[RunningSession],
    now: UnixMillis,
) -> Result<Leaving, usize> {
    let may_go = |session: &RunningSession| {
        session.stopping
            || (session.priority < priority && session.preemptible && session.min_run_over)
    };
    let eligible = running.iter().enumerate().filter(|(_, session)| may_go(session));
    let (places, occupants): (Vec<usize>, Vec<Occupant<'_>>) =
        eligible.map(|(at, session)| (at, occupant(session, view, now))).unzip();
    let Cleared { gone, grants } = Clearing::new(view, gang, classes, &occupants).clear()?;
    Ok(Leaving { gone: gone.into_iter().map(|at| places[at]).collect(), grants })
}

fn occupant<'a>(session: &'a RunningSession, view: &View, now: UnixMillis) -> Occupant<'a> {
    let shares = session.held.iter().map(|(node, allocation)| share(view, node, allocation));
    let share = shares.fold(0, u64::saturating_add);
    if session.stopping {
        // It goes anyway: whoever waits for it does no harm.
        return Occupant { held: &session.held, level: i32::MIN, lost: 0, share };
    }
    let lost = u128::from(now.since(session.started_at)) * u128::from(share);
    Occupant { held: &session.held, level: session.priority, lost, share }
}

fn not_enough(
    members: usize,
    fit: usize,
    priority: i32,
    running: &[RunningSession],
) -> NoPreemption {
    let (mut eligible, mut not_lower, mut class, mut young) = (0, 0, 0, 0);
    for session in running {
        let counter = match session {
            session if session.priority >= priority => &mut not_lower,
            session if !session.preemptible => &mut class,
            session if !session.min_run_over => &mut young,
            _ => &mut eligible,
        };
        *counter += 1;
    }
    NoPreemption::NotEnough { members, fit, eligible, not_lower, class, young }
}

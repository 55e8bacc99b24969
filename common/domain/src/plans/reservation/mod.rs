//! Backfill: when and where a blocked head will fit, and what may run before it.
//!
//! A head that cannot start is promised a time and a place; others may start before it only if
//! they do not move that promise. This is EASY backfill (Lifka, The ANL/IBM SP Scheduling System,
//! 1995; Mu'alem and Feitelson 2001), with a reservation for each of a few heads instead of only
//! the first, and per device instead of per node count.
//!
//! - The time follows from the known ends of running sessions: a session without one never ends.
//! - A candidate may use a reserved node if it ends by the promised time, or if what is left then
//!   still holds the head ([`Backfill::allows`]).
//! - Where no time can be computed, the head waits like others until its patience is over. Then
//!   the nodes with the least to wait for are closed to whatever would delay it, so that what is
//!   given back there stays free and the head starts at last.
//!
//! What holds: once [`Backfill::took`] has been told of every candidate that started, the grants
//! of a reservation are free at its time if the sessions end when they are known to.

mod time;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_random;

use super::gang::{Class, GangRequest, classes};
use super::running::RunningSession;
use super::trial::{Settled, Trial};
use crate::ids::{NodeName, SessionId};
use crate::placement::{Allocation, View};
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use time::Timeline;

/// How much sooner a head must start for it to take the places of others, milliseconds.
const LEAST_GAIN_MS: u64 = 60 * 1000;

/// A session at the head of its queue that cannot start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which one.
    pub session: SessionId,
    /// What it asks; one member where it is no gang.
    pub gang: GangRequest,
    /// Since when it waits at the head.
    pub waiting_since: UnixMillis,
    /// It is here for its age alone: of these only the first that room can be kept for is a head.
    pub by_age: bool,
    /// Its priority: what is more urgent than the head need not leave it room.
    pub priority: i32,
    /// It may take the places of preemptible sessions of a lower priority than this.
    pub takes: Option<i32>,
}

/// Who wants to start beside the heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The session; a head itself respects only the heads before it.
    pub session: &'a SessionId,
    /// Its priority.
    pub priority: i32,
    /// When it will have ended at the latest; `None`: nobody knows.
    pub ends_at: Option<UnixMillis>,
}

/// What a head is promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Which head.
    pub head: SessionId,
    /// When it will fit at the latest; `None`: sessions without a known end are in the way.
    pub at: Option<UnixMillis>,
    /// Where it will lie, one grant per member; empty where it would not fit even then, and where
    /// it has no time while it is patient.
    pub grants: Vec<Grant>,
    /// Whether others must leave room for it: it has a time, or its patience is over.
    pub binding: bool,
    /// Whether it is made for the age of the head.
    pub by_age: bool,
}

/// A candidate would delay a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Delay {
    /// A head has a time on that node.
    #[error("it would still run on node {node} at {at}, which is when {head} needs the room")]
    Promised {
        /// The head.
        head: SessionId,
        /// The node.
        node: NodeName,
        /// The promised time.
        at: UnixMillis,
    },
    /// The node is closed for a head that has waited long enough.
    #[error("node {node} is kept for {head}, which has waited long enough")]
    Closed {
        /// The head.
        head: SessionId,
        /// The node.
        node: NodeName,
    },
}

impl Delay {
    /// The node on which a head would be delayed.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Promised { node, .. } | Self::Closed { node, .. } => node,
        }
    }
}

/// The reservations of some heads, and what may start beside them.
#[derive(Debug, Clone, Default)]
pub struct Backfill {
    held: Vec<Held>,
    victims: Vec<Victim>,
}

/// A session whose place a head takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// Which.
    pub session: SessionId,
    /// The head.
    pub head: SessionId,
}

/// A reservation and the nodes it is on.
#[derive(Debug, Clone)]
struct Held {
    reservation: Reservation,
    priority: i32,
    shadows: Vec<Arc<Shadow>>,
}

/// A node as it will be when the head starts, without any head.
#[derive(Debug, Clone)]
struct Shadow {
    node: NodeName,
    trial: Trial,
    /// Members of the head that lie here.
    members: Vec<(usize, Settled)>,
}

impl Backfill {
    /// Reserves for `heads`, the most important first; each respects those before it.
    ///
    /// A head waits for `patience_ms` before nodes are closed for it without a known time. Sessions
    /// that are past their end are expected to end any moment. Heads that no node could ever hold
    /// get no reservation, and one that is named twice gets one.
    #[must_use]
    pub fn plan(
        heads: &[Head],
        view: &View,
        running: &[RunningSession],
        now: UnixMillis,
        patience_ms: u64,
    ) -> Self {
        let mut timeline = Timeline::new(view, running, now);
        let (mut backfill, mut aged) = (Self::default(), false);
        for head in heads {
            let known = backfill.reservations().any(|other| other.head == head.session);
            if known || (head.by_age && aged) {
                continue;
            }
            let Ok(classes) = classes(&head.gang, view) else { continue };
            let waited = now.since(head.waiting_since) >= patience_ms;
            let Reserved { held, victims } = reserve(head, &classes, &timeline, waited);
            if head.by_age && !held.binding() {
                continue;
            }
            aged |= head.by_age;
            let victim =
                |at: usize| Victim { session: running[at].id.clone(), head: head.session.clone() };
            backfill.victims.extend(victims.into_iter().map(victim));
            if held.reservation.binding {
                timeline.reserve(&held.reservation, &head.gang);
            }
            backfill.held.push(held);
        }
        backfill
    }

    /// What the heads are promised, in their order.
    pub fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.held.iter().map(|held| &held.reservation)
    }

    /// The sessions that are to be told to go, so that heads start when they are promised to.
    #[must_use]
    pub fn victims(&self) -> &[Victim] {
        &self.victims
    }

    /// Whether anybody has to leave room for any head.
    #[must_use]
    pub fn binds(&self) -> bool {
        self.held.iter().any(Held::binding)
    }

    /// Whether anything is kept for any head.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Forgets the heads for which `such` does not hold; tells whether there were any.
    pub fn retain(&mut self, such: impl Fn(&SessionId) -> bool) -> bool {
        let before = self.held.len();
        self.held.retain(|held| such(&held.reservation.head));
        self.held.len() < before
    }

    /// The nodes on which a candidate has to leave room for heads.
    pub fn kept_from(&self, candidate: &Candidate<'_>) -> impl Iterator<Item = &NodeName> {
        let heads = self.before(candidate).filter(|(_, held)| held.binding());
        heads.flat_map(|(_, held)| held.shadows.iter().map(|shadow| &shadow.node))
    }

    /// Whether a candidate that takes `allocations` now delays no head it has to respect.
    ///
    /// # Errors
    /// [`Delay`] with the head that would be delayed and where.
    pub fn allows(
        &self,
        candidate: &Candidate<'_>,
        allocations: &[(NodeName, Allocation)],
    ) -> Result<(), Delay> {
        let nodes: BTreeSet<&NodeName> = allocations.iter().map(|(node, _)| node).collect();
        for node in nodes {
            self.beside(candidate, node, allocations)?;
        }
        Ok(())
    }

    /// Whether it matters to any head that `session` starts on these nodes: where it does not,
    /// [`Backfill::took`] has nothing to take note of.
    pub fn concerns<'a, N>(&self, session: &SessionId, nodes: impl Fn() -> N) -> bool
    where
        N: Iterator<Item = &'a NodeName>,
    {
        self.held.iter().any(|held| {
            held.reservation.head == *session
                || held.shadows.iter().any(|shadow| nodes().any(|node| *node == shadow.node))
        })
    }

    /// Takes note of a candidate that has started, so that others do not count on the same room.
    /// `false` where a head behind it, or one it need not respect, loses what it was promised.
    pub fn took(
        &mut self,
        candidate: &Candidate<'_>,
        allocations: &[(NodeName, Allocation)],
    ) -> bool {
        let nodes: BTreeSet<&NodeName> = allocations.iter().map(|(node, _)| node).collect();
        // Whom it delays is of no matter here: it has started.
        let nobody = Candidate { priority: i32::MIN, ..*candidate };
        let mut kept = true;
        let mut left = Vec::new();
        for node in nodes {
            match self.beside(&nobody, node, allocations) {
                Ok(here) => left.extend(here),
                Err(_) => kept = false,
            }
        }
        for Left { held, shadow, trial, grants } in left {
            let held = &mut self.held[held];
            Arc::make_mut(&mut held.shadows[shadow]).trial = trial;
            for (member, grant) in grants {
                if let Some(place) = held.reservation.grants.get_mut(member) {
                    *place = grant;
                }
            }
        }
        kept
    }

    /// The heads a candidate has to respect, with their positions: those of its priority or more,
    /// and for a head those before it.
    fn before(&self, candidate: &Candidate<'_>) -> impl Iterator<Item = (usize, &Held)> {
        let (session, priority) = (candidate.session, candidate.priority);
        let before = self.held.iter().take_while(move |held| held.reservation.head != *session);
        before.enumerate().filter(move |(_, held)| held.priority >= priority)
    }

    /// Every head on a node seated again beside a candidate that is still there when it starts.
    /// Heads stay where those before them let them, as they start in that order.
    fn beside(
        &self,
        candidate: &Candidate<'_>,
        node: &NodeName,
        allocations: &[(NodeName, Allocation)],
    ) -> Result<Vec<Left>, Delay> {
        let mut before: Vec<Allocation> = Vec::new();
        let mut left = Vec::new();
        for (at, held) in self.before(candidate).filter(|(_, held)| held.binding()) {
            let shadows = held.shadows.iter().enumerate();
            for (shadow, here) in shadows.filter(|(_, shadow)| shadow.node == *node) {
                let mut trial = here.trial.clone();
                let candidates = allocations.iter().filter(|(name, _)| name == node);
                // What is free now but not in the shadow was given back early: nobody can say
                // whether it is free then.
                let fits = !held.outlasted_by(candidate.ends_at)
                    || candidates.map(|(_, allocation)| allocation).all(|taken| trial.take(taken));
                let promised = &held.reservation.grants;
                let seated = if fits { here.seat(&trial, &before, promised) } else { None };
                let grants = seated.ok_or_else(|| held.delay(node))?;
                before.extend(here.allocations(&grants));
                left.push(Left { held: at, shadow, trial, grants });
            }
        }
        Ok(left)
    }
}

impl Held {
    fn binding(&self) -> bool {
        self.reservation.binding
    }

    /// Whether a candidate that ends by then would still be there when the head starts.
    fn outlasted_by(&self, ends_at: Option<UnixMillis>) -> bool {
        let by_then = |at: UnixMillis| ends_at.is_some_and(|end| end <= at);
        !self.reservation.at.is_some_and(by_then)
    }

    fn delay(&self, node: &NodeName) -> Delay {
        let (head, node) = (self.reservation.head.clone(), node.clone());
        match self.reservation.at {
            Some(at) => Delay::Promised { head, node, at },
            None => Delay::Closed { head, node },
        }
    }
}

/// What a candidate leaves of a node, and where the members of a head then lie.
struct Left {
    held: usize,
    shadow: usize,
    trial: Trial,
    grants: Vec<(usize, Grant)>,
}

impl Shadow {
    /// The members on the node beside what heads `before` take of it: where they were promised to
    /// lie, else wherever there is room.
    fn seat(
        &self,
        trial: &Trial,
        before: &[Allocation],
        promised: &[Grant],
    ) -> Option<Vec<(usize, Grant)>> {
        let mut trial = trial.clone();
        if !before.iter().all(|taken| trial.take(taken)) {
            return None;
        }
        let seated =
            |trial: &mut Trial, find: &dyn Fn(&Trial, usize, &Settled) -> Option<Grant>| {
                let seat = |(member, settled): &(usize, Settled)| {
                    let grant = find(trial, *member, settled)?;
                    trial.take(&settled.allocation(&grant)).then_some((*member, grant))
                };
                self.members.iter().map(seat).collect::<Option<Vec<_>>>()
            };
        let stay = |_: &Trial, member: usize, _: &Settled| promised.get(member).cloned();
        let anew = |trial: &Trial, _: usize, settled: &Settled| trial.find(settled);
        seated(&mut trial.clone(), &stay).or_else(|| seated(&mut trial, &anew))
    }

    fn allocations(&self, grants: &[(usize, Grant)]) -> Vec<Allocation> {
        let members = self.members.iter().zip(grants);
        members.map(|((_, settled), (_, grant))| settled.allocation(grant)).collect()
    }
}

/// The reservation of one head, and whose places it takes.
struct Reserved {
    held: Held,
    /// Positions among the running sessions.
    victims: Vec<usize>,
}

/// When and where a head will lie, once who is gone.
#[derive(Default)]
struct Promise {
    at: Option<UnixMillis>,
    grants: Vec<Grant>,
    gone: BTreeSet<usize>,
    binding: bool,
    victims: Vec<usize>,
}

/// The reservation of one head beside those already on the timeline.
fn reserve(head: &Head, classes: &[Class], timeline: &Timeline<'_>, waited: bool) -> Reserved {
    let Promise { at, grants, gone, binding, victims } = promise(head, classes, timeline, waited);
    let mut members: BTreeMap<&NodeName, Vec<(usize, Settled)>> = BTreeMap::new();
    for (member, grant) in grants.iter().enumerate() {
        let class = classes.iter().find(|class| class.members.contains(&member));
        let settled = class.map(|class| (member, class.settled.clone()));
        members.entry(&grant.node).or_default().extend(settled);
    }
    let shadow = |(node, members): (&NodeName, Vec<(usize, Settled)>)| {
        let trial = match at {
            Some(at) if gone.is_empty() => timeline.node_free_at(node, at),
            Some(_) | None => timeline.node_without(node, &gone),
        };
        Some(Arc::new(Shadow { node: node.clone(), trial: trial?, members }))
    };
    let shadows = members.into_iter().filter_map(shadow).collect();
    let (session, by_age) = (head.session.clone(), head.by_age);
    let reservation = Reservation { head: session, at, grants, binding, by_age };
    Reserved { held: Held { reservation, priority: head.priority, shadows }, victims }
}

fn promise(head: &Head, classes: &[Class], timeline: &Timeline<'_>, waited: bool) -> Promise {
    let timed = timeline.earliest(&head.gang, classes);
    let soon = timed.as_ref().map(|(at, _)| *at);
    let taken = head.takes.filter(|_| soon.is_none_or(|at| timeline.is_later(at)));
    let taken = taken.and_then(|takes| timeline.take_places(&head.gang, classes, takes));
    // Nobody goes for the sake of less than that.
    let gains = |at: &UnixMillis| soon.is_none_or(|soon| soon > at.plus(LEAST_GAIN_MS));
    if let Some((at, grants, gone)) = taken.filter(|(at, ..)| gains(at)) {
        let victims = timeline.told(&gone);
        return Promise { at: Some(at), grants, gone, binding: true, victims };
    }
    if let Some((at, grants)) = timed {
        return Promise { at: Some(at), grants, binding: true, ..Promise::default() };
    }
    let kept = waited.then(|| timeline.least_to_wait_for(&head.gang, classes)).flatten();
    match kept {
        Some((grants, gone)) => Promise { grants, gone, binding: true, ..Promise::default() },
        None => Promise::default(),
    }
}

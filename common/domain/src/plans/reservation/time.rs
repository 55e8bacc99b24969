//! Nodes over time: what is free once running sessions have ended.

use super::Reservation;
use crate::ids::NodeName;
use crate::placement::{Allocation, NodeState, NodeView, View};
use crate::plans::capacity::{Room, Taken, at_most_in, in_question_later};
use crate::plans::clear::{Cleared, Clearing, Occupant};
use crate::plans::gang::{Class, GangRequest, Spread, place_on};
use crate::plans::preempt::{Leaving, least_harm};
use crate::plans::running::{RunningSession, share};
use crate::plans::trial::{Trial, as_u32};
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes on which a gang is tried at least where they may have room, if there are as many.
const MOST_TRIED: usize = 64;
/// Of a larger cluster so many nodes are tried that this many times the gang may have room there.
const SPARE: u32 = 4;

/// The cluster over time.
pub(super) struct Timeline<'a> {
    view: &'a View,
    running: &'a [RunningSession],
    now: UnixMillis,
    /// What is given back on a node and when, by the session.
    ends: BTreeMap<&'a NodeName, Vec<End<'a>>>,
    /// What heads take on a node, and from when; `None`: it is closed.
    reserved: BTreeMap<NodeName, Vec<(Option<UnixMillis>, Allocation)>>,
}

struct End<'a> {
    session: usize,
    at: Option<UnixMillis>,
    allocation: &'a Allocation,
    taken: Taken,
}

impl End<'_> {
    fn by(&self, at: UnixMillis) -> bool {
        self.at.is_some_and(|end| end <= at)
    }
}

impl<'a> Timeline<'a> {
    pub(super) fn new(view: &'a View, running: &'a [RunningSession], now: UnixMillis) -> Self {
        let mut ends: BTreeMap<&NodeName, Vec<End<'_>>> = BTreeMap::new();
        for (session, running) in running.iter().enumerate() {
            // What should have ended will end any moment.
            let at = running.ends_at.map(|end| end.max(now));
            for (name, allocation) in &running.held {
                let Some(node) = view.get(name) else { continue };
                let taken = Taken::of(allocation, node);
                ends.entry(name).or_default().push(End { session, at, allocation, taken });
            }
        }
        Self { view, running, now, ends, reserved: BTreeMap::new() }
    }

    /// Takes note of what a head will take.
    pub(super) fn reserve(&mut self, reservation: &Reservation, gang: &GangRequest) {
        for (request, grant) in gang.members.iter().zip(&reservation.grants) {
            let taken = (reservation.at, Allocation::of(request, grant));
            self.reserved.entry(grant.node.clone()).or_default().push(taken);
        }
    }

    /// A node at a time, with what heads before this one take there; `None` while the node is
    /// kept for one of them.
    pub(super) fn node_at(&self, name: &NodeName, at: UnixMillis) -> Option<Trial> {
        let mut trial = self.node_free_at(name, at)?;
        for (from, allocation) in self.reserved.get(name).into_iter().flatten() {
            let begun = from.is_some_and(|from| from <= at);
            if !begun || !trial.take(allocation) {
                return None;
            }
        }
        Some(trial)
    }

    /// A node at a time, were there no heads.
    pub(super) fn node_free_at(&self, name: &NodeName, at: UnixMillis) -> Option<Trial> {
        self.after(name, |end| end.by(at))
    }

    /// A node once these sessions have ended.
    pub(super) fn node_without(&self, name: &NodeName, gone: &BTreeSet<usize>) -> Option<Trial> {
        self.after(name, |end| gone.contains(&end.session))
    }

    fn after(&self, name: &NodeName, ended: impl Fn(&End<'_>) -> bool) -> Option<Trial> {
        let mut trial = Trial::new(self.view.get(name)?, self.view.quantum()).ok()?;
        let ends = self.ends.get(name).into_iter().flatten();
        for end in ends.filter(|end| ended(end)) {
            // What is not there to be given back is not counted on either.
            let _ = trial.give_back(end.allocation);
        }
        Some(trial)
    }

    /// The earliest time at which all members fit, and where.
    pub(super) fn earliest(
        &self,
        gang: &GangRequest,
        classes: &[Class],
    ) -> Option<(UnixMillis, Vec<Grant>)> {
        match classes {
            [class] if class.members.len() == 1 => self.earliest_of_one(gang, class),
            _ => self.earliest_of_all(gang, classes),
        }
    }

    /// The node that has room the earliest, of equals the first. Bounds say for every node before
    /// when it has none; from the earliest on they are looked at closely until none can be better.
    fn earliest_of_one(
        &self,
        gang: &GangRequest,
        class: &Class,
    ) -> Option<(UnixMillis, Vec<Grant>)> {
        let open = self.view.iter().filter(|node| !gang.avoid.contains(&node.name));
        let bounded = open
            .enumerate()
            .filter_map(|(turn, node)| Some((self.not_before(class, node)?, turn, &node.name)));
        let mut bounded: Vec<(UnixMillis, usize, &NodeName)> = bounded.collect();
        bounded.sort_unstable();
        let mut best: Option<(UnixMillis, usize, Grant)> = None;
        for (bound, turn, name) in bounded {
            let may_win = |best: &(UnixMillis, usize, Grant)| (bound, turn) < (best.0, best.1);
            if best.as_ref().is_some_and(|best| !may_win(best)) {
                break;
            }
            let Some((at, grant)) = self.earliest_on(class, name, bound) else { continue };
            if best.as_ref().is_none_or(|best| (at, turn) < (best.0, best.1)) {
                best = Some((at, turn, grant));
            }
        }
        best.map(|(at, _, grant)| (at, vec![grant]))
    }

    /// When a node has room for one of a class, from `bound` on.
    fn earliest_on(
        &self,
        class: &Class,
        name: &NodeName,
        bound: UnixMillis,
    ) -> Option<(UnixMillis, Grant)> {
        let find = |at| self.node_at(name, at)?.find(&class.settled);
        let times = self.times_of(name);
        let times = &times[times.partition_point(|at| *at < bound)..];
        // Mostly the bound is met.
        let (first, rest) = times.split_first()?;
        if let Some(grant) = find(*first) {
            return Some((*first, grant));
        }
        find(*rest.last()?)?;
        // The more has ended, the more fits.
        let at = *rest.get(rest.partition_point(|at| find(*at).is_none()))?;
        Some((at, find(at)?))
    }

    /// Before when a node surely has no room for one of a class, heads left aside; `None`: ever.
    fn not_before(&self, class: &Class, node: &NodeView) -> Option<UnixMillis> {
        if !in_question_later(&class.settled.tries()[0], node) {
            return None;
        }
        let mut room = Room::of(node);
        let fits = |room: &Room| at_most_in(room, &class.settled, node, self.view.quantum(), 1) > 0;
        if fits(&room) {
            return Some(self.now);
        }
        let ends = self.ends.get(&node.name)?;
        let mut timed: Vec<(UnixMillis, &Taken)> =
            ends.iter().filter_map(|end| Some((end.at?, &end.taken))).collect();
        timed.sort_unstable_by_key(|(at, _)| *at);
        for (at, taken) in timed {
            room.give_back(taken);
            if fits(&room) {
                return Some(at);
            }
        }
        None
    }

    /// The earliest time at which a gang is placed. Bounds say before when it cannot be; from
    /// there on the times at which anything ends are halved.
    fn earliest_of_all(
        &self,
        gang: &GangRequest,
        classes: &[Class],
    ) -> Option<(UnixMillis, Vec<Grant>)> {
        let ends = self.ends.values().flatten().filter_map(|end| end.at);
        let reserved = self.reserved.values().flatten().filter_map(|(at, _)| *at);
        let times: BTreeSet<UnixMillis> = ends.chain(reserved).chain([self.now]).collect();
        let times: Vec<UnixMillis> = times.into_iter().collect();
        let first = times.partition_point(|at| !self.may_fit(gang, classes, *at));
        let times = times.get(first..).filter(|times| !times.is_empty())?;
        let place = |at: usize| Some((times[at], self.place_at(gang, classes, times[at])?));
        // Mostly the bound is met.
        if let Some(found) = place(0) {
            return Some(found);
        }
        let mut best = place(times.len() - 1)?;
        let (mut low, mut high) = (1, times.len() - 1);
        while low < high {
            let middle = low.midpoint(high);
            match place(middle) {
                Some(found) => (best, high) = (found, middle),
                None => low = middle + 1,
            }
        }
        Some(best)
    }

    /// Whether all nodes together may hold each class by then: never `false` where they do.
    fn may_fit(&self, gang: &GangRequest, classes: &[Class], at: UnixMillis) -> bool {
        classes.iter().all(|class| {
            let mut left = as_u32(class.members.len());
            for node in self.view.iter().filter(|node| !gang.avoid.contains(&node.name)) {
                left -= self.bound(class, node, at, left);
                if left == 0 {
                    return true;
                }
            }
            false
        })
    }

    /// How many of at most `most` members of a class a node may hold by then, heads left aside.
    fn bound(&self, class: &Class, node: &NodeView, at: UnixMillis, most: u32) -> u32 {
        if !in_question_later(&class.settled.tries()[0], node) {
            return 0;
        }
        let mut room = Room::of(node);
        let ends = self.ends.get(&node.name).into_iter().flatten();
        ends.filter(|end| end.by(at)).for_each(|end| room.give_back(&end.taken));
        at_most_in(&room, &class.settled, node, self.view.quantum(), most)
    }

    fn place_at(
        &self,
        gang: &GangRequest,
        classes: &[Class],
        at: UnixMillis,
    ) -> Option<Vec<Grant>> {
        let members = as_u32(gang.members.len());
        let bound = |node: &NodeView| {
            let bounds = classes.iter().map(|class| self.bound(class, node, at, members));
            bounds.max().unwrap_or(0)
        };
        let mut useful: Vec<(u32, &NodeView)> = self
            .view
            .iter()
            .map(|node| (bound(node), node))
            .filter(|(most, _)| *most > 0)
            .collect();
        if useful.len() > MOST_TRIED && gang.topology.is_empty() && gang.spread == Spread::Pack {
            // It goes where the most members may have room: of those there are enough.
            useful.sort_by_key(|(most, _)| Reverse(*most));
            let mut room = 0_u32;
            let enough = useful.iter().take_while(|(most, _)| {
                let more = room < members.saturating_mul(SPARE);
                room = room.saturating_add(*most);
                more
            });
            useful.truncate(enough.count().max(MOST_TRIED));
        }
        let later = useful.into_iter();
        let later: Vec<NodeView> =
            later.filter_map(|(_, node)| self.node_at(&node.name, at)?.node().cloned()).collect();
        let nodes: Vec<&NodeView> = later.iter().collect();
        place_on(gang, classes, &nodes, self.view.quantum()).ok().map(|placed| placed.grants)
    }

    /// When more may be free on a node, ascending; from now on.
    fn times_of(&self, name: &NodeName) -> Vec<UnixMillis> {
        let ends = self.ends.get(name).into_iter().flatten().filter_map(|end| end.at);
        let reserved = self.reserved.get(name).into_iter().flatten().filter_map(|(at, _)| *at);
        let times: BTreeSet<UnixMillis> = ends.chain(reserved).chain([self.now]).collect();
        times.into_iter().collect()
    }

    /// Where all members lie once those that leave have left, who leaves for it (positions among
    /// the running sessions), and when they have. Nodes kept for other heads are left to them.
    pub(super) fn take_places(
        &self,
        gang: &GangRequest,
        classes: &[Class],
        priority: i32,
    ) -> Option<(UnixMillis, Vec<Grant>, BTreeSet<usize>)> {
        let lower = |session: &RunningSession| {
            session.preemptible && session.min_run_over && session.priority < priority
        };
        if !self.running.iter().any(lower) {
            return None;
        }
        let mut gang = gang.clone();
        gang.avoid.extend(self.reserved.keys().cloned());
        // Nothing is stopped on a node that has not spoken.
        let silent = self.view.iter().filter(|node| node.state != NodeState::Ready);
        gang.avoid.extend(silent.map(|node| node.name.clone()));
        let Leaving { gone, grants } =
            least_harm(&gang, classes, priority, self.view, self.running, self.now).ok()?;
        let ends = gone.iter().map(|at| self.leaves_at(&self.running[*at]));
        let at = ends.max().unwrap_or(self.now);
        Some((at, grants, gone.into_iter().collect()))
    }

    /// Whether a time has not come yet.
    pub(super) fn is_later(&self, at: UnixMillis) -> bool {
        at > self.now
    }

    /// Those of some sessions that are not on their way out yet.
    pub(super) fn told(&self, gone: &BTreeSet<usize>) -> Vec<usize> {
        gone.iter().copied().filter(|at| !self.running[*at].stopping).collect()
    }

    /// When a session has left that is told to now, or was before.
    fn leaves_at(&self, session: &RunningSession) -> UnixMillis {
        match session.ends_at {
            Some(at) if session.stopping => at.max(self.now),
            _ => self.now.plus(session.grace_ms),
        }
    }

    /// Where the fewest sessions without a known end have to end for all members to fit, and who
    /// has to. Nodes kept for other heads are left to them.
    pub(super) fn least_to_wait_for(
        &self,
        gang: &GangRequest,
        classes: &[Class],
    ) -> Option<(Vec<Grant>, BTreeSet<usize>)> {
        let occupant = |session: &'a RunningSession| {
            let held = session.held.iter();
            let shares = held.map(|(node, allocation)| share(self.view, node, allocation));
            let left = session.ends_at.map_or(0, |end| end.since(self.now));
            Occupant {
                held: &session.held,
                level: i32::from(session.ends_at.is_none()),
                lost: u128::from(left),
                share: shares.fold(0, u64::saturating_add),
            }
        };
        let occupants: Vec<Occupant<'_>> = self.running.iter().map(occupant).collect();
        let mut gang = gang.clone();
        gang.avoid.extend(self.reserved.keys().cloned());
        let clearing = Clearing::new(self.view, &gang, classes, &occupants);
        let Cleared { gone, grants } = clearing.clear().ok()?;
        Some((grants, gone.into_iter().collect()))
    }
}

//! Nodes over time: what is free once running sessions have ended.

use super::Reservation;
use crate::ids::NodeName;
use crate::placement::{Allocation, ByState, NodeState, NodeView, View};
use crate::plans::capacity::{Room, Taken, at_most_in, in_question, in_question_later};
use crate::plans::clear::{Cleared, Clearing, Occupant};
use crate::plans::gang::{Class, GangRequest, Topology, place_on};
use crate::plans::preempt::{Leaving, least_harm};
use crate::plans::running::{RunningSession, share};
use crate::plans::trial::{Trial, as_u32};
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::rc::Rc;

/// The cluster over time.
pub(super) struct Timeline<'a> {
    view: &'a View,
    running: &'a [RunningSession],
    now: UnixMillis,
    /// What is given back on a node and when, by the position of the node.
    ends: Vec<Vec<End<'a>>>,
    /// What heads take on a node, and from when; `None`: it is closed.
    reserved: BTreeMap<NodeName, Vec<(Option<UnixMillis>, Allocation)>>,
}

struct End<'a> {
    session: usize,
    at: Option<UnixMillis>,
    allocation: &'a Allocation,
    taken: Taken,
}

/// What will be given back on a node, by its position; the earliest comes first.
struct Ended<'a> {
    at: UnixMillis,
    node: usize,
    taken: &'a Taken,
}

impl Ord for Ended<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.node).cmp(&(other.at, other.node))
    }
}

impl PartialOrd for Ended<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ended<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ended<'_> {}

impl End<'_> {
    fn by(&self, at: UnixMillis) -> bool {
        self.at.is_some_and(|end| end <= at)
    }
}

impl<'a> Timeline<'a> {
    pub(super) fn new(view: &'a View, running: &'a [RunningSession], now: UnixMillis) -> Self {
        let nodes: Vec<&NodeView> = view.iter().collect();
        let mut ends: Vec<Vec<End<'_>>> = Vec::new();
        ends.resize_with(nodes.len(), Vec::new);
        for (session, running) in running.iter().enumerate() {
            // What should have ended will end any moment.
            let at = running.ends_at.map(|end| end.max(now));
            for (name, allocation) in &running.held {
                let Some(position) = view.position_of(name) else { continue };
                let taken = Taken::of(allocation, nodes[position]);
                ends[position].push(End { session, at, allocation, taken });
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

    fn ends_on(&self, name: &NodeName) -> &[End<'a>] {
        let position = self.view.position_of(name);
        position.and_then(|at| self.ends.get(at)).map_or(&[], Vec::as_slice)
    }

    fn after(&self, name: &NodeName, ended: impl Fn(&End<'_>) -> bool) -> Option<Trial> {
        let mut trial = Trial::new(self.view.get(name)?, self.view.quantum()).ok()?;
        for end in self.ends_on(name).iter().filter(|end| ended(end)) {
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
        let ends = self.ends_on(&node.name);
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
        let nodes: Vec<&NodeView> = self.view.iter().collect();
        let topology = Topology::new(&nodes, gang);
        let first = self.may_fit_from(gang, classes, &nodes)?;
        let place =
            |at: UnixMillis| Some((at, self.place_at(gang, classes, (&nodes, &topology), at)?));
        // Mostly the bound is met.
        if let Some(found) = place(first) {
            return Some(found);
        }
        let times = self.times_after(first);
        let (last, times) = times.split_last()?;
        let mut best = place(*last)?;
        let (mut low, mut high) = (0, times.len());
        while low < high {
            let middle = low.midpoint(high);
            match place(times[middle]) {
                Some(found) => (best, high) = (found, middle),
                None => low = middle + 1,
            }
        }
        Some(best)
    }

    /// When more may be free anywhere after `first`, ascending.
    fn times_after(&self, first: UnixMillis) -> Vec<UnixMillis> {
        let ends = self.ends.iter().flatten().filter_map(|end| end.at);
        let reserved = self.reserved.values().flatten().filter_map(|(at, _)| *at);
        let mut times: Vec<UnixMillis> = ends.chain(reserved).filter(|at| *at > first).collect();
        times.sort_unstable();
        times.dedup();
        times
    }

    /// The first time at which all nodes together may hold each class: never later than they do.
    /// What ends is given back in the order of time until they may.
    fn may_fit_from(
        &self,
        gang: &GangRequest,
        classes: &[Class],
        nodes: &[&'a NodeView],
    ) -> Option<UnixMillis> {
        let mut awaited: Vec<(UnixMillis, usize, &Taken)> = Vec::new();
        let mut found: Vec<Vec<u32>> = Vec::with_capacity(nodes.len());
        let mut sums = vec![0_u64; classes.len()];
        let mut known = ByState::new(self.view);
        for (at, node) in nodes.iter().enumerate() {
            let open = !gang.avoid.contains(&node.name)
                && classes.iter().any(|it| in_question_later(&it.settled.tries()[0], node));
            let ends = self.ends[at].iter().filter(|_| open);
            awaited.extend(ends.filter_map(|end| Some((end.at?, at, &end.taken))));
            let bounds = || self.bounds(classes, node, &Room::of(node));
            let alike = classes.iter().all(|it| in_question(&it.settled.tries()[0], node));
            let here = match open {
                true if alike => known.of(self.view, at, bounds).cloned(),
                true => Some(bounds()),
                false => None,
            };
            let here = here.unwrap_or_else(|| vec![0; classes.len()]);
            sums.iter_mut().zip(&here).for_each(|(sum, more)| *sum += u64::from(*more));
            found.push(here);
        }
        let enough = |sums: &[u64]| {
            let members = classes.iter().map(|class| u64::from(as_u32(class.members.len())));
            sums.iter().zip(members).all(|(sum, members)| *sum >= members)
        };
        if enough(&sums) {
            return Some(self.now);
        }
        let order = |(at, node, taken)| Reverse(Ended { at, node, taken });
        let mut awaited: BinaryHeap<_> = awaited.into_iter().map(order).collect();
        let mut rooms: HashMap<usize, Room> = HashMap::new();
        while let Some(Reverse(Ended { at, node, taken })) = awaited.pop() {
            let room = rooms.entry(node).or_insert_with(|| Room::of(nodes[node]));
            room.give_back(taken);
            for (of, now) in self.bounds(classes, nodes[node], room).into_iter().enumerate() {
                sums[of] += u64::from(now.saturating_sub(found[node][of]));
                found[node][of] = now;
            }
            if enough(&sums) {
                return Some(at);
            }
        }
        None
    }

    /// How many members of each class a node may hold with this room, heads left aside.
    fn bounds(&self, classes: &[Class], node: &NodeView, room: &Room) -> Vec<u32> {
        let bound = |class: &Class| {
            if !in_question_later(&class.settled.tries()[0], node) {
                return 0;
            }
            let most = as_u32(class.members.len());
            at_most_in(room, &class.settled, node, self.view.quantum(), most)
        };
        classes.iter().map(bound).collect()
    }

    fn place_at(
        &self,
        gang: &GangRequest,
        classes: &[Class],
        ground: (&[&NodeView], &Topology),
        at: UnixMillis,
    ) -> Option<Vec<Grant>> {
        let caps = |position: usize, node: &NodeView| {
            let mut reserved = self.reserved.get(&node.name).into_iter().flatten();
            if reserved.any(|(from, _)| from.is_none_or(|from| from > at)) {
                return Rc::from([]);
            }
            let mut room = Room::of(node);
            let ends = self.ends[position].iter();
            ends.filter(|end| end.by(at)).for_each(|end| room.give_back(&end.taken));
            Rc::from(self.bounds(classes, node, &room))
        };
        let node = |position: usize| self.node_at(&ground.0.get(position)?.name, at);
        place_on(gang, classes, ground, caps, &node).ok().map(|placed| placed.grants)
    }

    /// When more may be free on a node, ascending; from now on.
    fn times_of(&self, name: &NodeName) -> Vec<UnixMillis> {
        let ends = self.ends_on(name).iter().filter_map(|end| end.at);
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

//! Nodes over time: what is free once running sessions have ended.

use super::Reservation;
use crate::ids::NodeName;
use crate::placement::{Allocation, NodeView, View};
use crate::plans::capacity::in_question;
use crate::plans::clear::{Cleared, Clearing, Occupant};
use crate::plans::gang::{Class, GangRequest, place_on};
use crate::plans::running::{RunningSession, share};
use crate::plans::trial::Trial;
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};

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
}

impl<'a> Timeline<'a> {
    pub(super) fn new(view: &'a View, running: &'a [RunningSession], now: UnixMillis) -> Self {
        let mut ends: BTreeMap<&NodeName, Vec<End<'_>>> = BTreeMap::new();
        for (session, running) in running.iter().enumerate() {
            // What should have ended will end any moment.
            let at = running.ends_at.map(|end| end.max(now));
            for (node, allocation) in &running.held {
                ends.entry(node).or_default().push(End { session, at, allocation });
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
        self.after(name, |end| end.at.is_some_and(|end| end <= at))
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

    /// The node that has room the earliest, of equals the first. With a time known, a node is
    /// looked at closely only if it has room before that.
    fn earliest_of_one(
        &self,
        gang: &GangRequest,
        class: &Class,
    ) -> Option<(UnixMillis, Vec<Grant>)> {
        let request = &class.settled.tries()[0];
        let mut best: Option<(UnixMillis, Grant)> = None;
        for node in self.view.iter() {
            if !in_question(request, node) || gang.avoid.contains(&node.name) {
                continue;
            }
            let find = |at| self.node_at(&node.name, at)?.find(&class.settled);
            let times: Vec<UnixMillis> = self
                .times_of(&node.name)
                .into_iter()
                .filter(|at| best.as_ref().is_none_or(|(best, _)| at < best))
                .collect();
            let Some(last) = times.last() else { continue };
            if find(*last).is_none() {
                continue;
            }
            // The more has ended, the more fits.
            let first = times.partition_point(|at| find(*at).is_none());
            let found = times.get(first).and_then(|at| Some((*at, find(*at)?)));
            best = found.or(best);
        }
        best.map(|(at, grant)| (at, vec![grant]))
    }

    /// The earliest time at which a gang is placed, by halving the times at which anything ends.
    fn earliest_of_all(
        &self,
        gang: &GangRequest,
        classes: &[Class],
    ) -> Option<(UnixMillis, Vec<Grant>)> {
        let nodes = self.ends.keys().copied().chain(self.reserved.keys());
        let times: BTreeSet<UnixMillis> = nodes.flat_map(|node| self.times_of(node)).collect();
        let times: Vec<UnixMillis> =
            times.into_iter().chain([self.now]).collect::<BTreeSet<_>>().into_iter().collect();
        let mut best = (*times.last()?, self.place_at(gang, classes, *times.last()?)?);
        let (mut low, mut high) = (0, times.len() - 1);
        while low < high {
            let middle = low.midpoint(high);
            match self.place_at(gang, classes, times[middle]) {
                Some(grants) => (best, high) = ((times[middle], grants), middle),
                None => low = middle + 1,
            }
        }
        Some(best)
    }

    fn place_at(
        &self,
        gang: &GangRequest,
        classes: &[Class],
        at: UnixMillis,
    ) -> Option<Vec<Grant>> {
        let changed = |node: &NodeView| {
            let ends = self.ends.get(&node.name).into_iter().flatten();
            self.reserved.contains_key(&node.name)
                || ends.filter_map(|end| end.at).any(|end| end <= at)
        };
        let later: BTreeMap<&NodeName, Option<NodeView>> = self
            .view
            .iter()
            .filter(|node| changed(node))
            .map(|node| {
                let trial = self.node_at(&node.name, at);
                (&node.name, trial.and_then(|trial| trial.node().cloned()))
            })
            .collect();
        let nodes = self.view.iter().filter_map(|node| match later.get(&node.name) {
            Some(later) => later.as_ref(),
            None => Some(node),
        });
        let nodes: Vec<&NodeView> = nodes.collect();
        place_on(gang, classes, &nodes, self.view.quantum()).ok().map(|placed| placed.grants)
    }

    /// When more may be free on a node, ascending; from now on.
    fn times_of(&self, name: &NodeName) -> Vec<UnixMillis> {
        let ends = self.ends.get(name).into_iter().flatten().filter_map(|end| end.at);
        let reserved = self.reserved.get(name).into_iter().flatten().filter_map(|(at, _)| *at);
        let times: BTreeSet<UnixMillis> = ends.chain(reserved).chain([self.now]).collect();
        times.into_iter().collect()
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

//! Which of some sessions must go so that a request or a gang fits.
//!
//! Used to preempt, where sessions are made to go, and to reserve, where they are waited for. Per
//! node the sessions are let go level by level, lowest first, until a member fits; the node with
//! the least harm is used, and what turns out unneeded stays (the reprieve of Kubernetes'
//! preemption, here from the highest level down). Members are seated one after another.

mod node;
#[cfg(test)]
mod tests;

use super::capacity::{Room, Taken, at_most_in, in_question_later};
use super::gang::{Class, GangRequest};
use super::trial::Trial;
use crate::ids::NodeName;
use crate::placement::{Allocation, NodeView, View};
use crate::slice::Grant;
use node::{Bench, Present};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes whose least harmful set is looked for in depth, per member; the others were ranked by
/// the set a single reprieve leaves.
const IN_DEPTH: usize = 32;

/// Nodes looked at closely at first on a cluster that has more.
const IN_QUESTION: usize = 128;
/// For a gang at least so many times its members.
const SPARE: usize = 4;

/// A session that may go.
#[derive(Debug, Clone)]
pub(super) struct Occupant<'a> {
    /// What it holds, and where.
    pub(super) held: &'a [(NodeName, Allocation)],
    /// Lower levels go first, whatever it costs.
    pub(super) level: i32,
    /// What is lost when it goes.
    pub(super) lost: u128,
    /// What it holds, in thousandths of a node.
    pub(super) share: u64,
}

/// How bad it is that some sessions go; the fields in the order they count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Harm {
    level: Option<i32>,
    sessions: usize,
    lost: u128,
    share: u64,
}

/// Who goes, and where the members then lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cleared {
    /// Positions among the occupants, ascending.
    pub(super) gone: Vec<usize>,
    /// One grant per member.
    pub(super) grants: Vec<Grant>,
}

/// A clearing in the making.
pub(super) struct Clearing<'a> {
    view: &'a View,
    gang: &'a GangRequest,
    classes: &'a [Class],
    occupants: &'a [Occupant<'a>],
    nodes: Vec<&'a NodeView>,
    /// Who is on each node, by position of the node.
    present: Vec<Vec<Present<'a>>>,
    gone: BTreeSet<usize>,
    /// How many nodes are looked at closely at first.
    in_question: usize,
    /// Members by position of their node.
    seated: BTreeMap<usize, Vec<Seated>>,
}

/// A member that has a seat.
#[derive(Debug, Clone)]
struct Seated {
    member: usize,
    class: usize,
    grant: Grant,
}

/// Harm found for the class at hand, by node; what changes a node takes it out.
#[derive(Debug, Default)]
struct Known {
    rough: BTreeMap<usize, Option<Harm>>,
    least: BTreeMap<usize, Option<Harm>>,
}

/// How far sessions must go from nodes that are looked at closely.
struct Near {
    reach: Vec<Option<Reach>>,
    looked_at: Vec<bool>,
    /// The lowest level that may do on any of the others; `None`: there is none.
    left_out: Option<Reach>,
}

impl Near {
    /// Whether one of the others may do with a lower level than this node.
    fn hides_better(&self, node: Option<usize>) -> bool {
        let found = node.and_then(|node| self.reach[node]);
        self.left_out.is_some_and(|least| found.is_none_or(|found| found > least))
    }
}

/// Up to which level sessions must go for a member to fit: `None` where it fits as it is.
type Reach = Option<i32>;

impl<'a> Clearing<'a> {
    pub(super) fn new(
        view: &'a View,
        gang: &'a GangRequest,
        classes: &'a [Class],
        occupants: &'a [Occupant<'a>],
    ) -> Self {
        let nodes: Vec<&NodeView> = view.iter().collect();
        let mut present: Vec<Vec<Present<'_>>> = vec![Vec::new(); nodes.len()];
        for (occupant, session) in occupants.iter().enumerate() {
            for (node, allocation) in session.held {
                let Some(here) = view.position_of(node).map(|at| &mut present[at]) else {
                    continue;
                };
                match here.last_mut().filter(|last| last.occupant == occupant) {
                    Some(last) => last.held.push(allocation),
                    None => here.push(Present { occupant, held: vec![allocation] }),
                }
            }
        }
        let (gone, seated) = (BTreeSet::new(), BTreeMap::new());
        let in_question = IN_QUESTION.max(gang.members.len().saturating_mul(SPARE));
        Self { view, gang, classes, occupants, nodes, present, gone, in_question, seated }
    }

    /// Seats all members, or says how many found a seat.
    pub(super) fn clear(mut self) -> Result<Cleared, usize> {
        let mut placed: usize = 0;
        for at in self.hardest_first() {
            let class = &self.classes[at];
            let mut near = self.near(class);
            let mut known = Known::default();
            for member in &class.members {
                let mut node = self.least_harm(class, &near.reach, &mut known);
                if near.hides_better(node) {
                    near = self.all(class);
                    node = self.least_harm(class, &near.reach, &mut known);
                }
                let node = node.ok_or(placed)?;
                for changed in self.seat(node, at, *member).ok_or(placed)? {
                    if near.looked_at[changed] {
                        near.reach[changed] = self.reach(class, changed);
                    }
                    known.rough.remove(&changed);
                    known.least.remove(&changed);
                }
                placed += 1;
            }
        }
        self.reprieve();
        Ok(self.finish())
    }

    /// Classes by how few nodes come into question.
    fn hardest_first(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.classes.len()).collect();
        if order.len() > 1 {
            order.sort_by_cached_key(|at| {
                let reach = |node: &usize| self.reach(&self.classes[*at], *node).is_some();
                (0..self.nodes.len()).filter(reach).count()
            });
        }
        order
    }

    /// The nodes to look at closely: on a large cluster those where the least harm seems to be done.
    fn near(&self, class: &Class) -> Near {
        let most = self.in_question;
        if self.nodes.len() <= most || !self.seated.is_empty() || !self.gone.is_empty() {
            return self.all(class);
        }
        let estimates =
            (0..self.nodes.len()).filter_map(|at| Some((self.estimate(class, at)?, at)));
        let mut estimates: Vec<((Reach, usize, u128), usize)> = estimates.collect();
        estimates.sort_unstable();
        let left_out = estimates.get(most..).and_then(|rest| rest.first());
        let left_out = left_out.map(|((level, ..), _)| *level);
        let mut looked_at = vec![left_out.is_none(); self.nodes.len()];
        let mut reach = vec![None; self.nodes.len()];
        for (_, at) in estimates.into_iter().take(most) {
            looked_at[at] = true;
            reach[at] = self.reach(class, at);
        }
        Near { reach, looked_at, left_out }
    }

    fn all(&self, class: &Class) -> Near {
        let reach = (0..self.nodes.len()).map(|node| self.reach(class, node)).collect();
        Near { reach, looked_at: vec![true; self.nodes.len()], left_out: None }
    }

    /// How far sessions seem to have to go, how many and what is lost, by bounds alone: never too
    /// far. `None` where a member never fits.
    fn estimate(&self, class: &Class, node: usize) -> Option<(Reach, usize, u128)> {
        let view = self.nodes[node];
        let request = &class.settled.tries()[0];
        if !in_question_later(request, view) || self.gang.avoid.contains(&view.name) {
            return None;
        }
        let mut room = Room::of(view);
        let fits = |room: &Room| at_most_in(room, &class.settled, view, self.view.quantum(), 1) > 0;
        if fits(&room) {
            return Some((None, 0, 0));
        }
        let mut present: Vec<&Present<'_>> = self.present[node].iter().collect();
        present.sort_by_key(|here| (self.occupants[here.occupant].level, here.occupant));
        let mut lost = 0_u128;
        for (gone, here) in present.into_iter().enumerate() {
            let occupant = &self.occupants[here.occupant];
            here.held.iter().for_each(|held| room.give_back(&Taken::of(held, view)));
            lost = lost.saturating_add(occupant.lost);
            if fits(&room) {
                return Some((Some(occupant.level), gone + 1, lost));
            }
        }
        None
    }

    /// `None` where a member never fits, whoever goes.
    fn reach(&self, class: &Class, node: usize) -> Option<Reach> {
        let view = self.nodes[node];
        let request = &class.settled.tries()[0];
        if !in_question_later(request, view) || self.gang.avoid.contains(&view.name) {
            return None;
        }
        if self.seated.is_empty() && self.gone.is_empty() {
            // Not even with all of them gone.
            let mut room = Room::of(view);
            let held = self.present[node].iter().flat_map(|present| &present.held);
            held.for_each(|held| room.give_back(&Taken::of(held, view)));
            if at_most_in(&room, &class.settled, view, self.view.quantum(), 1) == 0 {
                return None;
            }
        }
        self.bench(node)?.reach(&class.settled)
    }

    /// A node with the members seated on it, and who may still go from it.
    fn bench(&self, node: usize) -> Option<Bench<'_>> {
        let mut trial = self.without(node, &self.gone)?;
        for Seated { class, grant, .. } in self.seated.get(&node).into_iter().flatten() {
            if !trial.take(&self.classes[*class].settled.allocation(grant)) {
                return None;
            }
        }
        let staying = |present: &&Present<'_>| !self.gone.contains(&present.occupant);
        let present = self.present[node].iter().filter(staying).cloned().collect();
        Some(Bench::new(trial, self.occupants, present))
    }

    /// A node from which `gone` are gone, without members.
    fn without(&self, node: usize, gone: &BTreeSet<usize>) -> Option<Trial> {
        let mut trial = Trial::new(self.nodes[node], self.view.quantum()).ok()?;
        for present in self.present[node].iter().filter(|here| gone.contains(&here.occupant)) {
            // What is not there to be given back is not counted on either.
            let _ = present.leave(&mut trial);
        }
        Some(trial)
    }

    /// The node where seating one more member does the least harm. Of nodes without harm one that
    /// is used already comes first.
    fn least_harm(
        &self,
        class: &Class,
        reach: &[Option<Reach>],
        known: &mut Known,
    ) -> Option<usize> {
        let lowest = reach.iter().flatten().min()?;
        let nodes = (0..reach.len()).filter(|at| reach[*at].as_ref() == Some(lowest));
        if lowest.is_none() {
            return nodes.min_by_key(|at| (!self.seated.contains_key(at), *at));
        }
        let rough = |at| self.bench(at)?.rough(&class.settled).map(|found| found.harm);
        let least = |at| self.bench(at)?.least(&class.settled).map(|found| found.harm);
        let mut ranked: Vec<(Harm, usize)> = nodes
            .map(|at| (*known.rough.entry(at).or_insert_with(|| rough(at)), at))
            .filter_map(|(harm, at)| Some((harm?, at)))
            .collect();
        ranked.sort_unstable();
        ranked.truncate(IN_DEPTH);
        let deep = ranked
            .into_iter()
            .map(|(_, at)| (*known.least.entry(at).or_insert_with(|| least(at)), at));
        deep.filter_map(|(harm, at)| Some((harm?, at))).min().map(|(_, at)| at)
    }

    /// Lets the least harmful sessions go from a node and seats a member there; the nodes on which
    /// anything changed.
    fn seat(&mut self, node: usize, class: usize, member: usize) -> Option<BTreeSet<usize>> {
        let found = self.bench(node)?.least(&self.classes[class].settled)?;
        let mut changed = BTreeSet::from([node]);
        for occupant in found.gone {
            self.gone.insert(occupant);
            let held = self.occupants[occupant].held.iter();
            changed.extend(held.filter_map(|(name, _)| self.view.position_of(name)));
        }
        self.seated.entry(node).or_default().push(Seated { member, class, grant: found.grant });
        Some(changed)
    }

    /// Keeps everyone without whom the members still fit on their nodes, highest level first and
    /// of those the most that would be lost.
    fn reprieve(&mut self) {
        let mut order: Vec<usize> = self.gone.iter().copied().collect();
        order.sort_by_key(|at| {
            let occupant = &self.occupants[*at];
            (Reverse(occupant.level), Reverse(occupant.lost), *at)
        });
        for occupant in order {
            self.gone.remove(&occupant);
            match self.seated_again(occupant) {
                Some(seated) => self.seated.extend(seated),
                None => {
                    self.gone.insert(occupant);
                }
            }
        }
    }

    /// The members on the nodes of `occupant`, seated again with it there.
    fn seated_again(&self, occupant: usize) -> Option<Vec<(usize, Vec<Seated>)>> {
        let held = self.occupants[occupant].held.iter();
        let nodes: BTreeSet<usize> =
            held.filter_map(|(name, _)| self.view.position_of(name)).collect();
        let seated = |node: usize| {
            let members = self.seated.get(&node)?;
            Some(self.seat_on(node, members).map(|again| (node, again)))
        };
        nodes.into_iter().filter_map(seated).collect()
    }

    fn seat_on(&self, node: usize, members: &[Seated]) -> Option<Vec<Seated>> {
        let mut trial = self.without(node, &self.gone)?;
        let again = |seated: &Seated| {
            let settled = &self.classes[seated.class].settled;
            let grant = trial.find(settled)?;
            trial.take(&settled.allocation(&grant)).then(|| Seated { grant, ..seated.clone() })
        };
        members.iter().map(again).collect()
    }

    fn finish(self) -> Cleared {
        let mut seated: Vec<Seated> = self.seated.into_values().flatten().collect();
        seated.sort_by_key(|seated| seated.member);
        let grants = seated.into_iter().map(|seated| seated.grant).collect();
        Cleared { gone: self.gone.into_iter().collect(), grants }
    }
}

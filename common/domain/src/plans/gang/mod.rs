//! Gangs: several members placed all or none, close together or spread.
//!
//! All or none is the rule of gang scheduling (Ousterhout 1982): a part of a parallel program that
//! runs alone only waits. Here it holds by construction, because a placement is built on copies of
//! nodes and handed out whole. A gang runs at the pace of its slowest member and of its longest
//! link, so nodes known to be slow are left out where it fits without them, and the closest part
//! of the topology that holds all of it is tried first (as Slurm's `topology/tree` does).
//!
//! How it searches: upper bounds per node and class of equal members say which parts of the
//! topology can hold the gang (`scope`); members are then seated node by node with real
//! trials (`seat`). A node that takes fewer than its bound is passed and the next is used, so
//! equal members are never refused while nodes with room are left in question. Members that
//! differ are seated hardest first, which can miss a placement that exists.

mod ever;
mod scope;
mod seat;
mod topology;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_random;

pub use ever::most_ever;
pub use topology::Closeness;

use super::capacity::{Room, at_most, at_most_in, in_question};
use super::trial::{Settled, Trial, as_u32};
use crate::ids::NodeName;
use crate::placement::{
    Allocation, ByState, NeverFits, NoPlacement, NodeView, Placer, Policy, Request, View,
};
use crate::slice::Grant;
use crate::units::Fgpu;
use scope::{Site, levels, scopes};
use seat::{Seated, Seating};
use std::collections::BTreeSet;
use std::rc::Rc;
pub(super) use topology::Topology;

/// What a gang asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GangRequest {
    /// One request per member, equal or not.
    pub members: Vec<Request>,
    /// Whether they want to be together or apart.
    pub spread: Spread,
    /// Labels that say what is close, the closest first, such as `fgpu.io/rack` and then
    /// `fgpu.io/zone`. A node without the label is close to no other.
    pub topology: Vec<String>,
    /// Nodes to use only where the gang does not fit without them.
    pub slow: BTreeSet<NodeName>,
    /// Nodes not to use, such as those where the gang failed before.
    pub avoid: BTreeSet<NodeName>,
    /// Nodes that already hold the image or the model.
    pub holds: BTreeSet<NodeName>,
    /// How many members fewer a node of [`GangRequest::holds`] may take and still be preferred.
    pub holds_bonus: u32,
}

/// Whether members want to be together or apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Spread {
    /// On the fewest nodes, in the closest part of the topology.
    #[default]
    Pack,
    /// As evenly over the nodes as there is room, within the closest part of the topology that
    /// holds all and has two nodes or more.
    Nodes,
    /// As evenly over the values of this label as there is room, within the closest part of the
    /// topology that is wider than the label.
    Label(String),
}

/// Where all members of a gang go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GangPlacement {
    /// One grant per member, in their order.
    pub grants: Vec<Grant>,
    /// How many nodes they use.
    pub nodes: usize,
    /// Per label of the topology, in its order, how many of its values they use.
    pub domains: Vec<usize>,
    /// The nodes of [`GangRequest::slow`] that are used.
    pub slow: Vec<NodeName>,
}

/// Why a gang gets no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GangRefused {
    /// A member fits no node even when empty.
    #[error("member {member} of the gang: {cause}")]
    Never {
        /// Which member, from 0.
        member: usize,
        /// Why.
        #[source]
        cause: NeverFits,
    },
    /// Not all members have room now.
    #[error("{fit} of {members} members have room now: member {member} finds none")]
    Now {
        /// How many members there are.
        members: usize,
        /// How many were seated when all nodes were tried.
        fit: usize,
        /// The first that was not.
        member: usize,
        /// Where the others were seated, each with its member.
        seated: Vec<(usize, Grant)>,
    },
}

impl GangRequest {
    /// One request as a gang of itself.
    #[must_use]
    pub fn one(request: Request) -> Self {
        Self { members: vec![request], ..Self::default() }
    }
}

impl GangPlacement {
    /// What each member takes and where, in their order.
    #[must_use]
    pub fn allocations(&self, gang: &GangRequest) -> Vec<(NodeName, Allocation)> {
        let members = gang.members.iter().zip(&self.grants);
        members
            .map(|(request, grant)| (grant.node.clone(), Allocation::of(request, grant)))
            .collect()
    }
}

impl GangRefused {
    /// What the first member without room lacks, with the others seated. This copies the view:
    /// for a person who asks, not for every try.
    #[must_use]
    pub fn missing(&self, gang: &GangRequest, view: &View) -> Option<Box<NoPlacement>> {
        let Self::Now { member, seated, .. } = self else { return None };
        let mut view = view.clone();
        for (seated, grant) in seated {
            let taken = Allocation::of(gang.members.get(*seated)?, grant);
            view.allocate(&grant.node, &taken).ok()?;
        }
        let mut request = gang.members.get(*member)?.clone();
        request.avoid.extend(gang.avoid.iter().cloned());
        Placer::new(Policy::BestFit, 0).place(&request, &view).err()
    }
}

/// Places all members of `gang`, or none. Nothing is taken from `view`.
///
/// # Errors
/// [`GangRefused`] says how many have room.
pub fn place_gang(gang: &GangRequest, view: &View) -> Result<GangPlacement, GangRefused> {
    place_gang_by(&mut Closeness::default(), gang, view)
}

/// As [`place_gang`] for one of many gangs: what is close is known from the one before.
///
/// # Errors
/// As [`place_gang`].
pub fn place_gang_by(
    closeness: &mut Closeness,
    gang: &GangRequest,
    view: &View,
) -> Result<GangPlacement, GangRefused> {
    let classes = classes(gang, view)?;
    let nodes: Vec<&NodeView> = view.iter().collect();
    // What a node may take depends on its state alone, but for what is asked of single nodes.
    let mut known: ByState<Rc<[u32]>> = ByState::new(view);
    let caps = |at: usize, node: &NodeView| {
        let open = |class: &Class| in_question(&class.settled.tries()[0], node);
        if !classes.iter().all(open) {
            return bounds(&classes, node, view.quantum());
        }
        let room = || room(&classes, node, view.quantum());
        known.of(view, at, room).cloned().unwrap_or_default()
    };
    let sites = sites(gang, &nodes, caps);
    let topology = closeness.of(view, &nodes, gang);
    let node = |at: usize| Trial::new(nodes.get(at)?, view.quantum()).ok();
    let ground = Ground { nodes: &nodes, topology: &topology, node: &node };
    place_among(gang, &classes, &sites, &ground)
}

/// Members that ask the same.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub(super) settled: Settled,
    /// Positions in the gang, ascending.
    pub(super) members: Vec<usize>,
}

/// Groups equal members and settles each group by the hardware of `view`.
pub(super) fn classes(gang: &GangRequest, view: &View) -> Result<Vec<Class>, GangRefused> {
    let mut distinct: Vec<(&Request, Vec<usize>)> = Vec::new();
    for (member, request) in gang.members.iter().enumerate() {
        match distinct.iter_mut().find(|(known, _)| *known == request) {
            Some((_, members)) => members.push(member),
            None => distinct.push((request, vec![member])),
        }
    }
    let class = |(request, members): (&Request, Vec<usize>)| {
        let settled = Settled::new(request, view)
            .map_err(|cause| GangRefused::Never { member: members[0], cause })?;
        Ok(Class { settled, members })
    };
    distinct.into_iter().map(class).collect()
}

/// The nodes a gang may lie on.
pub(super) struct Ground<'a> {
    nodes: &'a [&'a NodeView],
    topology: &'a Topology,
    /// A node on which members are seated, by its position; `None` where none can be.
    node: &'a dyn Fn(usize) -> Option<Trial>,
}

/// [`place_gang`] on `nodes`, of which `caps` says by position what each may take of every class,
/// and `node` what there is.
pub(super) fn place_on(
    gang: &GangRequest,
    classes: &[Class],
    (nodes, topology): (&[&NodeView], &Topology),
    caps: impl FnMut(usize, &NodeView) -> Rc<[u32]>,
    node: &dyn Fn(usize) -> Option<Trial>,
) -> Result<GangPlacement, GangRefused> {
    place_among(gang, classes, &sites(gang, nodes, caps), &Ground { nodes, topology, node })
}

fn place_among(
    gang: &GangRequest,
    classes: &[Class],
    sites: &[Site],
    ground: &Ground<'_>,
) -> Result<GangPlacement, GangRefused> {
    let classes = hardest_first(classes, sites);
    let fast: Vec<&Site> = sites.iter().filter(|site| !site.slow).collect();
    let all: Vec<&Site> = sites.iter().collect();
    let passes = if fast.len() < all.len() { vec![fast, all] } else { vec![all] };
    let mut seated = Vec::new();
    for sites in passes {
        for level in levels(gang, ground.topology) {
            for (scope, closer) in scopes(gang, &classes, &sites, ground.topology, level) {
                let mut seating = Seating::new(gang, &scope, ground);
                seating.seat_all(&classes, closer);
                seated = seating.into_seated();
                if seated.len() == gang.members.len() {
                    return Ok(placement(gang, seated, ground));
                }
            }
        }
    }
    Err(refused(gang, seated))
}

/// What a node may take of every class.
fn bounds(classes: &[Class], node: &NodeView, quantum: Fgpu) -> Rc<[u32]> {
    let most = |class: &Class| at_most(&class.settled, node, quantum, as_u32(class.members.len()));
    classes.iter().map(most).collect()
}

/// As [`bounds`] for a node in question for all of them.
fn room(classes: &[Class], node: &NodeView, quantum: Fgpu) -> Rc<[u32]> {
    let room = Room::of(node);
    let most = |class: &Class| {
        at_most_in(&room, &class.settled, node, quantum, as_u32(class.members.len()))
    };
    classes.iter().map(most).collect()
}

/// The nodes in question, with what each may take of every class.
fn sites(
    gang: &GangRequest,
    nodes: &[&NodeView],
    mut caps: impl FnMut(usize, &NodeView) -> Rc<[u32]>,
) -> Vec<Site> {
    let open = nodes.iter().enumerate().filter(|(_, node)| !gang.avoid.contains(&node.name));
    let site = |(at, node): (usize, &&NodeView)| {
        let caps = caps(at, node);
        caps.iter().any(|cap| *cap > 0).then(|| Site {
            at,
            caps,
            slow: gang.slow.contains(&node.name),
            holds: gang.holds.contains(&node.name),
        })
    };
    open.filter_map(site).collect()
}

/// Classes by how scarce room for them is, each with its position among the bounds of a site.
fn hardest_first<'a>(classes: &'a [Class], sites: &[Site]) -> Vec<(usize, &'a Class)> {
    let mut order: Vec<(usize, &Class)> = classes.iter().enumerate().collect();
    order.sort_by_key(|(at, class)| {
        let room = sites.iter().fold(0_u64, |sum, site| sum + u64::from(site.caps[*at]));
        // Thousandths of the members that may have room.
        room.saturating_mul(1000) / u64::from(as_u32(class.members.len()).max(1))
    });
    order
}

fn placement(gang: &GangRequest, mut seated: Vec<Seated>, ground: &Ground<'_>) -> GangPlacement {
    seated.sort_by_key(|seated| seated.member);
    let used: BTreeSet<usize> = seated.iter().map(|seated| seated.node).collect();
    let grants: Vec<Grant> = seated.into_iter().map(|seated| seated.grant).collect();
    let parts = ground.topology.levels().iter().map(|level| {
        let parts = used.iter().map(|node| level.part_of(*node));
        parts.collect::<BTreeSet<_>>().len()
    });
    let domains = parts.collect();
    let names = used.iter().map(|node| &ground.nodes[*node].name).collect::<BTreeSet<_>>();
    let slow = names.into_iter().filter(|name| gang.slow.contains(*name)).cloned().collect();
    GangPlacement { grants, nodes: used.len(), domains, slow }
}

fn refused(gang: &GangRequest, seated: Vec<Seated>) -> GangRefused {
    let mut seated: Vec<(usize, Grant)> =
        seated.into_iter().map(|seated| (seated.member, seated.grant)).collect();
    seated.sort_by_key(|(member, _)| *member);
    let members = gang.members.len();
    let missing = (0..members).find(|member| seated.iter().all(|(other, _)| other != member));
    GangRefused::Now { members, fit: seated.len(), member: missing.unwrap_or(members), seated }
}

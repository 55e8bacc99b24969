//! The parts of the topology a gang may lie in, in the order they are tried.

use super::topology::Topology;
use super::{Class, GangRequest, Spread};
use crate::plans::trial::as_u32;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A node in question.
#[derive(Debug)]
pub(super) struct Site {
    /// Its position among the nodes.
    pub(super) at: usize,
    /// Per class, how many members may have room: never fewer than do.
    pub(super) caps: Rc<[u32]>,
    pub(super) slow: bool,
    pub(super) holds: bool,
}

/// Sites to seat a gang on, and how many levels divide them further, closest first.
pub(super) type Scope<'s> = (Vec<&'s Site>, usize);

/// The levels in which the parts are that may hold all of a gang, closest first; the last is the
/// whole.
pub(super) fn levels(gang: &GangRequest, topology: &Topology) -> Vec<usize> {
    let levels = gang.topology.len();
    let first = match &gang.spread {
        Spread::Pack | Spread::Nodes => 0,
        // Members that are to be apart by a label are not kept together by it, or closer.
        Spread::Label(label) => {
            gang.topology.iter().position(|level| level == label).map_or(levels, |at| at + 1)
        }
    };
    let dividing = (first..levels).filter(|at| topology.levels()[*at].carried());
    dividing.chain([levels]).collect()
}

/// The parts at one level that may hold all of the gang.
///
/// The one where the gang needs the fewest nodes comes first (or, where it is to be apart, can use
/// the most), then the one with more nodes that hold the image, then the one with the least room to
/// spare.
pub(super) fn scopes<'s>(
    gang: &GangRequest,
    classes: &[(usize, &Class)],
    sites: &[&'s Site],
    topology: &Topology,
    level: usize,
) -> Vec<Scope<'s>> {
    if level == gang.topology.len() {
        return vec![(sites.to_vec(), level)];
    }
    let domains = topology.levels()[level].divide(sites, |site| site.at);
    let ranked = domains.into_iter().filter_map(|domain| {
        let together = together(gang, &domain, topology)?;
        Some(((together, estimate(&domain, classes)?), domain))
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, domain)| (domain, level)).collect()
}

/// Over how many places a gang that is to be apart could spread within a part of the topology;
/// `None` where that is only one and the part would keep it from spreading at all.
fn together(gang: &GangRequest, domain: &[&Site], topology: &Topology) -> Option<Reverse<usize>> {
    let places = match &gang.spread {
        Spread::Pack => return Some(Reverse(0)),
        Spread::Nodes => domain.len(),
        Spread::Label(_) => {
            let parts = domain.iter().map(|site| topology.apart().part_of(site.at));
            parts.collect::<BTreeSet<_>>().len()
        }
    };
    let places = places.min(gang.members.len());
    (places >= gang.members.len().min(2)).then_some(Reverse(places))
}

/// Nodes needed, those of them that do not hold the image, room to spare; smaller is better.
type Estimate = (u32, u32, u64);

/// How well a part of the topology would suit; `None` where it cannot hold the gang.
fn estimate(domain: &[&Site], classes: &[(usize, &Class)]) -> Option<Estimate> {
    let (mut nodes, mut bare, mut spare) = (0, 0, 0_u64);
    for (at, class) in classes {
        let wanted = as_u32(class.members.len());
        let room = domain.iter().fold(0_u64, |sum, site| sum + u64::from(site.caps[*at]));
        if room < u64::from(wanted) {
            return None;
        }
        let mut caps: Vec<(u32, bool)> =
            domain.iter().map(|site| (site.caps[*at], !site.holds)).collect();
        caps.sort_unstable_by_key(|(cap, bare)| (Reverse(*cap), *bare));
        let mut left = wanted;
        let used = caps.iter().take_while(|(cap, _)| {
            let needed = left > 0;
            left = left.saturating_sub(*cap);
            needed
        });
        let used: Vec<bool> = used.map(|(_, bare)| *bare).collect();
        nodes = nodes.max(as_u32(used.len()));
        bare = bare.max(as_u32(used.iter().filter(|bare| **bare).count()));
        spare += room.saturating_sub(u64::from(wanted));
    }
    Some((nodes, bare, spare))
}

//! The parts of the topology a gang may lie in, in the order they are tried.

use super::{Class, GangRequest, Spread};
use crate::placement::NodeView;
use crate::plans::trial::as_u32;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A node in question.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) node: &'a NodeView,
    /// Per class, how many members may have room: never fewer than do.
    pub(super) caps: Vec<u32>,
    pub(super) slow: bool,
    pub(super) holds: bool,
}

/// Sites to seat a gang on, and the labels that divide them further, closest first.
pub(super) type Scope<'s, 'a> = (Vec<&'s Site<'a>>, &'s [String]);

/// Every part of the topology that may hold all of the gang, closest first, and last all sites.
///
/// Of parts equally close the one where the gang needs the fewest nodes comes first (or, where it
/// is to be apart, can use the most), then the one with more nodes that hold the image, then the
/// one with the least room to spare.
pub(super) fn scopes<'s, 'a>(
    gang: &'s GangRequest,
    classes: &[(usize, &Class)],
    sites: &[&'s Site<'a>],
) -> Vec<Scope<'s, 'a>> {
    let levels = &gang.topology;
    let first = match &gang.spread {
        Spread::Pack | Spread::Nodes => 0,
        // Members that are to be apart by a label are not kept together by it, or closer.
        Spread::Label(label) => {
            levels.iter().position(|level| level == label).map_or(levels.len(), |at| at + 1)
        }
    };
    let mut scopes = Vec::new();
    for level in first..levels.len() {
        let domains = divide(sites, &levels[level], |site| site.node);
        let ranked = domains.into_iter().filter_map(|domain| {
            let together = together(gang, &domain)?;
            Some(((together, estimate(&domain, classes)?), domain))
        });
        let mut at_level: Vec<_> = ranked.collect();
        at_level.sort_by_key(|(rank, _)| *rank);
        scopes.extend(at_level.into_iter().map(|(_, domain)| (domain, &levels[..level])));
    }
    scopes.push((sites.to_vec(), levels.as_slice()));
    scopes
}

/// Divides things by a label of their node, in the order of their first; a node without the label
/// is alone.
pub(super) fn divide<'n, T: Copy>(
    things: &[T],
    label: &str,
    node: impl Fn(T) -> &'n NodeView,
) -> Vec<Vec<T>> {
    let mut positions: BTreeMap<&str, usize> = BTreeMap::new();
    let mut domains: Vec<Vec<T>> = Vec::new();
    for thing in things {
        match node(*thing).labels.get(label) {
            None => domains.push(vec![*thing]),
            Some(value) => match positions.get(value.as_str()) {
                Some(at) => domains[*at].push(*thing),
                None => {
                    positions.insert(value, domains.len());
                    domains.push(vec![*thing]);
                }
            },
        }
    }
    domains
}

/// Over how many places a gang that is to be apart could spread within a part of the topology;
/// `None` where that is only one and the part would keep it from spreading at all.
fn together(gang: &GangRequest, domain: &[&Site<'_>]) -> Option<Reverse<usize>> {
    let places = match &gang.spread {
        Spread::Pack => return Some(Reverse(0)),
        Spread::Nodes => domain.len(),
        Spread::Label(label) => divide(domain, label, |site| site.node).len(),
    };
    let places = places.min(gang.members.len());
    (places >= gang.members.len().min(2)).then_some(Reverse(places))
}

/// Nodes needed, those of them that do not hold the image, room to spare; smaller is better.
type Estimate = (u32, u32, u64);

/// How well a part of the topology would suit; `None` where it cannot hold the gang.
fn estimate(domain: &[&Site<'_>], classes: &[(usize, &Class)]) -> Option<Estimate> {
    let (mut nodes, mut bare, mut spare) = (0, 0, 0_u64);
    for (at, class) in classes {
        let wanted = as_u32(class.members.len());
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
        if left > 0 {
            return None;
        }
        nodes = nodes.max(as_u32(used.len()));
        bare = bare.max(as_u32(used.iter().filter(|bare| **bare).count()));
        let room = caps.iter().fold(0_u64, |sum, (cap, _)| sum + u64::from(*cap));
        spare += room.saturating_sub(u64::from(wanted));
    }
    Some((nodes, bare, spare))
}

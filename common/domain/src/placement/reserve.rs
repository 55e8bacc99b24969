//! Reserve: which devices of the chosen node each part gets, and the grant that says so.

use super::Request;
use super::entry::Entry;
use super::fit::{Apart, Prefer, ShapeFit, apart};
use super::node::DeviceView;
use super::random::SplitMix64;
use crate::slice::{Grant, Isolation, Slice};

/// Devices chosen on one node: per part, largest first, a position among the node's devices.
type Chosen = Vec<usize>;

/// How devices are chosen.
pub(super) enum Choice<'a> {
    /// The fullest or emptiest; among equals those close to each other, then the lowest index.
    Best(Prefer),
    /// This one, for the only part.
    Device(usize),
    /// Any with room.
    Any(&'a mut SplitMix64),
}

/// The grant of `request` on a node that has room, or `None` where it has none.
pub(super) fn reserve(
    request: &Request,
    entry: &Entry,
    fit: Option<&ShapeFit>,
    choice: Choice<'_>,
) -> Option<Grant> {
    let node = entry.node.name.clone();
    let Some(fit) = fit else {
        return Some(Grant { node, slices: Vec::new(), isolation: Isolation::Whole });
    };
    let apart = apart(request, entry);
    let chosen = match choice {
        Choice::Best(prefer) => close_devices(entry, fit, apart, prefer)?,
        Choice::Device(at) => vec![at],
        Choice::Any(random) => any_devices(entry, fit, apart, random)?,
    };
    let isolation = match request.takes_instances() {
        true => Isolation::Mig,
        false => isolation(entry, fit, apart, &chosen)?,
    };
    Some(Grant { node, slices: slices(entry, fit, &chosen), isolation })
}

fn isolation(entry: &Entry, fit: &ShapeFit, apart: Apart, chosen: &Chosen) -> Option<Isolation> {
    let whole = chosen.iter().enumerate().all(|(part, at)| {
        let slot = &entry.slots[*at];
        slot.empty && fit.want(part, slot.kind).fills
    });
    match apart {
        _ if whole => Some(Isolation::Whole),
        Apart::Partial(level) => Some(level),
        Apart::WholeOnly | Apart::Never => None,
    }
}

fn slices(entry: &Entry, fit: &ShapeFit, chosen: &Chosen) -> Vec<Slice> {
    let mut placed: Vec<(usize, usize)> =
        chosen.iter().enumerate().map(|(part, at)| (*at, part)).collect();
    // Devices are kept in the order of their index, and so are the slices.
    placed.sort_unstable();
    let slice = |(at, part): (usize, usize)| {
        let device = &entry.node.devices[at];
        device.units.slice(device.uuid.clone(), fit.parts[part])
    };
    placed.into_iter().map(slice).collect()
}

/// The preferred devices; of sets equally preferred the one with the most NVLinks inside, then
/// the most pairs on one NUMA node. Every device that could take the first part is tried as start.
fn close_devices(entry: &Entry, fit: &ShapeFit, apart: Apart, prefer: Prefer) -> Option<Chosen> {
    let rank = |at: usize| prefer.rank(entry.slots[at].free_milli);
    let starts = || (0..entry.slots.len()).filter(|at| fit.takes(0, entry, *at, apart));
    let top = starts().map(rank).max()?;
    let mut best: Option<((usize, usize), Chosen)> = None;
    for start in starts().filter(|at| rank(*at) == top) {
        let Some((closeness, chosen)) = around(start, entry, fit, apart, prefer) else { continue };
        if best.as_ref().is_none_or(|(top, _)| closeness > *top) {
            best = Some((closeness, chosen));
        }
        if fit.parts.len() == 1 {
            break;
        }
    }
    best.map(|(_, chosen)| chosen)
}

/// Devices for all parts with the first on `start`, and how close they are.
fn around(
    start: usize,
    entry: &Entry,
    fit: &ShapeFit,
    apart: Apart,
    prefer: Prefer,
) -> Option<((usize, usize), Chosen)> {
    let devices = &entry.node.devices;
    let mut chosen = vec![start];
    let mut closeness = (0, 0);
    for part in 1..fit.parts.len() {
        let candidates = (0..devices.len())
            .filter(|at| !chosen.contains(at) && fit.takes(part, entry, *at, apart));
        let ranked = candidates.map(|at| {
            let close = close_to(&devices[at], chosen.iter().map(|other| &devices[*other]));
            (prefer.rank(entry.slots[at].free_milli), close, std::cmp::Reverse(at))
        });
        let (_, close, std::cmp::Reverse(at)) = ranked.max()?;
        closeness = (closeness.0 + close.0, closeness.1 + close.1);
        chosen.push(at);
    }
    Some((closeness, chosen))
}

/// NVLinks to, and shared NUMA nodes with, each of `others`.
fn close_to<'a>(
    device: &DeviceView,
    others: impl Iterator<Item = &'a DeviceView>,
) -> (usize, usize) {
    others.fold((0, 0), |(links, numa), other| {
        let linked = device.nvlink_peers.contains(&other.uuid);
        let together = device.numa_node.is_some() && device.numa_node == other.numa_node;
        (links + usize::from(linked), numa + usize::from(together))
    })
}

fn any_devices(
    entry: &Entry,
    fit: &ShapeFit,
    apart: Apart,
    random: &mut SplitMix64,
) -> Option<Chosen> {
    let mut chosen = Vec::with_capacity(fit.parts.len());
    for part in 0..fit.parts.len() {
        let with_room: Vec<usize> = (0..entry.slots.len())
            .filter(|at| !chosen.contains(at) && fit.takes(part, entry, *at, apart))
            .collect();
        if with_room.is_empty() {
            return None;
        }
        chosen.push(with_room[random.below(with_room.len())]);
    }
    Some(chosen)
}

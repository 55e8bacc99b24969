//! One node: how far sessions must go from it, and which of them.

use super::{Harm, Occupant, Reach};
use crate::placement::{Allocation, NodeView};
use crate::plans::trial::{Settled, Trial, as_usize};
use crate::slice::{GpuAmount, Grant};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::num::NonZeroU32;

/// What one occupant holds on one node.
#[derive(Debug, Clone)]
pub(super) struct Present<'a> {
    pub(super) occupant: usize,
    pub(super) held: Vec<&'a Allocation>,
}

/// A node on which it is tried who must go.
pub(super) struct Bench<'a> {
    trial: Trial,
    occupants: &'a [Occupant<'a>],
    present: Vec<Present<'a>>,
}

/// Who goes from a node, and where the request then lies.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) harm: Harm,
    /// Positions among the occupants.
    pub(super) gone: Vec<usize>,
    pub(super) grant: Grant,
}

impl Present<'_> {
    /// Gives back all it holds here, or nothing.
    pub(super) fn leave(&self, trial: &mut Trial) -> bool {
        for (at, held) in self.held.iter().enumerate() {
            if !trial.give_back(held) {
                // What was given back a moment ago is free, so it can be taken again.
                let _ = self.held[..at].iter().all(|held| trial.take(held));
                return false;
            }
        }
        true
    }

    /// Takes again what it gave back.
    fn stay(&self, trial: &mut Trial) -> bool {
        self.held.iter().all(|held| trial.take(held))
    }

    fn on(&self, node: &NodeView, devices: &BTreeSet<usize>) -> bool {
        let mut slices = self.held.iter().flat_map(|held| &held.slices);
        slices.any(|slice| devices.iter().any(|at| node.devices[*at].uuid == slice.device))
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        trial: Trial,
        occupants: &'a [Occupant<'a>],
        mut present: Vec<Present<'a>>,
    ) -> Self {
        present.sort_by_key(|present| (occupants[present.occupant].level, present.occupant));
        Self { trial, occupants, present }
    }

    /// Lets everyone go level by level, lowest first, until the request fits.
    pub(super) fn reach(self, settled: &Settled) -> Option<Reach> {
        self.open(settled).map(|(reach, _, _)| reach)
    }

    /// Who goes when only one order of reprieve is tried: quick, to compare nodes.
    pub(super) fn rough(self, settled: &Settled) -> Option<Found> {
        let occupants = self.occupants;
        let (_, trial, gone) = self.open(settled)?;
        keep(occupants, trial, gone, settled, |present| {
            let occupant = &occupants[present.occupant];
            (Reverse(occupant.level), Reverse(occupant.lost), Reverse(occupant.share))
        })
    }

    /// Who goes with the least harm found: sessions are kept in several orders, which leave the
    /// most work, the fewest sessions, or those of few devices to go.
    pub(super) fn least(self, settled: &Settled) -> Option<Found> {
        let occupants = self.occupants;
        let (_, trial, gone) = self.open(settled)?;
        let level = |present: &Present<'_>| Reverse(occupants[present.occupant].level);
        let lost = |present: &Present<'_>| occupants[present.occupant].lost;
        let share = |present: &Present<'_>| occupants[present.occupant].share;
        let kept = |key: &dyn Fn(&Present<'_>) -> Order| {
            keep(occupants, trial.clone(), gone.clone(), settled, key)
        };
        let mut found = vec![
            kept(&|present| (false, level(present), Reverse(lost(present)), share(present))),
            kept(&|present| (false, level(present), Reverse(0), share(present))),
        ];
        let node = trial.node()?;
        for devices in device_sets(settled, node, &gone) {
            let elsewhere = |present: &Present<'_>| present.on(node, &devices);
            found.push(kept(&|present| {
                (elsewhere(present), level(present), Reverse(lost(present)), share(present))
            }));
            found.push(kept(&|present| {
                (elsewhere(present), level(present), Reverse(0), share(present))
            }));
        }
        found.into_iter().flatten().min_by_key(|found| found.harm)
    }

    /// The node with all gone up to the level that is needed, and who they are.
    fn open(mut self, settled: &Settled) -> Option<(Reach, Trial, Vec<Present<'a>>)> {
        if self.trial.find(settled).is_some() {
            return Some((None, self.trial, Vec::new()));
        }
        let mut gone = Vec::new();
        let mut present = self.present.into_iter().peekable();
        while let Some(next) = present.next() {
            let level = self.occupants[next.occupant].level;
            if next.leave(&mut self.trial) {
                gone.push(next);
            }
            let more =
                present.peek().is_some_and(|next| self.occupants[next.occupant].level == level);
            if !more && self.trial.find(settled).is_some() {
                return Some((Some(level), self.trial, gone));
            }
        }
        None
    }
}

/// A key by which sessions are kept, first to last: off the devices to clear, highest level, most
/// lost, smallest.
type Order = (bool, Reverse<i32>, Reverse<u128>, u64);

/// Keeps everyone of `gone`, in the order of `key`, without whom the request still fits.
fn keep<K: Ord>(
    occupants: &[Occupant<'_>],
    mut trial: Trial,
    mut gone: Vec<Present<'_>>,
    settled: &Settled,
    key: impl Fn(&Present<'_>) -> K,
) -> Option<Found> {
    gone.sort_by_key(|present| (key(present), present.occupant));
    gone.retain(|present| {
        let fits = present.stay(&mut trial) && trial.find(settled).is_some();
        !fits && present.leave(&mut trial)
    });
    let grant = trial.find(settled)?;
    let mut harm = Harm { sessions: gone.len(), ..Harm::default() };
    for present in &gone {
        let occupant = &occupants[present.occupant];
        harm.level = harm.level.max(Some(occupant.level));
        harm.lost = harm.lost.saturating_add(occupant.lost);
        harm.share = harm.share.saturating_add(occupant.share);
    }
    let gone = gone.into_iter().map(|present| present.occupant).collect();
    Some(Found { harm, gone, grant })
}

/// Sets of devices worth clearing: one around each device, with those that have the fewest
/// sessions to go beside it.
fn device_sets(
    settled: &Settled,
    node: &NodeView,
    gone: &[Present<'_>],
) -> BTreeSet<BTreeSet<usize>> {
    let Some(gpu) = &settled.tries()[0].gpu else { return BTreeSet::new() };
    let count = match gpu.amount {
        GpuAmount::Whole(gpus) => gpus.get(),
        GpuAmount::Fgpu(_) | GpuAmount::Direct { .. } => gpu.devices.map_or(1, NonZeroU32::get),
    };
    let sessions = |device: usize| {
        gone.iter().filter(|present| present.on(node, &BTreeSet::from([device]))).count()
    };
    let mut cheapest: Vec<(usize, usize)> =
        (0..node.devices.len()).map(|device| (sessions(device), device)).collect();
    cheapest.sort_unstable();
    let around = |start: usize| {
        let others = cheapest.iter().map(|(_, device)| *device).filter(|device| *device != start);
        std::iter::once(start).chain(others).take(as_usize(count)).collect()
    };
    (0..node.devices.len()).map(around).collect()
}

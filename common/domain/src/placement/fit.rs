//! Filter: whether the devices of a node have room for a request on a given number of them.

use super::Request;
use super::entry::Entry;
use super::layout::{allowed_units, allows};
use super::score::Judged;
use super::shape::Kind;
use super::view::View;
use crate::slice::{Demand, GpuRequest, Isolation, Part, Split};

/// A request on a fixed number of devices, worked out for every kind of node.
#[derive(Debug)]
pub(super) struct Fit {
    /// By position in the view's shapes; `None` where it cannot be divided so.
    shapes: Vec<Option<ShapeFit>>,
    /// By position in the view's shapes: whether a device there is of an allowed model, whatever the
    /// number of devices.
    allowed: Vec<bool>,
}

/// The request on nodes of one shape.
#[derive(Debug)]
pub(super) struct ShapeFit {
    /// Largest first.
    pub(super) parts: Vec<Part>,
    kinds: usize,
    /// Memory of each kind of device, bytes.
    memory: Vec<u64>,
    /// Per part, per kind of device.
    wants: Vec<Want>,
    /// What the largest part takes at least, each dimension by itself.
    least: Demand,
}

/// What one part takes from one kind of device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) demand: Demand,
    /// Thousandths of the device, the larger of both dimensions.
    pub(super) milli: u64,
    /// Whether the model is allowed and an empty device holds the part.
    pub(super) allowed: bool,
    /// Whether the part leaves less than a quantum of an empty device.
    pub(super) fills: bool,
}

/// Which of several devices with room is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefer {
    /// The one with the least free.
    Fullest,
    /// The one with the most free.
    Emptiest,
}

/// How slices on a node would be kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Apart {
    /// At this level where a part of a device is taken, [`Isolation::Whole`] otherwise.
    Partial(Isolation),
    /// Only whole devices are good enough.
    WholeOnly,
    /// What is asked for is never kept apart that well.
    Never,
}

impl Fit {
    /// `gpu` on `count` devices.
    pub(super) fn new(gpu: &GpuRequest, count: u32, split: Split, view: &View) -> Self {
        let shapes = view.shapes().list().iter().enumerate();
        let fit = |(at, shape): (usize, &super::shape::Shape)| {
            if shape.nodes == 0 {
                return None;
            }
            let parts = gpu.parts(&allowed_units(gpu, view, at), count, split, view.quantum())?;
            Some(ShapeFit::new(gpu, parts, &shape.kinds))
        };
        let allowed = view.shapes().list().iter();
        let allowed =
            allowed.map(|shape| shape.kinds.iter().any(|kind| allows(gpu, kind))).collect();
        Self { shapes: shapes.map(fit).collect(), allowed }
    }

    pub(super) fn of(&self, entry: &Entry) -> Option<&ShapeFit> {
        self.shapes[entry.shape].as_ref()
    }

    /// Whether a device of the shape at this position is of an allowed model.
    pub(super) fn allows_shape(&self, shape: usize) -> bool {
        self.allowed.get(shape).copied().unwrap_or(false)
    }

    /// The request on nodes of the shape at this position.
    pub(super) fn on_shape(&self, shape: usize) -> Option<&ShapeFit> {
        self.shapes.get(shape)?.as_ref()
    }

    /// The request on the node, where that is large enough at first sight.
    pub(super) fn at(&self, entry: &Entry) -> Option<&ShapeFit> {
        self.of(entry).filter(|fit| fit.least.fits(entry.most_free))
    }
}

impl ShapeFit {
    fn new(gpu: &GpuRequest, parts: Vec<Part>, kinds: &[Kind]) -> Self {
        let wants: Vec<Want> =
            parts.iter().flat_map(|part| kinds.iter().map(|kind| want(gpu, *part, kind))).collect();
        let largest = wants[..kinds.len()].iter().filter(|want| want.allowed);
        let memory = largest.clone().map(|want| want.demand.memory).min();
        let compute = largest.map(|want| want.demand.compute).min();
        let least =
            Demand { memory: memory.unwrap_or_default(), compute: compute.unwrap_or_default() };
        let memory = kinds.iter().map(|kind| kind.units.memory.0).collect();
        Self { parts, kinds: kinds.len(), memory, wants, least }
    }

    /// How many kinds of device there are.
    pub(super) fn kinds(&self) -> usize {
        self.kinds
    }

    pub(super) fn want(&self, part: usize, kind: usize) -> &Want {
        &self.wants[part * self.kinds + kind]
    }

    /// By how much `part` makes what is left on the device in `slot` more uneven: memory beyond the
    /// compute left, or compute beyond the memory, in millionths of the device.
    pub(super) fn growth_of_uneven(&self, part: usize, entry: &Entry, slot: usize) -> i64 {
        let slot = &entry.slots[slot];
        let whole = self.memory[slot.kind].max(1);
        let demand = self.want(part, slot.kind).demand;
        let uneven = |memory: u64, compute: u32| {
            let memory = i128::from(memory) * 1_000_000 / i128::from(whole);
            (memory - i128::from(compute) * 1000).abs()
        };
        let left = slot.free.checked_sub(demand).unwrap_or_default();
        let after = uneven(left.memory.0, left.compute.0);
        i64::try_from(after - uneven(slot.free.memory.0, slot.free.compute.0)).unwrap_or(0)
    }

    /// Thousandths of a device that all parts take together, on the first kind of device.
    pub(super) fn milli(&self) -> u64 {
        (0..self.parts.len()).map(|part| self.want(part, 0).milli).sum()
    }

    /// What the largest part takes of each kind of device, thousandths; `None` where it may not.
    pub(super) fn wants_per_kind(&self) -> Vec<Option<u64>> {
        let wants = self.wants[..self.kinds].iter();
        wants.map(|want| want.allowed.then_some(want.milli)).collect()
    }

    /// Whether the device in `slot` has room for `part`.
    pub(super) fn takes(&self, part: usize, entry: &Entry, slot: usize, apart: Apart) -> bool {
        let slot = &entry.slots[slot];
        let want = self.want(part, slot.kind);
        slot.open
            && want.allowed
            && want.demand.fits(slot.free)
            && (!matches!(self.parts[part], Part::Whole) || slot.empty)
            && match apart {
                Apart::Partial(_) => true,
                Apart::WholeOnly => want.fills && slot.empty,
                Apart::Never => false,
            }
    }

    /// Gives each part, largest first, the preferred device with room, and tells `chosen` the part
    /// and the position of the device. `None` where there is no room for all of them; a device with
    /// room for a part has room for every smaller one, so this finds devices whenever there are
    /// enough.
    pub(super) fn choose(
        &self,
        entry: &Entry,
        apart: Apart,
        prefer: Prefer,
        mut chosen: impl FnMut(usize, usize),
    ) -> Option<()> {
        let mut used = 0_u128;
        for part in 0..self.parts.len() {
            let mut best: Option<(u64, usize)> = None;
            for (at, slot) in entry.slots.iter().enumerate() {
                let rank = prefer.rank(slot.free_milli);
                if best.is_none_or(|(top, _)| rank > top)
                    && used & (1 << at) == 0
                    && self.takes(part, entry, at, apart)
                {
                    best = Some((rank, at));
                }
            }
            let (_, at) = best?;
            used |= 1 << at;
            chosen(part, at);
        }
        Some(())
    }

    /// What is left on each device that gets a part once it has it: position and thousandths, part by
    /// part. `None` where there is no room for all parts.
    pub(super) fn rests_after(&self, entry: &Entry, apart: Apart) -> Option<Vec<(usize, u64)>> {
        let mut rests = Vec::with_capacity(self.parts.len());
        self.choose(entry, apart, Prefer::Fullest, |part, slot| {
            rests.push((slot, self.rest_after(part, entry, slot)));
        })?;
        Some(rests)
    }

    /// Thousandths of a device taken by all parts, on the devices [`ShapeFit::choose`] would choose.
    pub(super) fn milli_taken(&self, entry: &Entry, apart: Apart, prefer: Prefer) -> Option<u64> {
        let mut milli = 0;
        self.choose(entry, apart, prefer, |part, at| {
            milli += self.want(part, entry.slots[at].kind).milli;
        })?;
        Some(milli)
    }

    /// The device with room for the only part whose `worth` is most, given its position and what is
    /// left on it then; of equals the first. Devices in equal state are asked about once.
    pub(super) fn best_device(
        &self,
        entry: &Entry,
        apart: Apart,
        worth: impl Fn(usize, u64) -> i64,
    ) -> Option<Judged> {
        let mut best: Option<Judged> = None;
        for at in 0..entry.slots.len() {
            let seen = entry.slots[..at].contains(&entry.slots[at]);
            if seen || !self.takes(0, entry, at, apart) {
                continue;
            }
            let score = worth(at, self.rest_after(0, entry, at));
            if best.is_none_or(|best| score > best.score) {
                best = Some(Judged { score, first: Some(at) });
            }
        }
        best
    }

    /// Thousandths of the device in `slot` that are left once it holds `part`, the lesser of both
    /// dimensions.
    pub(super) fn rest_after(&self, part: usize, entry: &Entry, slot: usize) -> u64 {
        let slot = &entry.slots[slot];
        let demand = self.want(part, slot.kind).demand;
        let memory = slot.free.memory.0.saturating_sub(demand.memory.0);
        let compute = slot.free.compute.0.saturating_sub(demand.compute.0);
        let memory = memory.saturating_mul(1000) / self.memory[slot.kind].max(1);
        memory.min(u64::from(compute))
    }
}

impl Prefer {
    /// Larger is better.
    pub(super) fn rank(self, free_milli: u64) -> u64 {
        match self {
            Self::Fullest => 1000 - free_milli.min(1000),
            Self::Emptiest => free_milli,
        }
    }
}

/// How the slices of `request` would be kept apart from others on a node.
pub(super) fn apart(request: &Request, entry: &Entry) -> Apart {
    if request.takes_instances() {
        let accepted = request.isolation.is_none_or(|least| Isolation::Mig <= least);
        return if accepted { Apart::Partial(Isolation::Mig) } else { Apart::Never };
    }
    let level = entry.enforcer.unwrap_or(Isolation::Shared);
    let accepted = match request.isolation {
        Some(least) => level <= least,
        None => level != Isolation::Shared || entry.node.allow_shared,
    };
    if accepted { Apart::Partial(level) } else { Apart::WholeOnly }
}

fn want(gpu: &GpuRequest, part: Part, kind: &Kind) -> Want {
    let demand = kind.units.demand(part);
    let within = match part {
        Part::Fgpu(amount) => amount <= kind.units.capacity,
        Part::Whole | Part::Direct { .. } => true,
    };
    Want {
        demand,
        milli: kind.milli_taken(demand),
        allowed: within && demand.fits(kind.units.whole()) && allows(gpu, kind),
        fills: kind.fills(demand),
    }
}

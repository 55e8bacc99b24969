//! The published measure of fragmentation: the idle GPU that a request drawn from the mix cannot
//! use, as expectation (Weng et al., "Beware of Fragmentation", USENIX ATC 2023).
//!
//! Requests that differ in CPU alone want the same devices, so they are looked at together: the
//! idle GPU they can use counts with the weight of those whose CPU the node has left.

use super::entry::Entry;
use super::fit::Fit;

/// Requests of the mix on nodes of one shape.
#[derive(Debug, Default)]
pub(super) struct Measure {
    demands: Vec<Demands>,
    /// Of the whole mix, also of what fits no node of this shape and of what needs no GPU.
    weight: i128,
}

/// Requests that want the same of devices.
#[derive(Debug, PartialEq, Eq)]
struct Demands {
    /// Thousandths per device, by kind of device; `None`: not allowed there.
    wants: Vec<Option<u64>>,
    devices: usize,
    /// CPU asked for, ascending, with the weight of all that ask for no more.
    cpu: Vec<(u64, i128)>,
}

/// What the requests of a mix could use of one node, before anything is placed there.
pub(super) struct Before<'a> {
    measure: &'a Measure,
    entry: &'a Entry,
    rests: &'a [u64],
    /// Per demand: idle thousandths on devices with enough left, and how many such devices.
    usable: Vec<(u64, usize)>,
    useful: i128,
}

impl Measure {
    /// The measure on the shape of position `shape`, of requests each with CPU, weight and fit.
    pub(super) fn new<'a>(
        shape: usize,
        requests: impl Iterator<Item = (u64, u64, Option<&'a Fit>)>,
    ) -> Self {
        let mut measure = Self::default();
        for (cpu, weight, fit) in requests {
            let weight = i128::from(weight);
            measure.weight += weight;
            let Some(fit) = fit.and_then(|fit| fit.on_shape(shape)) else { continue };
            let wants = fit.wants_per_kind();
            let devices = fit.parts.len();
            let known = measure
                .demands
                .iter_mut()
                .find(|demands| demands.wants == wants && demands.devices == devices);
            match known {
                Some(demands) => demands.cpu.push((cpu, weight)),
                None => measure.demands.push(Demands { wants, devices, cpu: vec![(cpu, weight)] }),
            }
        }
        for demands in &mut measure.demands {
            demands.cpu.sort_unstable();
            let mut sum = 0;
            for (_, weight) in &mut demands.cpu {
                sum += *weight;
                *weight = sum;
            }
        }
        measure
    }

    /// The weight of the whole mix.
    pub(super) fn weight(&self) -> i128 {
        self.weight
    }

    /// What can be used of a node with `rests` left on its devices.
    pub(super) fn before<'a>(&'a self, entry: &'a Entry, rests: &'a [u64]) -> Before<'a> {
        let usable: Vec<(u64, usize)> =
            self.demands.iter().map(|d| d.usable(entry, rests)).collect();
        let mut before = Before { measure: self, entry, rests, usable, useful: 0 };
        before.useful = before.useful(entry.node.cpu_free.0, &[]);
        before
    }
}

impl Demands {
    fn wants(&self, entry: &Entry, slot: usize, rest: u64) -> bool {
        self.wants[entry.slots[slot].kind].is_some_and(|milli| rest >= milli)
    }

    fn usable(&self, entry: &Entry, rests: &[u64]) -> (u64, usize) {
        let enough =
            rests.iter().enumerate().filter(|(slot, rest)| self.wants(entry, *slot, **rest));
        enough.fold((0, 0), |(idle, devices), (_, rest)| (idle + rest, devices + 1))
    }

    /// The weight of those that ask for no more CPU than `cpu`.
    fn weight(&self, cpu: u64) -> i128 {
        let fit = self.cpu.partition_point(|(asked, _)| *asked <= cpu);
        fit.checked_sub(1).map_or(0, |last| self.cpu[last].1)
    }
}

impl Before<'_> {
    /// How much less the mix could not use, thousandths of a device times the weight of the mix,
    /// once `cpu` is left and the devices in `changed` have these rests. Negative where it is more.
    pub(super) fn decrease(&self, cpu: u64, changed: &[(usize, u64)]) -> i128 {
        let taken: u64 = changed.iter().map(|(slot, rest)| self.rests[*slot] - rest).sum();
        i128::from(taken) * self.measure.weight + self.useful(cpu, changed) - self.useful
    }

    /// Idle thousandths that can be used, times weight.
    fn useful(&self, cpu: u64, changed: &[(usize, u64)]) -> i128 {
        let demands = self.measure.demands.iter().zip(&self.usable);
        let useful = demands.map(|(demands, (idle, devices))| {
            let (mut idle, mut devices) = (*idle, *devices);
            for (slot, rest) in changed {
                let before = self.rests[*slot];
                if demands.wants(self.entry, *slot, before) {
                    (idle, devices) = (idle - before, devices - 1);
                }
                if demands.wants(self.entry, *slot, *rest) {
                    (idle, devices) = (idle + rest, devices + 1);
                }
            }
            if devices >= demands.devices { i128::from(idle) * demands.weight(cpu) } else { 0 }
        });
        useful.sum()
    }
}

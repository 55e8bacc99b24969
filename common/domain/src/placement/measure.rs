//! The published measure of fragmentation: the idle GPU that a request drawn from the mix cannot
//! use, as expectation (Weng et al., "Beware of Fragmentation", USENIX ATC 2023).
//!
//! Requests that differ in CPU alone want the same devices, so they are looked at together: the
//! idle GPU they can use counts with the weight of those whose CPU the node has left.

use super::entry::Entry;
use super::model::Class;

/// Requests of the mix on nodes of one shape.
#[derive(Debug, Default)]
pub(super) struct Measure {
    demands: Vec<Demands>,
    /// Of all requests, also of those without GPU and of what fits no node of this shape.
    weight: i64,
}

/// Requests that want the same of devices.
#[derive(Debug, PartialEq, Eq)]
struct Demands {
    /// Thousandths per device, by kind of device; `None`: not allowed there.
    wants: Vec<Option<u64>>,
    devices: usize,
    /// CPU asked for, ascending, with the weight of all that ask for no more.
    cpu: Vec<(u64, i64)>,
}

/// What the requests of a mix could use of one node, before anything is placed there.
pub(super) struct Before<'a> {
    measure: &'a Measure,
    entry: &'a Entry,
    rests: &'a [u64],
    /// Per demand: idle thousandths on devices with enough left, and how many such devices.
    usable: Vec<(i64, usize)>,
    useful: i64,
}

impl Measure {
    /// The measure on the shape at position `shape`.
    pub(super) fn new(shape: usize, classes: &[Class]) -> Self {
        let mut measure = Self::default();
        for Class { cpu, weight, fit, .. } in classes {
            // Those without GPU count: to them all of it is unusable.
            measure.weight += weight;
            let Some(fit) = fit.as_ref().and_then(|fit| fit.on_shape(shape)) else { continue };
            let wants = fit.wants_per_kind();
            let devices = fit.parts.len();
            let known = measure
                .demands
                .iter_mut()
                .find(|demands| demands.wants == wants && demands.devices == devices);
            match known {
                Some(demands) => demands.cpu.push((*cpu, *weight)),
                None => {
                    measure.demands.push(Demands { wants, devices, cpu: vec![(*cpu, *weight)] })
                }
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
    pub(super) fn weight(&self) -> i64 {
        self.weight
    }

    /// What can be used of a node with `rests` left on its devices.
    pub(super) fn before<'a>(&'a self, entry: &'a Entry, rests: &'a [u64]) -> Before<'a> {
        let usable = self.demands.iter().map(|demands| {
            let enough = rests.iter().enumerate();
            let enough = enough.filter(|(slot, rest)| demands.wants(entry, *slot, **rest));
            enough.fold((0, 0), |(idle, devices), (_, rest)| (idle + amount(*rest), devices + 1))
        });
        let usable = usable.collect();
        let mut before = Before { measure: self, entry, rests, usable, useful: 0 };
        before.useful = before.useful(entry.node.cpu_free.0, &[]);
        before
    }
}

impl Demands {
    fn wants(&self, entry: &Entry, slot: usize, rest: u64) -> bool {
        self.wants[entry.slots[slot].kind].is_some_and(|milli| rest >= milli)
    }

    /// The weight of those that ask for no more CPU than `cpu`.
    fn weight(&self, cpu: u64) -> i64 {
        let fit = self.cpu.partition_point(|(asked, _)| *asked <= cpu);
        fit.checked_sub(1).map_or(0, |last| self.cpu[last].1)
    }
}

impl Before<'_> {
    /// How much less the mix could not use, times the weight of the mix, once `cpu` is left and the
    /// devices in `changed` have these rests. Negative where it is more.
    pub(super) fn decrease(&self, cpu: u64, changed: &[(usize, u64)]) -> i64 {
        let taken = changed.iter().map(|(slot, rest)| amount(self.rests[*slot]) - amount(*rest));
        taken.sum::<i64>() * self.measure.weight + self.useful(cpu, changed) - self.useful
    }

    /// Idle GPU that can be used, times weight.
    fn useful(&self, cpu: u64, changed: &[(usize, u64)]) -> i64 {
        let demands = self.measure.demands.iter().zip(&self.usable);
        let useful = demands.map(|(demands, (idle, devices))| {
            let (mut idle, mut devices) = (*idle, *devices);
            for (slot, rest) in changed {
                let before = self.rests[*slot];
                if demands.wants(self.entry, *slot, before) {
                    idle -= amount(before);
                    devices -= 1;
                }
                if demands.wants(self.entry, *slot, *rest) {
                    idle += amount(*rest);
                    devices += 1;
                }
            }
            if devices >= demands.devices { idle * demands.weight(cpu) } else { 0 }
        });
        useful.sum()
    }
}

fn amount(milli: u64) -> i64 {
    i64::try_from(milli).unwrap_or(i64::MAX)
}

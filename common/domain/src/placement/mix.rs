//! The mix of requests the cluster sees: what a policy may expect to be asked for next.
//!
//! Every arrival is counted; old ones fade, so that the mix follows the users. Integers only: the
//! same arrivals make the same mix on every machine.

use super::Request;
use super::view::{Identity, View};
use crate::slice::GpuRequest;
use crate::units::{CpuMilli, MIB};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What one arrival adds to the weight of its class: halving keeps the rare ones for a while.
const ARRIVAL: u64 = 16;
/// When so many arrivals are remembered, all weights are halved.
const MEMORY: u64 = 16_384;
/// Classes remembered at most.
const MOST_CLASSES: usize = 1024;
/// The most frequent classes that make up this share of the weight are the typical ones, percent.
const TYPICAL_PERCENT: u64 = 99;
/// Typical classes at most.
const MOST_TYPICAL: usize = 64;
/// Classes that only some models can serve looked at at most.
const MOST_NARROW: usize = 256;

/// What has been asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Mix {
    classes: BTreeMap<ClassKey, Seen>,
    /// Of all classes together.
    weight: u64,
    arrivals: u64,
    /// Arrivals taken for granted.
    expected: u64,
}

/// What makes two requests the same to a policy. Host memory is left out, as in the published
/// measure of fragmentation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ClassKey {
    cpu: CpuMilli,
    gpu: Option<GpuRequest>,
}

/// How often a class was seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// [`ARRIVAL`] for each, faded.
    weight: u64,
    /// The part of the weight whose host memory is known.
    counted: u64,
    /// Host memory of that part, MiB times weight.
    memory: u64,
}

/// A class and how often it was seen.
#[derive(Debug)]
pub(super) struct Typical<'a> {
    pub(super) cpu: CpuMilli,
    pub(super) gpu: Option<&'a GpuRequest>,
    pub(super) weight: u64,
    /// The part of the weight whose host memory is known.
    pub(super) counted: u64,
    /// Host memory of that part, MiB times weight.
    pub(super) memory: u64,
}

/// The view and the mix a model was worked out from.
#[derive(Debug)]
pub(super) struct Basis {
    view: Identity,
    hardware: u64,
    arrivals: u64,
    expected: u64,
}

impl<'a> Typical<'a> {
    fn new(key: &'a ClassKey, seen: &Seen) -> Self {
        let Seen { weight, counted, memory } = *seen;
        Self { cpu: key.cpu, gpu: key.gpu.as_ref(), weight, counted, memory }
    }
}

impl Mix {
    /// Counts one arrival. One that asks for MIG instances takes nothing from the others and is left
    /// out.
    pub(super) fn arrived(&mut self, request: &Request) {
        if request.takes_instances() {
            return;
        }
        let mib = request.memory.0 / MIB;
        self.add(request, Seen { weight: ARRIVAL, counted: ARRIVAL, memory: mib * ARRIVAL });
        self.arrivals += 1;
    }

    /// Takes `weight` arrivals like `request` for granted; their host memory is not known.
    pub(super) fn expect(&mut self, request: &Request, weight: u64) {
        if request.takes_instances() {
            return;
        }
        let weight = weight.min(MEMORY);
        self.add(request, Seen { weight: weight * ARRIVAL, counted: 0, memory: 0 });
        self.expected = self.expected.saturating_add(weight);
    }

    /// Whether anything was taken for granted.
    pub(super) fn is_expected(&self) -> bool {
        self.expected > 0
    }

    /// Arrivals so far.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// Whether what was worked out from `basis` still holds for this mix on the hardware of `view`:
    /// it does until one arrival in eight is new, at first 32, at last 2,048.
    pub(super) fn is_met_by(&self, basis: &Basis, view: &View) -> bool {
        let known = basis.arrivals.saturating_add(basis.expected);
        basis.view.is(view.identity())
            && basis.hardware == view.versions().hardware
            && basis.expected == self.expected
            && self.arrivals - basis.arrivals < (known / 8).clamp(32, MEMORY / 8)
    }

    /// What is worked out now from this mix and the hardware of `view` depends on.
    pub(super) fn basis(&self, view: &View) -> Basis {
        Basis {
            view: view.identity().same(),
            hardware: view.versions().hardware,
            arrivals: self.arrivals,
            expected: self.expected,
        }
    }

    /// The typical classes, the most frequent first.
    pub(super) fn typical(&self) -> Vec<Typical<'_>> {
        let mut sorted: Vec<(&ClassKey, &Seen)> = self.classes.iter().collect();
        sorted.sort_by_key(|(key, seen)| (Reverse(seen.weight), *key));
        let mut covered = 0;
        let typical = sorted.into_iter().take(MOST_TYPICAL).take_while(|(_, seen)| {
            let more = covered * 100 < self.weight * TYPICAL_PERCENT;
            covered += seen.weight;
            more
        });
        typical.map(|(key, seen)| Typical::new(key, seen)).collect()
    }

    /// All classes that only some models can serve, the most frequent first.
    pub(super) fn narrow(&self) -> Vec<Typical<'_>> {
        let narrow = self
            .classes
            .iter()
            .filter(|(key, _)| key.gpu.as_ref().is_some_and(|gpu| !gpu.models.is_empty()));
        let mut sorted: Vec<(&ClassKey, &Seen)> = narrow.collect();
        sorted.sort_by_key(|(key, seen)| (Reverse(seen.weight), *key));
        sorted.truncate(MOST_NARROW);
        sorted.into_iter().map(|(key, seen)| Typical::new(key, seen)).collect()
    }

    fn add(&mut self, request: &Request, more: Seen) {
        let key = ClassKey { cpu: request.cpu, gpu: request.gpu.clone() };
        let seen = self.classes.entry(key).or_default();
        seen.weight = seen.weight.saturating_add(more.weight);
        seen.counted = seen.counted.saturating_add(more.counted);
        seen.memory = seen.memory.saturating_add(more.memory);
        self.weight = self.weight.saturating_add(more.weight);
        if self.weight >= MEMORY * ARRIVAL {
            self.fade();
        }
        if self.classes.len() > MOST_CLASSES {
            self.forget_lightest();
        }
    }

    fn fade(&mut self) {
        self.classes.retain(|_, seen| {
            seen.weight /= 2;
            seen.counted /= 2;
            seen.memory /= 2;
            seen.weight > 0
        });
        self.weight = self.classes.values().map(|seen| seen.weight).sum();
    }

    fn forget_lightest(&mut self) {
        let lightest = self.classes.iter().min_by_key(|(_, seen)| seen.weight);
        if let Some((key, seen)) = lightest.map(|(key, seen)| (key.clone(), seen.weight)) {
            self.classes.remove(&key);
            self.weight -= seen;
        }
    }
}

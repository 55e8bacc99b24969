//! The mix of requests the cluster sees: what a policy may expect to be asked for next.
//!
//! Every arrival is counted; old ones fade, so that the mix follows the users. Integers only: the
//! same arrivals make the same mix on every machine.

use super::Request;
use super::entry::Entry;
use super::fit::Fit;
use super::layout::{Layout, layout};
use super::measure::Measure;
use super::view::{Identity, View};
use crate::slice::GpuRequest;
use crate::units::CpuMilli;
use std::collections::BTreeMap;

/// What one arrival adds to the weight of its class.
const ARRIVAL: u64 = 1 << 20;
/// After so many arrivals all weights fade by an eighth: half of a weight is left after 5,300.
const FADE_EVERY: u64 = 1024;
/// Classes remembered at most.
const MOST_CLASSES: usize = 1024;
/// The most frequent classes that make up this share of the weight are the typical ones, percent.
const TYPICAL_PERCENT: u128 = 95;

/// What has been asked for, each with its weight.
#[derive(Debug, Clone, Default)]
pub(super) struct Mix {
    weights: BTreeMap<ClassKey, u64>,
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

/// The typical part of the mix, worked out for the hardware of a view.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// What it was worked out from.
    basis: Option<Basis>,
    /// By position of the shape.
    measures: Vec<Measure>,
}

/// The view and the mix a model was worked out from.
#[derive(Debug)]
struct Basis {
    view: Identity,
    hardware: u64,
    arrivals: u64,
    expected: u64,
}

impl Mix {
    /// Counts one arrival.
    pub(super) fn arrived(&mut self, request: &Request) {
        self.add(request, ARRIVAL);
        self.arrivals += 1;
        if self.arrivals.is_multiple_of(FADE_EVERY) {
            self.weights.values_mut().for_each(|weight| *weight -= *weight / 8);
        }
    }

    /// Takes `weight` arrivals like `request` for granted.
    pub(super) fn expect(&mut self, request: &Request, weight: u64) {
        self.add(request, weight.saturating_mul(ARRIVAL));
        self.expected = self.expected.saturating_add(weight);
    }

    /// Whether anything was taken for granted.
    pub(super) fn is_expected(&self) -> bool {
        self.expected > 0
    }

    /// Whether `model` is still what this mix means on the hardware of `view`: it is worked out
    /// again after one arrival in eight, at first after every 32, later after every 4,096.
    pub(super) fn is_met_by(&self, model: &Model, view: &View) -> bool {
        model.basis.as_ref().is_some_and(|basis| {
            let patience = (basis.arrivals / 8).clamp(32, 4096);
            basis.view.is(view.identity())
                && basis.hardware == view.versions().hardware
                && basis.expected == self.expected
                && self.arrivals - basis.arrivals < patience
        })
    }

    fn add(&mut self, request: &Request, weight: u64) {
        let key = ClassKey { cpu: request.cpu, gpu: request.gpu.clone() };
        let sum = self.weights.entry(key).or_default();
        *sum = sum.saturating_add(weight);
        if self.weights.len() > MOST_CLASSES {
            let lightest = self.weights.iter().min_by_key(|(_, weight)| **weight);
            if let Some(lightest) = lightest.map(|(key, _)| key.clone()) {
                self.weights.remove(&lightest);
            }
        }
    }

    /// The typical classes on the hardware of `view`.
    pub(super) fn model(&self, view: &View) -> Model {
        let mut sorted: Vec<(&ClassKey, u64)> =
            self.weights.iter().map(|(key, weight)| (key, *weight)).collect();
        sorted.sort_by_key(|(key, weight)| (std::cmp::Reverse(*weight), *key));
        let all: u128 = sorted.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let basis = Basis {
            view: view.identity().same(),
            hardware: view.versions().hardware,
            arrivals: self.arrivals,
            expected: self.expected,
        };
        let mut typical: Vec<(u64, u64, Option<Fit>)> = Vec::new();
        let mut covered = 0_u128;
        for (key, weight) in sorted {
            if covered * 100 >= all * TYPICAL_PERCENT {
                break;
            }
            covered += u128::from(weight);
            typical.push((key.cpu.0, weight, key.fit(view)));
        }
        let requests = || typical.iter().map(|(cpu, weight, fit)| (*cpu, *weight, fit.as_ref()));
        let shapes = 0..view.shapes().list().len();
        let measures = shapes.map(|shape| Measure::new(shape, requests())).collect();
        Model { basis: Some(basis), measures }
    }
}

impl ClassKey {
    /// The class on the hardware of `view`; `None` where it needs no GPU, or none can hold it.
    fn fit(&self, view: &View) -> Option<Fit> {
        let gpu = self.gpu.as_ref()?;
        let request = Request { cpu: self.cpu, gpu: self.gpu.clone(), ..Request::default() };
        match layout(&request, view) {
            Ok(Layout::Devices(plan)) => Some(Fit::new(gpu, plan.counts[0], plan.split, view)),
            Ok(Layout::NoGpu | Layout::NoNode) | Err(_) => None,
        }
    }
}

impl Model {
    /// The measure of fragmentation on the node.
    pub(super) fn measure(&self, entry: &Entry) -> Option<&Measure> {
        self.measures.get(entry.shape)
    }
}

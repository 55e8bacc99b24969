//! What it costs to take devices of a model that some requests can only find there.
//!
//! For every set of shapes that the models of some request of the mix allow, and every union of two
//! such sets, the demand that can go nowhere else is expected to grow with the mix until all that is
//! free is handed out. The chance that it passes what is free in the set is the price of taking a
//! device there; where CPU runs out before devices, of taking CPU. A shape costs what the dearest
//! of its sets costs. Prices follow what is free, so they vanish once the demand is met or cannot be.

use super::Request;
use super::fit::Fit;
use super::model::Class;
use super::prices::WHOLE;
use super::state::Supply;
use super::view::View;
use std::collections::BTreeSet;

/// Weight of a charge in a score, in hundredths.
const SCARCE: i128 = 30;
/// Arrivals after which prices are worked out again.
const PATIENCE: u64 = 64;
/// Sets of shapes looked at, before the unions.
const MOST_SETS: usize = 32;

/// Prices by position of the shape, and what they are worked out from.
#[derive(Debug, Default)]
pub(super) struct Scarcity {
    /// What cannot go everywhere.
    narrow: Vec<Asked>,
    /// GPU asked for by all requests of the mix, thousandths of a device times weight.
    total: i128,
    /// The sets of shapes that are priced, by position of the shape.
    sets: BTreeSet<Vec<bool>>,
    /// Arrivals when prices were last worked out.
    at: Option<u64>,
    prices: Vec<Price>,
}

/// What is paid on one shape.
#[derive(Debug, Clone, Copy, Default)]
struct Price {
    /// For a device, in millionths of one.
    device: i128,
    /// For 1,000 cores, in millionths of a device.
    cpu: i128,
}

/// What a kind of request asks for, and where it may go.
#[derive(Debug)]
struct Asked {
    weight: i128,
    milli: i128,
    cpu: i128,
    /// By position of the shape.
    allowed: Vec<bool>,
}

impl Scarcity {
    /// For a mix of which `typical` are the usual classes and `narrow` those that only some models can
    /// serve; without prices yet.
    pub(super) fn new(typical: &[Class], narrow: &[Class], view: &View) -> Self {
        let has_devices: Vec<bool> = view
            .shapes()
            .list()
            .iter()
            .map(|shape| shape.nodes > 0 && !shape.kinds.is_empty())
            .collect();
        let of = |classes: &[Class]| -> Vec<Asked> {
            classes.iter().filter_map(|class| Asked::new(class, &has_devices)).collect()
        };
        let mut asked = of(narrow);
        asked.retain(|asked| asked.allowed != has_devices);
        let sets = unions(asked.iter().map(|asked| &asked.allowed).collect(), &has_devices);
        let total = of(typical).iter().map(|asked| asked.weight * asked.milli).sum();
        Self { narrow: asked, total, sets, ..Self::default() }
    }

    /// Works prices out again where it is time.
    pub(super) fn refresh(&mut self, arrivals: u64, view: &View) {
        let fresh = self.at.is_some_and(|at| arrivals - at < PATIENCE);
        if !fresh && !self.narrow.is_empty() {
            self.at = Some(arrivals);
            self.prices = prices(&self.narrow, self.total, &self.sets, &supply(view));
        }
    }

    /// What a request pays on a node of the shape, in the unit of scores.
    pub(super) fn charge(&self, request: &Request, fit: Option<&Fit>, shape: usize) -> i64 {
        let Some(price) = self.prices.get(shape) else { return 0 };
        if request.takes_instances() {
            return 0;
        }
        let milli = fit.and_then(|fit| fit.on_shape(shape)).map_or(0, |fit| fit.milli());
        let device = price.device * i128::from(milli) / 1000;
        let cpu = price.cpu * i128::from(request.cpu.0) / 1_000_000;
        i64::try_from(SCARCE * device.max(cpu)).unwrap_or(i64::MAX)
    }
}

impl Asked {
    fn new(class: &Class, has_devices: &[bool]) -> Option<Self> {
        let fit = class.fit.as_ref()?;
        let shapes = 0..has_devices.len();
        let milli = shapes.clone().find_map(|shape| fit.on_shape(shape)).map(|fit| fit.milli())?;
        Some(Self {
            weight: i128::from(class.weight),
            milli: i128::from(milli),
            cpu: i128::from(class.cpu),
            allowed: shapes.map(|shape| has_devices[shape] && fit.allows_shape(shape)).collect(),
        })
    }
}

/// Each set and every union of two, but those that are no restriction.
fn unions(narrow: BTreeSet<&Vec<bool>>, all: &[bool]) -> BTreeSet<Vec<bool>> {
    let sets = || narrow.iter().take(MOST_SETS);
    let union = |one: &[bool], other: &[bool]| -> Vec<bool> {
        one.iter().zip(other).map(|(one, other)| *one || *other).collect()
    };
    let unions = sets().flat_map(|one| sets().map(move |other| union(one, other)));
    unions.filter(|set| set != all).collect()
}

/// What is free, by position of the shape.
fn supply(view: &View) -> Vec<Supply> {
    (0..view.shapes().list().len()).map(|shape| view.states().supply(shape)).collect()
}

/// `asked` is what cannot go everywhere, `total` the GPU asked for by all requests of the mix.
fn prices(
    asked: &[Asked],
    total: i128,
    sets: &BTreeSet<Vec<bool>>,
    supply: &[Supply],
) -> Vec<Price> {
    let mut prices = vec![Price::default(); supply.len()];
    let free: i128 = supply.iter().map(|supply| supply.milli).sum();
    for set in sets {
        let (mut milli, mut cpu, mut milli_squared, mut cpu_squared) = (0, 0, 0, 0);
        let inside =
            |asked: &&Asked| asked.allowed.iter().zip(set).all(|(allowed, has)| !allowed || *has);
        for Asked { weight, milli: device, cpu: cores, .. } in asked.iter().filter(inside) {
            milli += weight * device;
            milli_squared += weight * device * device;
            cpu += weight * cores;
            cpu_squared += weight * cores * cores;
        }
        let expected = |sum: i128| sum * free / total.max(1);
        let there = supply.iter().zip(set).filter(|(_, has)| **has).map(|(supply, _)| supply);
        let (devices, cores) =
            there.fold((0, 0), |(milli, cpu), supply| (milli + supply.milli, cpu + supply.cpu));
        let (device, per_cpu) = match cpu * devices > milli * cores {
            // Turned from CPU into the devices it goes with.
            true => {
                (0, chance(cores, expected(cpu), expected(cpu_squared)) * milli * 1000 / cpu.max(1))
            }
            false => (chance(devices, expected(milli), expected(milli_squared)), 0),
        };
        for (price, _) in prices.iter_mut().zip(set).filter(|(_, has)| **has) {
            price.device = price.device.max(device);
            price.cpu = price.cpu.max(per_cpu);
        }
    }
    prices
}

/// The chance, in millionths, that demand passes what is there: a straight line over two deviations
/// on both sides. The deviation is that of Poisson arrivals, and a tenth of what is there for the
/// error of the forecast.
fn chance(there: i128, expected: i128, variance: i128) -> i128 {
    let whole = i128::from(WHOLE);
    let deviation = variance.max(0).isqrt() + there / 10 + 1;
    (whole / 2 - (there - expected) * (whole / 4) / deviation).clamp(0, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plenty_costs_nothing_and_a_sure_lack_a_whole_device() {
        assert_eq!(chance(100_000, 10_000, 10_000_000), 0);
        assert_eq!(chance(10_000, 100_000, 10_000_000), 1_000_000);
        assert_eq!(chance(50_000, 50_000, 10_000_000), 500_000);
    }
}

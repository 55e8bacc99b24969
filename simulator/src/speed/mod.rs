//! How fast decisions are on a large cluster that is kept at one fill: half full, almost full, and
//! with a long queue of sessions that cannot run.
//!
//! [`speed`] measures placement alone, [`queue_speed`] the cluster the manager runs. Both let one
//! pod go and another come, over and over, so that the fill stays what it is.

mod gangs;
mod pair;
mod placement;
mod queue;
mod waiting;

pub use gangs::{GangKind, GangReport, gang_speed, plan_speed};
pub use pair::Cost;
pub use placement::{PlacementBench, speed};
pub use queue::queue_speed;

use crate::error::SimulateError;
use crate::generate::{GenerateError, Source};
use crate::meter::Timing;
use crate::random::SplitMix64;
use crate::replay::PodLine;
use crate::stopwatch::{Lap, timing};
use fgpu_domain::placement::Policy;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// What to measure.
#[derive(Debug, Clone)]
pub struct SpeedOptions {
    /// The cluster, and the pods that come.
    pub source: Source,
    /// How nodes are chosen.
    pub policy: Policy,
    /// Draws who comes and who goes.
    pub seed: u64,
    /// GPU given out, percent of all; measured one after another, so lowest first is fastest.
    pub fills: Vec<u32>,
    /// Decisions to measure at each fill.
    pub decisions: usize,
    /// Measure no longer than this at each fill.
    pub at_most: Duration,
    /// Sessions that wait and cannot run; only for the queue.
    pub waiting: usize,
    /// Of how many kinds those are.
    pub kinds: usize,
    /// They wait for a little more than any node has free, instead of for a model that is all held.
    pub near: bool,
}

impl SpeedOptions {
    /// The default policy on a cluster of `nodes` nodes of `devices` devices each, half full and all
    /// but full, with nobody waiting.
    #[must_use]
    pub fn of(nodes: usize, devices: u32) -> Self {
        let (nodes, devices) = (Some(nodes), Some(devices));
        Self {
            source: Source { nodes, devices, list_seed: 1, ..Source::default() },
            policy: Policy::default(),
            seed: 42,
            fills: vec![50, 99],
            decisions: 20_000,
            at_most: Duration::from_secs(30),
            waiting: 0,
            kinds: 200,
            near: false,
        }
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// The cluster cannot be made.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The cluster does not behave.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
}

/// How fast decisions were.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpeedReport {
    /// `placement` or `queue`.
    pub what: &'static str,
    /// The policy.
    pub policy: String,
    /// Nodes.
    pub nodes: usize,
    /// GPUs.
    pub gpus: u64,
    /// Each measurement.
    pub measurements: Vec<Measurement>,
}

/// How fast decisions were at one fill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// GPU to be given out, percent.
    pub fill_pct: u32,
    /// GPU given out, percent, at the end.
    pub alloc_pct: f64,
    /// Sessions that waited and could not run.
    pub waiting: usize,
    /// Decisions measured.
    pub decisions: usize,
    /// Of those, how many found a place.
    pub placed: usize,
    /// How long they took.
    pub timing: Timing,
    /// What the sessions that waited cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_costs: Option<Cost>,
}

/// Pods that come, without end.
struct Stream {
    pods: Vec<PodLine>,
    random: SplitMix64,
}

impl Stream {
    fn next(&mut self) -> PodLine {
        self.pods[self.random.position(self.pods.len())].clone()
    }
}

/// How much is given out and how much shall be.
#[derive(Debug, Clone, Copy)]
struct Gauge {
    capacity: u64,
    used: u64,
}

impl Gauge {
    fn is_full(self, fill_pct: u32, more: u64) -> bool {
        (self.used + more) * 100 > self.capacity * u64::from(fill_pct)
    }

    fn alloc_pct(self) -> f64 {
        100.0 * self.used as f64 / self.capacity as f64
    }
}

/// Decisions measured one after another.
struct Series {
    laps: Vec<Lap>,
    placed: usize,
    /// Time left to measure.
    left: Duration,
}

impl Series {
    fn new(at_most: Duration) -> Self {
        Self { laps: Vec::new(), placed: 0, left: at_most }
    }

    fn has_time(&self) -> bool {
        !self.left.is_zero()
    }

    /// Makes `count` decisions with `exchange`, which says of each whether it found a place; the
    /// processor time they took.
    fn run(
        &mut self,
        count: usize,
        exchange: &mut dyn FnMut() -> Result<(Lap, bool), SpeedError>,
    ) -> Result<Duration, SpeedError> {
        let mut cpu = Duration::ZERO;
        for _ in 0..count {
            let (lap, found) = exchange()?;
            self.placed += usize::from(found);
            self.left = self.left.saturating_sub(lap.wall);
            self.laps.push(lap);
            cpu += lap.cpu;
        }
        Ok(cpu)
    }

    /// What they come to. What is given out in the end is for the caller to say.
    fn measurement(&self, fill_pct: u32) -> Measurement {
        Measurement {
            fill_pct,
            alloc_pct: 0.0,
            waiting: 0,
            decisions: self.laps.len(),
            placed: self.placed,
            timing: timing(&self.laps).unwrap_or_default(),
            waiting_costs: None,
        }
    }
}

/// Measures decisions of one cluster.
fn measure(
    options: &SpeedOptions,
    fill_pct: u32,
    mut exchange: impl FnMut() -> Result<(Lap, bool), SpeedError>,
) -> Result<Measurement, SpeedError> {
    let mut series = Series::new(options.at_most);
    while series.laps.len() < options.decisions && series.has_time() {
        series.run(1, &mut exchange)?;
    }
    Ok(series.measurement(fill_pct))
}

impl SpeedReport {
    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} with policy {}, {} nodes, {} GPUs, one thread\n  {:>6} {:>8} {:>8} {:>10} {:>8} \
             {:>12} {:>9} {:>9} {:>10} {:>12} {:>9} {:>9}\n",
            self.what,
            self.policy,
            self.nodes,
            self.gpus,
            "fill%",
            "alloc%",
            "waiting",
            "decisions",
            "placed%",
            "decisions/s",
            "p50 us",
            "p99 us",
            "slowest us",
            "per CPU s",
            "p50 CPU",
            "p99 CPU"
        );
        for at in &self.measurements {
            let placed = 100.0 * at.placed as f64 / at.decisions.max(1) as f64;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {:>6} {:>8.1} {:>8} {:>10} {:>8.1} {:>12.0} {:>9.1} {:>9.1} {:>10.1} {:>12.0} {:>9.1} \
                 {:>9.1}",
                at.fill_pct,
                at.alloc_pct,
                at.waiting,
                at.decisions,
                placed,
                at.timing.decisions_per_s,
                at.timing.p50_us,
                at.timing.p99_us,
                at.timing.max_us,
                at.timing.decisions_per_cpu_s,
                at.timing.p50_cpu_us,
                at.timing.p99_cpu_us
            );
        }
        for at in &self.measurements {
            let Some(cost) = at.waiting_costs else { continue };
            let _ = writeln!(
                text,
                "{} % full, {} waiting: waiting costs {:+.1} % (median of {} rounds {:+.1} %)",
                at.fill_pct, at.waiting, cost.mean_pct, cost.rounds, cost.median_pct
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> SpeedOptions {
        SpeedOptions {
            source: Source { nodes: Some(20), devices: Some(8), ..Source::default() },
            policy: Policy::BestFit,
            seed: 1,
            fills: vec![50, 95],
            decisions: 200,
            at_most: Duration::from_secs(600),
            waiting: 30,
            kinds: 20,
            near: false,
        }
    }

    fn check(report: &SpeedReport, waiting: &[usize]) {
        assert_eq!((report.nodes, report.gpus), (20, 160));
        let found: Vec<usize> = report.measurements.iter().map(|at| at.waiting).collect();
        assert_eq!(found, waiting);
        for at in &report.measurements {
            assert_eq!(at.decisions, 200);
            let fill = f64::from(at.fill_pct);
            // One pod of eight GPUs is 5 %.
            assert!(at.alloc_pct <= fill && at.alloc_pct > fill - 11.0, "{at:?}");
            assert!(at.placed > 100 && at.timing.decisions_per_s > 0.0, "{at:?}");
        }
        let pairs = report.measurements.iter().filter(|at| at.waiting_costs.is_some());
        let costs = waiting.iter().filter(|count| **count > 0).count();
        assert_eq!(pairs.filter(|at| at.waiting > 0).count(), costs);
        let table = report.table();
        assert_eq!(table.lines().count(), 2 + waiting.len() + costs);
        assert_eq!(table.matches("waiting costs").count(), costs);
    }

    #[test]
    fn placement_is_measured_at_every_fill_and_the_fill_is_kept() {
        check(&speed(&options()).unwrap(), &[0, 0]);
    }

    #[test]
    fn what_waits_for_a_little_more_than_there_is_never_runs() {
        check(&queue_speed(&SpeedOptions { near: true, ..options() }).unwrap(), &[0, 30, 0, 30]);
    }

    #[test]
    fn the_queue_is_measured_without_and_with_sessions_that_cannot_run() {
        check(&queue_speed(&options()).unwrap(), &[0, 30, 0, 30]);
    }
}

//! Placement alone: from the request to its resources being taken.

use super::{Gauge, Measurement, SpeedError, SpeedOptions, SpeedReport, Stream, measure};
use crate::cluster::{Cluster, Taken};
use crate::random::SplitMix64;
use crate::stopwatch::{Lap, Stopwatch};
use std::time::Duration;

/// Pods in a row that find no place before a cluster counts as full.
const MOST_FAILURES: usize = 2_000;

/// A cluster that is kept at one fill: one pod goes, another comes.
pub struct PlacementBench {
    cluster: Cluster,
    stream: Stream,
    random: SplitMix64,
    gauge: Gauge,
    nodes: usize,
    /// What is taken, and its GPU.
    held: Vec<(Taken, u64)>,
}

/// Measures decisions of the placement code at each fill.
///
/// # Errors
/// [`SpeedError`] when the cluster cannot be made.
pub fn speed(options: &SpeedOptions) -> Result<SpeedReport, SpeedError> {
    let mut bench = PlacementBench::new(options)?;
    let measured = options.fills.iter().map(|fill_pct| bench.measure(*fill_pct, options));
    let measurements = measured.collect::<Result<_, _>>()?;
    Ok(SpeedReport {
        what: "placement",
        policy: options.policy.to_string(),
        nodes: bench.nodes,
        gpus: bench.gauge.capacity / 1000,
        measurements,
    })
}

impl PlacementBench {
    /// The cluster of `options`, empty.
    ///
    /// # Errors
    /// [`SpeedError`] when it cannot be made.
    pub fn new(options: &SpeedOptions) -> Result<Self, SpeedError> {
        let lists = options.source.lists()?;
        let mut cluster = Cluster::new(options.policy, options.seed);
        for (node, line) in lists.nodes.iter().zip(1..) {
            cluster.add(node, line)?;
        }
        Ok(Self {
            cluster,
            nodes: lists.nodes.len(),
            gauge: Gauge { capacity: lists.capacity(), used: 0 },
            stream: Stream { pods: lists.pods, random: SplitMix64::new(options.seed) },
            random: SplitMix64::new(options.seed ^ 1),
            held: Vec::new(),
        })
    }

    fn measure(
        &mut self,
        fill_pct: u32,
        options: &SpeedOptions,
    ) -> Result<Measurement, SpeedError> {
        self.fill(fill_pct)?;
        let measured = measure(options, fill_pct, || self.exchange(fill_pct))?;
        Ok(Measurement { alloc_pct: self.gauge.alloc_pct(), ..measured })
    }

    /// Places pods until `fill_pct` percent of the GPU are given out, or hardly any find a place.
    ///
    /// # Errors
    /// [`SpeedError`] when the cluster does not take what it placed.
    pub fn fill(&mut self, fill_pct: u32) -> Result<(), SpeedError> {
        let mut failures = 0;
        while failures < MOST_FAILURES {
            let pod = self.stream.next();
            if self.gauge.is_full(fill_pct, pod.gpu_demand()) {
                return Ok(());
            }
            match self.cluster.take(&pod)? {
                Some(taken) => self.hold(taken, pod.gpu_demand()),
                None => failures += 1,
            }
        }
        Ok(())
    }

    /// Lets as many go as the next needs; how long the decision on the next took.
    ///
    /// # Errors
    /// [`SpeedError`] when the cluster does not take what it placed, or does not take it back.
    pub fn decide(&mut self, fill_pct: u32) -> Result<Duration, SpeedError> {
        self.exchange(fill_pct).map(|(lap, _)| lap.wall)
    }

    /// Lets as many go as the next needs, and measures how long the next takes.
    fn exchange(&mut self, fill_pct: u32) -> Result<(Lap, bool), SpeedError> {
        let pod = self.stream.next();
        while self.gauge.is_full(fill_pct, pod.gpu_demand()) && !self.held.is_empty() {
            let (gone, demand) = self.held.swap_remove(self.random.position(self.held.len()));
            self.gauge.used -= demand;
            self.cluster.give_back(&gone)?;
        }
        let start = Stopwatch::start();
        let taken = self.cluster.take(&pod)?;
        let lap = start.stop();
        let found = taken.is_some();
        if let Some(taken) = taken {
            self.hold(taken, pod.gpu_demand());
        }
        Ok((lap, found))
    }

    fn hold(&mut self, taken: Taken, demand: u64) {
        self.gauge.used += demand;
        self.held.push((taken, demand));
    }
}

//! How much of the cluster was given out, by how much had been asked for.
//!
//! Only shown, never decided on: so the shares are floating point numbers here.

use crate::replay::{NodeLine, PodLine};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Arrived load, in percent of the GPU capacity, at which the allocation is reported.
const LEVELS: [u32; 5] = [90, 100, 110, 120, 130];

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The trace, as the replay calls it.
    pub name: String,
    /// The policy.
    pub policy: String,
    /// The seed of the policy.
    pub seed: u64,
    /// By arrived load in percent; only levels the replay reaches.
    pub levels: BTreeMap<u32, Level>,
    /// GPU asked for over all pods, percent of the capacity.
    pub final_arrived_pct: f64,
    /// GPU given out in the end, percent of the capacity.
    pub final_alloc_pct: f64,
    /// Pods that arrived.
    pub pods: u64,
    /// Pods that found no place.
    pub failed_pods: u64,
    /// The same by kind of pod.
    pub failed_by_kind: FailedByKind,
    /// Arrived load at the first pod that found no place.
    pub first_failure_at_pct: Option<f64>,
    /// Arrived load at the first pod with GPU that found no place.
    pub first_gpu_failure_at_pct: Option<f64>,
    /// How long decisions took, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,
}

/// The state of the cluster at one arrived load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Level {
    /// GPU given out, percent of the capacity: the mean over the arrivals that round to the level.
    pub alloc_pct: f64,
    /// The rest, in GPUs.
    pub unallocated_gpus: f64,
    /// Pods that had found no place by then.
    pub failed_pods: u64,
    /// GPU those had asked for, percent of the capacity.
    pub failed_gpu_pct: f64,
    /// CPU given out, percent.
    pub cpu_pct: f64,
    /// Memory given out, percent.
    pub mem_pct: f64,
}

/// Pods that found no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct FailedByKind {
    /// Those without GPU.
    pub cpu_only: u64,
    /// Those that wanted a part of one GPU.
    pub shared_gpu: u64,
    /// Those that wanted one whole GPU.
    pub one_gpu: u64,
    /// Those that wanted several.
    pub multi_gpu: u64,
}

/// How long decisions took: from the request to what it takes being taken. By the clock on the wall,
/// and by the time the processor worked on it, which other work on the machine does not lengthen.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Timing {
    /// Decisions per second of deciding.
    pub decisions_per_s: f64,
    /// The median, microseconds.
    pub p50_us: f64,
    /// The 99th percentile, microseconds.
    pub p99_us: f64,
    /// The slowest, microseconds.
    pub max_us: f64,
    /// Decisions per second of processor time.
    pub decisions_per_cpu_s: f64,
    /// The median of processor time, microseconds.
    pub p50_cpu_us: f64,
    /// The 99th percentile of processor time, microseconds.
    pub p99_cpu_us: f64,
}

/// Counts while a replay runs.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    capacity: Amounts,
    used: Amounts,
    arrived: u64,
    failed_gpu: u64,
    pods: u64,
    failed: FailedByKind,
    first_failure: Option<f64>,
    first_gpu_failure: Option<f64>,
    /// Per level the sum and the number of allocation ratios.
    sums: BTreeMap<u32, (f64, u32)>,
    marks: BTreeMap<u32, Level>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Amounts {
    cpu_milli: u64,
    memory_mib: u64,
    gpu_milli: u64,
}

impl FailedByKind {
    fn total(self) -> u64 {
        self.cpu_only + self.shared_gpu + self.one_gpu + self.multi_gpu
    }

    fn add(&mut self, pod: &PodLine) {
        let count = match (pod.num_gpu, pod.gpu_milli) {
            (0, _) => &mut self.cpu_only,
            (1, 1000) => &mut self.one_gpu,
            (1, _) => &mut self.shared_gpu,
            _ => &mut self.multi_gpu,
        };
        *count += 1;
    }
}

impl Meter {
    pub(crate) fn node(&mut self, node: &NodeLine) {
        self.capacity.cpu_milli += node.cpu_milli;
        self.capacity.memory_mib += node.memory_mib;
        self.capacity.gpu_milli += u64::from(node.num_gpu) * 1000;
    }

    pub(crate) fn has_gpu(&self) -> bool {
        self.capacity.gpu_milli > 0
    }

    pub(crate) fn pod(&mut self, pod: &PodLine, placed: bool) {
        let demand = pod.gpu_demand();
        self.mark(self.gpu_pct(self.arrived + demand));
        self.pods += 1;
        self.arrived += demand;
        let arrived = self.gpu_pct(self.arrived);
        if placed {
            self.used.cpu_milli += pod.cpu_milli;
            self.used.memory_mib += pod.memory_mib;
            self.used.gpu_milli += demand;
        } else {
            self.failed.add(pod);
            self.failed_gpu += demand;
            self.first_failure.get_or_insert(arrived);
            if demand > 0 {
                self.first_gpu_failure.get_or_insert(arrived);
            }
        }
        let allocated = self.gpu_pct(self.used.gpu_milli);
        // Half to even, as the published analysis rounds.
        let rounded = arrived.round_ties_even();
        if let Some(level) = LEVELS.into_iter().find(|level| f64::from(*level) == rounded) {
            let (sum, count) = self.sums.entry(level).or_default();
            *sum += allocated;
            *count += 1;
        }
    }

    pub(crate) fn report(mut self, name: String, policy: String, seed: u64) -> Report {
        self.mark(f64::INFINITY);
        let mut levels = std::mem::take(&mut self.marks);
        levels.retain(|level, mark| match self.sums.get(level) {
            Some((sum, count)) => {
                mark.alloc_pct = sum / f64::from(*count);
                let gpus = self.capacity.gpu_milli as f64 / 1000.0;
                mark.unallocated_gpus = (100.0 - mark.alloc_pct) * gpus / 100.0;
                true
            }
            None => false,
        });
        Report {
            name,
            policy,
            seed,
            levels,
            final_arrived_pct: self.gpu_pct(self.arrived),
            final_alloc_pct: self.gpu_pct(self.used.gpu_milli),
            pods: self.pods,
            failed_pods: self.failed.total(),
            failed_by_kind: self.failed,
            first_failure_at_pct: self.first_failure,
            first_gpu_failure_at_pct: self.first_gpu_failure,
            timing: None,
        }
    }

    /// Keeps the state for every level that the next arrival, at `next` percent, leaves behind.
    fn mark(&mut self, next: f64) {
        let arrived = self.gpu_pct(self.arrived);
        for level in LEVELS {
            let end = f64::from(level) + 0.5;
            if self.pods > 0 && arrived <= end && end < next {
                let mark = self.state();
                self.marks.insert(level, mark);
            }
        }
    }

    fn state(&self) -> Level {
        Level {
            alloc_pct: 0.0,
            unallocated_gpus: 0.0,
            failed_pods: self.failed.total(),
            failed_gpu_pct: self.gpu_pct(self.failed_gpu),
            cpu_pct: percent(self.used.cpu_milli, self.capacity.cpu_milli),
            mem_pct: percent(self.used.memory_mib, self.capacity.memory_mib),
        }
    }

    fn gpu_pct(&self, milli: u64) -> f64 {
        percent(milli, self.capacity.gpu_milli)
    }
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}, policy {}, seed {}\n", self.name, self.policy, self.seed);
        let head =
            ["arrived%", "alloc%", "unalloc GPUs", "failed pods", "failed GPU%", "cpu%", "mem%"];
        row(&mut text, head.map(str::to_owned));
        for (level, at) in &self.levels {
            row(
                &mut text,
                [
                    level.to_string(),
                    format!("{:.2}", at.alloc_pct),
                    format!("{:.1}", at.unallocated_gpus),
                    at.failed_pods.to_string(),
                    format!("{:.2}", at.failed_gpu_pct),
                    format!("{:.1}", at.cpu_pct),
                    format!("{:.1}", at.mem_pct),
                ],
            );
        }
        let failed = &self.failed_by_kind;
        let _ = writeln!(
            text,
            "  {} of {} pods failed: cpu only {}, part of a GPU {}, one GPU {}, several {}",
            self.failed_pods,
            self.pods,
            failed.cpu_only,
            failed.shared_gpu,
            failed.one_gpu,
            failed.multi_gpu
        );
        if let Some(timing) = &self.timing {
            let _ = writeln!(
                text,
                "  {:.0} decisions/s; p50 {:.1} us, p99 {:.1} us, slowest {:.1} us; by processor \
                 time {:.0}/s, p50 {:.1} us, p99 {:.1} us; {:.1} % of the GPU given out at the end",
                timing.decisions_per_s,
                timing.p50_us,
                timing.p99_us,
                timing.max_us,
                timing.decisions_per_cpu_s,
                timing.p50_cpu_us,
                timing.p99_cpu_us,
                self.final_alloc_pct
            );
        }
        text
    }
}

fn row(text: &mut String, cells: [String; 7]) {
    for cell in cells {
        // Writing to a string cannot fail.
        let _ = write!(text, "  {cell:>13}");
    }
    text.push('\n');
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

//! What a simulation with time came to, for programs.
//!
//! Only shown, never decided on: so shares are floating point numbers here.

use super::job::{Job, Standing};
use super::meter::{Meter, Point, Sums, jain};
use super::world::World;
use serde::Serialize;
use std::collections::BTreeMap;

/// Parts of the whole time of which the state is told.
const BINS: u64 = 400;

/// What a replay with time came to. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueReport {
    /// The trace, as the replay calls it.
    pub name: String,
    /// The policy.
    pub policy: String,
    /// The seed of the policy.
    pub seed: u64,
    /// Whether projects and classes were kept from the queue.
    pub plain_queue: bool,
    /// Nodes.
    pub nodes: usize,
    /// GPUs.
    pub gpus: u64,
    /// What became of the pods.
    pub pods: Counts,
    /// Pods refused at once, by code.
    pub refused_by_code: BTreeMap<String, u64>,
    /// Places that were lost to others; the pod then began anew.
    pub preemptions: u64,
    /// From the first arrival to the last.
    pub arriving_ms: u64,
    /// From the first arrival to the last thing that happened.
    pub makespan_ms: u64,
    /// From arrival to the first start, over pods that started.
    pub wait: Waits,
    /// While pods arrived.
    pub while_arriving: Use,
    /// Over the whole time.
    pub whole_time: Use,
    /// How evenly projects were served.
    pub fairness: Fairness,
    /// The state over time, as means over equal parts of the whole time.
    pub series: Vec<Bin>,
}

/// What became of pods; a gang is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// All of them.
    pub arrived: u64,
    /// Ran as long as they wanted.
    pub completed: u64,
    /// Were stopped before, at their time limit or for others.
    pub stopped: u64,
    /// Were refused when they came.
    pub refused: u64,
    /// Still wait, and nothing that is known will let them run.
    pub waiting: u64,
    /// Still run, for they name no end.
    pub running: u64,
}

/// Waits, over all and by what tells pods apart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Waits {
    /// Over all pods.
    pub all: Distribution,
    /// By what they want: `cpu_only`, `shared_gpu`, `one_gpu`, `multi_gpu`, `gang`.
    pub by_kind: BTreeMap<String, Distribution>,
    /// By priority class, where any pod names one.
    pub by_class: BTreeMap<String, Distribution>,
    /// By project, where any pod names one.
    pub by_project: BTreeMap<String, Distribution>,
    /// The wait that 0, 1, … 100 percent did not exceed: over all pods and by kind.
    pub percentiles_ms: BTreeMap<String, Vec<u64>>,
}

/// How long, in milliseconds; percentiles are of values that occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Distribution {
    /// Of how many.
    pub count: u64,
    /// The mean.
    pub mean_ms: u64,
    /// Half of them were not longer.
    pub p50_ms: u64,
    /// 95 % were not longer.
    pub p95_ms: u64,
    /// 99 % were not longer.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

/// How the cluster was used over a time; means over time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Use {
    /// GPU given out, percent of all.
    pub gpu_pct: f64,
    /// CPU given out, percent of all.
    pub cpu_pct: f64,
    /// Idle GPU that a usual pod cannot use, percent of all.
    pub fragmented_pct: f64,
    /// GPU that was idle although at least as much was waited for, percent of all.
    pub idle_wanted_pct: f64,
    /// Pods that waited.
    pub queue: f64,
}

/// How evenly projects were served.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Fairness {
    /// Each project, by name.
    pub projects: BTreeMap<String, ProjectShare>,
    /// Jain's index of GPU time by weight while pods arrived: 1 is even, 1/n all to one.
    pub jain: f64,
    /// The least GPU time by weight, as a part of the largest.
    pub min_to_max: f64,
    /// Percent of the whole time in which several projects waited at once.
    pub contended_pct: f64,
    /// Jain's index of the GPU held by weight by those that waited, over that time.
    pub jain_contended: f64,
    /// Percent of the whole time in which every project waited: only then does their order decide
    /// what each of them gets.
    pub all_wait_pct: f64,
}

/// What one project got while pods arrived.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ProjectShare {
    /// Its weight.
    pub weight: u32,
    /// GPU hours.
    pub gpu_hours: f64,
    /// Percent of what all projects got.
    pub share_pct: f64,
    /// Percent of all weights.
    pub weight_pct: f64,
    /// Percent of what all projects held while every project waited.
    pub share_all_wait_pct: f64,
}

/// The state over a part of the time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Bin {
    /// When it begins, from the first arrival.
    pub at_ms: u64,
    /// GPU given out, percent.
    pub gpu_pct: f64,
    /// CPU given out, percent.
    pub cpu_pct: f64,
    /// Idle GPU that a usual pod cannot use, percent.
    pub fragmented_pct: f64,
    /// Pods that waited.
    pub queue: f64,
}

/// The report of a simulation that has come to its end.
pub(super) fn report(world: &World, name: String, of: (String, u64, bool)) -> QueueReport {
    let meter = &world.meter;
    let (policy, seed, plain_queue) = of;
    let mut refused_by_code = BTreeMap::new();
    for code in world.jobs.iter().filter_map(|job| job.refused) {
        *refused_by_code.entry(code.to_owned()).or_default() += 1;
    }
    let arriving = meter.arriving.unwrap_or(meter.sums);
    QueueReport {
        name,
        policy,
        seed,
        plain_queue,
        nodes: meter.nodes.len(),
        gpus: meter.gpu_milli / 1000,
        pods: counts(&world.jobs),
        refused_by_code,
        preemptions: world.jobs.iter().map(|job| job.restarts).sum(),
        arriving_ms: arriving.ms,
        makespan_ms: meter.sums.ms,
        wait: waits(&world.jobs),
        while_arriving: used(meter, &arriving),
        whole_time: used(meter, &meter.sums),
        fairness: fairness(meter),
        series: bins(meter),
    }
}

fn counts(jobs: &[Job]) -> Counts {
    let mut counts = Counts::default();
    for job in jobs {
        counts.arrived += 1;
        *match job.standing() {
            Standing::Completed => &mut counts.completed,
            Standing::Stopped => &mut counts.stopped,
            Standing::Refused => &mut counts.refused,
            Standing::Waiting => &mut counts.waiting,
            Standing::Running => &mut counts.running,
        } += 1;
    }
    counts
}

fn waits(jobs: &[Job]) -> Waits {
    let mut all = Vec::new();
    let mut by: [BTreeMap<String, Vec<u64>>; 3] = Default::default();
    for job in jobs {
        let Some(wait) = job.wait_ms() else { continue };
        all.push(wait);
        let keys =
            [Some(job.kind().name().to_owned()), job.line.class.clone(), job.line.project.clone()];
        for (map, key) in by.iter_mut().zip(keys) {
            if let Some(key) = key {
                map.entry(key).or_default().push(wait);
            }
        }
    }
    let mut percentiles_ms = BTreeMap::from([("all".to_owned(), percentiles(&mut all))]);
    for (kind, waits) in &mut by[0] {
        percentiles_ms.insert(kind.clone(), percentiles(waits));
    }
    let [by_kind, by_class, by_project] =
        by.map(|map| map.into_iter().map(|(key, waits)| (key, Distribution::of(waits))).collect());
    Waits { all: Distribution::of(all), by_kind, by_class, by_project, percentiles_ms }
}

fn percentiles(values: &mut [u64]) -> Vec<u64> {
    values.sort_unstable();
    (0..=100).filter_map(|percent| nearest_rank(values, percent)).collect()
}

/// The smallest value of a sorted list that `percent` of them do not exceed.
fn nearest_rank(values: &[u64], percent: usize) -> Option<u64> {
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

impl Distribution {
    pub(super) fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let Some(max_ms) = values.last().copied() else { return Self::default() };
        let count = u64::try_from(values.len()).unwrap_or(u64::MAX);
        let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
        let at = |percent| nearest_rank(&values, percent).unwrap_or(max_ms);
        Self {
            count,
            mean_ms: u64::try_from(sum / u128::from(count)).unwrap_or(u64::MAX),
            p50_ms: at(50),
            p95_ms: at(95),
            p99_ms: at(99),
            max_ms,
        }
    }
}

fn used(meter: &Meter, sums: &Sums) -> Use {
    let part = |amount: u128, of: u64| percent(amount as f64, of as f64 * sums.ms as f64);
    Use {
        gpu_pct: part(sums.gpu, meter.gpu_milli),
        cpu_pct: part(sums.cpu, meter.cpu_milli),
        fragmented_pct: part(sums.unusable, meter.gpu_milli),
        idle_wanted_pct: part(sums.idle_wanted, meter.gpu_milli),
        queue: part(sums.waiting, 1) / 100.0,
    }
}

fn fairness(meter: &Meter) -> Fairness {
    let gpu = |project: &super::meter::Project| project.gpu_arriving as f64;
    let all: f64 = meter.projects.values().map(gpu).sum();
    let weights: f64 = meter.projects.values().map(|project| f64::from(project.weight)).sum();
    let by_weight: Vec<f64> =
        meter.projects.values().map(|project| gpu(project) / f64::from(project.weight)).collect();
    let largest = by_weight.iter().copied().fold(0.0, f64::max);
    let least = by_weight.iter().copied().fold(f64::INFINITY, f64::min);
    let all_wait: f64 = meter.projects.values().map(|project| project.gpu_all_wait as f64).sum();
    let shares = meter.projects.iter().map(|(name, project)| {
        let share = ProjectShare {
            weight: project.weight,
            gpu_hours: gpu(project) / 1000.0 / 3_600_000.0,
            share_pct: percent(gpu(project), all),
            weight_pct: percent(f64::from(project.weight), weights),
            share_all_wait_pct: percent(project.gpu_all_wait as f64, all_wait),
        };
        (name.clone(), share)
    });
    let contended = &meter.contended;
    Fairness {
        projects: shares.collect(),
        jain: jain(&by_weight),
        min_to_max: if largest > 0.0 { least / largest } else { 1.0 },
        contended_pct: percent(contended.ms as f64, meter.sums.ms as f64),
        all_wait_pct: percent(contended.all_ms as f64, meter.sums.ms as f64),
        jain_contended: if contended.ms > 0 { contended.jain / contended.ms as f64 } else { 1.0 },
    }
}

/// Means over equal parts of the time.
fn bins(meter: &Meter) -> Vec<Bin> {
    let (first, whole) = (meter.first_ms(), meter.sums.ms);
    let width = (whole / BINS).max(1);
    let count = usize::try_from(whole.div_ceil(width)).unwrap_or(0);
    let mut sums = vec![Sums::default(); count];
    let ends = meter.series.iter().skip(1).map(|point| point.at_ms).chain([first + whole]);
    for (point, end) in meter.series.iter().zip(ends) {
        let mut from = point.at_ms - first;
        while from < end - first {
            let bin = from / width;
            let to = ((bin + 1) * width).min(end - first);
            let at = usize::try_from(bin).unwrap_or(usize::MAX);
            if let Some(sum) = sums.get_mut(at) {
                add(sum, point, to - from);
            }
            from = to;
        }
    }
    let bin = |(at, sum): (u64, &Sums)| {
        let used = used(meter, sum);
        Bin {
            at_ms: at * width,
            gpu_pct: used.gpu_pct,
            cpu_pct: used.cpu_pct,
            fragmented_pct: used.fragmented_pct,
            queue: used.queue,
        }
    };
    (0..).zip(&sums).map(bin).collect()
}

fn add(sum: &mut Sums, point: &Point, ms: u64) {
    let times = |amount: u64| u128::from(amount) * u128::from(ms);
    sum.ms += ms;
    sum.gpu += times(point.gpu_milli);
    sum.cpu += times(point.cpu_milli);
    sum.unusable += times(point.unusable_milli);
    sum.waiting += times(point.waiting);
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

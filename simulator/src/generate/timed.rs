//! Replays with time: pods that come, run and end, in projects, classes and gangs.

use super::lists::Lists;
use super::tables;
use crate::random::SplitMix64;
use crate::replay::{JobLine, NodeLine, PodLine, ProjectLine, QuotaPart};

/// How the pods of a source come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// Draws who comes, when, and for how long.
    pub seed: u64,
    /// How many come.
    pub jobs: usize,
    /// GPU time asked for while they come, thousandths of what there is.
    pub load_milli: u64,
    /// The median of how long they run, milliseconds.
    pub median_ms: u64,
    /// Projects they belong to; with 0 there are none.
    pub projects: u32,
    /// Percent that are in class `high`.
    pub high_share: u32,
    /// Percent that are in class `low`.
    pub low_share: u32,
    /// Percent of those with whole GPUs that are gangs.
    pub gang_share: u32,
    /// Whether they name a time limit.
    pub time_limits: bool,
}

/// What a project is given by default, and every further one as much again.
const WEIGHT: u32 = 100;
/// Users of each project.
const USERS: u64 = 3;
/// How many pods a gang is.
const GANG_SIZES: [u32; 3] = [2, 4, 8];
/// Time limits, percent of what the pod then takes. People ask for more than they need, and a few
/// for too little.
const LIMITS: [(u64, u64); 5] = [(80, 3), (110, 27), (150, 30), (200, 25), (400, 15)];

/// The projects of a replay: of equal demand, and of weights that rise in equal steps.
pub(super) fn projects(count: u32) -> Vec<ProjectLine> {
    let project = |number: u32| ProjectLine {
        name: format!("project-{number}"),
        weight: WEIGHT * number,
        quota: QuotaPart::default(),
        user_quota: QuotaPart::default(),
    };
    (1..=count).map(project).collect()
}

/// Draws pods from the list, with replacement, until there are enough; then spreads their arrival
/// over the time in which they ask for the load that is wanted.
pub(super) fn jobs(lists: &Lists, timed: &Timed) -> Vec<JobLine> {
    let mut random = SplitMix64::new(timed.seed);
    let mut jobs: Vec<JobLine> = Vec::with_capacity(timed.jobs);
    for number in 0..timed.jobs {
        let mut pod = lists.pods[random.position(lists.pods.len())].clone();
        pod.name = format!("pod-{number:06}");
        jobs.push(job(pod, &lists.nodes, timed, &mut random));
    }
    spread(&mut jobs, lists.capacity(), timed.load_milli, &mut random);
    jobs
}

fn job(pod: PodLine, nodes: &[NodeLine], timed: &Timed, random: &mut SplitMix64) -> JobLine {
    let duration_ms = (tables::duration(random) * timed.median_ms / 1000).max(1);
    let whole = pod.num_gpu > 0 && pod.gpu_milli == 1000;
    let gang = whole && random.below(100) < u64::from(timed.gang_share);
    let size = if gang { gang_size(&pod, nodes, random) } else { 1 };
    let (project, user) = owner(timed.projects, random);
    JobLine {
        arrival_ms: 0,
        duration_ms: Some(duration_ms),
        time_limit_ms: timed.time_limits.then(|| limit(duration_ms, random)),
        priority: 0,
        class: class(timed, random),
        project,
        user,
        size,
        pod,
    }
}

/// A size that half of the empty cluster holds.
fn gang_size(pod: &PodLine, nodes: &[NodeLine], random: &mut SplitMix64) -> u32 {
    let wanted = GANG_SIZES[random.position(GANG_SIZES.len())];
    let copies: u64 = nodes.iter().map(|node| copies(node, pod)).sum();
    let most = u32::try_from(copies / 2).unwrap_or(u32::MAX).max(1);
    wanted.min(most)
}

/// How many of `pod` an empty `node` holds.
fn copies(node: &NodeLine, pod: &PodLine) -> u64 {
    if !super::lists::holds(node, pod) {
        return 0;
    }
    let of = |there: u64, each: u64| there.checked_div(each).unwrap_or(u64::MAX);
    of(node.cpu_milli, pod.cpu_milli)
        .min(of(node.memory_mib, pod.memory_mib))
        .min(of(u64::from(node.num_gpu), u64::from(pod.num_gpu)))
}

fn owner(projects: u32, random: &mut SplitMix64) -> (Option<String>, Option<String>) {
    if projects == 0 {
        return (None, None);
    }
    let project = 1 + random.below(u64::from(projects));
    let user = 1 + random.below(USERS);
    (Some(format!("project-{project}")), Some(format!("user-{project}-{user}")))
}

fn class(timed: &Timed, random: &mut SplitMix64) -> Option<String> {
    let (high, low) = (u64::from(timed.high_share), u64::from(timed.low_share));
    if high + low == 0 {
        return None;
    }
    let name = match random.below(100) {
        drawn if drawn < high => "high",
        drawn if drawn < high + low => "low",
        _ => "normal",
    };
    Some(name.to_owned())
}

fn limit(duration_ms: u64, random: &mut SplitMix64) -> u64 {
    let weights = LIMITS.map(|(_, weight)| weight);
    let (percent, _) = LIMITS[random.weighted(&weights)];
    (duration_ms * percent / 100).max(1)
}

/// Arrivals that know nothing of each other, over the time in which all the work would be done if
/// `load_milli` thousandths of the cluster did it and nothing else.
fn spread(jobs: &mut [JobLine], capacity: u64, load_milli: u64, random: &mut SplitMix64) {
    let work: u128 = jobs
        .iter()
        .map(|job| u128::from(job.gpu_demand()) * u128::from(job.held_ms().unwrap_or(0)))
        .sum();
    let rate = u128::from(capacity) * u128::from(load_milli.max(1));
    let span = work * 1000 / rate.max(1);
    let mut at = 0_u64;
    let mut arrivals = Vec::with_capacity(jobs.len());
    for _ in jobs.iter() {
        arrivals.push(at);
        at += tables::gap(random);
    }
    for (job, arrival) in jobs.iter_mut().zip(arrivals) {
        let scaled = span * u128::from(arrival) / u128::from(at.max(1));
        job.arrival_ms = u64::try_from(scaled).unwrap_or(u64::MAX);
    }
}

//! The protocol of "Beware of Fragmentation" (USENIX ATC 2023): from lists to the order in which
//! pods arrive, and what a policy may know beforehand.
//!
//! With the same lists, seed and load this gives byte for byte what the scripts published with the
//! trace give.

use super::lists::{Lists, capacity};
use crate::random::SplitMix64;
use crate::replay::{ClassLine, NodeLine, PodLine};
use std::collections::BTreeMap;

/// Percent of the pods of a list whose kinds are usual.
const USUAL_PERCENT: usize = 95;

/// An order of arrival on nodes in the order that decides ties.
pub(super) struct Arrivals {
    pub(super) nodes: Vec<NodeLine>,
    pub(super) pods: Vec<PodLine>,
}

/// Shuffles the pods, removes drawn ones while they ask for more than `load_milli` thousandths of
/// the GPU, then repeats drawn ones until the next would pass it. A load of 0 leaves them alone.
pub(super) fn arrivals(lists: &Lists, seed: u64, load_milli: u64, shuffle: bool) -> Arrivals {
    let mut random = SplitMix64::new(seed);
    let mut base: Vec<&PodLine> = lists.pods.iter().collect();
    base.sort_by(|one, other| one.name.cmp(&other.name));
    let mut pods: Vec<PodLine> = base.iter().map(|pod| (*pod).clone()).collect();
    if shuffle {
        random.shuffle(&mut pods);
    }
    if load_milli > 0 {
        scale(&mut pods, &base, goal(capacity(&lists.nodes), load_milli), &mut random);
    }
    let mut nodes = lists.nodes.clone();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    if shuffle {
        random.shuffle(&mut nodes);
    }
    Arrivals { nodes, pods }
}

fn goal(capacity: u64, load_milli: u64) -> u64 {
    let goal = u128::from(capacity) * u128::from(load_milli) / 1000;
    u64::try_from(goal).unwrap_or(u64::MAX)
}

fn scale(pods: &mut Vec<PodLine>, base: &[&PodLine], goal: u64, random: &mut SplitMix64) {
    let mut demand: u64 = pods.iter().map(PodLine::gpu_demand).sum();
    while demand > goal && !pods.is_empty() {
        demand -= pods.remove(random.position(pods.len())).gpu_demand();
    }
    // A list without GPU demand would be repeated for ever.
    if base.iter().all(|pod| pod.gpu_demand() == 0) {
        return;
    }
    for extra in 0.. {
        if demand >= goal {
            return;
        }
        let mut pod = base[random.position(base.len())].clone();
        demand += pod.gpu_demand();
        if demand > goal {
            return;
        }
        pod.name = format!("{}-r{extra:05}", pod.name);
        pods.push(pod);
    }
}

/// The most frequent kinds of pod that together are 95 % of the list, each with its number.
pub(crate) fn usual_classes(pods: &[PodLine]) -> Vec<ClassLine> {
    let mut counts: BTreeMap<(u64, u32, u64, &[String]), u64> = BTreeMap::new();
    for pod in pods {
        let kind = (pod.cpu_milli, pod.num_gpu, pod.gpu_milli, pod.gpu_spec.as_slice());
        *counts.entry(kind).or_default() += 1;
    }
    let mut ranked: Vec<_> = counts.into_iter().collect();
    ranked.sort_by(|((cpu, gpus, milli, spec), count), (other, others)| {
        others
            .cmp(count)
            .then_with(|| (other.0, other.1, other.2).cmp(&(*cpu, *gpus, *milli)))
            .then_with(|| spec.cmp(&other.3))
    });
    let mut seen = 0_u64;
    let goal = pods.len() * USUAL_PERCENT;
    let usual = ranked.into_iter().take_while(|(_, count)| {
        let more = usize::try_from(seen * 100).is_ok_and(|seen| seen < goal);
        seen += count;
        more
    });
    usual
        .map(|((cpu_milli, num_gpu, gpu_milli, spec), weight)| ClassLine {
            cpu_milli,
            num_gpu,
            gpu_milli,
            gpu_spec: spec.to_vec(),
            weight,
        })
        .collect()
}

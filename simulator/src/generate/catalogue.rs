//! A cluster and its work where there is no list: kinds of node and pod that are common in the
//! field, with how often each is there. Changing a line changes every generated replay.

use super::lists::{Lists, capacity};
use crate::random::SplitMix64;
use crate::replay::{GPU_MILLI, NodeLine, PodLine};

/// A kind of node.
struct NodeKind {
    model: &'static str,
    gpus: u32,
    cores: u64,
    memory_gib: u64,
    /// Of a hundred nodes.
    weight: u64,
}

/// A kind of pod.
struct PodKind {
    gpus: u32,
    milli: u64,
    /// Per GPU, or in all where there is none.
    cores: u64,
    memory_gib: u64,
    /// Of a thousand pods.
    weight: u64,
}

const NODE_KINDS: [NodeKind; 6] = [
    NodeKind { model: "H100", gpus: 8, cores: 128, memory_gib: 1024, weight: 30 },
    NodeKind { model: "A100", gpus: 8, cores: 96, memory_gib: 768, weight: 25 },
    NodeKind { model: "V100", gpus: 8, cores: 64, memory_gib: 384, weight: 10 },
    NodeKind { model: "L40S", gpus: 4, cores: 64, memory_gib: 512, weight: 15 },
    NodeKind { model: "L4", gpus: 2, cores: 32, memory_gib: 128, weight: 10 },
    NodeKind { model: "T4", gpus: 2, cores: 48, memory_gib: 128, weight: 10 },
];

const POD_KINDS: [PodKind; 16] = [
    // Without GPU: 50.
    PodKind { gpus: 0, milli: 0, cores: 4, memory_gib: 8, weight: 30 },
    PodKind { gpus: 0, milli: 0, cores: 16, memory_gib: 64, weight: 20 },
    // A part of one: 200.
    PodKind { gpus: 1, milli: 100, cores: 2, memory_gib: 8, weight: 40 },
    PodKind { gpus: 1, milli: 200, cores: 2, memory_gib: 12, weight: 40 },
    PodKind { gpus: 1, milli: 250, cores: 3, memory_gib: 16, weight: 40 },
    PodKind { gpus: 1, milli: 300, cores: 4, memory_gib: 16, weight: 20 },
    PodKind { gpus: 1, milli: 400, cores: 4, memory_gib: 24, weight: 20 },
    PodKind { gpus: 1, milli: 500, cores: 4, memory_gib: 32, weight: 40 },
    // One: 600.
    PodKind { gpus: 1, milli: 1000, cores: 4, memory_gib: 16, weight: 150 },
    PodKind { gpus: 1, milli: 1000, cores: 8, memory_gib: 32, weight: 300 },
    PodKind { gpus: 1, milli: 1000, cores: 12, memory_gib: 64, weight: 100 },
    PodKind { gpus: 1, milli: 1000, cores: 16, memory_gib: 64, weight: 50 },
    // Several: 150.
    PodKind { gpus: 2, milli: 1000, cores: 8, memory_gib: 48, weight: 70 },
    PodKind { gpus: 4, milli: 1000, cores: 8, memory_gib: 48, weight: 45 },
    PodKind { gpus: 8, milli: 1000, cores: 8, memory_gib: 48, weight: 25 },
    PodKind { gpus: 8, milli: 1000, cores: 11, memory_gib: 64, weight: 10 },
];

/// `count` nodes, in kinds by their weights; with `devices`, every node has that many GPUs and CPU
/// and memory in proportion. Pods that together want the GPU of all of them.
pub(super) fn lists(count: usize, devices: Option<u32>, random: &mut SplitMix64) -> Lists {
    let nodes = nodes(count, devices);
    let widest = nodes.iter().map(|node| node.num_gpu).max().unwrap_or(0);
    let weights = POD_KINDS.map(|kind| if kind.gpus <= widest { kind.weight } else { 0 });
    let mut pods = Vec::new();
    let mut left = capacity(&nodes);
    loop {
        let kind = &POD_KINDS[random.weighted(&weights)];
        let demand = u64::from(kind.gpus) * kind.milli;
        if widest == 0 || demand > left {
            break;
        }
        left -= demand;
        pods.push(pod(pods.len(), kind));
    }
    Lists { nodes, pods }
}

/// Each kind gets its part of the whole, counted so that every beginning of the list is as close
/// to the weights as it can be.
fn nodes(count: usize, devices: Option<u32>) -> Vec<NodeLine> {
    let mut credit = [0_i64; NODE_KINDS.len()];
    let mut nodes = Vec::with_capacity(count);
    for number in 0..count {
        let mut best = 0;
        for (at, kind) in NODE_KINDS.iter().enumerate() {
            credit[at] += i64::try_from(kind.weight).unwrap_or(i64::MAX);
            if credit[at] > credit[best] {
                best = at;
            }
        }
        credit[best] -= 100;
        nodes.push(node(number, &NODE_KINDS[best], devices));
    }
    nodes
}

fn node(number: usize, kind: &NodeKind, devices: Option<u32>) -> NodeLine {
    let num_gpu = devices.unwrap_or(kind.gpus);
    let scaled = |amount: u64| amount * u64::from(num_gpu.max(1)) / u64::from(kind.gpus);
    NodeLine {
        name: format!("node-{number:05}"),
        cpu_milli: scaled(kind.cores * 1000),
        memory_mib: scaled(kind.memory_gib * 1024),
        num_gpu,
        gpu_model: (num_gpu > 0).then(|| kind.model.to_owned()),
    }
}

fn pod(number: usize, kind: &PodKind) -> PodLine {
    let times = u64::from(kind.gpus.max(1));
    debug_assert!(kind.milli <= GPU_MILLI, "a kind of the catalogue asks for more than a GPU");
    PodLine {
        name: format!("pod-{number:06}"),
        cpu_milli: kind.cores * times * 1000,
        memory_mib: kind.memory_gib * times * 1024,
        num_gpu: kind.gpus,
        gpu_milli: kind.milli,
        gpu_spec: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_of_the_catalogue_are_of_a_hundred_and_of_a_thousand() {
        assert_eq!(NODE_KINDS.iter().map(|kind| kind.weight).sum::<u64>(), 100);
        assert_eq!(POD_KINDS.iter().map(|kind| kind.weight).sum::<u64>(), 1000);
    }

    #[test]
    fn every_hundred_nodes_hold_each_kind_by_its_weight() {
        let nodes = nodes(200, None);
        for kind in &NODE_KINDS {
            let of_kind = |node: &&NodeLine| node.gpu_model.as_deref() == Some(kind.model);
            let found = nodes[..100].iter().filter(of_kind).count();
            assert_eq!(u64::try_from(found), Ok(kind.weight), "{}", kind.model);
        }
    }

    #[test]
    fn a_number_of_devices_scales_cpu_and_memory_along() {
        let nodes = nodes(10, Some(16));
        assert!(nodes.iter().all(|node| node.num_gpu == 16));
        let h100 = nodes.iter().find(|node| node.gpu_model.as_deref() == Some("H100")).unwrap();
        assert_eq!((h100.cpu_milli, h100.memory_mib), (256_000, 2048 * 1024));
    }
}

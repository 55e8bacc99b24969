//! Sessions that wait and never run: for a model that one session holds for ever, or for a little
//! more than any node ever has free.

use super::SpeedOptions;
use crate::replay::{NodeLine, PodLine};

/// The model of the one node that is held by one session for ever: who waits for it waits for ever.
pub(super) const RARE_MODEL: &str = "rare";
pub(super) const RARE_GPUS: u32 = 8;

/// What is held on every node for ever, so that none is ever quite empty.
const KEPT_CPU_MILLI: u64 = 4_000;
const KEPT_MEMORY_MIB: u64 = 16 * 1024;
const KEPT_GPU_MILLI: u64 = 100;

/// The node with the rare model.
pub(super) fn rare_node() -> NodeLine {
    NodeLine {
        name: "rare".to_owned(),
        cpu_milli: 64_000,
        memory_mib: 512 * 1024,
        num_gpu: RARE_GPUS,
        gpu_model: Some(RARE_MODEL.to_owned()),
    }
}

/// Who holds all of it.
pub(super) fn rare_holder() -> PodLine {
    rare(RARE_GPUS, 1000)
}

/// Who holds a little of every node, one for each.
pub(super) fn kept() -> PodLine {
    PodLine {
        name: String::new(),
        cpu_milli: KEPT_CPU_MILLI,
        memory_mib: KEPT_MEMORY_MIB,
        num_gpu: 1,
        gpu_milli: KEPT_GPU_MILLI,
        gpu_spec: Vec::new(),
    }
}

/// The pods that wait, in as many kinds as `options` say.
pub(super) fn pods(options: &SpeedOptions, nodes: &[NodeLine]) -> Vec<PodLine> {
    let kinds = options.kinds.max(1);
    let made = |number: usize| {
        let kind = u32::try_from(number % kinds).unwrap_or(u32::MAX);
        if options.near {
            near(kind, nodes)
        } else {
            rare(1 + kind % 8, 1000 + u64::from(kind / 8))
        }
    };
    (0..options.waiting).map(made).collect()
}

fn rare(num_gpu: u32, cpu_milli: u64) -> PodLine {
    let gpu_spec = vec![RARE_MODEL.to_owned()];
    PodLine { name: String::new(), cpu_milli, memory_mib: 1024, num_gpu, gpu_milli: 1000, gpu_spec }
}

/// All GPUs of a node, or a part of them with all its CPU, or with all its memory, but for a little
/// that makes it another kind.
fn near(kind: u32, nodes: &[NodeLine]) -> PodLine {
    let most = |of: fn(&NodeLine) -> u64| nodes.iter().map(of).max().unwrap_or(0);
    let gpus = nodes.iter().map(|node| node.num_gpu).max().unwrap_or(1);
    let step = kind / 3;
    let some = 1 + step % gpus.saturating_sub(1).max(1);
    let little = u64::from(step / gpus);
    let (num_gpu, cpu_milli, memory_mib) = match kind % 3 {
        0 => (gpus, 1000 + u64::from(step), 1024),
        1 => (some, most(|node| node.cpu_milli).saturating_sub(little), 1024),
        _ => (some, 1000, most(|node| node.memory_mib).saturating_sub(little)),
    };
    let (name, gpu_spec) = (String::new(), Vec::new());
    PodLine { name, cpu_milli, memory_mib, num_gpu, gpu_milli: 1000, gpu_spec }
}

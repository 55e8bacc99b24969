//! How long one decision takes: `cargo bench -p fgpu-domain --bench decisions [-- POLICY]`.
//!
//! A cluster of equal nodes is filled with a mix of requests, then kept at that level: sessions
//! end at random, new ones are placed until the level is reached again. Timed is one decision with
//! its resources being taken; releases are not. One thread.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]

use fgpu_domain::ids::{DeviceUuid, NodeName};
use fgpu_domain::placement::{
    Allocation, DeviceView, NodeState, NodeView, Placer, Policy, Request, View,
};
use fgpu_domain::slice::{GpuAmount, GpuRequest, Isolation, UnitPolicy};
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

const DEVICES: u32 = 8;
const DECISIONS: usize = 100_000;

fn main() {
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let policy = named.map_or(Policy::default(), |name| name.parse().unwrap());
    println!("{policy}: decisions/s, p50, p99, slowest in microseconds");
    for nodes in [1_250, 5_000, 20_000] {
        for percent in [50, 90, 99] {
            measure(policy, nodes, percent);
        }
    }
}

/// A small generator: the same requests on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

fn measure(policy: Policy, nodes: u32, percent: u64) {
    let mut view = View::new(Fgpu(100));
    for at in 0..nodes {
        view.insert(node(at)).unwrap();
    }
    let capacity = u64::from(nodes) * u64::from(DEVICES) * 1000;
    let (mut random, mut placer) = (Random(7), Placer::new(policy, 7));
    let (mut running, mut held) = (Vec::<(Request, fgpu_domain::slice::Grant, u64)>::new(), 0);
    let mut times: Vec<Duration> = Vec::with_capacity(DECISIONS);
    let (mut misses, mut filled) = (0_u64, false);
    while times.len() < DECISIONS {
        let full = held * 100 >= capacity * percent || misses > 50;
        if full {
            filled = true;
            misses = 0;
            for _ in 0..(running.len() / 100).max(1) {
                let at = usize::try_from(random.below(running.len() as u64)).unwrap();
                let (request, grant, milli) = running.swap_remove(at);
                view.release(&grant.node, &Allocation::of(&request, &grant)).unwrap();
                held -= milli;
            }
        }
        let (request, milli) = request(&mut random);
        placer.arrived(&request);
        let start = Instant::now();
        let found = placer.find(&request, &view);
        if let Some(placement) = &found {
            let allocation = Allocation::of(&request, &placement.grant);
            view.allocate(&placement.grant.node, &allocation).unwrap();
        }
        let took = start.elapsed();
        match found {
            Some(placement) => {
                held += milli;
                running.push((request, placement.grant, milli));
            }
            None => misses += 1,
        }
        if filled {
            times.push(took);
        }
    }
    times.sort_unstable();
    let all: Duration = times.iter().sum();
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    println!(
        "{nodes:>6} nodes x {DEVICES}, {percent} % full: {:>8.0}/s  p50 {:>6.1}  p99 {:>6.1}  slowest {:>7.1}  (held {:.1} %)",
        times.len() as f64 / all.as_secs_f64(),
        micros(times.len() / 2),
        micros(times.len() * 99 / 100),
        micros(times.len() - 1),
        held as f64 * 100.0 / capacity as f64,
    );
}

/// 60 % one GPU, 20 % fractions of 0.1 to 0.5, 15 % 2 to 8 GPUs, 5 % members of a gang with one
/// each; CPU and memory vary.
fn request(random: &mut Random) -> (Request, u64) {
    let whole = |count: u32| GpuAmount::Whole(NonZeroU32::new(count).unwrap());
    let (amount, milli) = match random.below(100) {
        0..60 | 95..100 => (whole(1), 1000),
        60..80 => {
            let tenths = 1 + random.below(5);
            (GpuAmount::Fgpu(Fgpu(tenths * 1000)), tenths * 100)
        }
        _ => {
            let count = [2, 4, 8][usize::try_from(random.below(3)).unwrap()];
            (whole(count), u64::from(count) * 1000)
        }
    };
    let cores = (milli * [4, 8, 8, 12][random.below(4) as usize]).div_ceil(1000);
    let request = Request {
        cpu: CpuMilli::cores(cores),
        memory: MemoryBytes::gib(cores * [4, 8][random.below(2) as usize]),
        gpu: Some(GpuRequest::new(amount)),
        ..Request::default()
    };
    (request, milli)
}

fn node(at: u32) -> NodeView {
    let model = "NVIDIA H100 80GB HBM3";
    let units = UnitPolicy::default().units_of(model, MemoryBytes::gib(80));
    let device = |index: u32| DeviceView {
        uuid: DeviceUuid::new(format!("GPU-{at}-{index}")).unwrap(),
        index,
        model: model.to_owned(),
        units,
        free: units.whole(),
        blocked: None,
        numa_node: Some(index / 4),
        nvlink_peers: Vec::new(),
        sessions: 0,
    };
    NodeView {
        name: NodeName::new(format!("n{at}")).unwrap(),
        state: NodeState::Ready,
        labels: BTreeMap::new(),
        cpu_total: CpuMilli::cores(128),
        cpu_free: CpuMilli::cores(128),
        memory_total: MemoryBytes::gib(1024),
        memory_free: MemoryBytes::gib(1024),
        devices: (0..DEVICES).map(device).collect(),
        allow_shared: false,
        enforcers: vec![Isolation::Driver],
    }
}

//! Decisions of the default policy on large clusters that are kept half full and almost full:
//! `cargo bench -p fgpu-simulator [-- FILTER]`.
//!
//! `fgpu simulate speed` measures the same and tells percentiles.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fgpu_domain::placement::Policy;
use fgpu_simulator::{PlacementBench, SpeedOptions};
use std::time::Duration;

const DEVICES: u32 = 8;
const FILLS: [u32; 2] = [50, 99];

fn placement(criterion: &mut Criterion) {
    for nodes in [5_000, 20_000] {
        let mut group = criterion.benchmark_group(format!("placement-{nodes}x{DEVICES}"));
        group.throughput(Throughput::Elements(1)).sample_size(10);
        for fill in FILLS {
            let policy = Policy::default();
            // Filling takes longer than measuring: it is done only where it is asked for.
            let mut bench: Option<PlacementBench> = None;
            group.bench_function(BenchmarkId::new(policy.name(), fill), |bencher| {
                let bench = bench.get_or_insert_with(|| {
                    let mut bench = PlacementBench::new(&SpeedOptions::of(nodes, DEVICES)).unwrap();
                    bench.fill(fill).unwrap();
                    bench
                });
                bencher.iter_custom(|count| {
                    (0..count).map(|_| bench.decide(fill).unwrap()).sum::<Duration>()
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, placement);
criterion_main!(benches);

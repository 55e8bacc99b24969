//! What room kept for the first of the queue is worth, to whom, and what it costs.

use super::tests::report_of;
use super::*;
use crate::random::SplitMix64;

const NODES: u64 = 4;
/// GPUs of a node.
const GPUS: u64 = 4;
const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
/// For how long pods arrive.
const ARRIVING_S: u64 = 12 * HOUR_S;
/// What pods run on average.
const MEAN_RUN_S: u64 = 30 * MINUTE_S;
/// How much less GPU may be given out while pods arrive, points of percent.
const MARGIN_PCT: f64 = 1.0;

/// Pods of one kind: its name, members, GPUs of each, and the part of all GPU time they ask for,
/// percent.
type Asked = (&'static str, u64, u64, u64);

/// Two thirds of the load in single GPUs, one third in what is large: 90 % in all.
const ASKED: [Asked; 3] = [("one", 1, 1, 60), ("node", 1, GPUS, 15), ("gang", 2, GPUS, 15)];

/// Pods that run from ten minutes to fifty and say so, with half as much again to spare.
fn replay(seed: u64) -> String {
    let mut lines = vec![r#"{"kind":"replay","version":2,"name":"large and small"}"#.to_owned()];
    for node in 0..NODES {
        lines.push(format!(
            r#"{{"kind":"node","name":"n{node}","cpu_milli":64000,"memory_mib":65536,"num_gpu":{GPUS},"gpu_model":"A"}}"#
        ));
    }
    let mut random = SplitMix64::new(seed);
    let mut pods: Vec<(u64, String)> = Vec::new();
    for (kind, size, gpus, load_pct) in ASKED {
        let count = NODES * GPUS * ARRIVING_S * load_pct / 100 / (size * gpus * MEAN_RUN_S);
        for number in 0..count {
            let arrival = random.below(ARRIVING_S);
            let run = 10 * MINUTE_S + random.below(40 * MINUTE_S);
            let limit = run * 3 / 2;
            pods.push((arrival, format!(
                r#"{{"kind":"pod","name":"{kind}-{number}","cpu_milli":1000,"memory_mib":1024,"num_gpu":{gpus},"gpu_milli":1000,"size":{size},"arrival_s":{arrival},"duration_s":{run},"time_limit_s":{limit}}}"#
            )));
        }
    }
    pods.sort();
    lines.extend(pods.into_iter().map(|(_, line)| line));
    lines.join("\n") + "\n"
}

/// The mean wait of what is large, milliseconds, and GPU given out while pods arrive, percent.
fn large(report: &QueueReport) -> (f64, f64) {
    let kinds = ["gang", "multi_gpu"].map(|kind| report.wait.by_kind[kind]);
    let waited: u64 = kinds.iter().map(|kind| kind.mean_ms * kind.count).sum();
    let count: u64 = kinds.iter().map(|kind| kind.count).sum();
    assert!(count >= 20, "{count} is too few to tell");
    (waited as f64 / count as f64, report.while_arriving.gpu_pct)
}

#[test]
fn what_is_large_waits_for_less_where_room_is_kept_and_hardly_less_is_given_out() {
    for seed in [1, 2] {
        let text = replay(seed);
        let ran = |no_reservations| {
            let options = QueueOptions { no_reservations, ..QueueOptions::default() };
            large(&report_of(&text, options).unwrap())
        };
        let ((with, given), (without, given_without)) = (ran(false), ran(true));
        assert!(with < without, "seed {seed}: waits of {with} ms, and of {without} ms without");
        assert!(given > given_without - MARGIN_PCT, "seed {seed}: {given} %, {given_without} %");
    }
}

//! What a run comes to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::board::Board;
use super::cluster::ClusterBenchArgs;
use super::measure::{StoreCounts, Usage, percentile};
use crate::output::Table;

/// How everything stood at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at_us: u64,
    pub(crate) bound: usize,
    pub(crate) ended: usize,
    /// Thousandths of the cluster held, and held or waited for.
    pub(crate) fill: (u64, u64),
    pub(crate) manager: Usage,
    pub(crate) etcd: Usage,
    pub(crate) bench: Usage,
    pub(crate) store: StoreCounts,
}

/// The figures of one run, of its middle eight tenths where nothing else is said.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunReport {
    nodes: usize,
    sessions: usize,
    containers: usize,
    seconds: f64,
    sessions_per_second: f64,
    containers_per_second: f64,
    submit_to_bound_p50_us: u64,
    submit_to_bound_p99_us: u64,
    /// CPU time per container placed.
    manager_cpu_us_per_placement: f64,
    etcd_cpu_us_per_placement: f64,
    bench_cpu_us_per_placement: f64,
    /// Of the whole run.
    manager_peak_kib: u64,
    /// Of each session from create to forgotten, the marks of transactions included.
    store_puts_per_life: f64,
    store_deletes_per_life: f64,
    store_keys_per_transaction: f64,
    store_transactions_per_second: f64,
    store_fsync_mean_us: f64,
    /// Thousandths of the cluster, second by second, over the whole run.
    fill_milli: Vec<u64>,
    fill_milli_min: u64,
    fill_milli_max: u64,
}

/// Everything a command reports.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    mix: String,
    seed: u64,
    rate: Option<u64>,
    gangs_as_single_sessions: bool,
    batched: RunReport,
    unbatched: Option<RunReport>,
    group_commit_gain: Option<f64>,
}

impl RunReport {
    /// The figures of the containers from `first` on.
    pub(crate) fn new(board: &Board, first: usize, nodes: usize, samples: &[Sample]) -> Self {
        let times = board.times(first);
        let (from, to) = middle(times.iter().map(|(_, _, bound)| *bound).collect());
        let within = |at: u64| (from..=to).contains(&at);
        let mut latencies: Vec<u64> = times
            .iter()
            .filter(|(_, _, bound)| within(*bound))
            .map(|(_, submitted, bound)| bound.saturating_sub(*submitted))
            .collect();
        latencies.sort_unstable();
        let seconds = to.saturating_sub(from).max(1) as f64 / 1e6;
        // A session is bound with the last of its containers.
        let mut sessions: BTreeMap<usize, u64> = BTreeMap::new();
        for (number, _, bound) in &times {
            let last = sessions.entry(board.containers()[*number].job).or_default();
            *last = (*last).max(*bound);
        }
        let in_middle = sessions.values().filter(|at| within(**at)).count();
        let inside: Vec<&Sample> = samples.iter().filter(|sample| within(sample.at_us)).collect();
        let ends = match inside.as_slice() {
            [first, .., last] => (**first, **last),
            _ => (samples[0], samples[samples.len() - 1]),
        };
        let fill = |sample: &&Sample| sample.fill.0;
        Self {
            nodes,
            sessions: sessions.len(),
            containers: times.len(),
            seconds,
            sessions_per_second: in_middle as f64 / seconds,
            containers_per_second: latencies.len() as f64 / seconds,
            submit_to_bound_p50_us: percentile(&latencies, 50),
            submit_to_bound_p99_us: percentile(&latencies, 99),
            manager_peak_kib: samples.iter().map(|s| s.manager.peak_kib).max().unwrap_or(0),
            fill_milli: samples.iter().map(|sample| sample.fill.0).collect(),
            fill_milli_min: inside.iter().map(fill).min().unwrap_or(0),
            fill_milli_max: inside.iter().map(fill).max().unwrap_or(0),
            ..Self::between(ends)
        }
    }

    /// What follows from two samples.
    fn between((first, last): (Sample, Sample)) -> Self {
        let placed = last.bound.saturating_sub(first.bound).max(1) as f64;
        let lives = (placed + last.ended.saturating_sub(first.ended) as f64) / 2.0;
        let cpu = |of: fn(&Sample) -> Usage| {
            let spent = of(&last).cpu_ms.saturating_sub(of(&first).cpu_ms);
            spent as f64 * 1000.0 / placed
        };
        let store = last.store.since(first.store);
        let seconds = last.at_us.saturating_sub(first.at_us).max(1) as f64 / 1e6;
        let keys = store.puts + store.deletes;
        Self {
            nodes: 0,
            sessions: 0,
            containers: 0,
            seconds,
            sessions_per_second: 0.0,
            containers_per_second: 0.0,
            submit_to_bound_p50_us: 0,
            submit_to_bound_p99_us: 0,
            manager_cpu_us_per_placement: cpu(|sample| sample.manager),
            etcd_cpu_us_per_placement: cpu(|sample| sample.etcd),
            bench_cpu_us_per_placement: cpu(|sample| sample.bench),
            manager_peak_kib: 0,
            store_puts_per_life: store.puts / lives.max(1.0),
            store_deletes_per_life: store.deletes / lives.max(1.0),
            store_keys_per_transaction: keys / store.proposals.max(1.0),
            store_transactions_per_second: store.proposals / seconds,
            store_fsync_mean_us: store.fsync_seconds * 1e6 / store.fsyncs.max(1.0),
            fill_milli: Vec::new(),
            fill_milli_min: 0,
            fill_milli_max: 0,
        }
    }
}

/// The first and last moment without the first and the last tenth of them.
fn middle(mut moments: Vec<u64>) -> (u64, u64) {
    moments.sort_unstable();
    let tenth = moments.len() / 10;
    let from = moments.get(tenth).copied().unwrap_or(0);
    let to = moments.len().checked_sub(tenth + 1).and_then(|at| moments.get(at)).copied();
    (from, to.unwrap_or(from))
}

impl Report {
    pub(crate) fn new(
        args: &ClusterBenchArgs,
        batched: RunReport,
        unbatched: Option<RunReport>,
    ) -> Self {
        let gain = unbatched
            .as_ref()
            .filter(|run| run.containers_per_second > 0.0)
            .map(|run| batched.containers_per_second / run.containers_per_second);
        Self {
            mix: args.mix.to_string(),
            seed: args.seed,
            rate: args.rate,
            gangs_as_single_sessions: args.loose_gangs,
            batched,
            unbatched,
            group_commit_gain: gain,
        }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new(&["FIGURE", "GROUP COMMIT", "ONE BY ONE"]);
        let mut row = |name: &str, value: fn(&RunReport) -> String| {
            let other = self.unbatched.as_ref().map(value).unwrap_or_default();
            table.row([name.to_owned(), value(&self.batched), other]);
        };
        row("nodes", |run| run.nodes.to_string());
        row("sessions (containers)", |run| format!("{} ({})", run.sessions, run.containers));
        row("measured", |run| format!("{:.1} s", run.seconds));
        row("sessions placed", |run| format!("{:.0}/s", run.sessions_per_second));
        row("containers placed", |run| format!("{:.0}/s", run.containers_per_second));
        row("submit to bound, p50", |run| millis(run.submit_to_bound_p50_us));
        row("submit to bound, p99", |run| millis(run.submit_to_bound_p99_us));
        row("manager CPU a placement", |run| micros(run.manager_cpu_us_per_placement));
        row("etcd CPU a placement", |run| micros(run.etcd_cpu_us_per_placement));
        row("bench CPU a placement", |run| micros(run.bench_cpu_us_per_placement));
        row("manager memory, peak", |run| format!("{} MiB", run.manager_peak_kib / 1024));
        row("keys put a session life", |run| format!("{:.2}", run.store_puts_per_life));
        row("keys deleted a session life", |run| format!("{:.2}", run.store_deletes_per_life));
        row("keys a transaction", |run| format!("{:.1}", run.store_keys_per_transaction));
        row("transactions", |run| format!("{:.0}/s", run.store_transactions_per_second));
        row("etcd fsync, mean", |run| micros(run.store_fsync_mean_us));
        row("cluster full", |run| {
            format!("{} to {} %", run.fill_milli_min / 10, run.fill_milli_max / 10)
        });
        let mut text = table.render();
        if let Some(gain) = self.group_commit_gain {
            text.push_str(&format!("group commit places {gain:.1} times as many\n"));
        }
        text.push_str(&format!("mix {}, seed {}\n", self.mix, self.seed));
        if self.gangs_as_single_sessions {
            text.push_str("containers of a gang are submitted as single sessions with one label\n");
        }
        text
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

fn micros(micros: f64) -> String {
    format!("{micros:.0} µs")
}

#[cfg(test)]
mod tests {
    use super::super::mix::Mix;
    use super::*;

    #[test]
    fn the_first_and_last_tenth_are_left_out() {
        assert_eq!(middle((0..100).rev().collect()), (10, 89));
        assert_eq!(middle(vec![5]), (5, 5));
        assert_eq!(middle(Vec::new()), (0, 0));
    }

    fn sample(at_us: u64, bound: usize, puts: f64, cpu_ms: u64) -> Sample {
        let manager = Usage { cpu_ms, peak_kib: 2048, ..Usage::default() };
        Sample {
            at_us,
            bound,
            ended: bound,
            fill: (800, 850),
            manager,
            etcd: Usage::default(),
            bench: Usage::default(),
            store: StoreCounts { puts, proposals: puts / 100.0, ..StoreCounts::default() },
        }
    }

    #[test]
    fn rates_are_of_the_middle_and_costs_are_per_placement() {
        let board = Board::new("one=100".parse::<Mix>().unwrap().generate(100, 1), 100_000);
        for number in 0..100 {
            board.submitted(number, 0);
            board.bound(number);
        }
        let end = board.now_us() + 1;
        let samples = [sample(0, 0, 0.0, 0), sample(end, 100, 400.0, 10)];

        let report = RunReport::new(&board, 0, 13, &samples);

        assert_eq!((report.containers, report.sessions, report.nodes), (100, 100, 13));
        assert!((report.store_puts_per_life - 4.0).abs() < 1e-9);
        assert!((report.store_keys_per_transaction - 100.0).abs() < 1e-9);
        assert!((report.manager_cpu_us_per_placement - 100.0).abs() < 1e-9);
        assert_eq!(report.manager_peak_kib, 2048);
        let whole = Report {
            mix: "one=100".to_owned(),
            seed: 1,
            rate: None,
            gangs_as_single_sessions: true,
            batched: report.clone(),
            unbatched: Some(report),
            group_commit_gain: Some(1.0),
        };
        assert!(whole.table().contains("group commit places 1.0 times"), "{}", whole.table());
    }
}

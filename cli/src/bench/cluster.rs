//! `fgpu bench cluster`: a manager under a mix of sessions.
//!
//! A run first fills the cluster, then submits the sessions that are measured. What the first and
//! the last tenth of them do is left out. Before it, a short run of the same kind has a manager that
//! commits every change by itself, one after the other, so that what committing in groups gives can be
//! seen beside it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::{Channel, Endpoint};

use super::board::Board;
use super::load::Load;
use super::measure::{StoreCounts, Usage};
use super::mix::Mix;
use super::node::Node;
use super::report::{Report, RunReport, Sample};
use super::stage::{Etcd, Manager, ManagerOptions, folder};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Nodes that share a connection; a manager takes 256 streams on one.
const NODES_PER_CONNECTION: usize = 200;
/// How full the cluster is kept, thousandths.
const TARGET: u64 = 800;
/// How full it is before measuring begins.
const WARM: u64 = 700;
/// How often the clock of containers goes on.
const STEP: Duration = Duration::from_millis(20);
/// Within this time a fill beside the target is corrected.
const CORRECTION: f64 = 5.0;
/// The longest mean length of a container while something waits, seconds.
const SLOWEST: f64 = 60.0;
const SAMPLE: Duration = Duration::from_secs(1);
/// How long nothing may be placed before the run is given up.
const STUCK: Duration = Duration::from_secs(60);

/// `fgpu bench cluster`
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterBenchArgs {
    /// Simulated nodes
    #[arg(long, value_name = "COUNT", default_value_t = 5_000)]
    nodes: usize,
    /// Devices of each node
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    devices: u32,
    /// Sessions to submit and measure; a gang counts as one
    #[arg(long, value_name = "COUNT", default_value_t = 50_000)]
    sessions: usize,
    /// Shares of the kinds of session, percent
    #[arg(long, value_name = "KIND=PERCENT,…", default_value_t = Mix::default())]
    pub(super) mix: Mix,
    /// What the mix is drawn from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(super) seed: u64,
    /// Submit so many containers a second instead of as fast as the manager answers
    #[arg(long, value_name = "PER-SECOND")]
    pub(super) rate: Option<u64>,
    /// Submit the containers of a gang as single sessions with one label instead of with its size
    #[arg(long)]
    pub(super) loose_gangs: bool,
    /// Calls on their way at a time
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    concurrency: usize,
    /// Connections that submit
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    connections: usize,
    /// Use this etcd instead of starting one
    #[arg(long, value_name = "URLS")]
    etcd_endpoints: Option<String>,
    /// Seconds of the first run, without group commit, once the cluster is filled; 0: none
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    unbatched_seconds: u64,
    /// How to print the figures: `table` for people, `json` for programs
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// As `--output json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// What a run is.
struct Run {
    nodes: usize,
    sessions: usize,
    /// Ends by itself after this long.
    limit: Option<Duration>,
    manager: ManagerOptions,
}

/// A cluster whose nodes are connected.
struct Cluster {
    manager: Manager,
    board: Arc<Board>,
    agents: JoinSet<()>,
    clock: JoinHandle<()>,
}

/// Runs `fgpu bench cluster`.
pub(crate) async fn run(args: ClusterBenchArgs) -> Result<(), Failure> {
    check(&args)?;
    let folder = folder()?;
    let etcd = match &args.etcd_endpoints {
        Some(endpoints) => Etcd::at(endpoints.clone()),
        None => Etcd::start(folder.path()).await?,
    };
    let unbatched = if args.unbatched_seconds > 0 {
        let manager = ManagerOptions::new("/fgpu-bench/unbatched/")?
            .with("FGPU_BENCH_MAX_BATCH", 1)
            .with("FGPU_BENCH_IN_FLIGHT", 1);
        let run = Run {
            nodes: args.nodes,
            sessions: args.sessions,
            limit: Some(Duration::from_secs(args.unbatched_seconds)),
            manager,
        };
        output::say("without group commit:");
        Some(
            measure(&ClusterBenchArgs { rate: None, ..args.clone() }, &etcd, folder.path(), run)
                .await?,
        )
    } else {
        None
    };
    let run = Run {
        nodes: args.nodes,
        sessions: args.sessions,
        limit: None,
        manager: ManagerOptions::new("/fgpu-bench/cluster/")?,
    };
    output::say("with group commit:");
    let batched = measure(&args, &etcd, folder.path(), run).await?;
    let report = Report::new(&args, batched, unbatched);
    match args.output {
        Format::Json => output::json(&report),
        Format::Table if args.json => output::json(&report),
        Format::Table => output::text(report.table()),
    }
}

fn check(args: &ClusterBenchArgs) -> Result<(), Failure> {
    let counts = [
        ("--nodes", args.nodes),
        ("--sessions", args.sessions),
        ("--concurrency", args.concurrency),
        ("--connections", args.connections),
        ("--rate", args.rate.map_or(1, |rate| usize::try_from(rate).unwrap_or(usize::MAX))),
        ("--devices", usize::try_from(args.devices).unwrap_or(usize::MAX)),
    ];
    match counts.iter().find(|(_, count)| *count == 0) {
        Some((flag, _)) => Err(Failure::usage(format!("{flag} 0 measures nothing"))),
        None => Ok(()),
    }
}

/// One run from an empty cluster to its figures.
async fn measure(
    args: &ClusterBenchArgs,
    etcd: &Etcd,
    folder: &Path,
    run: Run,
) -> Result<RunReport, Failure> {
    let capacity = u64::try_from(run.nodes).unwrap_or(u64::MAX) * u64::from(args.devices) * 1000;
    let mut containers = warm_containers(args, capacity);
    let first = containers.len();
    let jobs = args.mix.generate(run.sessions, args.seed);
    containers.extend(jobs.into_iter().map(|mut container| {
        container.job += first;
        container
    }));
    let board = Arc::new(Board::new(containers, capacity));
    let folder = folder.join(run.manager.prefix.replace('/', "-"));
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::because("cannot make a temporary folder", &error))?;
    let manager = Manager::start(&folder, etcd, &run.manager).await?;
    let mut cluster = Cluster::connect(args, run.nodes, manager, Arc::clone(&board)).await?;
    let load = load(args, &cluster.manager).await?;
    if first > 0 {
        let fill = Load { rate: None, ..load.clone() };
        cluster.drive(etcd, fill.submit(&board, 0..first, || false), first, None).await?;
    }
    let total = board.containers().len();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let submitting = load.submit(&board, first..total, move || stopped.load(Ordering::Relaxed));
    let samples =
        cluster.drive(etcd, submitting, total, run.limit.map(|limit| (limit, stop))).await?;
    let report = RunReport::new(&board, first, run.nodes, &samples);
    cluster.end();
    Ok(report)
}

/// Sessions that fill the cluster before measuring begins.
fn warm_containers(args: &ClusterBenchArgs, capacity: u64) -> Vec<super::mix::Container> {
    let jobs = usize::try_from(capacity / 1000).unwrap_or(usize::MAX);
    let mut containers = args.mix.generate(jobs, args.seed.wrapping_add(0x5eed));
    let mut held = 0;
    let enough = containers.iter().position(|container| {
        held += container.milli;
        held * 1000 / capacity.max(1) >= WARM
    });
    containers.truncate(enough.unwrap_or(containers.len()));
    containers
}

async fn connect(url: &str) -> Result<Channel, Failure> {
    let failed = |error: tonic::transport::Error| {
        Failure::because(format!("cannot connect to the manager at {url}"), &error)
    };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(failed)?;
    endpoint.tcp_nodelay(true).connect().await.map_err(failed)
}

async fn load(args: &ClusterBenchArgs, manager: &Manager) -> Result<Load, Failure> {
    let mut connections = Vec::new();
    for _ in 0..args.connections {
        connections.push(connect(&manager.url).await?);
    }
    Ok(Load {
        token: manager.token.as_str().into(),
        run: args.seed,
        connections,
        concurrency: args.concurrency,
        rate: args.rate,
        loose_gangs: args.loose_gangs,
    })
}

impl Cluster {
    /// Connects `nodes` nodes and waits until the manager knows each.
    async fn connect(
        args: &ClusterBenchArgs,
        nodes: usize,
        manager: Manager,
        board: Arc<Board>,
    ) -> Result<Self, Failure> {
        let begin = Instant::now();
        let token: Arc<str> = manager.agent_token.as_str().into();
        let (ready, mut readies) = mpsc::channel(64);
        let (mut agents, mut orders) = (JoinSet::new(), Vec::new());
        let mut channel = connect(&manager.url).await?;
        for number in 0..nodes {
            if number % NODES_PER_CONNECTION == NODES_PER_CONNECTION - 1 {
                channel = connect(&manager.url).await?;
            }
            let (order, ends) = mpsc::unbounded_channel();
            orders.push(order);
            let node = Node { number, devices: args.devices, board: Arc::clone(&board), ends };
            let (channel, token) = (channel.clone(), Arc::clone(&token));
            let (ready, board) = (ready.clone(), Arc::clone(&board));
            agents.spawn(async move {
                if let Err(status) = node.run(channel, token, ready).await {
                    board.lost_nodes.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(number, %status, "a node has lost its manager");
                }
            });
        }
        drop(ready);
        for _ in 0..nodes {
            if readies.recv().await.is_none() {
                return Err(Failure::new("not every node could connect"));
            }
        }
        output::say(format!(
            "  {nodes} nodes of {} devices connected in {:.1} s",
            args.devices,
            begin.elapsed().as_secs_f64()
        ));
        let clock = tokio::spawn(drive_clock(Arc::clone(&board), orders));
        Ok(Self { manager, board, agents, clock })
    }

    /// Lets `submitting` go on until all of `until` containers are bound, or the limit is reached;
    /// samples meanwhile.
    async fn drive(
        &mut self,
        etcd: &Etcd,
        submitting: impl Future<Output = Result<(), tonic::Status>>,
        until: usize,
        limit: Option<(Duration, Arc<AtomicBool>)>,
    ) -> Result<Vec<Sample>, Failure> {
        let (begin, before) = (Instant::now(), self.board.bound.load(Ordering::Relaxed));
        let mut samples = vec![self.sample(etcd).await?];
        let mut moved = Instant::now();
        let mut tick = tokio::time::interval(SAMPLE);
        tick.tick().await;
        tokio::pin!(submitting);
        let mut submitted = false;
        loop {
            tokio::select! {
                done = &mut submitting, if !submitted => {
                    done.map_err(|status| Failure::from(&status))?;
                    submitted = true;
                }
                _ = tick.tick() => {
                    self.check()?;
                    samples.push(self.sample(etcd).await?);
                    self.say_progress(&samples, until, begin);
                    if let [.., last, now] = samples.as_slice() && last.bound != now.bound {
                        moved = Instant::now();
                    }
                }
            }
            let over = limit.as_ref().filter(|(limit, _)| begin.elapsed() >= *limit);
            if let Some((_, stop)) = over {
                stop.store(true, Ordering::Relaxed);
                if submitted {
                    break;
                }
            }
            let bound = self.board.bound.load(Ordering::Relaxed);
            if bound >= until {
                break;
            }
            if moved.elapsed() > STUCK {
                let placed = bound - before;
                return Err(Failure::new(format!(
                    "nothing was placed for a minute, after {placed}"
                )));
            }
        }
        samples.push(self.sample(etcd).await?);
        Ok(samples)
    }

    fn check(&mut self) -> Result<(), Failure> {
        self.manager.check()?;
        match self.board.lost_nodes.load(Ordering::Relaxed) {
            0 => Ok(()),
            lost => Err(Failure::new(format!("{lost} nodes have lost their manager"))),
        }
    }

    async fn sample(&self, etcd: &Etcd) -> Result<Sample, Failure> {
        Ok(Sample {
            at_us: self.board.now_us(),
            bound: self.board.bound.load(Ordering::Relaxed),
            ended: self.board.ended.load(Ordering::Relaxed),
            fill: self.board.fill(),
            manager: Usage::of(self.manager.pid()),
            etcd: etcd.pid().map(Usage::of).unwrap_or_default(),
            bench: Usage::of(std::process::id()),
            store: StoreCounts::of(etcd.address()).await?,
        })
    }

    fn say_progress(&self, samples: &[Sample], until: usize, begin: Instant) {
        let [.., last, now] = samples else { return };
        let seconds = now.at_us.saturating_sub(last.at_us).max(1) as f64 / 1e6;
        let rate = now.bound.saturating_sub(last.bound) as f64 / seconds;
        let cores = now.manager.cpu_ms.saturating_sub(last.manager.cpu_ms) as f64 / 1e3 / seconds;
        output::say(format!(
            "  {:4.0} s  {:7} of {until} bound  {rate:6.0}/s  {:3} % full  manager {cores:.2} core, \
             {} MiB",
            begin.elapsed().as_secs_f64(),
            now.bound,
            now.fill.0 / 10,
            now.manager.resident_kib / 1024,
        ));
    }

    fn end(mut self) {
        self.clock.abort();
        self.agents.abort_all();
    }
}

/// Drives the clock of containers so that the cluster stays as full as it should be: as much ends
/// as starts, and a little more or less while the fill is beside the target.
async fn drive_clock(board: Arc<Board>, nodes: Vec<super::board::EndOrder>) {
    let mut tick = tokio::time::interval(STEP);
    let (mut last, mut bound, mut rate) = (board.now_us(), board.bound_milli(), 0.0);
    loop {
        tick.tick().await;
        let now = board.now_us();
        let seconds = now.saturating_sub(last) as f64 / 1e6;
        let newly = board.bound_milli();
        let weight = (seconds / 2.0).min(1.0);
        rate += weight * ((newly - bound) as f64 / seconds.max(1e-6) - rate);
        (last, bound) = (now, newly);
        let (fill, wanted) = board.fill();
        let step = clock_step(rate, fill, wanted > fill, board.capacity(), seconds);
        board.pass(step, &nodes);
    }
}

/// By how many millionths of their mean length containers get older in `seconds`, if `rate`
/// thousandths of a device are bound each second in a cluster that is `fill` thousandths full.
/// Whether something is `waiting` keeps time from standing still.
fn clock_step(rate: f64, fill: u64, waiting: bool, capacity: u64, seconds: f64) -> u64 {
    let held = (fill * capacity / 1000) as f64;
    let target = (TARGET * capacity / 1000) as f64;
    if held < target / 10.0 {
        return 0;
    }
    // What waits for several devices of one node waits for an end.
    let slowest = if waiting { held / SLOWEST } else { 0.0 };
    let should_end = rate * (held / target).powi(4) + (held - target).max(0.0) / CORRECTION;
    let should_end = should_end.max(slowest);
    // Far below the range of the type: it is a share of a second's worth.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let millionths = (should_end / held * seconds * 1e6).clamp(0.0, 1e6) as u64;
    millionths
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ClusterBenchArgs,
    }

    fn parsed(flags: &[&str]) -> ClusterBenchArgs {
        Line::parse_from([&["bench"], flags].concat()).args
    }

    #[test]
    fn a_run_that_measures_nothing_is_refused_by_the_flag() {
        assert_eq!(check(&parsed(&[])), Ok(()));
        for flag in ["--nodes", "--sessions", "--rate", "--devices"] {
            let refused = check(&parsed(&[flag, "0"])).unwrap_err();
            assert!(refused.fact.contains(flag), "{refused}");
        }
    }

    #[test]
    fn the_cluster_is_filled_before_measuring_and_not_beyond() {
        let args = parsed(&["--nodes", "100"]);
        let capacity = 800_000;
        let held: u64 = warm_containers(&args, capacity).iter().map(|c| c.milli).sum();
        assert!((650..=WARM).contains(&(held * 1000 / capacity)), "{held}");
    }

    #[test]
    fn as_much_ends_as_starts_at_the_target_and_more_above_it() {
        let ends = |fill| clock_step(1e6, fill, false, 40_000_000, 1.0) * fill * 40_000;
        let share = |fill| ends(fill) / 1_000_000;
        assert!(share(TARGET).abs_diff(1_000_000) < 1_000, "{}", share(TARGET));
        assert!(share(900) > 1_500_000, "{}", share(900));
        assert!(share(700) < 700_000, "{}", share(700));
        assert_eq!(share(50), 0);
        assert_eq!(clock_step(0.0, 700, false, 40_000_000, 1.0), 0);
        assert!(clock_step(0.0, 700, true, 40_000_000, 1.0) > 0, "what waits gets room one day");
    }
}

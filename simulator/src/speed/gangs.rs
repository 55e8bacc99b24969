//! Gangs on a large cluster: what deciding one takes, how it then lies, and what a plan takes that
//! keeps room for one that finds none.

use super::queue::Bench;
use super::{SpeedError, SpeedOptions};
use crate::queue::bridge::made;
use crate::replay::{JobLine, PodLine};
use crate::stopwatch::{Lap, Stopwatch};
use fgpu_domain::cluster::{Input, TOPOLOGY};
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::session::Arrangement;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// Nodes in a rack.
const RACK: usize = 16;
/// Members of gangs, and GPUs of each.
const GANGS: [(u32, u32); 6] = [(8, 1), (64, 1), (8, 8), (16, 8), (64, 8), (64, 2)];
/// Gangs of each kind.
const ROUNDS: usize = 20;
/// Longer than anything waits here.
const LATER_MS: u64 = 24 * 60 * 60 * 1000;

/// How fast gangs are decided.
#[derive(Debug, Clone, PartialEq)]
pub struct GangReport {
    /// Each kind of gang at each fill.
    pub kinds: Vec<GangKind>,
}

/// Gangs of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct GangKind {
    /// GPU given out before, percent.
    pub fill_pct: u32,
    /// Members.
    pub size: u32,
    /// GPUs of each member.
    pub gpus: u32,
    /// How they were to lie; `None`: nothing was said.
    pub arrangement: Option<Arrangement>,
    /// Gangs that found a place.
    pub placed: usize,
    /// Nodes and racks they lie on, on average.
    pub nodes: f64,
    /// Racks they lie in, on average.
    pub racks: f64,
    /// Wall time of a decision, on average.
    pub mean: Duration,
    /// The slowest.
    pub slowest: Duration,
}

/// Measures gangs at each fill of a cluster whose nodes carry the label of their rack.
///
/// # Errors
/// [`SpeedError`] when the cluster cannot be made or refuses what it should not.
pub fn gang_speed(options: &SpeedOptions) -> Result<GangReport, SpeedError> {
    let lists = options.source.lists()?;
    let mut bench = Bench::new(options, &lists);
    bench.register(&lists.nodes)?;
    for number in 0..lists.nodes.len() {
        let Ok(node) = NodeName::new(format!("n{number}")) else { continue };
        let rack = (TOPOLOGY[0].to_owned(), format!("r{}", number / RACK));
        bench.apply(Input::Labels { node, set: BTreeMap::from([rack]), remove: Vec::new() })?;
    }
    let mut kinds = Vec::new();
    for fill_pct in &options.fills {
        bench.fill(*fill_pct)?;
        for (size, gpus) in GANGS {
            for arrangement in [None, Some(Arrangement::Pack), Some(Arrangement::Spread)] {
                kinds.push(measure(&mut bench, *fill_pct, size, gpus, arrangement)?);
            }
        }
    }
    Ok(GangReport { kinds })
}

fn measure(
    bench: &mut Bench,
    fill_pct: u32,
    size: u32,
    gpus: u32,
    arrangement: Option<Arrangement>,
) -> Result<GangKind, SpeedError> {
    let (mut laps, mut nodes, mut racks, mut placed) = (Vec::new(), 0, 0, 0);
    for _ in 0..ROUNDS {
        let members = create(bench, size, gpus, arrangement.clone())?;
        let lap = bench.decide();
        let on = nodes_of(bench, &members);
        if !on.is_empty() {
            laps.push(lap);
            placed += 1;
            nodes += on.len();
            racks += on.iter().map(|node| node / RACK).collect::<BTreeSet<_>>().len();
        }
        for id in members {
            bench.drop_session(id)?;
        }
        bench.decide();
    }
    let count = placed.max(1);
    let total: Duration = laps.iter().map(|lap| lap.wall).sum();
    Ok(GangKind {
        fill_pct,
        size,
        gpus,
        arrangement,
        placed,
        nodes: nodes as f64 / count as f64,
        racks: racks as f64 / count as f64,
        mean: total / u32::try_from(count).unwrap_or(u32::MAX),
        slowest: laps.iter().map(|lap| lap.wall).max().unwrap_or_default(),
    })
}

/// What plans take that keep room for one gang of 64 whole nodes, one after each session that ends.
///
/// # Errors
/// [`SpeedError`] when the cluster cannot be made or refuses what it should not.
pub fn plan_speed(options: &SpeedOptions, limited: bool) -> Result<Vec<Duration>, SpeedError> {
    let lists = options.source.lists()?;
    let mut bench = Bench::new(options, &lists);
    bench.time_limit_ms = limited.then_some(LATER_MS);
    bench.register(&lists.nodes)?;
    for fill_pct in &options.fills {
        bench.fill(*fill_pct)?;
    }
    let members = create(&mut bench, 64, 8, None)?;
    bench.decide();
    debug_assert!(nodes_of(&bench, &members).is_empty(), "it is to find no room");
    let mut laps = Vec::new();
    for _ in 0..ROUNDS {
        bench.pass(Duration::from_millis(LATER_MS / 1000));
        bench.end_one()?;
        laps.push(bench.decide().wall);
    }
    Ok(laps)
}

fn create(
    bench: &mut Bench,
    size: u32,
    gpus: u32,
    arrangement: Option<Arrangement>,
) -> Result<Vec<SessionId>, SpeedError> {
    let pod = PodLine {
        name: String::new(),
        cpu_milli: 1000,
        memory_mib: 1024,
        num_gpu: gpus,
        gpu_milli: 1000,
        gpu_spec: Vec::new(),
    };
    let applied = bench.create_job(&JobLine { size, ..super::queue::job(&pod) }, arrangement)?;
    Ok(made(&applied))
}

/// The numbers of the nodes the members lie on.
fn nodes_of(bench: &Bench, members: &[SessionId]) -> BTreeSet<usize> {
    let sessions = members.iter().filter_map(|id| bench.cluster.session(id));
    let grants = sessions.filter_map(|session| session.phase.grant());
    grants.filter_map(|grant| crate::queue::bridge::number(&grant.node)).collect()
}

impl Bench {
    /// Looks at the queue.
    fn decide(&mut self) -> Lap {
        let start = Stopwatch::start();
        self.settle();
        start.stop()
    }

    /// Ends a member, placed or not.
    fn drop_session(&mut self, id: SessionId) -> Result<(), SpeedError> {
        let placed = self.cluster.session(&id).is_some_and(|it| it.phase.grant().is_some());
        if placed { self.end(id) } else { self.stop_if_there(id) }
    }
}

impl GangReport {
    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "  {:>6} {:>5} {:>5} {:>8} {:>7} {:>7} {:>7} {:>9} {:>11}\n",
            "fill%", "size", "GPUs", "wish", "placed", "nodes", "racks", "mean us", "slowest us"
        );
        for kind in &self.kinds {
            let wish = match &kind.arrangement {
                None => "-",
                Some(Arrangement::Pack) => "pack",
                Some(Arrangement::Spread | Arrangement::SpreadOver(_)) => "spread",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  {:>6} {:>5} {:>5} {:>8} {:>7} {:>7.1} {:>7.1} {:>9} {:>11}",
                kind.fill_pct,
                kind.size,
                kind.gpus,
                wish,
                kind.placed,
                kind.nodes,
                kind.racks,
                kind.mean.as_micros(),
                kind.slowest.as_micros()
            );
        }
        text
    }
}

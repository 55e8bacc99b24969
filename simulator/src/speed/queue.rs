//! The cluster the manager runs: a session ends, another is created, the queue is looked at, and
//! what changed is taken for the store. Every decision measured is all of that.

use super::pair::measure_pair;
use super::{Gauge, Measurement, SpeedError, SpeedOptions, SpeedReport, Stream, measure, waiting};
use crate::error::SimulateError;
use crate::generate::Lists;
use crate::queue::bridge::{Bridge, made, settings};
use crate::random::SplitMix64;
use crate::replay::{JobLine, NodeLine, PodLine};
use crate::stopwatch::{Lap, Stopwatch};
use fgpu_domain::cluster::{Applied, Cluster, Input};
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::session::{Arrangement, Report, ReportState};
use fgpu_domain::time::UnixMillis;
use std::time::Duration;

/// Sessions created before the queue is looked at while the cluster is filled.
const BATCH: usize = 64;
/// Of so many decisions that are measured by turns, one is made before.
const WARM_UP_PART: usize = 10;
/// Sessions in a row that find no place before a cluster counts as full.
const MOST_FAILURES: usize = 500;

pub(super) struct Bench {
    pub(super) cluster: Cluster,
    bridge: Bridge,
    stream: Stream,
    random: SplitMix64,
    gauge: Gauge,
    created: usize,
    held: Vec<(SessionId, u64)>,
    /// Moves on by what decisions take: what the cluster does every few seconds is done as often as
    /// it would be.
    now: UnixMillis,
    /// Time that is not yet a whole millisecond.
    elapsed: Duration,
    /// Of every session.
    pub(super) time_limit_ms: Option<u64>,
}

/// Measures decisions of the cluster at each fill; where sessions shall wait, by turns on one where
/// nothing waits and on one that is alike but for them.
///
/// # Errors
/// [`SpeedError`] when the cluster cannot be made or refuses what it should not.
pub fn queue_speed(options: &SpeedOptions) -> Result<SpeedReport, SpeedError> {
    let lists = options.source.lists()?;
    let (nodes, capacity) = (lists.nodes.len(), lists.capacity());
    let mut alone = Bench::ready(options, &lists)?;
    let mut measurements = Vec::new();
    if options.waiting == 0 {
        for fill_pct in &options.fills {
            alone.fill(*fill_pct)?;
            measurements.push(alone.measure(*fill_pct, options)?);
        }
    } else {
        let mut beside = Bench::ready(options, &lists)?;
        let pods = waiting::pods(options, &lists.nodes);
        for fill_pct in &options.fills {
            alone.fill(*fill_pct)?;
            beside.fill(*fill_pct)?;
            let waiting = beside.make_wait(&pods)?;
            // What the first that find no room bring about once is not what each costs.
            for _ in 0..options.decisions / WARM_UP_PART {
                alone.exchange(*fill_pct)?;
                beside.exchange(*fill_pct)?;
            }
            measurements.extend(alone.measure_with(&mut beside, *fill_pct, options)?);
            for id in waiting {
                beside.stop(id)?;
            }
        }
    }
    let policy = options.policy.to_string();
    Ok(SpeedReport { what: "queue", policy, nodes, gpus: capacity / 1000, measurements })
}

impl Bench {
    /// A cluster without nodes, and what comes to it.
    pub(super) fn new(options: &SpeedOptions, lists: &Lists) -> Self {
        Self {
            cluster: Cluster::new(settings(options.policy, options.seed)),
            bridge: Bridge::new(true),
            stream: Stream { pods: lists.pods.clone(), random: SplitMix64::new(options.seed) },
            random: SplitMix64::new(options.seed ^ 1),
            gauge: Gauge { capacity: lists.capacity(), used: 0 },
            created: 0,
            held: Vec::new(),
            now: UnixMillis(0),
            elapsed: Duration::ZERO,
            time_limit_ms: None,
        }
    }

    /// A cluster with all its nodes.
    fn ready(options: &SpeedOptions, lists: &Lists) -> Result<Self, SpeedError> {
        let mut bench = Self::new(options, lists);
        bench.register(&lists.nodes)?;
        if options.near {
            bench.keep(&lists.nodes)?;
        }
        Ok(bench)
    }

    pub(super) fn register(&mut self, nodes: &[NodeLine]) -> Result<(), SpeedError> {
        let rare = waiting::rare_node();
        for (node, number) in nodes.iter().chain([&rare]).zip(0..) {
            let name = |source| {
                let (line, node) = (0, node.name.clone());
                SimulateError::Name { line, node, source }
            };
            let input = self.bridge.register(number, node).map_err(name)?;
            self.apply(input)?;
        }
        self.create(&waiting::rare_holder())?;
        self.settle();
        Ok(())
    }

    /// Creates sessions in batches until the cluster is as full as it shall be.
    pub(super) fn fill(&mut self, fill_pct: u32) -> Result<(), SpeedError> {
        let mut failures = 0;
        while failures < MOST_FAILURES {
            let mut batch = Vec::with_capacity(BATCH);
            let mut more = 0;
            for _ in 0..BATCH {
                let pod = self.stream.next();
                if self.gauge.is_full(fill_pct, more + pod.gpu_demand()) {
                    break;
                }
                more += pod.gpu_demand();
                batch.extend(self.create(&pod)?.map(|id| (id, pod.gpu_demand())));
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.settle();
            for (id, demand) in batch {
                if !self.hold(id.clone(), demand) {
                    failures += 1;
                    self.stop(id)?;
                }
            }
        }
        Ok(())
    }

    /// Has a little of every node held for ever.
    fn keep(&mut self, nodes: &[NodeLine]) -> Result<(), SpeedError> {
        let pod = waiting::kept();
        for number in 0..nodes.len() {
            let mut input = self.bridge.create(self.created, &job(&pod))?;
            self.created += 1;
            if let Input::Create { spec, .. } = &mut input {
                spec.node = NodeName::new(format!("n{number}")).ok();
            }
            self.apply(input)?;
        }
        self.settle();
        Ok(())
    }

    /// Sessions that wait and cannot run.
    fn make_wait(&mut self, pods: &[PodLine]) -> Result<Vec<SessionId>, SpeedError> {
        let mut waiting = Vec::with_capacity(pods.len());
        for pod in pods {
            waiting.extend(self.create(pod)?);
        }
        self.settle();
        Ok(waiting)
    }

    fn measure(
        &mut self,
        fill_pct: u32,
        options: &SpeedOptions,
    ) -> Result<Measurement, SpeedError> {
        let measured = measure(options, fill_pct, || self.exchange(fill_pct))?;
        Ok(Measurement { alloc_pct: self.gauge.alloc_pct(), ..measured })
    }

    /// Measures by turns this one and one where sessions wait.
    fn measure_with(
        &mut self,
        beside: &mut Self,
        fill_pct: u32,
        options: &SpeedOptions,
    ) -> Result<[Measurement; 2], SpeedError> {
        let sides: [&mut dyn FnMut() -> _; 2] =
            [&mut || self.exchange(fill_pct), &mut || beside.exchange(fill_pct)];
        let ([without, with], cost) = measure_pair(options, fill_pct, sides)?;
        Ok([
            Measurement { alloc_pct: self.gauge.alloc_pct(), ..without },
            Measurement { alloc_pct: beside.gauge.alloc_pct(), waiting_costs: Some(cost), ..with },
        ])
    }

    /// Lets as many go as the next needs; measures the last of that and the next together.
    fn exchange(&mut self, fill_pct: u32) -> Result<(Lap, bool), SpeedError> {
        let pod = self.stream.next();
        let mut start = Stopwatch::start();
        while self.gauge.is_full(fill_pct, pod.gpu_demand()) && !self.held.is_empty() {
            self.settle();
            start = Stopwatch::start();
            let (id, demand) = self.held.swap_remove(self.random.position(self.held.len()));
            self.gauge.used -= demand;
            self.end(id)?;
        }
        let created = self.create(&pod)?;
        self.settle();
        let lap = start.stop();
        self.pass(lap.wall);
        let Some(id) = created else { return Ok((lap, false)) };
        let found = self.hold(id.clone(), pod.gpu_demand());
        if !found {
            self.stop(id)?;
        }
        Ok((lap, found))
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        let whole = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX);
        self.elapsed = self.elapsed.saturating_sub(Duration::from_millis(whole));
        self.now = self.now.plus(whole);
    }

    fn create(&mut self, pod: &PodLine) -> Result<Option<SessionId>, SpeedError> {
        let job = JobLine { time_limit_ms: self.time_limit_ms, ..job(pod) };
        Ok(made(&self.create_job(&job, None)?).into_iter().next())
    }

    pub(super) fn create_job(
        &mut self,
        job: &JobLine,
        arrangement: Option<Arrangement>,
    ) -> Result<Applied, SpeedError> {
        let mut input = self.bridge.create(self.created, job)?;
        self.created += 1;
        if let Input::Create { spec, .. } = &mut input {
            spec.arrangement = arrangement;
        }
        self.apply(input)
    }

    /// Ends one of those that hold a place.
    pub(super) fn end_one(&mut self) -> Result<(), SpeedError> {
        let (id, demand) = self.held.swap_remove(self.random.position(self.held.len()));
        self.gauge.used -= demand;
        self.end(id)
    }

    /// Gives up a session that waits, if it is still there.
    pub(super) fn stop_if_there(&mut self, id: SessionId) -> Result<(), SpeedError> {
        match self.cluster.session(&id).map(|session| session.is_over()) {
            None => Ok(()),
            Some(true) => self.apply(Input::Remove { id }).map(drop),
            Some(false) => self.stop(id),
        }
    }

    /// Looks at the queue, and takes what changed, as for the store.
    pub(super) fn settle(&mut self) {
        self.cluster.schedule(self.now);
        drop(self.cluster.take_changes());
    }

    /// Counts a session that has a place; `false` for one that waits.
    fn hold(&mut self, id: SessionId, demand: u64) -> bool {
        let session = self.cluster.session(&id);
        let placed = session.is_some_and(|session| session.phase.grant().is_some());
        if placed {
            self.gauge.used += demand;
            self.held.push((id, demand));
        }
        placed
    }

    /// Its agent reports that a session is gone; then its record goes.
    pub(super) fn end(&mut self, id: SessionId) -> Result<(), SpeedError> {
        let Some(session) = self.cluster.session(&id) else { return Ok(()) };
        let Some(node) = session.phase.grant().map(|grant| grant.node.clone()) else {
            return Ok(());
        };
        let generation = session.generation;
        let (code, message) = (String::new(), String::new());
        let state = ReportState::Gone { exit_code: Some(0), code, message };
        let report = Report { session: id.clone(), generation, state, grant: None };
        self.apply(Input::Reports { node, reports: vec![report], full: false })?;
        self.apply(Input::Remove { id })?;
        Ok(())
    }

    /// A person gives up a session that waits.
    fn stop(&mut self, id: SessionId) -> Result<(), SpeedError> {
        let reason = fgpu_domain::session::StopReason::Requested;
        self.apply(Input::Stop { id: id.clone(), reason, grace_ms: None })?;
        self.apply(Input::Remove { id })?;
        Ok(())
    }

    pub(super) fn apply(&mut self, input: Input) -> Result<Applied, SpeedError> {
        let applied = self.cluster.apply(input, self.now);
        let refused = |source| SimulateError::Input { source: Box::new(source) };
        applied.map_err(refused).map_err(SpeedError::from)
    }
}

pub(super) fn job(pod: &PodLine) -> JobLine {
    JobLine {
        pod: pod.clone(),
        arrival_ms: 0,
        duration_ms: None,
        time_limit_ms: None,
        priority: 0,
        class: None,
        project: None,
        user: None,
        size: 1,
    }
}

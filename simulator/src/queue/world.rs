//! The cluster in virtual time: events come in order, the domain decides, the agents obey at once.
//!
//! An agent here starts what it is told to in no time and stops it in no time. A session that lost
//! its place begins anew when it gets another. Whatever the domain decides is seen in the records
//! it changes, as the manager sees them.

use super::QueueOptions;
use super::bridge::{Bridge, made, number, settings};
use super::job::{Job, Standing};
use super::meter::Meter;
use crate::error::SimulateError;
use crate::replay::{JobLine, NodeLine, ProjectLine};
use fgpu_domain::cluster::{Cluster, Input, Record};
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::session::{Phase, Report, ReportState, Session};
use fgpu_domain::time::UnixMillis;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// Exit code of a command that was told to stop.
const TERMINATED: i32 = 143;

/// From being placed to running at the latest, in the simulated cluster.
const START_TIMEOUT_MS: u64 = 1000;

/// Deadlines in a row that may change no session before nothing is expected of further ones.
const MOST_IDLE_STEPS: u32 = 1_000;

/// A simulated cluster and everything that will happen to it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) cluster: Cluster,
    bridge: Bridge,
    nodes: usize,
    pub(super) jobs: Vec<Job>,
    /// The next of `jobs` to arrive.
    next: usize,
    sessions: HashMap<SessionId, Running>,
    ends: BinaryHeap<Reverse<(u64, u64, SessionId)>>,
    pub(super) now: u64,
    idle_steps: u32,
    pub(super) meter: Meter,
}

/// What the agents know of a session.
#[derive(Debug)]
struct Running {
    job: usize,
    /// The placement that runs; 0: none.
    generation: u64,
    /// The placement whose time is up; 0: none.
    done: u64,
}

impl World {
    pub(super) fn new(options: &QueueOptions) -> Self {
        let mut settings = settings(options.policy, options.seed);
        // Agents here start what they are told to in no time.
        settings.start_timeout_ms = START_TIMEOUT_MS;
        if options.no_reservations {
            settings.reservations = 0;
        }
        Self {
            cluster: Cluster::new(settings),
            bridge: Bridge::new(options.plain),
            nodes: 0,
            jobs: Vec::new(),
            next: 0,
            sessions: HashMap::new(),
            ends: BinaryHeap::new(),
            now: 0,
            idle_steps: 0,
            meter: Meter::default(),
        }
    }

    pub(super) fn add_node(&mut self, node: &NodeLine, line: u64) -> Result<(), SimulateError> {
        let name = |source| SimulateError::Name { line, node: node.name.clone(), source };
        let input = self.bridge.register(self.nodes, node).map_err(name)?;
        self.nodes += 1;
        self.meter.add_node(node);
        self.input(input).map(|_| ())
    }

    pub(super) fn add_project(&mut self, project: &ProjectLine) -> Result<(), SimulateError> {
        self.meter.add_project(project);
        match self.bridge.project(project)? {
            Some(input) => self.input(input).map(|_| ()),
            None => Ok(()),
        }
    }

    /// A pod that will arrive, after those added before.
    pub(super) fn add_job(&mut self, line: JobLine) {
        self.jobs.push(Job::new(line));
    }

    /// How many pods have arrived.
    pub(super) fn arrived(&self) -> u64 {
        u64::try_from(self.next).unwrap_or(u64::MAX)
    }

    /// Moves on to the next point in time at which anything happens; `false` at the end.
    pub(super) fn step(&mut self) -> Result<bool, SimulateError> {
        let arrival = self.jobs.get(self.next).map(|job| job.line.arrival_ms);
        let end = self.ends.peek().map(|Reverse((at, ..))| *at);
        // A deadline that has passed and is still there is waiting for something else to happen.
        let deadline = self.cluster.next_deadline().map(|at| at.0).filter(|at| *at > self.now);
        let Some(now) = arrival.into_iter().chain(end).chain(deadline).min() else {
            return Ok(false);
        };
        if arrival.is_none() && end.is_none() {
            // What only keeps the records tidy moves nothing.
            self.idle_steps += 1;
            if self.sessions.is_empty() || self.idle_steps > MOST_IDLE_STEPS {
                return Ok(false);
            }
        }
        self.now = now;
        if arrival.is_none() && end.is_none() {
            // Most deadlines are the cluster's own: what it writes down by itself is no event here.
            if self.settle()? {
                self.meter.sample(now);
            }
            return Ok(true);
        }
        self.meter.advance(now);
        self.end_sessions()?;
        self.settle()?;
        while self.jobs.get(self.next).is_some_and(|job| job.line.arrival_ms == now) {
            self.arrive(self.next)?;
            self.next += 1;
        }
        self.settle()?;
        self.meter.sample(now);
        if self.next == self.jobs.len() {
            self.meter.all_arrived();
        }
        Ok(true)
    }

    /// The agents report what has run its time.
    fn end_sessions(&mut self) -> Result<(), SimulateError> {
        let mut reports: BTreeMap<NodeName, Vec<Report>> = BTreeMap::new();
        while let Some(Reverse((at, ..))) = self.ends.peek() {
            if *at > self.now {
                break;
            }
            let Some(Reverse((_, generation, id))) = self.ends.pop() else { break };
            let Some(running) = self.sessions.get_mut(&id) else { continue };
            // Of a place it has lost since.
            if running.generation != generation {
                continue;
            }
            running.done = generation;
            let session = self.cluster.session(&id);
            if let Some(grant) = session.and_then(|session| session.phase.grant()) {
                let report = Report { session: id, generation, state: gone(0), grant: None };
                reports.entry(grant.node.clone()).or_default().push(report);
            }
        }
        self.report(reports)
    }

    fn arrive(&mut self, at: usize) -> Result<(), SimulateError> {
        let job = &mut self.jobs[at];
        let input = self.bridge.create(at, &job.line)?;
        match self.cluster.apply(input, UnixMillis(self.now)) {
            Ok(applied) => {
                job.sessions = made(&applied);
                for id in &job.sessions {
                    let running = Running { job: at, generation: 0, done: 0 };
                    self.sessions.insert(id.clone(), running);
                }
                self.meter.job_arrived(job);
            }
            Err(refusal) => job.refused = Some(refusal.code()),
        }
        Ok(())
    }

    /// Lets the queue place what it can and the agents obey, until nothing more follows; says
    /// whether any session changed.
    fn settle(&mut self) -> Result<bool, SimulateError> {
        let mut moved = false;
        loop {
            self.cluster.tick(UnixMillis(self.now));
            self.cluster.schedule(UnixMillis(self.now));
            let changes = self.cluster.take_changes();
            let mut reports: BTreeMap<NodeName, Vec<Report>> = BTreeMap::new();
            let mut quiet = true;
            for record in &changes.puts {
                if let Record::Session(session) = record {
                    self.meter.advance(self.now);
                    self.follow(session, &mut reports)?;
                    quiet = false;
                }
            }
            for node in &changes.desired() {
                if let (Some(number), Some(view)) = (number(node), self.cluster.view().get(node)) {
                    self.meter.node_changed(number, view);
                }
            }
            if quiet {
                return Ok(moved);
            }
            moved = true;
            self.idle_steps = 0;
            self.report(reports)?;
        }
    }

    /// What agents and people do about a session that has changed.
    fn follow(
        &mut self,
        session: &Session,
        reports: &mut BTreeMap<NodeName, Vec<Report>>,
    ) -> Result<(), SimulateError> {
        let Some(running) = self.sessions.get_mut(&session.id) else { return Ok(()) };
        let job = &mut self.jobs[running.job];
        let before = job.standing();
        match &session.phase {
            Phase::Pending { .. } if running.generation > 0 => {
                running.generation = 0;
                job.placed -= 1;
                job.restarts += 1;
            }
            Phase::Scheduled { grant, .. } if running.generation != session.generation => {
                if running.generation == 0 {
                    job.placed += 1;
                } else {
                    job.restarts += 1;
                }
                running.generation = session.generation;
                let state = ReportState::Running { at: UnixMillis(self.now), ports: Vec::new() };
                reports.entry(grant.node.clone()).or_default().push(report(session, state));
                if let Some(duration) = job.line.duration_ms {
                    let end = self.now.saturating_add(duration);
                    self.ends.push(Reverse((end, session.generation, session.id.clone())));
                }
            }
            Phase::Stopping { grant, .. } => {
                let state = gone(TERMINATED);
                reports.entry(grant.node.clone()).or_default().push(report(session, state));
            }
            Phase::Ended(_) if session.is_over() => {
                let done = running.done > 0 && running.done == running.generation;
                job.placed -= usize::from(running.generation > 0);
                job.over += 1;
                job.done += usize::from(done);
                let at = running.job;
                self.sessions.remove(&session.id);
                self.forget(session, at)?;
                return self.moved(at, before);
            }
            Phase::Pending { .. }
            | Phase::Scheduled { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Lost { .. }
            | Phase::Ended(_) => {}
        }
        let at = running.job;
        self.moved(at, before)
    }

    /// Takes the record of a session that is over out of the cluster, when all of its pod is over.
    fn forget(&mut self, session: &Session, at: usize) -> Result<(), SimulateError> {
        let job = &mut self.jobs[at];
        if job.over < job.sessions.len() {
            return Ok(());
        }
        job.ended_ms = Some(self.now);
        debug_assert!(job.sessions.contains(&session.id), "a session belongs to its pod");
        for id in job.sessions.clone() {
            self.input(Input::Remove { id })?;
        }
        Ok(())
    }

    fn moved(&mut self, at: usize, before: Standing) -> Result<(), SimulateError> {
        let job = &mut self.jobs[at];
        let after = job.standing();
        if after == Standing::Running {
            job.started_ms.get_or_insert(self.now);
        }
        if before != after {
            self.meter.job_moved(job, before, after);
        }
        Ok(())
    }

    fn report(&mut self, reports: BTreeMap<NodeName, Vec<Report>>) -> Result<(), SimulateError> {
        for (node, reports) in reports {
            self.input(Input::Reports { node, reports, full: false })?;
        }
        Ok(())
    }

    /// An input that the cluster has no reason to refuse.
    fn input(&mut self, input: Input) -> Result<(), SimulateError> {
        let applied = self.cluster.apply(input, UnixMillis(self.now));
        applied.map(|_| ()).map_err(|source| SimulateError::Input { source: Box::new(source) })
    }
}

fn report(session: &Session, state: ReportState) -> Report {
    Report { session: session.id.clone(), generation: session.generation, state, grant: None }
}

fn gone(exit_code: i32) -> ReportState {
    ReportState::Gone { exit_code: Some(exit_code), code: String::new(), message: String::new() }
}

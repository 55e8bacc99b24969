//! What is measured while time goes by: sums over time are exact, in integers.

use super::fragmentation::Usual;
use super::job::{Job, Standing};
use crate::replay::{ClassLine, GPU_MILLI, NodeLine, PodLine, ProjectLine};
use fgpu_domain::placement::NodeView;
use std::collections::BTreeMap;

/// Where pods without a project are counted.
pub(super) const NO_PROJECT: &str = "-";

/// Counts while a simulation runs.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) nodes: Vec<NodeLine>,
    pub(super) gpu_milli: u64,
    pub(super) cpu_milli: u64,
    usual: Usual,
    /// What each node has left, and how much of it is lost to usual pods.
    left: Vec<Left>,
    now: Point,
    last_ms: u64,
    first_ms: Option<u64>,
    pub(super) sums: Sums,
    /// The sums when the last pod had arrived.
    pub(super) arriving: Option<Sums>,
    pub(super) projects: BTreeMap<String, Project>,
    pub(super) series: Vec<Point>,
    pub(super) contended: Contended,
}

#[derive(Debug, Clone, Copy, Default)]
struct Left {
    gpu_milli: u64,
    cpu_milli: u64,
    unusable_milli: u64,
}

/// The cluster at one point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Point {
    pub(super) at_ms: u64,
    /// GPU and CPU that are given out.
    pub(super) gpu_milli: u64,
    pub(super) cpu_milli: u64,
    /// Idle GPU that a usual pod cannot use.
    pub(super) unusable_milli: u64,
    pub(super) waiting: u64,
    pub(super) waiting_gpu_milli: u64,
}

/// Amounts times milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) ms: u64,
    pub(super) gpu: u128,
    pub(super) cpu: u128,
    pub(super) unusable: u128,
    pub(super) waiting: u128,
    /// GPU that is idle while at least as much is waited for.
    pub(super) idle_wanted: u128,
}

/// A project, and what it got.
#[derive(Debug, Clone, Default)]
pub(super) struct Project {
    pub(super) weight: u32,
    used_milli: u64,
    waiting: u64,
    /// GPU times milliseconds; and the same when the last pod had arrived.
    pub(super) gpu: u128,
    pub(super) gpu_arriving: u128,
    /// The same over the time in which every project waited.
    pub(super) gpu_all_wait: u128,
}

/// Time in which several projects waited at once. Only shown, so in floating point.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Contended {
    pub(super) ms: u64,
    /// Jain's index of what they held by weight, times milliseconds.
    pub(super) jain: f64,
    /// Time in which every project waited.
    pub(super) all_ms: u64,
}

impl Meter {
    pub(super) fn add_node(&mut self, node: &NodeLine) {
        self.gpu_milli += u64::from(node.num_gpu) * GPU_MILLI;
        self.cpu_milli += node.cpu_milli;
        self.nodes.push(node.clone());
    }

    pub(super) fn add_project(&mut self, project: &ProjectLine) {
        let weight = project.weight;
        self.projects.insert(project.name.clone(), Project { weight, ..Project::default() });
    }

    pub(super) fn add_class(&mut self, class: ClassLine) {
        self.usual.add(class);
    }

    /// Takes the usual pods from those that will come, where the replay names none.
    pub(super) fn usual_of(&mut self, pods: &[PodLine]) {
        if self.usual.is_empty() {
            let classes = crate::generate::usual_classes(pods);
            classes.into_iter().for_each(|class| self.usual.add(class));
        }
    }

    /// Lets time go by with everything as it is.
    pub(super) fn advance(&mut self, now: u64) {
        let ms = now.saturating_sub(self.last_ms);
        self.last_ms = now;
        if self.first_ms.is_none() {
            self.first_ms = Some(now);
            self.begin();
            return;
        }
        let idle = self.gpu_milli.saturating_sub(self.now.gpu_milli);
        let times = |amount: u64| u128::from(amount) * u128::from(ms);
        self.sums.ms += ms;
        self.sums.gpu += times(self.now.gpu_milli);
        self.sums.cpu += times(self.now.cpu_milli);
        self.sums.unusable += times(self.now.unusable_milli);
        self.sums.waiting += times(self.now.waiting);
        self.sums.idle_wanted += times(idle.min(self.now.waiting_gpu_milli));
        for project in self.projects.values_mut() {
            project.gpu += times(project.used_milli);
        }
        self.compare_projects(ms);
    }

    fn compare_projects(&mut self, ms: u64) {
        let waiting = self.projects.values().filter(|project| project.waiting > 0);
        let shares: Vec<f64> =
            waiting.map(|project| project.used_milli as f64 / f64::from(project.weight)).collect();
        if shares.len() < 2 {
            return;
        }
        self.contended.ms += ms;
        self.contended.jain += jain(&shares) * ms as f64;
        if shares.len() == self.projects.len() {
            self.contended.all_ms += ms;
            for project in self.projects.values_mut() {
                project.gpu_all_wait += u128::from(project.used_milli) * u128::from(ms);
            }
        }
    }

    /// The cluster is empty.
    fn begin(&mut self) {
        for node in &self.nodes {
            let gpus: Vec<u64> = (0..node.num_gpu).map(|_| GPU_MILLI).collect();
            self.left.push(left(&self.usual, node, node.cpu_milli, &gpus));
        }
        self.now.unusable_milli = self.left.iter().map(|left| left.unusable_milli).sum();
    }

    pub(super) fn node_changed(&mut self, number: usize, view: &NodeView) {
        let (Some(node), Some(before)) = (self.nodes.get(number), self.left.get_mut(number)) else {
            return;
        };
        let free = view.devices.iter().map(|device| device.units.fgpu_in(device.free).0);
        let after = left(&self.usual, node, view.cpu_free.0, &free.collect::<Vec<_>>());
        let now = &mut self.now;
        now.gpu_milli = (now.gpu_milli + before.gpu_milli).saturating_sub(after.gpu_milli);
        now.cpu_milli = (now.cpu_milli + before.cpu_milli).saturating_sub(after.cpu_milli);
        now.unusable_milli =
            (now.unusable_milli + after.unusable_milli).saturating_sub(before.unusable_milli);
        *before = after;
    }

    pub(super) fn job_arrived(&mut self, job: &Job) {
        self.waits(job, true);
    }

    pub(super) fn job_moved(&mut self, job: &Job, before: Standing, after: Standing) {
        for (standing, enters) in [(before, false), (after, true)] {
            match standing {
                Standing::Waiting => self.waits(job, enters),
                Standing::Running => {
                    let used = &mut self.project(job).used_milli;
                    *used = moved(*used, job.line.gpu_demand(), enters);
                }
                Standing::Refused | Standing::Completed | Standing::Stopped => {}
            }
        }
    }

    fn waits(&mut self, job: &Job, enters: bool) {
        self.now.waiting = moved(self.now.waiting, 1, enters);
        let gpu = &mut self.now.waiting_gpu_milli;
        *gpu = moved(*gpu, job.line.gpu_demand(), enters);
        let project = self.project(job);
        project.waiting = moved(project.waiting, 1, enters);
    }

    fn project(&mut self, job: &Job) -> &mut Project {
        let name = job.line.project.as_deref().unwrap_or(NO_PROJECT);
        let made = || Project { weight: 1, ..Project::default() };
        self.projects.entry(name.to_owned()).or_insert_with(made)
    }

    /// Remembers the state, after everything at this time has happened.
    pub(super) fn sample(&mut self, now: u64) {
        let point = Point { at_ms: now, ..self.now };
        match self.series.last_mut() {
            Some(last) if last.at_ms == now => *last = point,
            _ => self.series.push(point),
        }
    }

    /// The last pod has arrived.
    pub(super) fn all_arrived(&mut self) {
        if self.arriving.is_none() {
            self.arriving = Some(self.sums);
            for project in self.projects.values_mut() {
                project.gpu_arriving = project.gpu;
            }
        }
    }

    pub(super) fn first_ms(&self) -> u64 {
        self.first_ms.unwrap_or(0)
    }
}

fn left(usual: &Usual, node: &NodeLine, cpu_milli: u64, gpus: &[u64]) -> Left {
    let unusable_milli = usual.unusable(cpu_milli, gpus, node.gpu_model.as_deref());
    Left { gpu_milli: gpus.iter().sum(), cpu_milli, unusable_milli }
}

fn moved(count: u64, by: u64, enters: bool) -> u64 {
    if enters { count + by } else { count.saturating_sub(by) }
}

/// Jain's index: 1 where all are alike, 1/n where one has everything; 1 where nobody has anything.
pub(super) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

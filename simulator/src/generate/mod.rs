//! Makes replays: deterministic, from lists of nodes and pods or from a catalogue of common kinds.
//!
//! Everything is integers and [`SplitMix64`], so a seed gives the same bytes on every machine. Two
//! seeds: one for the list (which pods the cluster usually sees), one for the order of arrival, so
//! that several orders of one mix can be compared.

mod catalogue;
mod error;
mod lists;
mod mix;
mod protocol;
mod tables;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_timed;
mod timed;

pub use error::GenerateError;
pub use mix::{Mix, ModelWeights};
pub(crate) use protocol::usual_classes;
pub use timed::Timed;

use crate::random::SplitMix64;
use crate::replay::{ClassLine, JobLine, NodeLine, PodLine, ProjectLine};
pub(crate) use lists::Lists;
use lists::holds;
use protocol::Arrivals;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// Nodes of a cluster from the catalogue when nothing is said.
const DEFAULT_NODES: usize = 64;

/// What to make a replay of.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// A list of nodes of openb form; the catalogue if absent.
    pub node_list: Option<PathBuf>,
    /// A list of pods of openb form; the catalogue if absent.
    pub pod_list: Option<PathBuf>,
    /// How many nodes: drawn from the list, or made from the catalogue.
    pub nodes: Option<usize>,
    /// GPUs of every node made from the catalogue.
    pub devices: Option<u32>,
    /// What the pods of the list shall be instead.
    pub mix: Mix,
    /// Draws the list: nodes, mix and constraints.
    pub list_seed: u64,
}

/// How the pods of a source arrive when nothing ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Draws the order.
    pub seed: u64,
    /// GPU asked for in all, thousandths of what there is; 0: the list as it is.
    pub load_milli: u64,
    /// Whether pods and nodes are shuffled.
    pub shuffle: bool,
}

/// A replay in memory.
#[derive(Debug, Clone)]
pub struct Replay {
    header: Header,
    nodes: Vec<NodeLine>,
    projects: Vec<ProjectLine>,
    classes: Vec<ClassLine>,
    pods: Vec<PodLine>,
    jobs: Vec<JobLine>,
}

/// The first line, in the order in which its fields are written.
#[derive(Debug, Clone, Serialize)]
struct Header {
    version: u64,
    name: String,
    seed: u64,
    load: f64,
    shuffled: bool,
    nodes: usize,
    pods: usize,
    gpu_capacity_milli: u64,
    gpu_demand_milli: u64,
}

/// A line with its kind in front.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Out<'a> {
    Replay(&'a Header),
    Node(&'a NodeLine),
    Project(&'a ProjectLine),
    Class(&'a ClassLine),
    Pod(&'a PodLine),
    #[serde(rename = "pod")]
    Job(&'a JobLine),
}

impl Source {
    /// Reads or makes the lists, and mixes the pods.
    pub(crate) fn lists(&self) -> Result<Lists, GenerateError> {
        let mut random = SplitMix64::new(self.list_seed);
        let made = match (&self.node_list, &self.pod_list) {
            (Some(_), Some(_)) => Lists { nodes: Vec::new(), pods: Vec::new() },
            _ => catalogue::lists(self.nodes.unwrap_or(DEFAULT_NODES), self.devices, &mut random),
        };
        let mut nodes = match &self.node_list {
            Some(path) => lists::read_nodes(path)?,
            None => made.nodes,
        };
        if let Some(count) = self.nodes.filter(|count| *count < nodes.len()) {
            random.shuffle(&mut nodes);
            nodes.truncate(count);
        }
        let mut pods = match &self.pod_list {
            Some(path) => lists::read_pods(path)?,
            None => made.pods,
        };
        let all = pods.len();
        if self.nodes.is_some() {
            // On a part of a cluster, what only ran on the rest is nobody's usual request.
            pods.retain(|pod| nodes.iter().any(|node| holds(node, pod)));
        }
        let lists = Lists { nodes, pods };
        if lists.capacity() == 0 {
            return Err(GenerateError::NoGpu);
        }
        if lists.pods.is_empty() {
            return Err(GenerateError::NoPods { pods: all, nodes: lists.nodes.len() });
        }
        let pods = mix::mixed(&lists, &self.mix, &mut random)?;
        Ok(Lists { pods, ..lists })
    }

    fn name(&self) -> String {
        let stem = self.pod_list.as_ref().and_then(|path| path.file_stem());
        stem.map_or_else(|| "catalogue".to_owned(), |stem| stem.to_string_lossy().into_owned())
    }
}

impl Replay {
    /// A replay of `source`: pods arrive one after another and stay.
    ///
    /// # Errors
    /// [`GenerateError`] when a list cannot be read or a mix cannot be made of it.
    pub fn fill(source: &Source, fill: Fill) -> Result<Self, GenerateError> {
        let lists = source.lists()?;
        let classes = usual_classes(&lists.pods);
        let arrivals = protocol::arrivals(&lists, fill.seed, fill.load_milli, fill.shuffle);
        let header = Header {
            version: 1,
            name: source.name(),
            seed: fill.seed,
            load: fill.load_milli as f64 / 1000.0,
            shuffled: fill.shuffle,
            nodes: arrivals.nodes.len(),
            pods: arrivals.pods.len(),
            gpu_capacity_milli: lists.capacity(),
            gpu_demand_milli: arrivals.pods.iter().map(PodLine::gpu_demand).sum(),
        };
        let Arrivals { nodes, pods } = arrivals;
        Ok(Self { header, nodes, projects: Vec::new(), classes, pods, jobs: Vec::new() })
    }

    /// A replay of `source` with time, of version 2: pods come, wait, run and end.
    ///
    /// # Errors
    /// [`GenerateError`] when a list cannot be read, a mix cannot be made of it, or a share is
    /// more than there is.
    pub fn timed(source: &Source, timed: &Timed) -> Result<Self, GenerateError> {
        let shares = [
            ("--high-share", timed.high_share),
            ("--low-share", timed.high_share.saturating_add(timed.low_share)),
            ("--gang-share", timed.gang_share),
        ];
        for (flag, percent) in shares {
            if percent > 100 {
                let rule = "the shares come to more than 100 %";
                return Err(GenerateError::Share { flag, percent, rule });
            }
        }
        let lists = source.lists()?;
        let jobs = timed::jobs(&lists, timed);
        let header = Header {
            version: 2,
            name: source.name(),
            seed: timed.seed,
            load: timed.load_milli as f64 / 1000.0,
            shuffled: true,
            nodes: lists.nodes.len(),
            pods: jobs.len(),
            gpu_capacity_milli: lists.capacity(),
            gpu_demand_milli: jobs.iter().map(JobLine::gpu_demand).sum(),
        };
        let (classes, projects) = (usual_classes(&lists.pods), timed::projects(timed.projects));
        Ok(Self { header, nodes: lists.nodes, projects, classes, pods: Vec::new(), jobs })
    }

    /// Writes the replay as `docs/replay-format.md` describes it.
    ///
    /// # Errors
    /// [`GenerateError::Write`].
    pub fn write(&self, out: &mut dyn Write) -> Result<(), GenerateError> {
        self.try_write(out).map_err(|source| GenerateError::Write { source })
    }

    fn try_write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let lines = std::iter::once(Out::Replay(&self.header))
            .chain(self.nodes.iter().map(Out::Node))
            .chain(self.projects.iter().map(Out::Project))
            .chain(self.classes.iter().map(Out::Class))
            .chain(self.pods.iter().map(Out::Pod))
            .chain(self.jobs.iter().map(Out::Job));
        for line in lines {
            serde_json::to_writer(&mut *out, &line)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

//! A replay with time, through the very cluster the manager runs: queue, quotas, fair share,
//! preemption and gangs are not modelled here but asked.
//!
//! [`simulate`] reads the lines, [`world`] moves time, [`bridge`] is the one place that says what a
//! line means to the domain, [`meter`] counts, [`report`] and [`table`] tell.

pub(crate) mod bridge;
mod fragmentation;
mod job;
mod meter;
mod plot;
mod report;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_fairness;
#[cfg(test)]
mod tests_reservations;
mod world;

pub use report::{Bin, Counts, Distribution, Fairness, ProjectShare, QueueReport, Use, Waits};

use crate::error::SimulateError;
use crate::replay::{Line, PodLine, Reader};
use fgpu_domain::placement::Policy;
use std::io::BufRead;
use world::World;

/// How a replay with time is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct QueueOptions {
    pub(crate) policy: Policy,
    pub(crate) seed: u64,
    /// Keep projects and classes from the queue.
    pub(crate) plain: bool,
    /// Keep no room for the first of the queue.
    pub(crate) no_reservations: bool,
}

/// Simulates what `reader` has behind its first line. `progress` is called with how many pods have
/// arrived and how many there are.
pub(crate) fn simulate(
    options: QueueOptions,
    name: String,
    reader: &mut Reader<impl BufRead>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<QueueReport, SimulateError> {
    let mut world = read(options, reader)?;
    let all = u64::try_from(world.jobs.len()).unwrap_or(u64::MAX);
    while world.step()? {
        progress(world.arrived(), all);
    }
    let QueueOptions { policy, seed, plain, .. } = options;
    Ok(report::report(&world, name, (policy.to_string(), seed, plain)))
}

/// The cluster as it is before anything happens.
fn read(options: QueueOptions, reader: &mut Reader<impl BufRead>) -> Result<World, SimulateError> {
    let mut world = World::new(&options);
    while let Some(line) = reader.next_line()? {
        match line {
            Line::Header(_) => {}
            Line::Node(node) => world.add_node(&node, reader.line())?,
            Line::Project(project) => world.add_project(&project)?,
            Line::Class(class) => world.meter.add_class(class),
            Line::Job(job) => world.add_job(*job),
            Line::Pod(_) => return Err(SimulateError::NoTime),
        }
    }
    reader.check_counts()?;
    if world.meter.gpu_milli == 0 {
        return Err(SimulateError::NoGpu);
    }
    let pods: Vec<PodLine> = world.jobs.iter().map(|job| job.line.pod.clone()).collect();
    world.meter.usual_of(&pods);
    Ok(world)
}

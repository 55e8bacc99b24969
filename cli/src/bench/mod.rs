//! `fgpu bench …`: what the manager can do, measured on this machine. Not for people's daily work,
//! so help does not list it; `docs/measurements/throughput.md` tells how to use it.
//!
//! Everything that is measured is real: this very binary as a manager in a process of its own, a
//! real etcd that waits for its disk, real gRPC. Only the nodes are simulated, in this process.

mod board;
mod cluster;
mod cold_start;
mod load;
mod measure;
mod mix;
mod node;
mod report;
mod stage;

use clap::Subcommand;

use crate::failure::Failure;

/// `fgpu bench …`
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Place a mix of sessions on a cluster of simulated nodes and report how fast that went
    Cluster(Box<cluster::ClusterBenchArgs>),
    /// Start a manager on a full store and report how long that takes
    ColdStart(cold_start::ColdStartArgs),
}

/// Runs `fgpu bench …`.
pub(crate) async fn run(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Cluster(args) => cluster::run(*args).await,
        BenchCommand::ColdStart(args) => cold_start::run(args).await,
    }
}

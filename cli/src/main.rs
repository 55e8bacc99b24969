//! The one program of fgpu: the daemons, and the verbs people type.
//!
//! `main` parses, builds a runtime and runs; every verb group has a module of its own. Data goes
//! to stdout, everything else to stderr. What fails becomes a [`failure::Failure`] and is printed
//! here, once.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod bench;
mod classes;
mod connect;
mod context;
mod daemon;
mod defrag;
mod demo;
mod devices;
mod doctor;
mod exec;
mod explain;
mod failure;
mod help;
mod internal;
mod logs;
mod nodes;
mod output;
mod parse;
mod port_forward;
mod progress;
mod projects;
mod quotas;
mod run;
mod sessions;
mod simulate;
mod terminal;
mod view;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use bench::BenchCommand;
use failure::{EXIT_FAILED, Failure};
use internal::InternalCommand;

/// A manager makes and drops a great many small records: the allocator of the C library was 22 % of
/// its processor time (docs/measurements/throughput.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Shares the GPUs of a cluster in slices.
#[derive(Debug, Parser)]
#[command(
    name = "fgpu",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = help::AFTER_HELP
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine: manager, store and agent in one process
    #[command(after_help = help::UP_HELP)]
    Up(Box<daemon::up::UpArgs>),
    /// Show what fgpu does, in a cluster of its own that is gone afterwards
    #[command(after_help = help::DEMO_HELP)]
    Demo(demo::DemoArgs),
    /// Check whether this machine is fit to be a node, and say what to do
    #[command(after_help = help::DOCTOR_HELP)]
    Doctor(Box<doctor::DoctorArgs>),
    /// Run a manager
    #[command(after_help = help::MANAGER_HELP)]
    Manager(Box<daemon::manager::ManagerArgs>),
    /// Run the agent of this node
    #[command(after_help = help::AGENT_HELP)]
    Agent(Box<daemon::agent::AgentArgs>),
    /// Create a session and stay with it
    #[command(after_help = help::RUN_HELP)]
    Run(Box<run::RunArgs>),
    /// List the sessions
    Ps(sessions::PsArgs),
    /// Show one session in full
    Get(sessions::GetArgs),
    /// Print what a session wrote
    Logs(logs::LogsArgs),
    /// Run a command in a running session
    #[command(after_help = help::EXEC_HELP)]
    Exec(exec::ExecArgs),
    /// Reach a port of a session at a port here
    PortForward(port_forward::PortForwardArgs),
    /// Stop sessions
    #[command(after_help = help::STOP_HELP)]
    Stop(sessions::StopArgs),
    /// Wait until sessions end
    #[command(after_help = help::WAIT_HELP)]
    Wait(sessions::WaitArgs),
    /// Forget sessions that have ended
    Rm(sessions::RmArgs),
    /// Say why a session waits, or where it is
    Explain(explain::ExplainArgs),
    /// Look at nodes and take them out of service
    #[command(subcommand)]
    Node(nodes::NodeCommand),
    /// Look at devices, their slices and the sessions that hold them
    #[command(subcommand, after_help = help::DEVICE_HELP)]
    Device(devices::DeviceCommand),
    /// Free whole devices by moving sessions that allow it
    #[command(after_help = help::DEFRAG_HELP)]
    Defrag(defrag::DefragArgs),
    /// Manage projects: whose use is counted together
    #[command(subcommand, after_help = help::PROJECT_HELP)]
    Project(projects::ProjectCommand),
    /// Look at and set what projects and users may hold
    #[command(subcommand, after_help = help::QUOTA_HELP)]
    Quota(quotas::QuotaCommand),
    /// Manage priority classes: who goes first, and who may take whose place
    #[command(subcommand, after_help = help::CLASS_HELP)]
    Class(classes::ClassCommand),
    /// Create and revoke access tokens
    #[command(subcommand)]
    Token(admin::TokenCommand),
    /// Show the cluster and who you are there
    Cluster(admin::ClusterArgs),
    /// Manage the clusters this command knows by name
    #[command(subcommand, after_help = help::CONTEXT_HELP)]
    Context(context::ContextCommand),
    /// Replay a workload trace through the placement code
    #[command(after_help = help::SIMULATE_HELP)]
    Simulate(simulate::SimulateArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
    /// Measure what the manager can do on this machine
    #[command(subcommand, hide = true)]
    Bench(BenchCommand),
    /// Not for people
    #[command(subcommand, hide = true)]
    Internal(InternalCommand),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    if let Command::Internal(InternalCommand::ProcessShim { args }) = command {
        return fgpu_runtime::process::shim_main(args);
    }
    let code = match run(command) {
        Ok(code) => code,
        Err(failure) => {
            output::say(failure.to_string());
            failure.exit.unwrap_or(EXIT_FAILED)
        }
    };
    // Not a return: a read of standard input that never ends must not hold the program.
    std::process::exit(i32::from(code));
}

fn run(command: Command) -> Result<u8, Failure> {
    let done = |()| 0;
    match command {
        Command::Up(args) => daemon(daemon::up::run(*args)).map(done),
        Command::Demo(args) => daemon(demo::run(args)).map(done),
        Command::Doctor(args) => client(doctor::run(*args)),
        Command::Manager(args) => daemon(daemon::manager::run(*args)).map(done),
        Command::Agent(args) => daemon(daemon::agent::run(*args)).map(done),
        Command::Run(args) => client(run::run(*args)),
        Command::Exec(args) => client(exec::run(args)),
        Command::Wait(args) => client(sessions::wait(args)),
        Command::Ps(args) => client(sessions::ps(args)).map(done),
        Command::Get(args) => client(sessions::get(args)).map(done),
        Command::Logs(args) => client(logs::run(args)).map(done),
        Command::PortForward(args) => client(port_forward::run(args)).map(done),
        Command::Stop(args) => client(sessions::stop(args)).map(done),
        Command::Rm(args) => client(sessions::rm(args)).map(done),
        Command::Explain(args) => client(explain::run(args)).map(done),
        Command::Node(command) => client(nodes::run(command)).map(done),
        Command::Device(command) => client(devices::run(command)).map(done),
        Command::Defrag(args) => client(defrag::run(args)).map(done),
        Command::Project(command) => client(projects::run(command)).map(done),
        Command::Quota(command) => client(quotas::run(command)).map(done),
        Command::Class(command) => client(classes::run(command)).map(done),
        Command::Token(command) => client(admin::token(command)).map(done),
        Command::Cluster(args) => client(admin::cluster(args)).map(done),
        Command::Context(command) => context::run(command).map(done),
        Command::Simulate(args) => simulate::run(args).map(done),
        Command::Completion { shell } => completion(shell).map(done),
        Command::Version => output::line(concat!("fgpu ", env!("CARGO_PKG_VERSION"))).map(done),
        Command::Bench(command) => daemon(bench::run(command)).map(done),
        Command::Internal(InternalCommand::PrintSlice { stay }) => {
            internal::print_slice(stay).map(done)
        }
        Command::Internal(InternalCommand::ProcessShim { .. }) => {
            unreachable!("`main` has run it: its exit code is passed on as it is")
        }
    }
}

/// Runs a daemon, on all cores.
fn daemon<T>(daemon: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start", &error))?;
    let result = runtime.block_on(daemon);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// Runs a verb that talks to a manager: one thread is enough.
fn client<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start", &error))?;
    let result = runtime.block_on(verb);
    runtime.shutdown_background();
    result
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fgpu", &mut script);
    output::bytes(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

//! The one program of fgpu: the daemons, and the verbs people type.
//!
//! `main` parses, builds a runtime and runs; every verb group has a module of its own. Data goes
//! to stdout, everything else to stderr. What fails becomes a [`failure::Failure`] and is printed
//! here, once.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod connect;
mod context;
mod devices;
mod exec;
mod explain;
mod failure;
mod internal;
mod logs;
mod nodes;
mod output;
mod parse;
mod port_forward;
mod progress;
mod run;
mod sessions;
mod simulate;
mod terminal;
mod view;
mod watch;

use clap::{CommandFactory as _, Parser, Subcommand};

use failure::{EXIT_FAILED, Failure};

/// Shares the GPUs of a cluster in slices.
#[derive(Debug, Parser)]
#[command(
    name = "fgpu",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = AFTER_HELP
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  fgpu up                                        a cluster on this machine
  fgpu run --fgpu 2.5 --image pytorch/pytorch -- python train.py
  fgpu ps; fgpu logs -f NAME; fgpu explain NAME; fgpu device list

The manager is found by --address or FGPU_ADDRESS, else by the current context (`fgpu context`),
else at http://127.0.0.1:7070.

Exit codes: 0 done, 1 failed, 2 wrong command line. `run`, `exec` and `wait` give the exit code of
the session, 125 where fgpu itself failed, 130 when detached by a second Ctrl-C.";

const RUN_HELP: &str = "\
Examples:
  fgpu run --fgpu 10 --image pytorch/pytorch -- python train.py
  fgpu run --fgpu 20 --devices 2 --image vllm/vllm-openai -- --model /models/llama
  fgpu run --gpu-memory 20GiB --gpu-compute 30% -d --name train --image my/image
  fgpu run --gpus 2 -it --image ubuntu -- bash
  fgpu run --fgpu 10 --dry-run

While the session waits, its place in the queue and what is missing are shown. Ctrl-C stops the
session politely; a second one leaves it alone. The exit code is that of the session, or 125 where
fgpu itself failed.";

const EXEC_HELP: &str = "\
Examples:
  fgpu exec train -- nvidia-smi
  fgpu exec -it train -- bash

The exit code is that of the command, or 125 where fgpu itself failed.";

const STOP_HELP: &str = "\
Examples:
  fgpu stop train
  fgpu stop --grace 1m train eval
  fgpu stop $(fgpu ps -q)";

const WAIT_HELP: &str = "\
Prints a line for each session: id, outcome, exit code. The exit code is that of the first session,
as named, that did not return 0.";

const CONTEXT_HELP: &str = "\
Contexts are kept in ~/.config/fgpu/config.toml, readable by you alone.

Examples:
  fgpu context set lab --address https://gpu.example:7070 --ca ca.pem --token-file token
  fgpu context use lab";

const DEVICE_HELP: &str = "\
Examples:
  fgpu device list
  fgpu device list --node a1 -o json";

const SIMULATE_HELP: &str = "\
Examples:
  fgpu simulate --trace replay.jsonl --policy best-fit --placements out.jsonl
  fgpu simulate --stdio --policy binpack";

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a session and stay with it
    #[command(after_help = RUN_HELP)]
    Run(Box<run::RunArgs>),
    /// List the sessions
    Ps(sessions::PsArgs),
    /// Show one session in full
    Get(sessions::GetArgs),
    /// Print what a session wrote
    Logs(logs::LogsArgs),
    /// Run a command in a running session
    #[command(after_help = EXEC_HELP)]
    Exec(exec::ExecArgs),
    /// Reach a port of a session at a port here
    PortForward(port_forward::PortForwardArgs),
    /// Stop sessions
    #[command(after_help = STOP_HELP)]
    Stop(sessions::StopArgs),
    /// Wait until sessions end
    #[command(after_help = WAIT_HELP)]
    Wait(sessions::WaitArgs),
    /// Forget sessions that have ended
    Rm(sessions::RmArgs),
    /// Say why a session waits, or where it is
    Explain(explain::ExplainArgs),
    /// Look at nodes and take them out of service
    #[command(subcommand)]
    Node(nodes::NodeCommand),
    /// Look at devices, their slices and the sessions that hold them
    #[command(subcommand, after_help = DEVICE_HELP)]
    Device(devices::DeviceCommand),
    /// Create and revoke access tokens
    #[command(subcommand)]
    Token(admin::TokenCommand),
    /// Show the cluster and who you are there
    Cluster(admin::ClusterArgs),
    /// Manage the clusters this command knows by name
    #[command(subcommand, after_help = CONTEXT_HELP)]
    Context(context::ContextCommand),
    /// Replay a workload trace through the placement code
    #[command(after_help = SIMULATE_HELP)]
    Simulate(simulate::SimulateArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
    /// Not for people
    #[command(subcommand, hide = true)]
    Internal(internal::InternalCommand),
}

fn main() {
    let code = match run(Cli::parse().command) {
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
        Command::Token(command) => client(admin::token(command)).map(done),
        Command::Cluster(args) => client(admin::cluster(args)).map(done),
        Command::Context(command) => context::run(command).map(done),
        Command::Simulate(args) => simulate::run(args).map(done),
        Command::Completion { shell } => completion(shell).map(done),
        Command::Version => output::line(concat!("fgpu ", env!("CARGO_PKG_VERSION"))).map(done),
        Command::Internal(command) => internal::run(command),
    }
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

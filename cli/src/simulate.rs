//! `fgpu simulate`: replay a workload trace through the placement code.

mod generate;
mod speed;
mod suite;

use std::io::{self, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use fgpu_domain::placement::Policy;
use fgpu_simulator::{SimulateError, SimulateOptions};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;
use crate::help;
use crate::output::{self, Format};

/// `fgpu simulate`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct SimulateArgs {
    #[command(subcommand)]
    command: Option<SimulateCommand>,
    /// Replay file, JSON lines
    #[arg(long, value_name = "FILE", required_unless_present = "stdio", conflicts_with = "stdio")]
    trace: Option<PathBuf>,
    /// Answer pod by pod: a replay on standard input, placements on standard output
    #[arg(long)]
    stdio: bool,
    /// How nodes are chosen: `fragmentation`, `fgd`, `binpack`, `spread`, `best-fit`, `dot-product` or `random`
    #[arg(long, value_name = "POLICY", default_value_t = Policy::default())]
    policy: Policy,
    /// What `random` draws from
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Write the placement log here
    #[arg(long, value_name = "FILE", conflicts_with = "stdio")]
    placements: Option<PathBuf>,
    /// Draw what happened over time as an SVG picture, for a replay with time
    #[arg(long, value_name = "FILE", conflicts_with = "stdio")]
    plot: Option<PathBuf>,
    /// Queue by priority and age alone: projects, quotas and classes are reported and not told to
    /// the queue
    #[arg(long, conflicts_with = "stdio")]
    plain_queue: bool,
    /// Keep no room for the first of the queue, and take no places for them: to compare
    #[arg(long, conflicts_with = "stdio")]
    no_reservations: bool,
    /// Measure how long decisions take
    #[arg(long, conflicts_with = "stdio")]
    timing: bool,
    /// How to print the report: `table` for people, `json` for programs
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    #[arg(conflicts_with = "stdio")]
    output: Format,
}

/// What goes with replays.
#[derive(Debug, Subcommand)]
enum SimulateCommand {
    /// Make a replay: from lists of nodes and pods, or of common kinds
    #[command(after_help = help::SIMULATE_GENERATE_HELP)]
    Generate(Box<generate::GenerateArgs>),
    /// Compare policies on many mixes: as listed, fractions, several GPUs, constraints, CPU only
    #[command(after_help = help::SIMULATE_SUITE_HELP)]
    Suite(Box<suite::SuiteArgs>),
    /// Measure how fast decisions are on a large cluster that is kept full
    #[command(after_help = help::SIMULATE_SPEED_HELP)]
    Speed(Box<speed::SpeedArgs>),
}

/// Runs `fgpu simulate`.
pub(crate) fn run(args: SimulateArgs) -> Result<(), Failure> {
    match args.command {
        Some(SimulateCommand::Generate(args)) => return generate::run(*args),
        Some(SimulateCommand::Suite(args)) => return suite::run(*args),
        Some(SimulateCommand::Speed(args)) => return speed::run(*args),
        None => {}
    }
    let Some(trace) = args.trace else {
        let answered = fgpu_simulator::stdio(
            args.policy,
            args.seed,
            BufReader::new(io::stdin()),
            io::stdout(),
        );
        return answered.map_err(failure);
    };
    let options = SimulateOptions {
        trace,
        policy: args.policy,
        seed: args.seed,
        placements: args.placements,
        json: args.output == Format::Json,
        timing: args.timing,
        plot: args.plot,
        plain_queue: args.plain_queue,
        no_reservations: args.no_reservations,
    };
    let mut report = Vec::new();
    let mut progress = Replay::new("pods");
    let done = fgpu_simulator::run(&options, &mut report, &mut |done, all| progress.at(done, all));
    progress.bar.finish_and_clear();
    done.map_err(failure)?;
    output::bytes(&report)
}

fn failure(error: SimulateError) -> Failure {
    Failure::of(&error)
}

/// A bar on a terminal, and nothing elsewhere, for replays that take long.
struct Replay {
    bar: ProgressBar,
    next: Instant,
}

impl Replay {
    fn new(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(&format!(
            "{{spinner}} {{pos}} of {{len}} {what} [{{bar:30}}] {{eta}}"
        )) {
            bar.set_style(style);
        }
        Self { bar, next: Instant::now() + Duration::from_secs(1) }
    }

    fn at(&mut self, done: u64, all: u64) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + Duration::from_millis(100);
            self.bar.set_length(all.max(done));
            self.bar.set_position(done);
        }
    }
}

//! `fgpu simulate speed`: how fast decisions are.

use std::time::Duration;

use clap::Args;
use fgpu_domain::placement::Policy;
use fgpu_simulator::{Mix, SpeedOptions, queue_speed, speed};

use super::generate::SourceArgs;
use crate::failure::Failure;
use crate::output::{self, Format, OutputArgs};
use crate::parse;

/// `fgpu simulate speed`
#[derive(Debug, Args)]
pub(crate) struct SpeedArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// How nodes are chosen
    #[arg(long, value_name = "POLICY", default_value_t = Policy::default())]
    policy: Policy,
    /// GPU that is given out while decisions are measured
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',', default_value = "50,99")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    fill: Vec<u32>,
    /// Decisions to measure at each fill
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    decisions: usize,
    /// Measure no longer than this at each fill
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::some_duration)]
    at_most: Duration,
    /// Measure the whole queue instead of placement alone: without, and with so many sessions that
    /// wait and cannot run
    #[arg(long, value_name = "COUNT")]
    waiting: Option<usize>,
    /// Of how many kinds the sessions that wait are
    #[arg(long, value_name = "COUNT", default_value_t = 200, requires = "waiting")]
    kinds: usize,
    /// Have them wait for a little more than any node has free, instead of for a GPU model that one
    /// session holds all of
    #[arg(long, requires = "waiting")]
    near: bool,
    /// Draws who comes and who goes
    #[arg(long, value_name = "NUMBER", default_value_t = 42)]
    seed: u64,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `fgpu simulate speed`.
pub(crate) fn run(args: SpeedArgs) -> Result<(), Failure> {
    let options = SpeedOptions {
        source: args.source.source(Mix::default()),
        policy: args.policy,
        seed: args.seed,
        fills: args.fill,
        decisions: args.decisions,
        at_most: args.at_most,
        waiting: args.waiting.unwrap_or(0),
        kinds: args.kinds,
        near: args.near,
    };
    let report = if args.waiting.is_some() { queue_speed(&options) } else { speed(&options) };
    let report = report.map_err(|error| Failure::of(&error))?;
    match args.output.output {
        Format::Table => output::text(report.table()),
        Format::Json => output::json(&report),
    }
}

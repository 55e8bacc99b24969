//! `fgpu simulate generate`: make a replay.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use fgpu_simulator::{Fill, Mix, ModelWeights, Replay, Source, Timed};

use crate::failure::Failure;
use crate::output;
use crate::parse;

/// `fgpu simulate generate`
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    mix: MixArgs,
    #[command(flatten)]
    timed: TimedArgs,
    /// GPU asked for by all pods, as a multiple of what there is [default: 1.3]; with `--timed` GPU
    /// time while they come [default: 0.9]; 0 leaves the list as it is
    #[arg(long, value_name = "FACTOR", value_parser = thousandths)]
    load: Option<u64>,
    /// Draws the order in which pods arrive, and their times
    #[arg(long, value_name = "NUMBER", default_value_t = 42)]
    seed: u64,
    /// Keep nodes and pods in the order of their names
    #[arg(long, conflicts_with = "timed")]
    no_shuffle: bool,
    /// Write the replay here instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Where nodes and pods come from.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Nodes, as CSV of the openb trace; without it, common kinds are taken
    #[arg(long, value_name = "FILE")]
    node_list: Option<PathBuf>,
    /// Pods, as CSV of the openb trace; without it, common kinds are taken
    #[arg(long, value_name = "FILE")]
    pod_list: Option<PathBuf>,
    /// How many nodes: drawn from the list, or of common kinds (then 64 unless said)
    #[arg(long, value_name = "COUNT")]
    nodes: Option<usize>,
    /// GPUs of every node, for nodes of common kinds
    #[arg(long, value_name = "COUNT", conflicts_with = "node_list")]
    devices: Option<u32>,
    /// Draws what is in the list: nodes, shares and constraints
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    list_seed: u64,
}

/// What the pods shall be.
#[derive(Debug, Args)]
struct MixArgs {
    /// Of the GPU asked for, the part by pods that want less than a device
    #[arg(long, value_name = "PERCENT")]
    fractional_share: Option<u32>,
    /// Of the GPU asked for, the part by pods that want several devices
    #[arg(long, value_name = "PERCENT")]
    multi_gpu_share: Option<u32>,
    /// Of the pods with GPU, those that take one or two GPU models only
    #[arg(long, value_name = "PERCENT")]
    constrained_share: Option<u32>,
    /// How often each model is named: by the GPUs there are of it, or all alike
    #[arg(long, value_enum, value_name = "HOW", default_value = "capacity")]
    constrained_models: ModelsArg,
    /// Of all pods, those without GPU
    #[arg(long, value_name = "PERCENT")]
    cpu_only_share: Option<u32>,
}

/// How pods come and go.
#[derive(Debug, Args)]
struct TimedArgs {
    /// With times: pods come, wait, run and end (version 2 of the format)
    #[arg(long)]
    timed: bool,
    /// How many pods come
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, requires = "timed")]
    pods: usize,
    /// The median of how long they run
    #[arg(long, value_name = "TIME", default_value = "10m", requires = "timed")]
    #[arg(value_parser = parse::some_duration)]
    median: Duration,
    /// Projects they belong to, of equal demand and rising weight
    #[arg(long, value_name = "COUNT", default_value_t = 0, requires = "timed")]
    projects: u32,
    /// Of all pods, those in class `high`
    #[arg(long, value_name = "PERCENT", default_value_t = 0, requires = "timed")]
    high_share: u32,
    /// Of all pods, those in class `low`
    #[arg(long, value_name = "PERCENT", default_value_t = 0, requires = "timed")]
    low_share: u32,
    /// Of the pods with whole GPUs, those that are gangs of 2, 4 or 8
    #[arg(long, value_name = "PERCENT", default_value_t = 0, requires = "timed")]
    gang_share: u32,
    /// Give pods time limits: most ask for more than they need, a few for too little
    #[arg(long, requires = "timed")]
    time_limits: bool,
}

/// See [`ModelWeights`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModelsArg {
    /// In proportion to the GPUs there are of it
    Capacity,
    /// All alike
    Even,
}

/// Runs `fgpu simulate generate`.
pub(crate) fn run(args: GenerateArgs) -> Result<(), Failure> {
    let source = args.source.source(args.mix.mix());
    let replay = if args.timed.timed {
        Replay::timed(&source, &args.timed.timed(args.seed, args.load.unwrap_or(900)))
    } else {
        let (load_milli, shuffle) = (args.load.unwrap_or(1300), !args.no_shuffle);
        Replay::fill(&source, Fill { seed: args.seed, load_milli, shuffle })
    };
    let replay = replay.map_err(|error| Failure::of(&error))?;
    write(&replay, args.out)
}

fn write(replay: &Replay, out: Option<PathBuf>) -> Result<(), Failure> {
    let Some(path) = out else {
        let mut bytes = Vec::new();
        replay.write(&mut bytes).map_err(|error| Failure::of(&error))?;
        return output::bytes(&bytes);
    };
    let file = File::create(&path)
        .map_err(|error| Failure::because(format!("cannot create {}", path.display()), &error))?;
    replay.write(&mut BufWriter::new(file)).map_err(|error| Failure::of(&error))
}

impl SourceArgs {
    pub(crate) fn source(self, mix: Mix) -> Source {
        let Self { node_list, pod_list, nodes, devices, list_seed } = self;
        Source { node_list, pod_list, nodes, devices, mix, list_seed }
    }
}

impl TimedArgs {
    fn timed(&self, seed: u64, load_milli: u64) -> Timed {
        Timed {
            seed,
            load_milli,
            jobs: self.pods,
            median_ms: parse::millis(self.median),
            projects: self.projects,
            high_share: self.high_share,
            low_share: self.low_share,
            gang_share: self.gang_share,
            time_limits: self.time_limits,
        }
    }
}

impl MixArgs {
    fn mix(&self) -> Mix {
        Mix {
            fractional_share: self.fractional_share,
            multi_gpu_share: self.multi_gpu_share,
            constrained_share: self.constrained_share,
            constrained_models: match self.constrained_models {
                ModelsArg::Capacity => ModelWeights::Capacity,
                ModelsArg::Even => ModelWeights::Even,
            },
            cpu_only_share: self.cpu_only_share,
        }
    }
}

/// A factor with at most three places behind the point, in thousandths.
pub(crate) fn thousandths(text: &str) -> Result<u64, String> {
    let refused = || format!("`{text}` is no factor: write a number such as `1.3` or `0.95`");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.is_empty() || part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    let whole: u64 = whole.parse().map_err(|_| refused())?;
    let part: u64 = format!("{part:0<3}").parse().map_err(|_| refused())?;
    whole.checked_mul(1000).and_then(|milli| milli.checked_add(part)).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_read_exactly() {
        let cases = [("1.3", 1300), ("0", 0), ("0.95", 950), ("2", 2000), ("1.125", 1125)];
        for (text, milli) in cases {
            assert_eq!(thousandths(text), Ok(milli), "{text}");
        }
        for text in ["", "1.", ".5", "-1", "1.0001", "1,3", "x"] {
            assert!(thousandths(text).is_err(), "{text}");
        }
    }
}

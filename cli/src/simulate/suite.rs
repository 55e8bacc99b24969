//! `fgpu simulate suite`: compare policies on many mixes.

use clap::Args;
use fgpu_domain::placement::Policy;
use fgpu_simulator::{Mix, SuiteOptions, suite};

use super::Replay;
use super::generate::SourceArgs;
use crate::failure::Failure;
use crate::output::{self, Format, OutputArgs};

/// Seeds a range may hold.
const MOST_SEEDS: u64 = 1_000;

/// `fgpu simulate suite`
#[derive(Debug, Args)]
pub(crate) struct SuiteArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Policies, compared with the first
    #[arg(long = "policies", value_name = "POLICY,…", value_delimiter = ',', required = true)]
    policies: Vec<Policy>,
    /// Orders of arrival: numbers and ranges
    #[arg(long, value_name = "SEEDS", default_value = "42-46", value_parser = seeds)]
    seeds: Seeds,
    /// Only mixes with one of these in their name
    #[arg(long, value_name = "PART,…", value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Seeds, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seeds(Vec<u64>);

/// Runs `fgpu simulate suite`.
pub(crate) fn run(args: SuiteArgs) -> Result<(), Failure> {
    let options = SuiteOptions {
        source: args.source.source(Mix::default()),
        policies: args.policies,
        seeds: args.seeds.0,
        only: args.only,
    };
    let mut progress = Replay::new("replays");
    let count = |number| u64::try_from(number).unwrap_or(u64::MAX);
    let report = suite(&options, &mut |done, all| progress.at(count(done), count(all)));
    progress.bar.finish_and_clear();
    let report = report.map_err(|error| Failure::of(&error))?;
    match args.output.output {
        Format::Table => output::text(report.table()),
        Format::Json => output::json(&report),
    }
}

/// `42`, `42-46`, `1,5-7`.
fn seeds(text: &str) -> Result<Seeds, String> {
    let refused = || format!("`{text}` names no seeds: write numbers and ranges such as `1,42-46`");
    let mut seeds = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u64 = first.trim().parse().map_err(|_| refused())?;
        let last: u64 = last.trim().parse().map_err(|_| refused())?;
        if last < first || last - first >= MOST_SEEDS {
            return Err(refused());
        }
        seeds.extend(first..=last);
    }
    Ok(Seeds(seeds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbers_and_ranges() {
        assert_eq!(seeds("42-44"), Ok(Seeds(vec![42, 43, 44])));
        assert_eq!(seeds("1, 5-6"), Ok(Seeds(vec![1, 5, 6])));
        for text in ["", "x", "5-4", "1-", "0-1000000"] {
            assert!(seeds(text).is_err(), "{text}");
        }
    }
}

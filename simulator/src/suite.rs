//! Many mixes, several orders of arrival, several policies: is one better on all of them?
//!
//! Every mix is made of the same lists ([`Mix`]), arrives in the order of every seed, and is
//! replayed by every policy through the same code as any replay.

use crate::error::SimulateError;
use crate::generate::{Fill, GenerateError, Mix, ModelWeights, Replay, Source};
use crate::replay::Reader;
use crate::run::{SimulateOptions, replay};
use fgpu_domain::placement::Policy;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Arrived load, in percent, at which mixes are compared.
const LEVELS: [u32; 2] = [100, 130];
/// GPU that arrives, thousandths of what there is.
const LOAD_MILLI: u64 = 1300;

/// What to replay.
#[derive(Debug, Clone)]
pub struct SuiteOptions {
    /// The lists; its mix is not used.
    pub source: Source,
    /// The policies; all are compared with the first.
    pub policies: Vec<Policy>,
    /// Orders of arrival.
    pub seeds: Vec<u64>,
    /// Only mixes with one of these in their name; all if empty.
    pub only: Vec<String>,
}

/// Why mixes could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A mix cannot be made of the lists.
    #[error("mix {mix}: {source}")]
    Generate {
        /// The mix.
        mix: &'static str,
        /// Why.
        source: GenerateError,
    },
    /// A mix cannot be replayed.
    #[error("mix {mix}: {source}")]
    Simulate {
        /// The mix.
        mix: &'static str,
        /// Why.
        source: SimulateError,
    },
    /// A replay so short that it passes over a load.
    #[error("mix {mix}, seed {seed}: no pod arrives at {level} % load: take more nodes")]
    NoLevel {
        /// The mix.
        mix: &'static str,
        /// The order of arrival.
        seed: u64,
        /// The load, percent.
        level: u32,
    },
    /// No mix, no policy or no seed is left.
    #[error("there is nothing to compare: name a policy, a seed and one of the mixes {mixes}")]
    Nothing {
        /// The mixes there are.
        mixes: String,
    },
}

/// How policies compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuiteReport {
    /// The policies, in the order of the figures.
    pub policies: Vec<String>,
    /// The orders of arrival.
    pub seeds: Vec<u64>,
    /// Each mix.
    pub mixes: Vec<MixReport>,
}

/// How policies compare on one mix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MixReport {
    /// The mix.
    pub mix: &'static str,
    /// At each arrived load, in percent.
    pub levels: Vec<LevelReport>,
}

/// GPU given out at one arrived load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelReport {
    /// The load, percent.
    pub arrived_pct: u32,
    /// By policy, by seed: percent of all GPU.
    pub alloc_pct: Vec<Vec<f64>>,
}

/// The mixes by name.
fn mixes() -> Vec<(&'static str, Mix)> {
    let usual = Mix::default();
    let fractional = |share| Mix { fractional_share: Some(share), ..usual };
    let several = |share| Mix { multi_gpu_share: Some(share), ..usual };
    let cpu_only = |share| Mix { cpu_only_share: Some(share), ..usual };
    let constrained = |share, constrained_models| Mix {
        constrained_share: Some(share),
        constrained_models,
        ..usual
    };
    let (capacity, even) = (ModelWeights::Capacity, ModelWeights::Even);
    vec![
        ("as-listed", usual),
        ("fractional-20", fractional(20)),
        ("fractional-40", fractional(40)),
        ("fractional-60", fractional(60)),
        ("fractional-80", fractional(80)),
        ("fractional-100", fractional(100)),
        ("multi-gpu-20", several(20)),
        ("multi-gpu-30", several(30)),
        ("multi-gpu-40", several(40)),
        ("multi-gpu-50", several(50)),
        ("constrained-10", constrained(10, capacity)),
        ("constrained-20", constrained(20, capacity)),
        ("constrained-25", constrained(25, capacity)),
        ("constrained-33", constrained(33, capacity)),
        ("constrained-10-even", constrained(10, even)),
        ("constrained-33-even", constrained(33, even)),
        ("cpu-only-25", cpu_only(25)),
        ("cpu-only-35", cpu_only(35)),
    ]
}

/// Replays every mix with every policy. `progress` is called with how many replays are done and how
/// many there are.
///
/// # Errors
/// [`SuiteError`] names the mix that cannot be made or replayed.
pub fn suite(
    options: &SuiteOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<SuiteReport, SuiteError> {
    let wanted = |name: &str| {
        options.only.is_empty() || options.only.iter().any(|part| name.contains(part.as_str()))
    };
    let chosen: Vec<_> = mixes().into_iter().filter(|(name, _)| wanted(name)).collect();
    let all = chosen.len() * options.seeds.len() * options.policies.len();
    if all == 0 {
        let names: Vec<&str> = mixes().iter().map(|(name, _)| *name).collect();
        return Err(SuiteError::Nothing { mixes: names.join(", ") });
    }
    let mut done = 0;
    let mut reports = Vec::with_capacity(chosen.len());
    for (mix, shares) in chosen {
        let source = Source { mix: shares, ..options.source.clone() };
        let empty = |arrived_pct| LevelReport {
            arrived_pct,
            alloc_pct: vec![Vec::new(); options.policies.len()],
        };
        let mut levels = LEVELS.map(empty);
        for seed in &options.seeds {
            let bytes = made(mix, &source, *seed)?;
            for (at, policy) in options.policies.iter().enumerate() {
                let figures = allocations(mix, *policy, *seed, &bytes)?;
                for (level, figure) in levels.iter_mut().zip(figures) {
                    level.alloc_pct[at].push(figure);
                }
                done += 1;
                progress(done, all);
            }
        }
        reports.push(MixReport { mix, levels: levels.to_vec() });
    }
    let policies = options.policies.iter().map(Policy::to_string).collect();
    Ok(SuiteReport { policies, seeds: options.seeds.clone(), mixes: reports })
}

fn made(mix: &'static str, source: &Source, seed: u64) -> Result<Vec<u8>, SuiteError> {
    let fill = Fill { seed, load_milli: LOAD_MILLI, shuffle: true };
    let mut bytes = Vec::new();
    Replay::fill(source, fill)
        .and_then(|replay| replay.write(&mut bytes))
        .map_err(|source| SuiteError::Generate { mix, source })?;
    Ok(bytes)
}

fn allocations(
    mix: &'static str,
    policy: Policy,
    seed: u64,
    bytes: &[u8],
) -> Result<[f64; LEVELS.len()], SuiteError> {
    let failed = |source| SuiteError::Simulate { mix, source };
    let options = SimulateOptions { seed, ..SimulateOptions::new(PathBuf::new(), policy) };
    let mut reader = Reader::new(bytes);
    let header = reader.header_line().map_err(failed)?;
    let report = replay(&options, header, reader, &mut None, &mut |_, _| {}).map_err(failed)?;
    let mut figures = [0.0; LEVELS.len()];
    for (figure, level) in figures.iter_mut().zip(LEVELS) {
        let found = report.levels.get(&level);
        *figure = found.ok_or(SuiteError::NoLevel { mix, seed, level })?.alloc_pct;
    }
    Ok(figures)
}

impl LevelReport {
    /// The mean of a policy over all seeds.
    fn mean(&self, policy: usize) -> f64 {
        mean(&self.alloc_pct[policy])
    }

    /// How much more a policy gives out than the first, at the mean and at the worst seed.
    fn gain(&self, policy: usize) -> (f64, f64) {
        let by_seed: Vec<f64> = self.alloc_pct[policy]
            .iter()
            .zip(&self.alloc_pct[0])
            .map(|(figure, first)| figure - first)
            .collect();
        (mean(&by_seed), by_seed.iter().copied().fold(f64::INFINITY, f64::min))
    }
}

impl SuiteReport {
    /// The figures as a table in Markdown: means over the seeds, and what each policy gains over the
    /// first, with the gain at the worst seed in brackets.
    #[must_use]
    pub fn table(&self) -> String {
        let mut head = "| mix |".to_owned();
        for level in LEVELS {
            for (at, policy) in self.policies.iter().enumerate() {
                let _ = write!(head, " {policy} at {level} % |");
                if at > 0 {
                    head.push_str(" gain |");
                }
            }
        }
        let columns = head.matches('|').count() - 1;
        let mut text = format!("{head}\n|{}\n", " --- |".repeat(columns));
        for mix in &self.mixes {
            let _ = write!(text, "| `{}` |", mix.mix);
            for level in &mix.levels {
                for at in 0..self.policies.len() {
                    let _ = write!(text, " {:.2} |", level.mean(at));
                    if at > 0 {
                        let (gain, worst) = level.gain(at);
                        let _ = write!(text, " {gain:+.2} ({worst:+.2}) |");
                    }
                }
            }
            text.push('\n');
        }
        text
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &str) -> SuiteOptions {
        SuiteOptions {
            source: Source { nodes: Some(200), list_seed: 1, ..Source::default() },
            policies: vec![Policy::Random, Policy::BestFit],
            seeds: vec![42, 43],
            only: vec![only.to_owned()],
        }
    }

    #[test]
    fn every_mix_is_replayed_by_every_policy_for_every_seed() {
        let mut last = (0, 0);
        let report = suite(&options("even"), &mut |done, all| last = (done, all)).unwrap();

        assert_eq!(report.mixes.len(), 2);
        assert_eq!(last, (8, 8));
        for level in report.mixes.iter().flat_map(|mix| &mix.levels) {
            for figures in &level.alloc_pct {
                assert!(figures.len() == 2 && figures.iter().all(|alloc| *alloc > 50.0));
            }
        }
        let row = report.table().lines().nth(2).unwrap().to_owned();
        assert!(row.starts_with("| `constrained-10-even` |"), "{row}");
        assert_eq!(row.matches('|').count(), 8);
    }

    #[test]
    fn a_figure_is_that_of_the_replay_alone() {
        let report = suite(&options("as-listed"), &mut |_, _| {}).unwrap();

        let source = Source { nodes: Some(200), list_seed: 1, ..Source::default() };
        let alone = allocations("", Policy::BestFit, 43, &made("", &source, 43).unwrap()).unwrap();
        for (level, alone) in report.mixes[0].levels.iter().zip(alone) {
            assert!((level.alloc_pct[1][1] - alone).abs() < 1e-12);
        }
    }

    #[test]
    fn with_nothing_to_compare_the_mixes_are_named() {
        let refused = suite(&options("no-such-mix"), &mut |_, _| {}).unwrap_err().to_string();
        assert!(refused.contains("fractional-100"), "{refused}");
    }

    #[test]
    fn a_gain_is_the_mean_and_the_worst_of_the_differences() {
        let level =
            LevelReport { arrived_pct: 100, alloc_pct: vec![vec![90.0, 92.0], vec![91.0, 92.5]] };
        let (gain, worst) = level.gain(1);
        assert!((gain - 0.75).abs() < 1e-12 && (worst - 0.5).abs() < 1e-12);
    }
}

//! What is submitted: a seeded mix of jobs, the same for the same seed.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Containers of a gang, from and to.
const GANG: (u64, u64) = (8, 64);
/// Devices of a job on several, from and to.
const MULTI: (u64, u64) = (2, 8);
/// A fraction in hundredths of a device, from and to.
const FRACTION: (u64, u64) = (10, 50);

/// Shares of the kinds of job, percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mix {
    one: u64,
    fraction: u64,
    multi: u64,
    gang: u64,
}

/// What a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One whole device.
    One,
    /// A part of a device.
    Fraction,
    /// Several devices of one node.
    Multi,
    /// Several containers that belong together, of one device each.
    Gang,
}

/// One container: a session, as long as there are no gangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Container {
    /// The job it belongs to.
    pub(crate) job: usize,
    pub(crate) kind: Kind,
    /// Thousandths of a device it takes, of all devices together.
    pub(crate) milli: u64,
    /// How long it runs, in thousandths of the mean.
    pub(crate) length_milli: u64,
}

/// A small generator of random numbers (SplitMix64): nobody's secrets depend on it.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Default for Mix {
    fn default() -> Self {
        Self { one: 60, fraction: 20, multi: 15, gang: 5 }
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares: BTreeMap<&str, u64> = BTreeMap::new();
        for part in text.split(',') {
            let wrong = || format!("`{part}` is not KIND=PERCENT");
            let (kind, percent) = part.split_once('=').ok_or_else(wrong)?;
            if !["one", "fraction", "multi", "gang"].contains(&kind) {
                return Err(format!("`{kind}` is not one of one, fraction, multi, gang"));
            }
            shares.insert(kind, percent.parse().map_err(|_| wrong())?);
        }
        let share = |kind| shares.get(kind).copied().unwrap_or(0);
        let mix = Self {
            one: share("one"),
            fraction: share("fraction"),
            multi: share("multi"),
            gang: share("gang"),
        };
        match mix.one + mix.fraction + mix.multi + mix.gang {
            100 => Ok(mix),
            sum => Err(format!("the shares make {sum} %, not 100 %")),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { one, fraction, multi, gang } = self;
        write!(f, "one={one},fraction={fraction},multi={multi},gang={gang}")
    }
}

impl Mix {
    /// The containers of `jobs` jobs, job by job.
    pub(crate) fn generate(self, jobs: usize, seed: u64) -> Vec<Container> {
        let mut random = Random::new(seed);
        let mut containers = Vec::with_capacity(jobs * 3);
        for job in 0..jobs {
            let kind = self.draw(&mut random);
            let (count, milli) = match kind {
                Kind::One => (1, 1_000),
                Kind::Fraction => (1, 10 * random.between(FRACTION)),
                Kind::Multi => (1, 1_000 * random.between(MULTI)),
                Kind::Gang => (random.between(GANG), 1_000),
            };
            // Containers of a gang end together.
            let length_milli = random.exponential_milli();
            for _ in 0..count {
                containers.push(Container { job, kind, milli, length_milli });
            }
        }
        containers
    }

    fn draw(self, random: &mut Random) -> Kind {
        let draw = random.between((0, 99));
        if draw < self.one {
            Kind::One
        } else if draw < self.one + self.fraction {
            Kind::Fraction
        } else if draw < self.one + self.fraction + self.multi {
            Kind::Multi
        } else {
            Kind::Gang
        }
    }
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of the closed range.
    pub(crate) fn between(&mut self, (from, to): (u64, u64)) -> u64 {
        from + self.next() % (to - from + 1)
    }

    /// Thousandths of a mean, distributed exponentially but for both ends: a twentieth of the mean
    /// at least, five times the mean at most.
    fn exponential_milli(&mut self) -> u64 {
        // The quantiles of the distribution, drawn with equal chance.
        const STEPS: u64 = 1000;
        let quantile = (self.between((0, STEPS - 1)) as f64 + 0.5) / STEPS as f64;
        let length = -(1.0 - quantile).ln() * 1000.0;
        // Within 50 and 5000, so nothing is cut off.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let length = length.clamp(50.0, 5000.0) as u64;
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_reads_back_and_a_wrong_one_is_refused_with_the_reason() {
        let mix: Mix = "one=60,fraction=20,multi=15,gang=5".parse().unwrap();
        assert_eq!(mix, Mix::default());
        assert_eq!(mix.to_string().parse(), Ok(mix));
        let refused = |text: &str| text.parse::<Mix>().unwrap_err();
        assert_eq!(refused("one=60"), "the shares make 60 %, not 100 %");
        assert!(refused("two=100").contains("`two`"));
        assert!(refused("one=x").contains("`one=x`"));
    }

    #[test]
    fn the_same_seed_gives_the_same_jobs_and_each_kind_keeps_its_share_and_size() {
        let containers = Mix::default().generate(20_000, 7);
        assert_eq!(containers, Mix::default().generate(20_000, 7));
        assert_ne!(containers, Mix::default().generate(20_000, 8));

        let mut jobs: BTreeMap<usize, (Kind, u64)> = BTreeMap::new();
        for container in &containers {
            jobs.entry(container.job).or_insert((container.kind, 0)).1 += 1;
            let sizes = match container.kind {
                Kind::One | Kind::Gang => 1000..=1000,
                Kind::Fraction => 100..=500,
                Kind::Multi => 2000..=8000,
            };
            assert!(sizes.contains(&container.milli), "{container:?}");
            assert!((50..=5000).contains(&container.length_milli), "{container:?}");
        }
        assert_eq!(jobs.len(), 20_000);
        for (kind, percent) in
            [(Kind::One, 60), (Kind::Fraction, 20), (Kind::Multi, 15), (Kind::Gang, 5)]
        {
            let of_kind: Vec<_> = jobs.values().filter(|(other, _)| *other == kind).collect();
            let share = of_kind.len() * 100;
            assert!(share.abs_diff(20_000 * percent) < 20_000 * 2, "{kind:?}: {}", of_kind.len());
            let sizes = if kind == Kind::Gang { 8..=64 } else { 1..=1 };
            assert!(of_kind.iter().all(|(_, count)| sizes.contains(count)), "{kind:?}");
        }
    }

    #[test]
    fn lengths_have_the_mean_they_are_measured_in() {
        let containers = "one=100".parse::<Mix>().unwrap().generate(20_000, 1);
        let sum: u64 = containers.iter().map(|container| container.length_milli).sum();
        assert!((950..1050).contains(&(sum / 20_000)), "{}", sum / 20_000);
    }
}

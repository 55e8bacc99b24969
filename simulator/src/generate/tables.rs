//! Distributions as tables: the inverse of each, between whose rows is a straight line. Integers
//! only, so that a seed means the same times on every machine.

use crate::random::SplitMix64;

/// A row: a chance in millionths, and what is not exceeded with that chance, in thousandths.
type Row = (u64, u64);

/// How long work runs, as a multiple of the median: log-normal with a standard deviation of 2 of
/// the logarithm, which is close to the public openb trace, and cut off at 100 (17 hours for a
/// median of ten minutes), so that a few days of arrivals have a steady state.
const DURATION: [Row; 19] = [
    (0, 5),
    (10_000, 10),
    (50_000, 37),
    (100_000, 77),
    (200_000, 186),
    (300_000, 350),
    (400_000, 603),
    (500_000, 1_000),
    (600_000, 1_660),
    (700_000, 2_855),
    (800_000, 5_384),
    (850_000, 7_947),
    (900_000, 12_977),
    (930_000, 19_132),
    (950_000, 26_832),
    (970_000, 43_005),
    (980_000, 60_778),
    (989_000, 100_000),
    (1_000_000, 100_000),
];

/// The time between two arrivals that know nothing of each other, as a multiple of its mean:
/// exponential, cut off at 14.
const GAP: [Row; 20] = [
    (0, 0),
    (50_000, 51),
    (100_000, 105),
    (200_000, 223),
    (300_000, 357),
    (400_000, 511),
    (500_000, 693),
    (600_000, 916),
    (700_000, 1_204),
    (800_000, 1_609),
    (850_000, 1_897),
    (900_000, 2_303),
    (930_000, 2_659),
    (950_000, 2_996),
    (970_000, 3_507),
    (980_000, 3_912),
    (990_000, 4_605),
    (999_000, 6_908),
    (999_900, 9_210),
    (1_000_000, 13_816),
];

/// A duration in thousandths of the median.
pub(super) fn duration(random: &mut SplitMix64) -> u64 {
    draw(&DURATION, random)
}

/// A gap between arrivals in thousandths of the mean.
pub(super) fn gap(random: &mut SplitMix64) -> u64 {
    draw(&GAP, random)
}

fn draw(table: &[Row], random: &mut SplitMix64) -> u64 {
    at(table, random.below(1_000_000))
}

fn at(table: &[Row], chance: u64) -> u64 {
    for rows in table.windows(2) {
        let [(low, from), (high, to)] = [rows[0], rows[1]];
        if chance < high {
            return from + (to - from) * (chance - low) / (high - low);
        }
    }
    table.last().map_or(0, |row| row.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_rises_from_no_chance_to_certainty() {
        for table in [&DURATION[..], &GAP] {
            let ends = (table.first().map(|row| row.0), table.last().map(|row| row.0));
            assert_eq!(ends, (Some(0), Some(1_000_000)));
            assert!(table.windows(2).all(|rows| rows[0].0 < rows[1].0 && rows[0].1 <= rows[1].1));
        }
    }

    #[test]
    fn between_two_rows_is_a_straight_line() {
        assert_eq!(at(&GAP, 500_000), 693);
        assert_eq!(at(&GAP, 550_000), (693 + 916) / 2);
        assert_eq!(at(&DURATION, 999_000), 100_000);
    }

    #[test]
    fn what_is_drawn_has_the_median_and_the_mean_of_its_distribution() {
        let mut random = SplitMix64::new(3);
        let mut durations: Vec<u64> = (0..20_000).map(|_| duration(&mut random)).collect();
        durations.sort_unstable();
        assert!((950..1_050).contains(&durations[10_000]), "{}", durations[10_000]);
        let gaps: u64 = (0..20_000).map(|_| gap(&mut random)).sum();
        // Straight lines lie a little above the curve.
        assert!((980..1_060).contains(&(gaps / 20_000)), "{}", gaps / 20_000);
    }
}

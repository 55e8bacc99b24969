//! Two sides that are measured by turns, to tell what one costs more than the other.
//!
//! A machine that does other work is now faster and now slower. So neither side runs for long: a
//! slice of one, a slice of the other, the next time in the other order, and each slice is compared
//! with the one beside it. The mean over all of them says what was paid; the median of the rounds
//! does not mind the few in which something else happened.

use super::{Measurement, Series, SpeedError, SpeedOptions};
use crate::stopwatch::Lap;
use serde::Serialize;
use std::time::Duration;

/// Decisions of one side before it is the turn of the other.
const SLICE: usize = 200;

/// Makes a decision and says how long it took and whether it found a place.
pub(super) type Exchange<'a> = &'a mut dyn FnMut() -> Result<(Lap, bool), SpeedError>;

/// How much more processor time a decision took than beside it on a cluster where nothing waits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// Over all decisions, percent.
    pub mean_pct: f64,
    /// The median over the rounds, percent.
    pub median_pct: f64,
    /// Rounds: each is a slice of either cluster.
    pub rounds: usize,
}

/// Measures both sides by turns, and what the second costs more than the first.
pub(super) fn measure_pair(
    options: &SpeedOptions,
    fill_pct: u32,
    sides: [Exchange<'_>; 2],
) -> Result<([Measurement; 2], Cost), SpeedError> {
    let mut series = [Series::new(options.at_most), Series::new(options.at_most)];
    let mut rounds: Vec<[Duration; 2]> = Vec::new();
    let mut left = options.decisions;
    while left > 0 && series.iter().all(Series::has_time) {
        let slice = left.min(SLICE);
        let order = if rounds.len().is_multiple_of(2) { [0, 1] } else { [1, 0] };
        let mut cpu = [Duration::ZERO; 2];
        for side in order {
            cpu[side] = series[side].run(slice, sides[side])?;
        }
        rounds.push(cpu);
        left -= slice;
    }
    let [alone, beside] = series.map(|series| series.measurement(fill_pct));
    let measurements = [alone, Measurement { waiting: options.waiting, ..beside }];
    Ok((measurements, Cost::of(&rounds)))
}

impl Cost {
    fn of(rounds: &[[Duration; 2]]) -> Self {
        let more = |[first, second]: [Duration; 2]| {
            let first = first.as_secs_f64();
            if first > 0.0 { 100.0 * (second.as_secs_f64() / first - 1.0) } else { 0.0 }
        };
        let sum = |side: usize| rounds.iter().map(|round| round[side]).sum();
        let mut each: Vec<f64> = rounds.iter().copied().map(more).collect();
        each.sort_by(f64::total_cmp);
        Self {
            mean_pct: more([sum(0), sum(1)]),
            median_pct: each.get(each.len() / 2).copied().unwrap_or_default(),
            rounds: rounds.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    fn options(decisions: usize) -> SpeedOptions {
        SpeedOptions { decisions, waiting: 7, ..SpeedOptions::of(1, 1) }
    }

    fn lap(micros: u64) -> Lap {
        let time = Duration::from_micros(micros);
        Lap { wall: time, cpu: time }
    }

    #[test]
    fn the_sides_take_turns_and_the_order_turns_too() {
        let turns = RefCell::new(String::new());
        let side = |name: char| {
            let turns = &turns;
            move || {
                turns.borrow_mut().push(name);
                Ok((lap(1), name == 'a'))
            }
        };
        let (measured, cost) =
            measure_pair(&options(2 * SLICE + 1), 50, [&mut side('a'), &mut side('b')]).unwrap();

        let slice = |name: &str| name.repeat(SLICE);
        let [a, b] = ["a", "b"].map(slice);
        assert_eq!(turns.into_inner(), format!("{a}{b}{b}{a}ab"));
        assert_eq!(cost.rounds, 3);
        let counts = measured.map(|at| (at.decisions, at.placed, at.waiting));
        assert_eq!(counts, [(2 * SLICE + 1, 2 * SLICE + 1, 0), (2 * SLICE + 1, 0, 7)]);
    }

    #[test]
    fn a_machine_that_changes_its_speed_does_not_change_what_is_told() {
        // Each round is twice as slow as the one before; in the last, something else came between.
        let calls = [Cell::new(0_usize), Cell::new(0)];
        let side = |at: usize, micros: u64| {
            let calls = &calls[at];
            move || {
                let round = calls.replace(calls.get() + 1) / SLICE;
                let other = if at == 1 && round == 4 { 10_000 } else { 0 };
                Ok((lap((micros << round) + other), true))
            }
        };
        let (_, cost) =
            measure_pair(&options(5 * SLICE), 50, [&mut side(0, 100), &mut side(1, 103)]).unwrap();

        assert!((cost.median_pct - 3.0).abs() < 1e-6, "{cost:?}");
        assert!(cost.mean_pct > 100.0, "{cost:?}");
    }

    #[test]
    fn no_round_is_begun_once_the_time_of_a_side_is_up() {
        let brief = SpeedOptions { at_most: Duration::from_millis(1), ..options(10 * SLICE) };
        let (measured, cost) =
            measure_pair(&brief, 50, [&mut || Ok((lap(1), true)), &mut || Ok((lap(10), true))])
                .unwrap();

        assert_eq!((measured[0].decisions, measured[1].decisions, cost.rounds), (SLICE, SLICE, 1));
    }
}

//! Scales: from a value to a part of the length of an axis, and the values to name on it.

use crate::queue::table::duration;

/// Milliseconds that are good to name on an axis.
const ROUND_TIMES: [u64; 18] = [
    1_000,
    5_000,
    15_000,
    60_000,
    300_000,
    600_000,
    1_800_000,
    3_600_000,
    7_200_000,
    14_400_000,
    21_600_000,
    43_200_000,
    86_400_000,
    172_800_000,
    604_800_000,
    1_209_600_000,
    2_419_200_000,
    7_257_600_000,
];
/// The same where every step is several times the one before.
const LOG_TIMES: [u64; 12] = [
    1_000,
    5_000,
    15_000,
    60_000,
    300_000,
    900_000,
    3_600_000,
    14_400_000,
    43_200_000,
    172_800_000,
    604_800_000,
    2_419_200_000,
];
/// Names on an axis of time.
const MOST_TICKS: u64 = 9;

/// A scale with the values that are named on it.
pub(super) struct Axis {
    least: f64,
    most: f64,
    logarithmic: bool,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to `most`, in four steps.
    pub(super) fn linear(most: f64, name: fn(f64) -> String) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let steps = (0_u8..=4).map(|step| most * f64::from(step) / 4.0);
        let ticks = steps.map(|value| (value, name(value))).collect();
        Self { least: 0.0, most, logarithmic: false, ticks }
    }

    /// Where `value` stands, from 0 to 1; what is beyond an end stands there.
    pub(super) fn part(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.least) / self.least).ln() / (self.most / self.least).ln()
        } else {
            (value - self.least) / (self.most - self.least)
        };
        part.clamp(0.0, 1.0)
    }
}

/// From 0 to `until` milliseconds.
pub(super) fn times(until: u64) -> Axis {
    let step = ROUND_TIMES.into_iter().find(|step| until / step < MOST_TICKS);
    let step = step.unwrap_or(until / MOST_TICKS + 1);
    let ticks = (0..=until / step).map(|count| {
        let at = count * step;
        (at as f64, if at == 0 { "0".to_owned() } else { short(at) })
    });
    Axis { least: 0.0, most: until as f64, logarithmic: false, ticks: ticks.collect() }
}

/// From a second to `until` milliseconds, equal factors equally far apart.
pub(super) fn logarithmic_times(until: u64) -> Axis {
    let until = until.max(60_000);
    let named = LOG_TIMES.into_iter().filter(|at| *at <= until);
    let name = |at| match at {
        1_000 => "≤ 1s".to_owned(),
        at => short(at),
    };
    let ticks = named.map(|at| (at as f64, name(at))).collect();
    Axis { least: 1_000.0, most: until as f64, logarithmic: true, ticks }
}

/// A time without what is nought: `5m`, `1d`.
fn short(ms: u64) -> String {
    let text = duration(ms);
    let zeros = [".0s", "00s", "00m", "00h"].into_iter().find(|zeros| text.ends_with(zeros));
    let seconds = text.strip_suffix(".0s").map(|whole| format!("{whole}s"));
    let whole = zeros.and_then(|zeros| text.strip_suffix(zeros)).map(str::to_owned);
    seconds.or(whole).unwrap_or(text)
}

/// A value not below `most` whose quarters are short to write.
pub(super) fn nice(most: f64) -> f64 {
    let mut unit = 0.4;
    loop {
        for factor in [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0] {
            if unit * factor >= most {
                return unit * factor;
            }
        }
        unit *= 10.0;
        if !unit.is_finite() {
            return f64::MAX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_value_that_is_short_to_write() {
        for (most, end) in [(0.0, 0.4), (0.3, 0.4), (3.3, 4.0), (17.0, 20.0), (90.0, 120.0)] {
            assert!((nice(most) - end).abs() < 1e-9, "{most}: {}", nice(most));
        }
    }

    #[test]
    fn times_are_named_at_round_values_and_not_too_often() {
        let axis = times(26 * 3_600_000);
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names[..3], ["0", "4h", "8h"]);
        assert!(names.len() <= 9);
        assert!((axis.part(13.0 * 3_600_000.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn on_a_logarithmic_axis_what_is_short_stands_at_the_beginning() {
        let axis = logarithmic_times(1_000_000);
        assert!(axis.part(0.0).abs() < 1e-9 && axis.part(900.0).abs() < 1e-9);
        assert!((axis.part(1_000.0 * 1_000_f64.sqrt()) - 0.5).abs() < 1e-9);
    }
}

//! Durations as people write them: `500ms`, `3s`, `30m`, `12h`, `7d`.

use std::time::Duration;

const RULE: &str = "a number and a unit: `500ms`, `3s`, `30m`, `12h` or `7d`";

/// Units, largest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a whole number with a unit.
///
/// # Errors
/// The rule it breaks.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or(RULE)?;
    let number: u64 = number.parse().map_err(|_| RULE)?;
    let millis = number.checked_mul(*factor).ok_or("at most 584 million years")?;
    Ok(Duration::from_millis(millis))
}

/// Writes a duration so that it reads back; less than a millisecond is dropped.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fits = |(_, factor): &&(&str, u64)| millis.is_multiple_of(*factor) && millis >= *factor;
    let (unit, factor) = UNITS.iter().find(fits).unwrap_or(&("s", 1_000));
    format!("{}{unit}", millis / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_written() {
        for text in ["500ms", "3s", "30m", "12h", "7d", "0s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration(" 90 s").unwrap(), Duration::from_secs(90));
    }

    #[test]
    fn a_number_without_a_unit_is_refused_with_the_rule() {
        for bad in ["", "3", "s", "1.5s", "-1s", "3 weeks", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}

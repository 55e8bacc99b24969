//! Times as engines write them: RFC 3339, to and from numbers since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

const NANOS: u128 = 1_000_000_000;

/// Nanoseconds since 1970; 0 for a clock before that.
pub(crate) fn unix_nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    u64::try_from(unix_nanos() / 1_000_000).unwrap_or(u64::MAX)
}

/// Reads `2006-01-02T15:04:05.999Z` or with an offset, as milliseconds since 1970. `None` for
/// anything else, and for times before 1970 such as an engine's "never".
pub(crate) fn parse_rfc3339_millis(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let split = rest.find(['Z', '+', '-'])?;
    let (clock, zone) = rest.split_at(split);
    let mut clock = clock.splitn(3, ':');
    let hours: i64 = clock.next()?.parse().ok()?;
    let minutes: i64 = clock.next()?.parse().ok()?;
    let seconds = clock.next()?;
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let millis: String = fraction.chars().chain("000".chars()).take(3).collect();
    let total = days_from_civil(year, month, day) * 86_400
        + hours * 3_600
        + minutes * 60
        + whole.parse::<i64>().ok()?
        - offset_seconds(zone)?;
    u64::try_from(total * 1_000 + millis.parse::<i64>().ok()?).ok()
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (sign, digits) = zone.split_at(1);
    let (hours, minutes) = digits.split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
    Some(if sign == "-" { -seconds } else { seconds })
}

/// `unix_ns` as `2006-01-02T15:04:05.000000000Z`.
pub(crate) fn format_rfc3339_nanos(unix_ns: u128) -> String {
    let seconds = i64::try_from(unix_ns / NANOS).unwrap_or(i64::MAX);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        unix_ns % NANOS
    )
}

/// Days since 1970 of a date of the Gregorian calendar: years are counted from March, so that the
/// leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_an_engine_are_read() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:34:56.789123456Z", Some(1_709_210_096_789)),
            ("2024-02-29T13:34:56.7+01:00", Some(1_709_210_096_700)),
            ("2000-03-01T00:00:00-00:30", Some(951_870_600_000)),
            ("0001-01-01T00:00:00Z", None),
            ("yesterday", None),
            ("", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_rfc3339_millis(text), millis, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for unix_ms in [0, 1_709_210_096_789_u64, 4_102_444_799_999, 951_782_400_000] {
            let text = format_rfc3339_nanos(u128::from(unix_ms) * 1_000_000);
            assert_eq!(parse_rfc3339_millis(&text), Some(unix_ms), "{text}");
        }
    }
}

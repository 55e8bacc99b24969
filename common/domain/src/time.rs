//! Points in time as the domain sees them: values handed in by the caller, never read here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Wall-clock time in milliseconds since the Unix epoch. Only shown and compared with deadlines;
/// leases and silence are measured by monotonic clocks outside the domain.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The time `millis` later, saturating at the end of the range.
    #[must_use]
    pub fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// As people read it: UTC to the second, `2026-11-24T12:27:48Z`. The date follows from the days since
/// the epoch as in Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2013 (`civil_from_days`).
impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400_000, self.0 / 1000 % 86_400);
        // From 1 March of the year 0, in eras of 400 years; years begin in March.
        let day = days + 719_468;
        let (era, day_of_era) = (day / 146_097, day % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_date_and_time_in_utc() {
        let shown = |millis: u64| UnixMillis(millis).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(951_782_399_999), "2000-02-28T23:59:59Z");
        assert_eq!(shown(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(shown(951_868_800_000), "2000-03-01T00:00:00Z");
        assert_eq!(shown(1_795_523_268_524), "2026-11-24T12:27:48Z");
        assert_eq!(shown(4_107_542_399_000), "2100-02-28T23:59:59Z");
        assert_eq!(shown(4_107_542_400_000), "2100-03-01T00:00:00Z", "not a leap year");
    }
}

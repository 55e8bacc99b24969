//! Back-off with full jitter.
//!
//! The schedule is a plain function of the attempt and a random number; [`Retry`] holds the
//! attempt and sleeps. Full jitter spreads a crowd that failed at one moment over the whole pause.

use std::time::Duration;

/// How pauses grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first pause.
    pub first: Duration,
    /// Ceiling of every later pause; the ceiling doubles until here.
    pub longest: Duration,
}

/// A series of attempts.
#[derive(Debug, Clone)]
pub struct Retry {
    backoff: Backoff,
    attempt: u32,
}

impl Backoff {
    /// The longest the pause after `attempt` (from 0) may be.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// The pause after `attempt`: between a millisecond and the ceiling, in proportion to
    /// `random` (evenly over the whole range of the type).
    #[must_use]
    pub fn pause(&self, attempt: u32, random: u32) -> Duration {
        let ceiling = self.ceiling(attempt);
        let part = f64::from(random) / f64::from(u32::MAX);
        ceiling.mul_f64(part).max(Duration::from_millis(1)).min(ceiling)
    }
}

impl Retry {
    /// A series that has not failed yet.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, attempt: 0 }
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next pause; each call counts as one more failure.
    pub fn next_pause(&mut self) -> Duration {
        let attempt = self.attempt;
        self.attempt = self.attempt.saturating_add(1);
        // Without randomness the whole ceiling is the safe pause.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        self.backoff.pause(attempt, random)
    }

    /// Sleeps for the next pause.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

    #[test]
    fn the_ceiling_doubles_up_to_the_longest() {
        let ceilings: Vec<u128> = (0..7).map(|n| BACKOFF.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(BACKOFF.ceiling(u32::MAX), Duration::from_secs(2));
    }

    #[test]
    fn a_pause_is_spread_over_everything_below_the_ceiling() {
        assert_eq!(BACKOFF.pause(1, 0), Duration::from_millis(1));
        assert_eq!(BACKOFF.pause(1, u32::MAX), Duration::from_millis(200));
        let half = BACKOFF.pause(1, u32::MAX / 2);
        assert!((99..=101).contains(&half.as_millis()), "{half:?}");
    }

    #[test]
    fn a_success_starts_the_series_over() {
        let mut retry = Retry::new(BACKOFF);
        for _ in 0..10 {
            assert!(retry.next_pause() <= BACKOFF.longest);
        }
        retry.reset();
        assert!(retry.next_pause() <= BACKOFF.first);
    }
}

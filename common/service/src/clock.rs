//! Time, as the outside world hands it in.
//!
//! Wall-clock time is only shown and compared with deadlines people set; silence and leases are
//! measured on the monotonic clock, so a jump of the wall clock harms nothing.

use async_trait::async_trait;
use fgpu_domain::time::UnixMillis;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Where a daemon reads the time and waits for it to pass.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time; may jump in either direction.
    fn now(&self) -> UnixMillis;

    /// Time since an arbitrary start; never goes back.
    fn monotonic(&self) -> Duration;

    /// Returns once [`monotonic`](Self::monotonic) has reached `at`.
    async fn sleep_until(&self, at: Duration);
}

/// The clocks of the machine.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Monotonic time counts from here.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep_until(&self, at: Duration) {
        tokio::time::sleep_until((self.start + at).into()).await;
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    time: watch::Sender<(UnixMillis, Duration)>,
}

impl ManualClock {
    /// Starts at this wall-clock time; monotonic time starts at zero.
    #[must_use]
    pub fn new(now: UnixMillis) -> Self {
        Self { time: watch::Sender::new((now, Duration::ZERO)) }
    }

    /// Lets both clocks go forward and wakes who waits for it.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.time.send_modify(|(now, monotonic)| {
            *now = now.plus(millis);
            *monotonic += by;
        });
    }

    /// Sets the wall clock alone, as an administrator or NTP may.
    pub fn set_wall(&self, to: UnixMillis) {
        self.time.send_modify(|(now, _)| *now = to);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        self.time.borrow().0
    }

    fn monotonic(&self) -> Duration {
        self.time.borrow().1
    }

    async fn sleep_until(&self, at: Duration) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.time.subscribe().wait_for(|(_, monotonic)| *monotonic >= at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_manual_clock_wakes_who_waits_for_the_time_it_is_moved_to() {
        let clock = Arc::new(ManualClock::new(UnixMillis(1000)));
        let waiting = tokio::spawn({
            let clock = Arc::clone(&clock);
            async move { clock.sleep_until(Duration::from_secs(5)).await }
        });
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());

        clock.advance(Duration::from_secs(1));

        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        assert_eq!(clock.now(), UnixMillis(6000));
    }

    #[test]
    fn a_jump_of_the_wall_clock_leaves_monotonic_time_alone() {
        let clock = ManualClock::new(UnixMillis(10_000));
        clock.advance(Duration::from_secs(1));

        clock.set_wall(UnixMillis(0));

        assert_eq!(clock.monotonic(), Duration::from_secs(1));
        assert_eq!(clock.now(), UnixMillis(0));
    }

    #[tokio::test]
    async fn the_system_clock_does_not_return_before_the_time() {
        let clock = SystemClock::new();
        let at = clock.monotonic() + Duration::from_millis(5);
        clock.sleep_until(at).await;
        assert!(clock.monotonic() >= at);
    }
}

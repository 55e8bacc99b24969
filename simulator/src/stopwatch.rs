//! How long something took, by the clock on the wall and by what the processor did for it. On a
//! machine that does other work, only the second says how fast the code is.

use crate::meter::Timing;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// A measurement that has begun.
pub(crate) struct Stopwatch {
    cpu: Duration,
    wall: Instant,
}

/// A measurement that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lap {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { cpu: thread_time(), wall: Instant::now() }
    }

    pub(crate) fn stop(&self) -> Lap {
        let wall = self.wall.elapsed();
        Lap { wall, cpu: thread_time().saturating_sub(self.cpu) }
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What many measurements come to; `None` for none.
pub(crate) fn timing(laps: &[Lap]) -> Option<Timing> {
    let (wall, wall_sum) = sorted(laps, |lap| lap.wall);
    let (cpu, cpu_sum) = sorted(laps, |lap| lap.cpu);
    let count = laps.len();
    let per_second = |sum: Duration| count as f64 / sum.as_secs_f64().max(f64::MIN_POSITIVE);
    let at = |times: &[Duration], percent: usize| {
        let time = times.get((count * percent / 100).min(count.checked_sub(1)?))?;
        Some(time.as_secs_f64() * 1e6)
    };
    Some(Timing {
        decisions_per_s: per_second(wall_sum),
        p50_us: at(&wall, 50)?,
        p99_us: at(&wall, 99)?,
        max_us: at(&wall, 100)?,
        decisions_per_cpu_s: per_second(cpu_sum),
        p50_cpu_us: at(&cpu, 50)?,
        p99_cpu_us: at(&cpu, 99)?,
    })
}

fn sorted(laps: &[Lap], of: fn(&Lap) -> Duration) -> (Vec<Duration>, Duration) {
    let mut times: Vec<Duration> = laps.iter().map(of).collect();
    times.sort_unstable();
    let sum = times.iter().sum();
    (times, sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_sum_and_the_ranks_of_all_laps() {
        let micros = Duration::from_micros;
        let lap = |time| Lap { wall: micros(time), cpu: micros(time / 2) };
        let laps: Vec<Lap> = (1..=100).rev().map(|time| lap(2 * time)).collect();

        let timing = timing(&laps).unwrap();

        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-6, "{found}");
        close(timing.decisions_per_s, 100.0 / 0.0101);
        close(timing.decisions_per_cpu_s, 200.0 / 0.0101);
        close(timing.p50_us, 102.0);
        close(timing.p99_us, 200.0);
        close(timing.max_us, 200.0);
        close(timing.p50_cpu_us, 51.0);
    }

    #[test]
    fn nothing_measured_is_no_summary_and_work_takes_time() {
        assert_eq!(timing(&[]), None);
        let watch = Stopwatch::start();
        let sum: u64 = std::hint::black_box((0..100_000_u64).map(|n| n ^ 5).sum());
        let lap = watch.stop();
        assert!(sum > 0 && lap.wall > Duration::ZERO);
    }
}

//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `probe` until it gives a value; what it said last is in the message when time runs out.
///
/// # Panics
/// When `deadline` has passed.
pub fn until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if begin.elapsed() > deadline => {
                panic!("{what} did not come about in {deadline:?}; last seen: {last}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// As [`until`], for a condition that is true or false.
///
/// # Panics
/// When `deadline` has passed.
pub fn until_true(what: &str, deadline: Duration, mut probe: impl FnMut() -> bool) {
    until(what, deadline, || if probe() { Ok(()) } else { Err("not so".to_owned()) });
}

/// Watches that something stays as it is for a while.
///
/// # Panics
/// With what `probe` says, as soon as it no longer holds.
pub fn holds_for(what: &str, period: Duration, mut probe: impl FnMut() -> Result<(), String>) {
    let begin = Instant::now();
    while begin.elapsed() < period {
        if let Err(why) = probe() {
            panic!("{what} no longer holds after {:?}: {why}", begin.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
}

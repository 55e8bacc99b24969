//! The output of what has ended, kept in files of the agent.
//!
//! One file per placement, `<session>.<generation>.log`, one record per line:
//!
//! ```text
//! 2026-01-02T03:04:05.123456789Z stdout F what was written
//! ```
//!
//! `F` is a full line, `P` a part of one that goes on in the next record of the same stream. When
//! a file grows past half of what one placement may take it is renamed to `….log.1`, over the one
//! before: the newest output is what is kept.

pub mod archive;
pub mod read;
pub mod record;
pub mod retention;

use std::time::Duration;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of one placement.
    pub placement_bytes: u64,
    /// Bytes of all together.
    pub total_bytes: u64,
    /// Placements.
    pub count: usize,
    /// Since it was written last.
    pub age: Duration,
}

impl Default for LogLimits {
    /// 64 MiB of each, 2 GiB and 1000 of all, 7 days.
    fn default() -> Self {
        Self {
            placement_bytes: 64 << 20,
            total_bytes: 2 << 30,
            count: 1000,
            age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

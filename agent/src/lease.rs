//! How long the agent has been cut off, by a clock that survives it.
//!
//! The lease is good from the moment an answered heartbeat was *sent*. A restarted agent goes on
//! with the lease of the one before: otherwise a session that must stop after the fence time would
//! get that time once more with every restart. What is kept is the time since boot, which nobody
//! can set, and the id of the boot it counts from.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// A point in time of this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTime {
    /// Which boot.
    pub boot_id: String,
    /// Since it, in milliseconds.
    pub millis: u64,
}

impl BootTime {
    /// Now, `None` where the system does not tell.
    #[must_use]
    pub fn now() -> Option<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        Some(Self { boot_id: boot_id.trim().to_owned(), millis: uptime_millis(&uptime)? })
    }

    /// Time from `earlier` to `self`; `None` when they are of different boots.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        let same = self.boot_id == earlier.boot_id;
        same.then(|| Duration::from_millis(self.millis.saturating_sub(earlier.millis)))
    }
}

/// The file that keeps the last lease.
#[derive(Debug, Clone)]
pub struct LeaseFile {
    path: PathBuf,
}

impl LeaseFile {
    /// The file in the state folder `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join("lease") }
    }

    /// Keeps `from`. It need not survive a crash of the machine, after which nothing runs.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, from: &BootTime) -> std::io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        std::fs::write(&temporary, format!("{} {}\n", from.boot_id, from.millis))?;
        std::fs::rename(temporary, &self.path)
    }

    /// How old the kept lease is at `now`; `None` without one of this boot.
    #[must_use]
    pub fn age(&self, now: &BootTime) -> Option<Duration> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let (boot_id, millis) = text.trim().split_once(' ')?;
        let kept = BootTime { boot_id: boot_id.to_owned(), millis: millis.parse().ok()? };
        now.since(&kept)
    }
}

/// `12345.67 89.01` as milliseconds.
fn uptime_millis(text: &str) -> Option<u64> {
    let (whole, part) = text.split_whitespace().next()?.split_once('.')?;
    let hundredths: u64 = part.get(..2)?.parse().ok()?;
    Some(whole.parse::<u64>().ok()? * 1000 + hundredths * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: &str, millis: u64) -> BootTime {
        BootTime { boot_id: boot.to_owned(), millis }
    }

    #[test]
    fn a_lease_ages_over_a_restart_and_means_nothing_after_a_reboot() {
        let folder = tempfile::tempdir().unwrap();
        let file = LeaseFile::new(folder.path());
        assert_eq!(file.age(&at("b1", 5)), None);

        file.write(&at("b1", 1_000)).unwrap();

        assert_eq!(file.age(&at("b1", 31_000)), Some(Duration::from_secs(30)));
        assert_eq!(file.age(&at("b2", 31_000)), None);
    }

    #[test]
    fn the_time_since_boot_is_read_to_the_hundredth() {
        assert_eq!(uptime_millis("12345.67 89.01\n"), Some(12_345_670));
        assert_eq!(uptime_millis("x"), None);
        let (first, second) = (BootTime::now().unwrap(), BootTime::now().unwrap());
        assert!(second.since(&first).is_some());
    }
}

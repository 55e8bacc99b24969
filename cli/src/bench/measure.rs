//! Reading what processes use, what etcd counts, and making figures of samples.

use std::fs;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::failure::Failure;

/// CPU ticks of Linux: 100 a second on every one that counts.
const TICK_MS: u64 = 10;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time of all its threads, user and system.
    pub(crate) cpu_ms: u64,
    /// Resident memory now.
    pub(crate) resident_kib: u64,
    /// The most resident memory it ever had.
    pub(crate) peak_kib: u64,
}

/// What etcd has counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StoreCounts {
    pub(crate) puts: f64,
    pub(crate) deletes: f64,
    /// What went through its log: transactions, those that it then refused included. (What it counts
    /// as transactions has the reads of their conditions in it.)
    pub(crate) proposals: f64,
    pub(crate) fsyncs: f64,
    pub(crate) fsync_seconds: f64,
}

impl Usage {
    /// Of process `pid`; nothing once it has ended.
    pub(crate) fn of(pid: u32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let (stat, status) = (read("stat").unwrap_or_default(), read("status").unwrap_or_default());
        Self::parse(&stat, &status)
    }

    fn parse(stat: &str, status: &str) -> Self {
        // The command's name is in brackets and may hold spaces; counting starts behind it.
        let fields: Vec<&str> = match stat.rsplit_once(')') {
            Some((_, rest)) => rest.split_whitespace().collect(),
            None => Vec::new(),
        };
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse().ok()).unwrap_or(0_u64);
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let text = line.and_then(|line| line.split_whitespace().next());
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        Self {
            cpu_ms: (ticks(11) + ticks(12)) * TICK_MS,
            resident_kib: kib("VmRSS:"),
            peak_kib: kib("VmHWM:"),
        }
    }
}

impl StoreCounts {
    /// Asks the etcd at `endpoint`, such as `127.0.0.1:2379`.
    pub(crate) async fn of(endpoint: &str) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::because(format!("etcd at {endpoint} does not tell its metrics"), &error)
        };
        let mut stream = TcpStream::connect(endpoint).await.map_err(failed)?;
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {endpoint}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(failed)?;
        Ok(Self::parse(&answer))
    }

    fn parse(metrics: &str) -> Self {
        let value = |names: &[&str]| {
            let lines = metrics.lines().filter_map(|line| line.split_once(' '));
            let mut found = lines.filter(|(name, _)| names.contains(name));
            found.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0.0)
        };
        Self {
            puts: value(&["etcd_mvcc_put_total", "etcd_debugging_mvcc_put_total"]),
            deletes: value(&["etcd_mvcc_delete_total", "etcd_debugging_mvcc_delete_total"]),
            proposals: value(&["etcd_server_proposals_committed_total"]),
            fsyncs: value(&["etcd_disk_wal_fsync_duration_seconds_count"]),
            fsync_seconds: value(&["etcd_disk_wal_fsync_duration_seconds_sum"]),
        }
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            puts: self.puts - earlier.puts,
            deletes: self.deletes - earlier.deletes,
            proposals: self.proposals - earlier.proposals,
            fsyncs: self.fsyncs - earlier.fsyncs,
            fsync_seconds: self.fsync_seconds - earlier.fsync_seconds,
        }
    }
}

/// The value below which `percent` of the sorted `values` lie (nearest rank); 0 of none.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(percentile(&values, 50), 100);
        assert_eq!(percentile(&values, 99), 198);
        assert_eq!(percentile(&values, 100), 200);
        assert_eq!(percentile(&[7], 99), 7);
        assert_eq!(percentile(&[], 50), 0);
    }

    #[test]
    fn usage_is_read_behind_a_command_name_with_blanks_and_brackets() {
        let stat = "12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        let status = "Name:\ta\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let expected = Usage { cpu_ms: 3000, resident_kib: 1024, peak_kib: 2048 };
        assert_eq!(Usage::parse(stat, status), expected);
        assert_eq!(Usage::parse("", ""), Usage::default());
        assert!(Usage::of(std::process::id()).resident_kib > 0);
    }

    #[test]
    fn counts_of_older_and_newer_etcds_are_found_by_their_whole_name() {
        let old = "# HELP x\netcd_debugging_mvcc_put_total 12\netcd_server_proposals_committed_total 3\n\
                   etcd_debugging_mvcc_put_total_more 99\n";
        let counts = StoreCounts::parse(old);
        assert_eq!((counts.puts, counts.proposals), (12.0, 3.0));
        let new = "etcd_mvcc_put_total 2e+06\netcd_disk_wal_fsync_duration_seconds_count 5\n";
        let counts = StoreCounts::parse(new);
        assert_eq!((counts.puts, counts.fsyncs), (2_000_000.0, 5.0));
        assert_eq!(counts.since(counts), StoreCounts::default());
    }
}

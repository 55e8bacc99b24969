//! Processes of the node, from `/proc`.

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Rounds of killing what a process has below it, and the time between them.
const ROUNDS: u32 = 100;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(10);

/// What `/proc/<pid>/stat` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessStat {
    pub(super) state: char,
    pub(super) parent: u32,
    pub(super) cpu_ticks: u64,
    /// When it started, in ticks since the machine did: tells it from a later one with its number.
    pub(super) start: u64,
    pub(super) resident_pages: u64,
}

/// Reads what the kernel tells of a process; `None` where it is gone.
pub(super) fn stat(pid: u32) -> Option<ProcessStat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<ProcessStat> {
    // The name is in brackets and may hold anything, brackets too.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first field here is the third of the manual page.
    let number = |at: usize| fields.get(at - 3)?.parse::<u64>().ok();
    Some(ProcessStat {
        state: fields.first()?.chars().next()?,
        parent: u32::try_from(number(4)?).ok()?,
        cpu_ticks: number(14)? + number(15)?,
        start: number(22)?,
        resident_pages: number(24)?,
    })
}

/// Says whether the process that started at `start` with this number still runs. One that has
/// ended and waits to be collected does not.
pub(super) fn is_alive(pid: u32, start: u64) -> bool {
    stat(pid).is_some_and(|stat| stat.start == start && !matches!(stat.state, 'Z' | 'X'))
}

/// All processes below `root`, without itself and without those that have ended.
pub(super) fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, stat) in all() {
        if !matches!(stat.state, 'Z' | 'X') {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(child);
            next.push(child);
        }
    }
    found.sort_unstable();
    found
}

fn all() -> impl Iterator<Item = (u32, ProcessStat)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, stat(pid)?))
    })
}

/// Kills everything below `root` but `spared`, until there is nothing left that could fork.
pub(super) fn kill_descendants(root: u32, spared: &[u32]) {
    for _ in 0..ROUNDS {
        let mut left = descendants(root);
        left.retain(|pid| !spared.contains(pid));
        if left.is_empty() {
            return;
        }
        for pid in left {
            if let Ok(number) = i32::try_from(pid) {
                // One that is gone by now is fine.
                let _ = kill(Pid::from_raw(number), Signal::SIGKILL);
            }
        }
        std::thread::sleep(BETWEEN_ROUNDS);
    }
}

/// Nanoseconds of a number of ticks of the kernel's clock.
pub(super) fn ticks_to_ns(ticks: u64) -> u64 {
    let per_second = system_number(SysconfVar::CLK_TCK, 100);
    ticks.saturating_mul(1_000_000_000 / per_second.max(1))
}

/// Bytes of a number of pages.
pub(super) fn pages_to_bytes(pages: u64) -> u64 {
    pages.saturating_mul(system_number(SysconfVar::PAGE_SIZE, 4_096))
}

fn system_number(variable: SysconfVar, otherwise: u64) -> u64 {
    let number = sysconf(variable).ok().flatten();
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194304 1 2 3 4 50 60 0 0 20 0 1 0 999 1000 12 18";
        assert_eq!(
            parse(text),
            Some(ProcessStat {
                state: 'S',
                parent: 3,
                cpu_ticks: 110,
                start: 999,
                resident_pages: 12
            })
        );
    }

    #[test]
    fn a_number_given_away_again_is_not_the_same_process() {
        let pid = std::process::id();
        let start = stat(pid).unwrap().start;
        assert!(is_alive(pid, start));
        assert!(!is_alive(pid, start + 1));
    }

    #[test]
    fn everything_below_a_process_is_killed() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 600 & sleep 600 & wait"])
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while descendants(shell.id()).len() < 2 {
            assert!(std::time::Instant::now() < deadline, "no children");
            std::thread::yield_now();
        }
        kill_descendants(shell.id(), &[]);
        assert!(shell.wait().unwrap().code().is_some());
        assert!(descendants(shell.id()).is_empty());
    }
}

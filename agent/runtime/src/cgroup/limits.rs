//! Limits and use of one cgroup, in both versions.

use cgroups_rs::fs::cgroup::Cgroup;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Controller, MaxValue};

use super::{CgroupError, refused};
use crate::Limits;

/// Length of a CPU period in microseconds.
const PERIOD_US: u64 = 100_000;
/// Quota in microseconds per thousandth of a core.
const QUOTA_US_PER_MILLI: u64 = PERIOD_US / 1_000;
/// Version 1 writes "unlimited" as the largest number of pages.
const UNLIMITED_FROM: u64 = 1 << 62;

/// The limits in force on a cgroup; `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupReading {
    /// CPU time in thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Swap in bytes on top of memory; `None` also where the kernel does not account for swap.
    pub swap_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Cores, as the kernel lists them.
    pub cpuset: Option<String>,
}

/// What the processes of a cgroup use together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupUsage {
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes, without file cache that the kernel can drop.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

pub(super) fn apply(cgroup: &Cgroup, path: &str, limits: &Limits) -> Result<(), CgroupError> {
    apply_cpu(cgroup, path, limits.cpu_milli)?;
    apply_memory(cgroup, path, limits.memory_bytes)?;
    let pids: &PidController = controller(cgroup, path, "pids")?;
    pids.set_pid_max(MaxValue::Value(i64::from(limits.pids)))
        .map_err(|source| refused("set the pids limit", path, source))?;
    if let Some(cores) = &limits.cpuset {
        let cpuset: &CpuSetController = controller(cgroup, path, "cpuset")?;
        cpuset.set_cpus(cores).map_err(|source| refused("set the cores", path, source))?;
    }
    Ok(())
}

fn apply_cpu(cgroup: &Cgroup, path: &str, milli: Option<u64>) -> Result<(), CgroupError> {
    let Some(cpu) = cgroup.controller_of::<CpuController>() else {
        return match milli {
            None => Ok(()),
            Some(_) => Err(missing("cpu", path)),
        };
    };
    let quota = milli.map_or(-1, |milli| signed(milli.saturating_mul(QUOTA_US_PER_MILLI)));
    cpu.set_cfs_quota_and_period(Some(quota), Some(PERIOD_US))
        .map_err(|source| refused("set the CPU limit", path, source))
}

fn apply_memory(cgroup: &Cgroup, path: &str, bytes: Option<u64>) -> Result<(), CgroupError> {
    let Some(memory) = cgroup.controller_of::<MemController>() else {
        return match bytes {
            None => Ok(()),
            Some(_) => Err(missing("memory", path)),
        };
    };
    let limit = bytes.map_or(-1, signed);
    // Version 1 counts memory and swap together, version 2 swap alone.
    let (swap, file) = match (memory.v2(), bytes) {
        (true, Some(_)) => (0, "memory.swap.max"),
        (true, None) => (-1, "memory.swap.max"),
        (false, _) => (limit, "memory.memsw.limit_in_bytes"),
    };
    let counts_swap = memory.path().join(file).exists();
    let set_swap = || match counts_swap {
        true => memory.set_memswap_limit(swap),
        false => Ok(()),
    };
    // Memory may not pass memory and swap together: which goes first depends on the old values.
    memory
        .set_limit(limit)
        .and_then(|()| set_swap())
        .or_else(|_| set_swap().and_then(|()| memory.set_limit(limit)))
        .map_err(|source| refused("set the memory limit", path, source))
}

pub(super) fn read(cgroup: &Cgroup, path: &str) -> Result<CgroupReading, CgroupError> {
    let cpu: &CpuController = controller(cgroup, path, "cpu")?;
    let quota = cpu.cfs_quota().map_err(|source| refused("read the CPU limit", path, source))?;
    let period = cpu.cfs_period().map_err(|source| refused("read the CPU limit", path, source))?;
    let memory: &MemController = controller(cgroup, path, "memory")?;
    let pids: &PidController = controller(cgroup, path, "pids")?;
    let pids = pids.get_pid_max().map_err(|source| refused("read the pids limit", path, source))?;
    let memory_bytes = limited(memory.memory_stat().limit_in_bytes);
    Ok(CgroupReading {
        cpu_milli: u64::try_from(quota)
            .ok()
            .map(|quota| quota.saturating_mul(1_000) / period.max(1)),
        memory_bytes,
        swap_bytes: read_swap(memory, memory_bytes),
        pids: match pids {
            MaxValue::Max => None,
            MaxValue::Value(most) => u64::try_from(most).ok(),
        },
        cpuset: cgroup
            .controller_of::<CpuSetController>()
            .and_then(|cpuset| read_file(cpuset.path(), "cpuset.cpus")),
    })
}

fn read_swap(memory: &MemController, memory_bytes: Option<u64>) -> Option<u64> {
    if memory.v2() {
        return read_file(memory.path(), "memory.swap.max")?.parse().ok();
    }
    let both = read_file(memory.path(), "memory.memsw.limit_in_bytes")?;
    let both = both.parse::<u64>().ok().filter(|all| *all < UNLIMITED_FROM)?;
    Some(both.saturating_sub(memory_bytes?))
}

pub(super) fn usage(cgroup: &Cgroup) -> CgroupUsage {
    let cpu_ns = match cgroup.controller_of::<CpuAcctController>() {
        Some(account) => account.cpuacct().usage,
        None => cgroup
            .controller_of::<CpuController>()
            .and_then(|cpu| keyed(&cpu.cpu().stat, "usage_usec"))
            .map_or(0, |micros| micros.saturating_mul(1_000)),
    };
    let memory_bytes = cgroup.controller_of::<MemController>().map_or(0, memory_in_use);
    let pids = cgroup
        .controller_of::<PidController>()
        .and_then(|pids| pids.get_pid_current().ok())
        .unwrap_or(0);
    CgroupUsage { cpu_ns, memory_bytes, pids }
}

fn memory_in_use(memory: &MemController) -> u64 {
    let key = match memory.v2() {
        true => "inactive_file",
        false => "total_inactive_file",
    };
    let droppable =
        read_file(memory.path(), "memory.stat").and_then(|stat| keyed(&stat, key)).unwrap_or(0);
    memory.memory_stat().usage_in_bytes.saturating_sub(droppable)
}

pub(super) fn oom_kills(cgroup: &Cgroup) -> u64 {
    let Some(memory) = cgroup.controller_of::<MemController>() else {
        return 0;
    };
    let file = match memory.v2() {
        true => "memory.events",
        false => "memory.oom_control",
    };
    read_file(memory.path(), file).and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0)
}

/// The number after `key` in a file of lines `key number`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

fn read_file(folder: &std::path::Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(folder.join(name)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn limited(bytes: i64) -> Option<u64> {
    u64::try_from(bytes).ok().filter(|bytes| *bytes < UNLIMITED_FROM)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn controller<'a, T>(
    cgroup: &'a Cgroup,
    path: &str,
    name: &'static str,
) -> Result<&'a T, CgroupError>
where
    &'a T: From<&'a cgroups_rs::fs::Subsystem>,
    T: Controller + cgroups_rs::fs::ControllIdentifier,
{
    cgroup.controller_of::<T>().ok_or_else(|| missing(name, path))
}

fn missing(controller: &'static str, path: &str) -> CgroupError {
    CgroupError::NoController { controller, path: path.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tree::Tree;
    use super::*;

    fn file(folder: &Path, name: &str) -> String {
        std::fs::read_to_string(folder.join(name)).unwrap()
    }

    fn version_2(folder: &Path) -> Cgroup {
        std::fs::create_dir_all(folder.join("s1")).unwrap();
        std::fs::write(folder.join("s1/cpu.max"), "max 100000\n").unwrap();
        std::fs::write(folder.join("s1/memory.swap.max"), "max\n").unwrap();
        Tree::unified(folder.to_owned()).load("s1")
    }

    #[test]
    fn limits_are_written_as_version_2_wants_them() {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = version_2(folder.path());
        let limits = Limits {
            cpu_milli: Some(1_500),
            memory_bytes: Some(64 << 20),
            pids: 77,
            cpuset: Some("0-1".to_owned()),
            shm_bytes: None,
        };

        apply(&cgroup, "s1", &limits).unwrap();

        let at = folder.path().join("s1");
        assert_eq!(file(&at, "cpu.max"), "150000 100000");
        assert_eq!(file(&at, "memory.max"), "67108864");
        assert_eq!(file(&at, "memory.swap.max"), "0");
        assert_eq!(file(&at, "pids.max"), "77");
        assert_eq!(file(&at, "cpuset.cpus"), "0-1");
        assert_eq!(
            read(&cgroup, "s1").unwrap(),
            CgroupReading {
                cpu_milli: Some(1_500),
                memory_bytes: Some(64 << 20),
                swap_bytes: Some(0),
                pids: Some(77),
                cpuset: Some("0-1".to_owned()),
            }
        );
    }

    #[test]
    fn no_limit_reads_back_as_none_in_version_2() {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = version_2(folder.path());

        apply(&cgroup, "s1", &Limits::default()).unwrap();

        let at = folder.path().join("s1");
        assert_eq!(file(&at, "cpu.max"), "max 100000");
        assert_eq!(file(&at, "memory.max"), "max");
        let reading = read(&cgroup, "s1").unwrap();
        assert_eq!(
            (reading.cpu_milli, reading.memory_bytes, reading.pids),
            (None, None, Some(4096))
        );
    }

    #[test]
    fn use_and_kills_are_read_in_version_2() {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = version_2(folder.path());
        let at = folder.path().join("s1");
        for (name, text) in [
            ("cpu.stat", "usage_usec 12\nuser_usec 3\n"),
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 1\ninactive_file 300\n"),
            ("memory.events", "oom 4\noom_kill 2\n"),
            ("pids.current", "5\n"),
        ] {
            std::fs::write(at.join(name), text).unwrap();
        }
        assert_eq!(usage(&cgroup), CgroupUsage { cpu_ns: 12_000, memory_bytes: 700, pids: 5 });
        assert_eq!(oom_kills(&cgroup), 2);
    }

    #[test]
    fn a_limit_without_its_controller_is_an_error() {
        let cgroup = Cgroup::default();
        let limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
        assert!(matches!(
            apply(&cgroup, "s1", &limits),
            Err(CgroupError::NoController { controller: "memory", .. })
        ));
    }
}

//! What the machine is: cores, memory, names, and which cores are near which device.

use fgpu_domain::device::Device;
use fgpu_domain::ids::DeviceUuid;
use fgpu_domain::units::{CpuMilli, MemoryBytes};
use std::collections::BTreeSet;
use std::path::Path;

/// The machine, as read once at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name, as the kernel has it.
    pub hostname: String,
    /// Operating system, e.g. `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Cores we may use.
    pub cpu: CpuMilli,
    /// Memory of the machine, or of the cgroup we are confined to.
    pub memory: MemoryBytes,
}

impl Machine {
    /// Reads the facts of this machine. What the system does not tell stays empty or zero.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = memory_total(&text("/proc/meminfo")).unwrap_or_default();
        let limit = text("/sys/fs/cgroup/memory.max").trim().parse().map(MemoryBytes);
        Self {
            hostname: text("/proc/sys/kernel/hostname").trim().to_owned(),
            os: pretty_name(&text("/etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: CpuMilli::cores(cores as u64),
            memory: limit.map_or(memory, |limit| memory.min(limit)),
        }
    }
}

/// The cores of one NUMA node as `0-15,32-47`, from the tree at `sysfs` (`/sys`).
#[must_use]
pub fn cpus_of_numa_node(sysfs: &Path, node: u32) -> Option<String> {
    let path = sysfs.join(format!("devices/system/node/node{node}/cpulist"));
    let list = std::fs::read_to_string(path).ok()?.trim().to_owned();
    (!list.is_empty()).then_some(list)
}

/// The cores to keep a container on: those near all of its devices, where these hang on one NUMA
/// node that has enough of them for `cpu`; `None` leaves it all cores.
#[must_use]
pub fn cpuset_near(
    sysfs: &Path,
    devices: &[Device],
    used: &BTreeSet<DeviceUuid>,
    cpu: CpuMilli,
) -> Option<String> {
    let mut nodes = BTreeSet::new();
    for device in devices.iter().filter(|device| used.contains(&device.uuid)) {
        nodes.insert(device.numa_node?);
    }
    let node = nodes.pop_first().filter(|_| nodes.is_empty())?;
    let near = cpus_of_numa_node(sysfs, node)?;
    (count_cpus(&near)?.saturating_mul(1000) >= cpu.0).then_some(near)
}

/// How many cores a list such as `0-3,8` names.
fn count_cpus(list: &str) -> Option<u64> {
    list.split(',').try_fold(0_u64, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

fn memory_total(meminfo: &str) -> Option<MemoryBytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(MemoryBytes(kib.checked_mul(1024)?))
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// `hostname` as a node name: lower case, what is not allowed replaced by `-`; `None` where
/// nothing is left of it.
#[must_use]
pub fn node_name_of(hostname: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let replaced: String = hostname
        .to_ascii_lowercase()
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(63)
        .collect();
    let name = replaced.trim_matches(['-', '.']).to_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::device;

    fn sysfs(lists: &[(u32, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (node, list) in lists {
            let folder = root.path().join(format!("devices/system/node/node{node}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("cpulist"), format!("{list}\n")).unwrap();
        }
        root
    }

    #[test]
    fn a_container_is_kept_near_its_devices_where_there_are_cores_enough() {
        let sysfs = sysfs(&[(0, "0-3,8"), (1, "4-7")]);
        let mut far = device("GPU-2", 1);
        far.numa_node = Some(1);
        let devices = [device("GPU-1", 0), far];
        let near = |used: &[usize], cores| {
            let used = used.iter().map(|index| devices[*index].uuid.clone()).collect();
            cpuset_near(sysfs.path(), &devices, &used, CpuMilli::cores(cores))
        };

        assert_eq!(near(&[0], 5).as_deref(), Some("0-3,8"));
        assert_eq!(near(&[1], 1).as_deref(), Some("4-7"));
        assert_eq!(near(&[0], 6), None, "more than the node has");
        assert_eq!(near(&[0, 1], 1), None, "no one node is near both");
        assert_eq!(near(&[], 1), None, "no device, no place");
    }

    #[test]
    fn a_host_name_becomes_a_node_name() {
        assert_eq!(node_name_of("GPU_Box.Lab").as_deref(), Some("gpu-box.lab"));
        assert_eq!(node_name_of("-a-").as_deref(), Some("a"));
        assert_eq!(node_name_of(&"x".repeat(80)).map(|name| name.len()), Some(63));
        assert_eq!(node_name_of("__"), None);
    }

    #[test]
    fn facts_are_read_from_what_the_kernel_writes() {
        assert_eq!(memory_total("MemTotal:  2048 kB\nMemFree: 1 kB\n"), Some(MemoryBytes::mib(2)));
        assert_eq!(pretty_name("A=b\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        let machine = Machine::read();
        assert!(machine.cpu.0 >= 1000 && !machine.memory.is_zero(), "{machine:?}");
    }
}

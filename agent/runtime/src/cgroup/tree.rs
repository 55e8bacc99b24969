//! The cgroup hierarchy of a machine: which version, and where its folders are.

use std::path::{Path, PathBuf};

use cgroups_rs::fs::cgroup::Cgroup;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::hierarchies::V1;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Hierarchy, Subsystem};

use super::CgroupError;

const UNIFIED: &str = "/sys/fs/cgroup";

/// Version of a cgroup hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One tree per controller, also where a version 2 tree without controllers is beside them.
    V1,
    /// One tree for all controllers.
    V2,
}

/// Where the cgroups of this machine are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    /// The mounted trees.
    V1(Vec<Mounted>),
    /// The one tree.
    V2(PathBuf),
}

/// A mounted tree of version 1, or the controller-less tree of version 2 beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    point: PathBuf,
    unified: bool,
    controllers: Vec<String>,
}

impl Tree {
    pub(super) fn detect() -> Result<Self, CgroupError> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|source| {
            CgroupError::Io { doing: "read", path: "/proc/self/mountinfo".into(), source }
        })?;
        Self::from_mountinfo(&mounts).ok_or(CgroupError::NoHierarchy)
    }

    #[cfg(test)]
    pub(super) fn unified(root: PathBuf) -> Self {
        Self::V2(root)
    }

    fn from_mountinfo(text: &str) -> Option<Self> {
        let mounted: Vec<_> = text.lines().filter_map(Mounted::parse).collect();
        let all_in_one =
            mounted.iter().any(|each| each.unified && each.point == Path::new(UNIFIED));
        if all_in_one {
            return Some(Self::V2(UNIFIED.into()));
        }
        mounted.iter().any(|each| !each.unified).then_some(Self::V1(mounted))
    }

    pub(super) fn version(&self) -> CgroupVersion {
        match self {
            Self::V1(_) => CgroupVersion::V1,
            Self::V2(_) => CgroupVersion::V2,
        }
    }

    /// A handle to the cgroup at `path`, which need not exist.
    pub(super) fn load(&self, path: &str) -> Cgroup {
        match self {
            Self::V1(_) => Cgroup::load(Box::new(V1::new()), path),
            Self::V2(root) => Cgroup::load(Box::new(Unified { root: root.clone() }), path),
        }
    }

    /// The folders of the cgroup at `path` in every tree.
    pub(super) fn folders(&self, path: &str) -> Vec<PathBuf> {
        match self {
            Self::V1(mounted) => mounted.iter().map(|each| each.point.join(path)).collect(),
            Self::V2(root) => vec![root.join(path)],
        }
    }

    /// The folder that lists the processes of the cgroup at `path`.
    pub(super) fn process_folder(&self, path: &str) -> PathBuf {
        self.process_mount().join(path)
    }

    /// The folder that lists the processes beside `pid`.
    pub(super) fn folder_of_process(&self, pid: u32) -> Option<PathBuf> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let controller = match self {
            Self::V1(_) => self.process_controller()?,
            Self::V2(_) => "",
        };
        let path = path_in_hierarchy(&text, controller)?;
        Some(self.process_mount().join(path.trim_start_matches('/')))
    }

    /// Says whether a session's limits can be set here; if not, why.
    pub(super) fn check_writable(&self) -> Result<(), String> {
        for folder in self.folders("") {
            // Says no to root, too, where the tree is mounted read-only as in most containers.
            let writable = nix::unistd::access(&folder, nix::unistd::AccessFlags::W_OK);
            if let Err(error) = writable {
                return Err(format!(
                    "{} is not writable ({error}): run the agent as root, or mount it writable",
                    folder.display()
                ));
            }
        }
        match self.missing_controller() {
            Some(name) => Err(format!("the kernel offers no cgroup controller `{name}` here")),
            None => Ok(()),
        }
    }

    /// The first controller that limits need and that is not there.
    fn missing_controller(&self) -> Option<&'static str> {
        let has = |name: &str| match self {
            Self::V1(mounted) => mounted.iter().any(|each| each.has(name)),
            Self::V2(root) => std::fs::read_to_string(root.join("cgroup.controllers"))
                .is_ok_and(|text| text.split_whitespace().any(|each| each == name)),
        };
        ["cpu", "memory", "pids"].into_iter().find(|name| !has(name))
    }

    /// The tree of version 1 that every process of ours is in: one that limits them.
    fn process_controller(&self) -> Option<&'static str> {
        let Self::V1(mounted) = self else {
            return None;
        };
        ["pids", "memory", "cpu", "freezer", "devices"]
            .into_iter()
            .find(|name| mounted.iter().any(|each| each.has(name)))
    }

    fn process_mount(&self) -> PathBuf {
        match self {
            Self::V2(root) => root.clone(),
            Self::V1(mounted) => self
                .process_controller()
                .and_then(|name| mounted.iter().find(|each| each.has(name)))
                .map_or_else(|| PathBuf::from(UNIFIED), |each| each.point.clone()),
        }
    }
}

impl Mounted {
    /// Reads one line of `/proc/self/mountinfo`; `None` for other file systems.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let unified = match after.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let options = after.nth(1).unwrap_or_default();
        Some(Self {
            point: point.into(),
            unified,
            controllers: options.split(',').map(str::to_owned).collect(),
        })
    }

    fn has(&self, controller: &str) -> bool {
        !self.unified && self.controllers.iter().any(|each| each == controller)
    }
}

/// The path of the line of `/proc/PID/cgroup` with `controller`; the empty one is version 2.
fn path_in_hierarchy<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let here = match controller {
            "" => number == "0" && names.is_empty(),
            _ => names.split(',').any(|name| name == controller),
        };
        here.then_some(path)
    })
}

/// A version 2 hierarchy at any folder, with the controllers that limit a session.
#[derive(Debug)]
struct Unified {
    root: PathBuf,
}

impl Hierarchy for Unified {
    fn subsystems(&self) -> Vec<Subsystem> {
        let (root, none) = (|| self.root.clone(), PathBuf::new);
        vec![
            Subsystem::Cpu(CpuController::new(root(), none(), true)),
            Subsystem::Mem(MemController::new(root(), none(), true)),
            Subsystem::Pid(PidController::new(root(), none(), true)),
            Subsystem::CpuSet(CpuSetController::new(root(), none(), true)),
        ]
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        self.group("")
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        let parent = Path::new(path).parent().unwrap_or(Path::new(""));
        self.group(&parent.to_string_lossy())
    }

    fn v2(&self) -> bool {
        true
    }
}

impl Unified {
    fn group(&self, path: &str) -> Cgroup {
        let root = self.root.clone();
        Cgroup::load(Box::new(Self { root }), path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 21 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/pids rw,relatime shared:4 - cgroup cgroup rw,pids
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const UNIFIED_ONLY: &str = "\
25 21 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
30 21 0:30 / /tmp rw - tmpfs tmpfs rw";

    #[test]
    fn trees_beside_a_version_2_one_are_version_1() {
        let tree = Tree::from_mountinfo(HYBRID).unwrap();
        assert_eq!(tree.version(), CgroupVersion::V1);
        assert_eq!(tree.process_folder("fgpu/s1"), Path::new("/sys/fs/cgroup/pids/fgpu/s1"));
        assert_eq!(tree.folders("fgpu").len(), 3);
    }

    #[test]
    fn one_tree_at_the_usual_place_is_version_2() {
        let tree = Tree::from_mountinfo(UNIFIED_ONLY).unwrap();
        assert_eq!(tree, Tree::V2(UNIFIED.into()));
        assert_eq!(tree.process_folder("fgpu/s1"), Path::new("/sys/fs/cgroup/fgpu/s1"));
    }

    #[test]
    fn a_machine_without_cgroups_has_no_tree() {
        assert_eq!(Tree::from_mountinfo("30 21 0:30 / /tmp rw - tmpfs t rw"), None);
    }

    #[test]
    fn the_cgroup_of_a_process_is_found_by_controller() {
        let text = "4:cpu,cpuacct:/a\n2:pids:/b:c\n0::/d\n";
        assert_eq!(path_in_hierarchy(text, "cpuacct"), Some("/a"));
        assert_eq!(path_in_hierarchy(text, "pids"), Some("/b:c"));
        assert_eq!(path_in_hierarchy(text, ""), Some("/d"));
        assert_eq!(path_in_hierarchy(text, "memory"), None);
    }

    #[test]
    fn a_tree_without_a_needed_controller_cannot_hold_limits() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::unified(folder.path().to_owned());
        let offer = |names: &str| {
            std::fs::write(folder.path().join("cgroup.controllers"), names).unwrap();
            tree.check_writable()
        };
        assert_eq!(offer("cpuset cpu io memory pids\n"), Ok(()));
        assert!(offer("cpuset cpu io pids\n").unwrap_err().contains("memory"));
    }

    #[test]
    fn this_machine_has_a_tree() {
        Tree::detect().unwrap();
    }
}

//! The cgroups of a node's sessions: one parent per session, with its limits on it.
//!
//! Start at [`Cgroups`]. Every session has one cgroup `/fgpu/<session>` (or, where systemd manages
//! cgroups, the slice `fgpu-<session>.slice`), whatever the runtime puts below it. Its limits are
//! the limits of the session, and its processes are the processes of the session.
//!
//! Both hierarchies are known: version 1, one tree per controller, and version 2, one tree for all.
//! Calls here read and write small kernel files and may wait a few hundredths of a second: call
//! them from a thread that may block.

mod files;
mod limits;
mod name;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{CgroupDriver, Limits};

pub use limits::{CgroupReading, CgroupUsage};
pub use name::{escape_unit, slice_of};
pub use tree::CgroupVersion;
use tree::Tree;

/// Name of the cgroup all sessions are below, where nothing else is configured.
pub const DEFAULT_ROOT: &str = "fgpu";

/// Cgroup beside the sessions for processes of ours that serve them; no session id begins so.
const HELPERS: &str = "_helpers";
/// How often removing or killing is tried, and how long apart: 2 seconds in all.
const TRIES: u32 = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// How often making a cgroup is tried again.
const TRIES_AGAINST_REMOVAL: u32 = 5;

/// Why a cgroup could not be made, read or limited.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no cgroup hierarchy on this machine.
    #[error("no cgroup hierarchy is mounted: mount one at /sys/fs/cgroup")]
    NoHierarchy,
    /// A controller is needed and not there.
    #[error("cgroup controller {controller} is not available below {path}")]
    NoController {
        /// Name of the controller.
        controller: &'static str,
        /// The cgroup.
        path: String,
    },
    /// The kernel refused.
    #[error("could not {doing} of cgroup {path}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The cgroup.
        path: String,
        /// What the kernel said.
        source: cgroups_rs::fs::error::Error,
    },
    /// A file could not be read or written, or a folder not made or removed.
    #[error("could not {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Processes are still there after all tries to kill them.
    #[error("cgroup {path} still has processes {processes:?}")]
    Busy {
        /// The cgroup.
        path: String,
        /// Its processes.
        processes: Vec<u32>,
    },
}

/// The cgroups of the sessions of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cgroups {
    tree: Tree,
    root: String,
    driver: CgroupDriver,
}

impl Cgroups {
    /// The hierarchy of this machine, with sessions below `root` (letters, digits, `-`, `_`).
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`].
    pub fn detect(root: &str, driver: CgroupDriver) -> Result<Self, CgroupError> {
        Ok(Self { tree: Tree::detect()?, root: root.to_owned(), driver })
    }

    /// Version of the hierarchy.
    pub fn version(&self) -> CgroupVersion {
        self.tree.version()
    }

    /// The parent cgroup of a session, as engines want it named.
    pub fn parent(&self, session: &str) -> String {
        match self.driver {
            CgroupDriver::Systemd => slice_of(&self.root, session),
            CgroupDriver::Cgroupfs | CgroupDriver::None => format!("/{}/{session}", self.root),
        }
    }

    /// Says whether the limits of a session can be set by us.
    ///
    /// # Errors
    /// Why not, in words for the doctor.
    pub fn check_writable(&self) -> Result<(), String> {
        if self.driver == CgroupDriver::Systemd {
            return Err("systemd manages the cgroups of this node".to_owned());
        }
        self.tree.check_writable()
    }

    /// Makes the cgroup of a session and sets its limits; may be repeated. Does nothing where
    /// systemd manages cgroups.
    ///
    /// # Errors
    /// [`CgroupError`] where the kernel refuses.
    pub fn ensure(&self, session: &str, limits: &Limits) -> Result<(), CgroupError> {
        if self.driver == CgroupDriver::Systemd {
            return Ok(());
        }
        let path = self.relative(session);
        let cgroup = self.tree.load(&path);
        against_removal(|| cgroup.create())
            .map_err(|source| refused("make the folders", &path, source))?;
        limits::apply(&cgroup, &path, limits)
    }

    /// The limits that are in force on the cgroup of a session, as the kernel has them.
    ///
    /// # Errors
    /// [`CgroupError`] where there is no such cgroup.
    pub fn read(&self, session: &str) -> Result<CgroupReading, CgroupError> {
        let path = self.relative(session);
        limits::read(&self.tree.load(&path), &path)
    }

    /// What the processes of a session use together.
    pub fn usage(&self, session: &str) -> CgroupUsage {
        limits::usage(&self.tree.load(&self.relative(session)))
    }

    /// How many processes of a session the kernel has killed for lack of memory.
    pub fn oom_kills(&self, session: &str) -> u64 {
        limits::oom_kills(&self.tree.load(&self.relative(session)))
    }

    /// The processes of a session, those of cgroups below its own too, sorted.
    pub fn processes(&self, session: &str) -> Vec<u32> {
        files::processes_below(&self.tree.process_folder(&self.relative(session)))
    }

    /// The sessions that have a cgroup, sorted: those without a container are left from a crash
    /// and may be removed. Empty where systemd manages cgroups, which cleans up by itself.
    pub fn sessions(&self) -> Vec<String> {
        if self.driver == CgroupDriver::Systemd {
            return Vec::new();
        }
        let mut found = files::names_below(&self.tree.process_folder(&self.root));
        found.retain(|name| name != HELPERS);
        found
    }

    /// Says whether the cgroup of a session is there in any hierarchy.
    pub fn exists(&self, session: &str) -> bool {
        let path = self.relative(session);
        self.tree.folders(&path).iter().any(|each| each.is_dir())
    }

    /// Moves a process into the cgroup of a session.
    ///
    /// # Errors
    /// [`CgroupError`] where the cgroup or the process is not there.
    pub fn add(&self, session: &str, pid: u32) -> Result<(), CgroupError> {
        let path = self.relative(session);
        self.tree
            .load(&path)
            .add_task_by_tgid(u64::from(pid).into())
            .map_err(|source| refused("add a process", &path, source))
    }

    /// Moves a process of ours out of whatever cgroup it was born in, into one beside the
    /// sessions: it must not count against a session, nor end with the service that made it.
    ///
    /// # Errors
    /// [`CgroupError`] where the kernel refuses.
    pub fn add_helper(&self, pid: u32) -> Result<(), CgroupError> {
        let path = self.relative(HELPERS);
        let cgroup = self.tree.load(&path);
        against_removal(|| {
            cgroup.create().and_then(|()| cgroup.add_task_by_tgid(u64::from(pid).into()))
        })
        .map_err(|source| refused("add a process", &path, source))
    }

    /// Kills all processes of a session and waits until they are gone.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] with those that are left after 2 seconds.
    pub fn kill(&self, session: &str) -> Result<(), CgroupError> {
        let path = self.relative(session);
        let mut processes = self.processes(session);
        for _ in 0..TRIES {
            if processes.is_empty() {
                return Ok(());
            }
            // One write kills all at once in version 2; version 1 has no such file.
            if self.tree.load(&path).kill().is_err() {
                for pid in &processes {
                    kill_process(*pid);
                }
            }
            std::thread::sleep(BETWEEN_TRIES);
            processes = self.processes(session);
        }
        Err(CgroupError::Busy { path, processes })
    }

    /// Removes the empty cgroup of a session, those below it, and that of all sessions once it is
    /// empty too. Absent ones are a success; processes are left alone.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] where processes are still in it after 2 seconds.
    pub fn remove(&self, session: &str) -> Result<(), CgroupError> {
        if self.driver == CgroupDriver::Systemd {
            // Slices are made and removed by systemd itself.
            return Ok(());
        }
        let path = self.relative(session);
        for folder in self.tree.folders(&path) {
            self.remove_folder(&folder, &path)?;
        }
        self.remove_root();
        Ok(())
    }

    /// Removes the cgroup of all sessions, and that of helpers, once no session is left.
    fn remove_root(&self) {
        for _ in 0..TRIES {
            let paths = [self.relative(HELPERS), self.root.clone()];
            let mut folders = paths.iter().flat_map(|path| self.tree.folders(path));
            let left = folders.any(|folder| match std::fs::remove_dir(folder) {
                Ok(()) => false,
                Err(error) => error.kind() != std::io::ErrorKind::NotFound,
            });
            if !left || !self.sessions().is_empty() {
                return;
            }
            // The last helper is about to end.
            std::thread::sleep(BETWEEN_TRIES);
        }
    }

    fn remove_folder(&self, folder: &std::path::Path, path: &str) -> Result<(), CgroupError> {
        for _ in 0..TRIES {
            if files::remove_empty(folder).is_ok() {
                return Ok(());
            }
            // A process that has just ended still counts for a moment.
            std::thread::sleep(BETWEEN_TRIES);
        }
        Err(CgroupError::Busy { path: path.to_owned(), processes: files::processes_below(folder) })
    }

    fn relative(&self, session: &str) -> String {
        match self.driver {
            CgroupDriver::Systemd => {
                format!("{}.slice/{}", escape_unit(&self.root), slice_of(&self.root, session))
            }
            CgroupDriver::Cgroupfs | CgroupDriver::None => format!("{}/{session}", self.root),
        }
    }
}

/// The processes in the cgroup that `pid` is in and in those below it; only `pid` where they
/// cannot be read.
pub fn processes_around(pid: u32) -> Vec<u32> {
    let found = Tree::detect()
        .ok()
        .and_then(|tree| tree.folder_of_process(pid))
        .map(|folder| files::processes_below(&folder))
        .unwrap_or_default();
    if found.is_empty() { vec![pid] } else { found }
}

/// Tries again what fails when another session's end removes an empty parent in between.
fn against_removal(
    act: impl Fn() -> cgroups_rs::fs::error::Result<()>,
) -> cgroups_rs::fs::error::Result<()> {
    for _ in 0..TRIES_AGAINST_REMOVAL {
        if act().is_ok() {
            return Ok(());
        }
        std::thread::sleep(BETWEEN_TRIES);
    }
    act()
}

fn kill_process(pid: u32) {
    let Ok(number) = i32::try_from(pid) else {
        return;
    };
    match kill(Pid::from_raw(number), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(pid, %error, "process could not be killed"),
    }
}

fn refused(doing: &'static str, path: &str, source: cgroups_rs::fs::error::Error) -> CgroupError {
    CgroupError::Refused { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(driver: CgroupDriver) -> Cgroups {
        Cgroups { tree: Tree::unified("/nowhere".into()), root: "fgpu".to_owned(), driver }
    }

    #[test]
    fn the_parent_is_a_path_or_a_slice() {
        assert_eq!(at(CgroupDriver::Cgroupfs).parent("s1"), "/fgpu/s1");
        assert_eq!(at(CgroupDriver::Systemd).parent("s1"), "fgpu-s1.slice");
        assert_eq!(at(CgroupDriver::Systemd).relative("s1"), "fgpu.slice/fgpu-s1.slice");
    }

    #[test]
    fn removing_takes_the_empty_parents_and_leaves_those_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let cgroups =
            Cgroups { tree: Tree::unified(folder.path().to_owned()), ..at(CgroupDriver::Cgroupfs) };
        let root = folder.path().join("fgpu");
        std::fs::create_dir_all(root.join("s1/below")).unwrap();
        std::fs::create_dir_all(root.join("s2")).unwrap();
        std::fs::create_dir_all(root.join(HELPERS)).unwrap();
        assert_eq!(cgroups.sessions(), ["s1", "s2"]);

        cgroups.remove("s1").unwrap();
        assert!(!root.join("s1").exists());
        assert!(root.join("s2").exists());

        cgroups.remove("s1").unwrap();
        cgroups.remove("s2").unwrap();
        assert!(!root.exists());
        assert!(folder.path().exists());
    }
}

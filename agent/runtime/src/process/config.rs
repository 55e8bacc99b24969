//! Settings of the process runtime.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::Owner;
use crate::cgroup::DEFAULT_ROOT;

/// Settings of the process runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Who the containers belong to.
    pub owner: Owner,
    /// Program and arguments that lead to [`super::shim_main`]; its own arguments follow them.
    pub shim_command: Vec<OsString>,
    /// Folder of the state; made where it is missing.
    pub state_dir: PathBuf,
    /// Name of the cgroup that holds those of the sessions.
    pub cgroup_root: String,
    /// Size in bytes at which the output of a container is rotated.
    pub log_file_bytes: u64,
    /// Files of output kept per container, at least 1.
    pub log_files: u32,
}

impl ProcessConfig {
    /// The defaults for `owner`: three files of 16 MiB of output per container.
    pub fn new(owner: Owner, shim_command: Vec<OsString>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            owner,
            shim_command,
            state_dir: state_dir.into(),
            cgroup_root: DEFAULT_ROOT.to_owned(),
            log_file_bytes: 16 << 20,
            log_files: 3,
        }
    }
}

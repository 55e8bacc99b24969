//! The agent's folder of files: one agent at a time, and where things lie in it.

use fgpu_domain::reconcile::PlacementId;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another agent runs on it.
    #[error(
        "state folder {} is in use by another agent (process {holder}): stop it, or choose \
         another folder with `--state-dir`",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Process id it wrote down, or `unknown`.
        holder: String,
    },
    /// The file system did not let us.
    #[error("cannot {doing} {}: run as a user who may, or choose another `--state-dir`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The folder, held as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Where the files of placements lie. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl StateDir {
    /// Makes the folder where it is missing, and takes it for this process.
    ///
    /// # Errors
    /// [`StateDirError::InUse`] while another agent has it, [`StateDirError::Io`].
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let paths = Paths { root: path.to_owned() };
        for folder in [path.to_owned(), paths.slices(), paths.logs()] {
            // Containers of any user read their slice file, by its own path only.
            let mode = if folder == paths.logs() { 0o700 } else { 0o711 };
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&folder)
                .map_err(|source| StateDirError::Io { doing: "make", path: folder, source })?;
        }
        let lock = path.join("lock");
        let failed = |doing| {
            let path = lock.clone();
            move |source| StateDirError::Io { doing, path, source }
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&lock).map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let holder = if known { holder.trim() } else { "unknown" }.to_owned();
                return Err(StateDirError::InUse { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        file.set_len(0).map_err(failed("write"))?;
        file.rewind().map_err(failed("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// Where things lie.
    #[must_use]
    pub fn paths(&self) -> Paths {
        Paths { root: self.path.clone() }
    }
}

impl Paths {
    /// The paths below `root`, without making or locking anything.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the slice files.
    #[must_use]
    pub fn slices(&self) -> PathBuf {
        self.root.join("slices")
    }

    /// Folder of the logs of what has ended.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The slice file of a placement.
    #[must_use]
    pub fn slice_file(&self, id: &PlacementId) -> PathBuf {
        self.slices().join(format!("{}.{}.json", id.session, id.generation))
    }

    /// Removes the slice file of a placement, if it is there.
    pub fn forget_slice(&self, id: &PlacementId) {
        let path = self.slice_file(id);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "slice file stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_one_folder_is_refused_with_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path()).unwrap();

        let refused = StateDir::open(folder.path()).unwrap_err();

        let me = std::process::id().to_string();
        assert!(refused.to_string().contains(&me), "{refused}");
        drop(first);
        assert!(StateDir::open(folder.path()).is_ok(), "free again when the first is gone");
    }
}

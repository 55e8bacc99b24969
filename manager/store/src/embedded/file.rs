//! The file as the system gives it: opening under an exclusive lock, appending, replacing.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// Readable and writable by the owner alone: values may hold secrets.
const MODE: u32 = 0o600;

/// What the writer does to the log; a trait so that tests can make the disk fail.
pub(super) trait LogFile: Send {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

impl LogFile for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// Opens or creates the file at `path` and takes its lock. The path that comes back has no links
/// in it, so that replacing the file replaces the right one.
pub(super) fn open_locked(path: &Path) -> Result<(File, PathBuf), StoreError> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .open(path)
            .map_err(|source| failed("open", path, source))?;
        lock(&file, path)?;
        let path = fs::canonicalize(path).map_err(|source| failed("find", path, source))?;
        // Between the open and the lock the file may have been replaced by its last holder;
        // then the lock is on a file that has no name any more.
        if is_at(&file, &path) {
            restrict(&file, &path)?;
            return Ok((file, path));
        }
    }
}

/// Reads the whole file.
pub(super) fn read_all(file: &File, path: &Path) -> Result<Vec<u8>, StoreError> {
    let read = || {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(|source| failed("read", path, source))
}

/// Why the file was not replaced.
pub(super) enum ReplaceError {
    /// The old file is in place and untouched.
    Kept(io::Error),
    /// The new file is in place, but a crash may bring the old one back.
    NotSynced(io::Error),
}

/// Replaces the file at `path` by one that holds `parts`, durably, and returns it locked.
pub(super) fn replace(
    path: &Path,
    parts: impl IntoIterator<Item = Vec<u8>>,
) -> Result<File, ReplaceError> {
    let temporary = temporary_path(path);
    let written = write_new(&temporary, parts)
        .and_then(|file| fs::rename(&temporary, path).map(|()| file))
        .map_err(|error| {
            // What is left of it takes space that others may need; a failure here changes nothing.
            let _ = fs::remove_file(&temporary);
            ReplaceError::Kept(error)
        })?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(ReplaceError::NotSynced)?;
    Ok(written)
}

/// An error about `path`.
pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    if is_full(&source) {
        let location = path.display().to_string();
        return StoreError::Full { location, source: Box::new(source) };
    }
    StoreError::Io { action, path: path.to_owned(), source }
}

/// Whether `error` says that there is no space: disk full, quota or size limit reached.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn write_new(path: &Path, parts: impl IntoIterator<Item = Vec<u8>>) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(path)?;
    for part in parts {
        file.write_all(&part)?;
    }
    file.sync_all()?;
    file.try_lock().map_err(io::Error::other)?;
    Ok(file)
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Locked { path: path.to_owned(), pid: lock_holder(file) })
        }
        Err(TryLockError::Error(source)) => Err(failed("lock", path, source)),
    }
}

/// The process that holds the lock, from the kernel's table of locks.
fn lock_holder(file: &File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino().to_string();
    let table = fs::read_to_string("/proc/locks").ok()?;
    // 1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields[..] else { return None };
        let pid = pid.parse().ok().filter(|pid| *pid != 0)?;
        (place.rsplit(':').next() == Some(inode.as_str())).then_some(pid)
    })
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

fn restrict(file: &File, path: &Path) -> Result<(), StoreError> {
    let mode = file.metadata().map_err(|source| failed("read", path, source))?.mode() & 0o777;
    if mode & !MODE != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "store file was open to others; its mode is now 600");
        file.set_permissions(Permissions::from_mode(MODE))
            .map_err(|source| failed("restrict", path, source))?;
    }
    Ok(())
}

//! The log: appends frames, undoes what it could not append, and rewrites the file when most of
//! it is garbage.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{self, LogFile, ReplaceError};
use super::frame::{FILE_HEADER, FileHeader, encode_entry, encode_frame, encode_revisions};
use super::state::{Revision, State};
use crate::StoreError;

/// Below this size, in bytes, the file is not rewritten by itself.
const MIN_REWRITE: u64 = 4 << 20;
/// Size of a snapshot frame, in bytes, beyond which the next one is begun.
const SNAPSHOT_FRAME: usize = 1 << 20;

/// The open file with what is known about it.
pub(super) struct Log {
    file: Box<dyn LogFile>,
    path: PathBuf,
    salt: u32,
    len: u64,
    /// Size of the file at which a rewrite is tried next.
    rewrite_at: u64,
    /// Why nothing may be written any more.
    poison: Option<String>,
}

/// Why a frame was not appended; made into an error for each transaction in it.
pub(super) enum AppendFault {
    /// The file is as it was before.
    Undone(io::Error),
    /// The frame may or may not be found when the file is opened again.
    Unsure(io::Error),
    /// Nothing was tried.
    Poisoned(String),
}

impl AppendFault {
    /// The error for one of the transactions.
    pub(super) fn to_error(&self, path: &Path) -> StoreError {
        match self {
            Self::Undone(error) => file::failed("write to", path, copy(error)),
            Self::Unsure(error) => StoreError::Unknown {
                location: path.display().to_string(),
                source: Box::new(copy(error)),
            },
            Self::Poisoned(detail) => {
                StoreError::Poisoned { path: path.to_owned(), detail: detail.clone() }
            }
        }
    }
}

impl Log {
    pub(super) fn new(file: Box<dyn LogFile>, path: PathBuf, salt: u32, len: u64) -> Self {
        Self { file, path, salt, len, rewrite_at: MIN_REWRITE, poison: None }
    }

    /// Makes a new file with the entries of `state` under `path`, in place of the one there.
    pub(super) fn create(path: &Path, state: &State) -> Result<Self, ReplaceError> {
        let salt = random();
        let (parts, len) = snapshot_parts(state, salt);
        let file: File = file::replace(path, parts)?;
        Ok(Self::new(Box::new(file), path.to_owned(), salt, len))
    }

    /// The same log over another view of its file.
    pub(super) fn wrapped(
        mut self,
        wrap: impl FnOnce(Box<dyn LogFile>) -> Box<dyn LogFile>,
    ) -> Self {
        self.file = wrap(self.file);
        self
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Cuts off what lies behind the last good frame.
    pub(super) fn cut_to_len(&mut self) -> io::Result<()> {
        self.file.truncate(self.len)?;
        self.file.sync()
    }

    /// Appends `revisions` as one frame and returns once it is durable.
    pub(super) fn append(
        &mut self,
        revision_before: i64,
        revisions: &[Arc<Revision>],
    ) -> Result<(), AppendFault> {
        if let Some(detail) = &self.poison {
            return Err(AppendFault::Poisoned(detail.clone()));
        }
        let frame = encode_frame(self.salt, revision_before, &encode_revisions(revisions));
        let written = self.file.write_all_at(&frame, self.len).and_then(|()| self.file.sync());
        if let Err(error) = written {
            return Err(self.undo(error));
        }
        self.len += length(frame.len());
        Ok(())
    }

    fn undo(&mut self, error: io::Error) -> AppendFault {
        match self.cut_to_len() {
            Ok(()) => AppendFault::Undone(error),
            Err(undo) => {
                self.poison(format!("write: {error}; undo: {undo}"));
                AppendFault::Unsure(error)
            }
        }
    }

    fn poison(&mut self, detail: String) {
        tracing::error!(path = %self.path.display(), detail, "store file takes no more writes");
        self.poison = Some(detail);
    }

    /// Rewrites the file if garbage dominates it. Any failure leaves a usable log or a poisoned
    /// one, and is only logged: what is committed stays committed.
    pub(super) fn rewrite_if_due(&mut self, state: &State, asked: bool) {
        let garbage_dominates = self.len > 2 * state.live_bytes + length(SNAPSHOT_FRAME);
        let due = asked || self.len >= self.rewrite_at;
        if self.poison.is_some() || !garbage_dominates || !due {
            return;
        }
        let before = self.len;
        match Self::create(&self.path, state) {
            Ok(log) => {
                *self = log;
                tracing::debug!(path = %self.path.display(), before, after = self.len, "store file rewritten");
            }
            Err(ReplaceError::Kept(error)) => {
                self.rewrite_at = before + MIN_REWRITE.max(before / 4);
                tracing::warn!(path = %self.path.display(), %error, "store file could not be rewritten; it goes on growing");
            }
            Err(ReplaceError::NotSynced(error)) => {
                self.poison(format!("rewriting the file: {error}"));
            }
        }
    }
}

/// The header and the frames of a new file, made one at a time, and the file's length.
fn snapshot_parts(state: &State, salt: u32) -> (Vec<Vec<u8>>, u64) {
    let mut parts = vec![Vec::new()];
    let mut payload = Vec::new();
    for (key, record) in state.iter() {
        encode_entry(&mut payload, key, record);
        if payload.len() >= SNAPSHOT_FRAME {
            parts.push(encode_frame(salt, state.revision, &payload));
            payload.clear();
        }
    }
    if !payload.is_empty() {
        parts.push(encode_frame(salt, state.revision, &payload));
    }
    let len = length(FILE_HEADER + parts.iter().map(Vec::len).sum::<usize>());
    parts[0] = FileHeader { salt, base_revision: state.revision, snapshot_end: len }.encode();
    (parts, len)
}

/// A number that differs from file to file and from process to process.
pub(super) fn random() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    let [a, b, c, d, ..] = RandomState::new().hash_one(()).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn length(len: usize) -> u64 {
    u64::try_from(len).expect("a usize fits into 64 bits")
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

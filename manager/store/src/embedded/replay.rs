//! From the bytes of the file back to the state.

use std::path::Path;
use std::sync::Arc;

use super::frame::{
    FILE_HEADER, FRAME_HEADER, FileHeader, FrameHeader, HeaderFault, decode_entries,
    decode_revisions, find_frame,
};
use super::state::{Record, State};
use crate::StoreError;

/// What a file holds.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) state: State,
    pub(super) salt: u32,
    /// Bytes up to the end of the last good frame; what lies behind was torn by a crash.
    pub(super) len: usize,
}

/// Rebuilds the state from `bytes`, the whole file at `path`.
pub(super) fn replay(path: &Path, bytes: &[u8]) -> Result<Replayed, StoreError> {
    let header = read_header(path, bytes)?;
    let mut replay = Replay { path, bytes, offset: FILE_HEADER, salt: header.salt };
    let entries = replay.snapshot(&header)?;
    let mut state = State::new(header.base_revision, entries);
    while let Some(payload) = replay.next_frame(state.revision)? {
        let offset = replay.offset;
        let malformed =
            || replay.corrupt(offset, "its checksum holds but its content is malformed");
        for revision in decode_revisions(payload).ok_or_else(malformed)? {
            if revision.revision != state.revision + 1 {
                return Err(malformed());
            }
            state.apply(Arc::new(revision));
        }
        replay.offset += FRAME_HEADER + payload.len();
    }
    Ok(Replayed { state, salt: header.salt, len: replay.offset })
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<FileHeader, StoreError> {
    FileHeader::decode(bytes).map_err(|fault| {
        let detail = match fault {
            HeaderFault::Newer { found } => {
                return StoreError::NewerFormat {
                    path: path.to_owned(),
                    found,
                    supported: super::frame::FORMAT_VERSION,
                };
            }
            HeaderFault::NotAStore => "it does not start like a store file",
            HeaderFault::Damaged => "its header is cut off or fails its checksum",
        };
        StoreError::Corrupt { path: path.to_owned(), offset: 0, detail: detail.to_owned() }
    })
}

struct Replay<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    offset: usize,
    salt: u32,
}

impl<'a> Replay<'a> {
    /// The entries of the snapshot, which was complete before the file got its name: whatever is
    /// missing of it is damage.
    fn snapshot(&mut self, header: &FileHeader) -> Result<Vec<(Arc<str>, Record)>, StoreError> {
        let mut entries = Vec::new();
        let end = usize::try_from(header.snapshot_end).unwrap_or(usize::MAX);
        while self.offset < end {
            let payload =
                self.frame_at(self.offset).map_err(|detail| self.corrupt(self.offset, detail))?.1;
            let malformed = || self.corrupt(self.offset, "an entry of its snapshot is malformed");
            entries.extend(decode_entries(payload).ok_or_else(malformed)?);
            self.offset += FRAME_HEADER + payload.len();
        }
        Ok(entries)
    }

    /// The payload of the frame at the current offset, which follows `revision`; `None` at the
    /// end, which may be a torn frame.
    fn next_frame(&self, revision: i64) -> Result<Option<&'a [u8]>, StoreError> {
        if self.offset == self.bytes.len() {
            return Ok(None);
        }
        match self.frame_at(self.offset) {
            Ok((header, payload)) if header.revision_before == revision => Ok(Some(payload)),
            Ok((header, _)) => {
                let before = header.revision_before;
                let detail = format!("the transactions up to revision {before} are missing");
                Err(self.corrupt(self.offset, &detail))
            }
            // A frame is written only after the one before it is on disk.
            Err(detail) if find_frame(self.bytes, self.offset + 1, self.salt).is_some() => {
                Err(self.corrupt(self.offset, detail))
            }
            Err(_) => Ok(None),
        }
    }

    fn frame_at(&self, offset: usize) -> Result<(FrameHeader, &'a [u8]), &'static str> {
        let rest = &self.bytes[offset.min(self.bytes.len())..];
        let header = FrameHeader::decode(rest, self.salt).ok_or("a frame header is not valid")?;
        let payload = rest
            .get(FRAME_HEADER..)
            .and_then(|payload| payload.get(..header.payload_len))
            .ok_or("a frame is cut off")?;
        if !header.matches(payload) {
            return Err("a frame fails its checksum");
        }
        Ok((header, payload))
    }

    fn corrupt(&self, offset: usize, detail: &str) -> StoreError {
        StoreError::Corrupt {
            path: self.path.to_owned(),
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            detail: detail.to_owned(),
        }
    }
}

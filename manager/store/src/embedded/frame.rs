//! The bytes in the file: a header, then frames.
//!
//! ```text
//! header   magic "fgpustor" | version u32 | salt u32 | base revision i64 | snapshot end u64 | crc u32
//! frame    magic u32 | payload length u32 | revision before it i64 | payload crc u32 | header crc u32
//!          payload
//! ```
//!
//! Integers are little-endian. The frames up to `snapshot end` hold the entries as of the base
//! revision; each later frame holds the transactions of one group commit and was synced before
//! the next one was written. So only the last frame can be torn by a crash: a bad frame with a
//! good one behind it is damage. The salt differs in each file and goes into every header crc,
//! so that a value that looks like a frame is never taken for one.

use std::sync::Arc;

use super::state::{Change, Record, Revision};
use crate::LeaseId;

/// The newest format this release reads, and the one it writes.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Length of the file's header, in bytes.
pub(super) const FILE_HEADER: usize = 36;
/// Length of a frame's header, in bytes.
pub(super) const FRAME_HEADER: usize = 24;
/// The lease of entries that were bound to a lease of an earlier process.
pub(super) const ORPHANED: LeaseId = LeaseId(0);

const FILE_MAGIC: &[u8; 8] = b"fgpustor";
const FRAME_MAGIC: u32 = 0x464d_5246;

const PUT: u8 = 0;
const PUT_LEASED: u8 = 1;
const DELETE: u8 = 2;

/// The file's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) salt: u32,
    pub(super) base_revision: i64,
    pub(super) snapshot_end: u64,
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    NotAStore,
    Newer { found: u32 },
    Damaged,
}

impl FileHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_HEADER);
        out.extend_from_slice(FILE_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.base_revision.to_le_bytes());
        out.extend_from_slice(&self.snapshot_end.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let mut reader = Reader(bytes);
        if reader.take(FILE_MAGIC.len()) != Some(FILE_MAGIC) {
            return Err(HeaderFault::NotAStore);
        }
        // The version comes before the checksum: a newer format may lay out the rest anew.
        let version = reader.u32().ok_or(HeaderFault::Damaged)?;
        if version > FORMAT_VERSION {
            return Err(HeaderFault::Newer { found: version });
        }
        let header = (|| {
            Some(Self {
                salt: reader.u32()?,
                base_revision: reader.i64()?,
                snapshot_end: reader.u64()?,
            })
        })();
        let crc = reader.u32();
        match header {
            Some(header) if crc == Some(crc32fast::hash(&bytes[..FILE_HEADER - 4])) => Ok(header),
            _ => Err(HeaderFault::Damaged),
        }
    }
}

/// A frame's header that has passed its checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHeader {
    pub(super) payload_len: usize,
    pub(super) revision_before: i64,
    payload_crc: u32,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`; `None` if there is no good one.
    pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.u32()? != FRAME_MAGIC {
            return None;
        }
        let payload_len = usize::try_from(reader.u32()?).ok()?;
        let revision_before = reader.i64()?;
        let payload_crc = reader.u32()?;
        let good = reader.u32()? == header_crc(salt, &bytes[..FRAME_HEADER - 4]);
        good.then_some(Self { payload_len, revision_before, payload_crc })
    }

    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        crc32fast::hash(payload) == self.payload_crc
    }
}

fn header_crc(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// The offset after `from` at which the next good frame header starts, if any.
pub(super) fn find_frame(bytes: &[u8], from: usize, salt: u32) -> Option<usize> {
    let magic = FRAME_MAGIC.to_le_bytes();
    let tail = bytes.get(from..)?;
    tail.windows(FRAME_HEADER)
        .position(|window| {
            window.starts_with(&magic) && FrameHeader::decode(window, salt).is_some()
        })
        .map(|position| from + position)
}

/// Wraps `payload` into a frame.
pub(super) fn encode_frame(salt: u32, revision_before: i64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEADER + payload.len());
    out.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
    out.extend_from_slice(&length(payload.len()));
    out.extend_from_slice(&revision_before.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out.extend_from_slice(&header_crc(salt, &out).to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// The payload of a commit frame: revisions, each with its changes.
pub(super) fn encode_revisions(revisions: &[Arc<Revision>]) -> Vec<u8> {
    let mut out = Vec::new();
    for revision in revisions {
        out.extend_from_slice(&revision.revision.to_le_bytes());
        out.extend_from_slice(&length(revision.changes.len()));
        for change in &revision.changes {
            let Some(record) = &change.record else {
                out.push(DELETE);
                put_bytes(&mut out, change.key.as_bytes());
                continue;
            };
            out.push(put_kind(record));
            put_bytes(&mut out, change.key.as_bytes());
            put_bytes(&mut out, &record.value);
            out.extend_from_slice(&record.create_revision.to_le_bytes());
        }
    }
    out
}

/// Reads what [`encode_revisions`] wrote; `None` if it is malformed.
pub(super) fn decode_revisions(payload: &[u8]) -> Option<Vec<Revision>> {
    let mut reader = Reader(payload);
    let mut revisions = Vec::new();
    while !reader.0.is_empty() {
        let revision = reader.i64()?;
        let count = reader.u32()?;
        let mut changes = Vec::new();
        for _ in 0..count {
            changes.push(decode_change(&mut reader, revision)?);
        }
        revisions.push(Revision { revision, changes });
    }
    Some(revisions)
}

fn decode_change(reader: &mut Reader<'_>, revision: i64) -> Option<Change> {
    let kind = reader.u8()?;
    let key = reader.text()?;
    if kind == DELETE {
        return Some(Change { key, record: None });
    }
    let value = Arc::from(reader.bytes()?);
    let create_revision = reader.i64()?;
    let lease = lease_of_kind(kind)?;
    let record = Record { value, create_revision, mod_revision: revision, lease };
    Some(Change { key, record: Some(record) })
}

/// Appends an entry to the payload of a snapshot frame.
pub(super) fn encode_entry(out: &mut Vec<u8>, key: &str, record: &Record) {
    out.push(put_kind(record));
    put_bytes(out, key.as_bytes());
    put_bytes(out, &record.value);
    out.extend_from_slice(&record.create_revision.to_le_bytes());
    out.extend_from_slice(&record.mod_revision.to_le_bytes());
}

/// Reads the entries of a snapshot frame; `None` if it is malformed.
pub(super) fn decode_entries(payload: &[u8]) -> Option<Vec<(Arc<str>, Record)>> {
    let mut reader = Reader(payload);
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        let lease = lease_of_kind(reader.u8()?)?;
        let key = reader.text()?;
        let value = Arc::from(reader.bytes()?);
        let create_revision = reader.i64()?;
        let mod_revision = reader.i64()?;
        entries.push((key, Record { value, create_revision, mod_revision, lease }));
    }
    Some(entries)
}

fn put_kind(record: &Record) -> u8 {
    if record.lease.is_some() { PUT_LEASED } else { PUT }
}

fn lease_of_kind(kind: u8) -> Option<Option<LeaseId>> {
    match kind {
        PUT => Some(None),
        PUT_LEASED => Some(Some(ORPHANED)),
        _ => None,
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()));
    out.extend_from_slice(bytes);
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("transactions and frames are limited to a few MiB").to_le_bytes()
}

/// Takes values off the front of a slice; `None` once it is too short.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        std::str::from_utf8(self.bytes()?).ok().map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_and_any_flipped_byte_is_noticed() {
        let header = FileHeader { salt: 7, base_revision: 42, snapshot_end: 36 };
        let bytes = header.encode();
        assert_eq!(bytes.len(), FILE_HEADER);
        assert_eq!(FileHeader::decode(&bytes), Ok(header));
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0x40;
            assert!(FileHeader::decode(&damaged).is_err(), "byte {index}");
        }
    }

    #[test]
    fn a_frame_of_another_file_is_not_found() {
        let frame = encode_frame(1, 5, b"payload");
        assert_eq!(find_frame(&frame, 0, 1), Some(0));
        assert_eq!(find_frame(&frame, 0, 2), None);
    }
}

//! Output of containers.

use bytes::{BufMut, Bytes, BytesMut};

use crate::time::format_rfc3339_nanos;

/// Which output of a container is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Goes on with what comes, until the container ends.
    pub follow: bool,
    /// Begins with the last so many lines; `None` begins with the oldest kept.
    pub tail: Option<u64>,
    /// Puts the time of writing (RFC 3339, UTC, nanoseconds) and a space before every line.
    pub timestamps: bool,
    /// Leaves out what was written before, in seconds since 1970.
    pub since_unix_s: Option<i64>,
}

/// A piece of output: bytes as they were written, not cut at lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Where they were written to. A terminal has only standard output.
    pub stream: LogStream,
    /// The bytes.
    pub data: Bytes,
}

/// A stream of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// `line` with the time it was written before it, as [`LogOptions::timestamps`] asks.
pub fn prefix_timestamp(unix_ns: u128, line: &[u8]) -> Bytes {
    let stamp = format_rfc3339_nanos(unix_ns);
    let mut bytes = BytesMut::with_capacity(stamp.len() + 1 + line.len());
    bytes.put_slice(stamp.as_bytes());
    bytes.put_u8(b' ');
    bytes.put_slice(line);
    bytes.freeze()
}

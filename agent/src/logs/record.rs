//! Records of a log file, and cutting output into them. Pure.

use fgpu_runtime::LogStream;

/// A line without an end is cut here, bytes.
const LONGEST: usize = 64 << 10;

/// One line of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was written: RFC 3339, UTC, nanoseconds.
    pub at: &'a str,
    /// Where to.
    pub stream: LogStream,
    /// Whether the line ends here.
    pub full: bool,
    /// What was written, without the end of the line.
    pub data: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a line of a file, with or without its end; `None` for one that is no record.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let at = std::str::from_utf8(parts.next()?).ok()?;
        let stream = match parts.next()? {
            b"stdout" => LogStream::Stdout,
            b"stderr" => LogStream::Stderr,
            _ => return None,
        };
        let full = match parts.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { at, stream, full, data: parts.next()? })
    }

    /// Adds the record to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.at.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.as_str().as_bytes());
        out.extend_from_slice(if self.full { b" F " } else { b" P " });
        out.extend_from_slice(self.data);
        out.push(b'\n');
    }
}

/// Cuts one stream of output, each line with its time before it, into records.
#[derive(Debug)]
pub struct Cutter {
    stream: LogStream,
    pending: Vec<u8>,
    /// Whether `pending` begins with a time.
    at_line_start: bool,
    last_at: String,
}

impl Cutter {
    /// Nothing read yet.
    #[must_use]
    pub fn new(stream: LogStream) -> Self {
        let last_at = "1970-01-01T00:00:00.000000000Z".to_owned();
        Self { stream, pending: Vec::new(), at_line_start: true, last_at }
    }

    /// Takes the next bytes and adds every complete record to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(&rest[..end]);
            self.record(true, out);
            rest = &rest[end + 1..];
        }
        self.pending.extend_from_slice(rest);
        if self.pending.len() >= LONGEST {
            self.record(false, out);
        }
    }

    /// Adds what is left, a line without an end.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.record(false, out);
        }
    }

    fn record(&mut self, full: bool, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.pending);
        let mut data = line.as_slice();
        if self.at_line_start
            && let Some((at, rest)) = split_time(data)
        {
            at.clone_into(&mut self.last_at);
            data = rest;
        }
        self.at_line_start = full;
        Record { at: &self.last_at, stream: self.stream, full, data }.write(out);
    }
}

/// Splits `2026-01-02T03:04:05.1Z text`.
fn split_time(line: &[u8]) -> Option<(&str, &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let at = std::str::from_utf8(&line[..space]).ok()?;
    let looks_right = at.len() >= 20 && at.as_bytes()[10] == b'T' && at.as_bytes()[4] == b'-';
    looks_right.then_some((at, &line[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-01-02T03:04:05.000000001Z";

    fn cut(chunks: &[&[u8]]) -> Vec<u8> {
        let (mut cutter, mut out) = (Cutter::new(LogStream::Stdout), Vec::new());
        chunks.iter().for_each(|chunk| cutter.push(chunk, &mut out));
        cutter.finish(&mut out);
        out
    }

    #[test]
    fn lines_become_records_however_the_output_was_cut() {
        let whole = format!("{AT} one\n{AT} two\n{AT} half");
        let expected = format!("{AT} stdout F one\n{AT} stdout F two\n{AT} stdout P half\n");

        assert_eq!(cut(&[whole.as_bytes()]), expected.as_bytes());
        let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
        assert_eq!(cut(&bytes), expected.as_bytes());
    }

    #[test]
    fn bytes_that_are_no_text_and_empty_lines_come_through() {
        let mut input = format!("{AT} ").into_bytes();
        input.extend_from_slice(b"\xff\x00\x1b[1m\n");
        input.extend_from_slice(format!("{AT} \n").as_bytes());

        let out = cut(&[&input]);

        let records: Vec<Record<'_>> =
            out.split_inclusive(|b| *b == b'\n').map(|line| Record::parse(line).unwrap()).collect();
        assert_eq!(records[0].data, b"\xff\x00\x1b[1m");
        assert_eq!((records[1].data, records[1].full), (&b""[..], true));
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_keeps_its_time() {
        let mut input = format!("{AT} ").into_bytes();
        input.extend(std::iter::repeat_n(b'x', LONGEST));
        let out = cut(&[&input, b"end\n"]);

        let records: Vec<Record<'_>> =
            out.split_inclusive(|b| *b == b'\n').map(|line| Record::parse(line).unwrap()).collect();
        assert_eq!(records.len(), 2);
        assert!(!records[0].full && records[1].full);
        assert_eq!((records[1].at, records[1].data), (AT, &b"end"[..]));
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        for bad in ["", "x", "a stdin F x", "a stdout Q x", "a stdout F"] {
            assert_eq!(Record::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}

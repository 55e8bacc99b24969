//! Output of a container in files, and back out of them.
//!
//! One record per line: `<nanoseconds since 1970> <o|e> <F|P> <bytes>`. `F` ends a line of the
//! output, `P` does not. Output is written as it comes; the file is rotated by size.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::state::{Store, Stored, at};
use crate::time::unix_nanos;
use crate::{LogChunk, LogChunkStream, LogOptions, LogStream, RuntimeError, prefix_timestamp};

const CURRENT: &str = "output.log";
/// Pieces read ahead of a slow reader.
const PIECES_AHEAD: usize = 64;
/// How often a file is looked at for more.
const POLL: Duration = Duration::from_millis(50);

/// Writes the output of a container, keeping its files within their size.
pub(super) struct Writer {
    folder: PathBuf,
    file: Option<File>,
    size: u64,
    most: u64,
    files: u32,
}

impl Writer {
    pub(super) fn open(folder: &Path, most: u64, files: u32) -> Self {
        Self { folder: folder.to_owned(), file: None, size: 0, most, files: files.max(1) }
    }

    /// Writes a piece of output. What the disk does not take is dropped.
    pub(super) fn write(&mut self, stream: LogStream, data: &[u8]) {
        let now = unix_nanos();
        let letter = match stream {
            LogStream::Stdout => 'o',
            LogStream::Stderr => 'e',
        };
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            let (tag, text) = match line.strip_suffix(b"\n") {
                Some(text) => ('F', text),
                None => ('P', line),
            };
            let mut record = format!("{now} {letter} {tag} ").into_bytes();
            record.extend_from_slice(text);
            record.push(b'\n');
            // The next record tries again, with a fresh file where needed.
            if self.append(&record).is_err() {
                self.file = None;
            }
        }
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.size >= self.most && self.size > 0 {
            self.rotate()?;
        }
        if self.file.is_none() {
            let path = self.folder.join(CURRENT);
            let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(record)?;
            self.size += record.len() as u64;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        self.size = 0;
        for number in (0..self.files).rev() {
            let from = numbered(&self.folder, number);
            let done = match number + 1 == self.files {
                true => fs::remove_file(&from),
                false => fs::rename(&from, numbered(&self.folder, number + 1)),
            };
            match done {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn numbered(folder: &Path, number: u32) -> PathBuf {
    match number {
        0 => folder.join(CURRENT),
        _ => folder.join(format!("{CURRENT}.{number}")),
    }
}

/// The output of a container as `options` ask for it.
pub(super) fn read(store: Store, stored: Stored, options: LogOptions) -> LogChunkStream {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let folder = stored.folder.clone();
        let mut reader = Reader { store, stored, options, sender, at_line_start: [true, true] };
        if let Err(source) = reader.run() {
            let _ = reader.sender.blocking_send(Err(at(&folder, source)));
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// One record of a file.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    unix_ns: u128,
    stream: LogStream,
    full: bool,
    text: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a line of a file; `None` for one that was cut by a crash.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let unix_ns = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let stream = match parts.next()? {
            b"o" => LogStream::Stdout,
            b"e" => LogStream::Stderr,
            _ => return None,
        };
        let full = match parts.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { unix_ns, stream, full, text: parts.next()? })
    }
}

struct Reader {
    store: Store,
    stored: Stored,
    options: LogOptions,
    sender: mpsc::Sender<Result<LogChunk, RuntimeError>>,
    /// Whether the next piece of standard output, and error, begins a line.
    at_line_start: [bool; 2],
}

/// Nobody reads any more.
struct Gone;

impl Reader {
    fn run(&mut self) -> io::Result<()> {
        let mut files = self.open_all()?;
        let mut skip = match self.options.tail {
            Some(tail) => count_lines(&mut files, self.since())?.saturating_sub(tail),
            None => 0,
        };
        let mut last = None;
        for file in files {
            let mut reader = BufReader::new(file);
            if self.drain(&mut reader, &mut skip)?.is_err() {
                return Ok(());
            }
            last = Some(reader);
        }
        match self.options.follow {
            true => self.follow(last),
            false => Ok(()),
        }
    }

    /// All files, the oldest first.
    fn open_all(&self) -> io::Result<VecDeque<File>> {
        let mut files = VecDeque::new();
        for number in 0..self.stored.spec.log_files {
            match File::open(numbered(&self.stored.folder, number)) {
                Ok(file) => files.push_front(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// Reads what comes, across rotations, until the container has ended or nobody listens.
    fn follow(&mut self, mut current: Option<BufReader<File>>) -> io::Result<()> {
        let mut none = 0;
        loop {
            // Looked at before reading: what was written before the end is then read.
            let over = self.is_over();
            if current.is_none() {
                current = self.open_after(None)?;
            }
            while let Some(reader) = &mut current {
                if self.drain(reader, &mut none)?.is_err() {
                    return Ok(());
                }
                let inode = reader.get_ref().metadata()?.ino();
                match self.open_after(Some(inode))? {
                    Some(next) => {
                        // More may have come between the last read and the rotation.
                        if self.drain(reader, &mut none)?.is_err() {
                            return Ok(());
                        }
                        current = Some(next);
                    }
                    None => break,
                }
            }
            if over || self.sender.is_closed() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }

    /// The file that follows the one with `inode`: the oldest where that one is gone, none where
    /// it is the current one.
    fn open_after(&self, inode: Option<u64>) -> io::Result<Option<BufReader<File>>> {
        let files = self.open_all()?;
        let mut after = None;
        for (index, file) in files.iter().enumerate() {
            if Some(file.metadata()?.ino()) == inode {
                after = Some(index + 1);
            }
        }
        let next = files.into_iter().nth(after.unwrap_or(0));
        Ok(next.map(BufReader::new))
    }

    fn is_over(&self) -> bool {
        match self.store.load(&self.stored.spec.id) {
            Ok(Some(stored)) => {
                !stored.is_running() && stored.run.is_some() || stored.exit.is_some()
            }
            _ => true,
        }
    }

    /// Hands on all whole records from where `reader` is, leaving out `skip` lines.
    fn drain(
        &mut self,
        reader: &mut BufReader<File>,
        skip: &mut u64,
    ) -> io::Result<Result<(), Gone>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                // Half a record: it is read again when it is whole.
                reader.seek_relative(-i64::try_from(read).unwrap_or(0))?;
                return Ok(Ok(()));
            }
            let Some(record) = Record::parse(&line) else {
                continue;
            };
            if record.unix_ns < self.since() {
                continue;
            }
            if *skip > 0 {
                *skip -= u64::from(record.full);
                continue;
            }
            let chunk = self.chunk(&record);
            if self.sender.blocking_send(Ok(chunk)).is_err() {
                return Ok(Err(Gone));
            }
        }
    }

    fn chunk(&mut self, record: &Record<'_>) -> LogChunk {
        let mut data = BytesMut::from(record.text);
        if record.full {
            data.extend_from_slice(b"\n");
        }
        let start = &mut self.at_line_start[usize::from(record.stream == LogStream::Stderr)];
        let stamped = self.options.timestamps && *start;
        *start = record.full;
        LogChunk {
            stream: record.stream,
            data: match stamped {
                true => prefix_timestamp(record.unix_ns, &data),
                false => Bytes::from(data),
            },
        }
    }

    fn since(&self) -> u128 {
        let seconds = self.options.since_unix_s.unwrap_or(0);
        u128::try_from(seconds).unwrap_or(0) * 1_000_000_000
    }
}

/// Lines in all files, a last one without an end too; puts them back to their beginning.
fn count_lines(files: &mut VecDeque<File>, since: u128) -> io::Result<u64> {
    let (mut lines, mut open) = (0, false);
    for file in files {
        let mut reader = BufReader::new(&mut *file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            let text = line.strip_suffix(b"\n").and_then(Record::parse);
            if let Some(record) = text.filter(|record| record.unix_ns >= since) {
                lines += u64::from(record.full);
                open = !record.full;
            }
            line.clear();
        }
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(lines + u64::from(open))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let parsed = Record::parse(b"12 e P a b ").unwrap();
        assert_eq!(
            parsed,
            Record { unix_ns: 12, stream: LogStream::Stderr, full: false, text: b"a b " }
        );
        for bad in [&b""[..], b"12 o", b"x o F a", b"1 q F a", b"1 o Q a"] {
            assert_eq!(Record::parse(bad), None);
        }
    }

    #[test]
    fn files_stay_within_their_size_and_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), 1_000, 3);
        for number in 0..1_000 {
            writer.write(LogStream::Stdout, format!("line {number}\n").as_bytes());
        }
        let mut sizes: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|size| *size < 1_100), "{sizes:?}");
        let newest = fs::read_to_string(folder.path().join(CURRENT)).unwrap();
        assert!(newest.ends_with("line 999\n"), "{newest}");
    }

    #[test]
    fn lines_are_counted_with_an_open_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), 1_000, 3);
        writer.write(LogStream::Stdout, b"a\nb\nc");
        let mut files = VecDeque::from([File::open(folder.path().join(CURRENT)).unwrap()]);
        assert_eq!(count_lines(&mut files, 0).unwrap(), 3);
        // Twice the same: the files are put back.
        assert_eq!(count_lines(&mut files, 0).unwrap(), 3);
    }
}

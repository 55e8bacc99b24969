//! Reading kept output back.

use super::archive::{file_of, older_file_of};
use super::record::Record;
use crate::state_dir::Paths;
use fgpu_domain::reconcile::PlacementId;
use fgpu_runtime::LogStream;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};

/// What is wanted of kept output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Only the last lines; absent: all.
    pub tail: Option<u64>,
    /// Puts the time and a space before every line.
    pub timestamps: bool,
    /// Leaves out what was written before, milliseconds since 1970; 0: nothing.
    pub since_ms: u64,
}

/// Gives the output of `id` piece by piece to `take`, which says whether to go on.
///
/// # Errors
/// What the file system says; [`io::ErrorKind::NotFound`] where nothing is kept.
pub fn read(
    paths: &Paths,
    id: &PlacementId,
    options: &ReadOptions,
    mut take: impl FnMut(LogStream, Vec<u8>) -> bool,
) -> io::Result<()> {
    let skip = match options.tail {
        None => 0,
        Some(tail) => {
            let mut lines = 0_u64;
            each(paths, id, options, |record| {
                lines += u64::from(record.full);
                true
            })?;
            lines.saturating_sub(tail)
        }
    };
    let mut line = 0_u64;
    let mut starts_line = [true, true];
    each(paths, id, options, |record| {
        let wanted = line >= skip;
        line += u64::from(record.full);
        if !wanted {
            return true;
        }
        let starts = &mut starts_line[usize::from(record.stream == LogStream::Stderr)];
        let mut data = Vec::with_capacity(record.data.len() + 32);
        if options.timestamps && *starts {
            data.extend_from_slice(record.at.as_bytes());
            data.push(b' ');
        }
        *starts = record.full;
        data.extend_from_slice(record.data);
        if record.full {
            data.push(b'\n');
        }
        take(record.stream, data)
    })
}

/// Every record since the wanted time, oldest first, until `visit` says no.
fn each(
    paths: &Paths,
    id: &PlacementId,
    options: &ReadOptions,
    mut visit: impl FnMut(&Record<'_>) -> bool,
) -> io::Result<()> {
    let since = (options.since_ms > 0).then(|| time_text(options.since_ms));
    let older = match File::open(older_file_of(paths, id)) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    for file in older.into_iter().chain([File::open(file_of(paths, id))?]) {
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            // One that was cut off by a crash is skipped.
            if let Some(record) = Record::parse(&line)
                && since.as_ref().is_none_or(|since| record.at >= since.as_str())
                && !visit(&record)
            {
                return Ok(());
            }
            line.clear();
        }
    }
    Ok(())
}

/// `millis` since 1970 so that it compares with the times of records as text.
fn time_text(millis: u64) -> String {
    let stamped = fgpu_runtime::prefix_timestamp(u128::from(millis) * 1_000_000, b"");
    // To the millisecond: records may be written with fewer digits.
    let text = String::from_utf8_lossy(&stamped).trim_end().to_owned();
    text.get(..23).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::id;

    fn kept(older: &str, newer: &str) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        std::fs::create_dir(paths.logs()).unwrap();
        if !older.is_empty() {
            std::fs::write(older_file_of(&paths, &id("aaaaaaaa", 1)), older).unwrap();
        }
        std::fs::write(file_of(&paths, &id("aaaaaaaa", 1)), newer).unwrap();
        (root, paths)
    }

    fn all(paths: &Paths, options: &ReadOptions) -> String {
        let mut text = String::new();
        read(paths, &id("aaaaaaaa", 1), options, |stream, data| {
            let mark = if stream == LogStream::Stderr { "!" } else { "" };
            text.push_str(&format!("{mark}{}", String::from_utf8(data).unwrap()));
            true
        })
        .unwrap();
        text
    }

    const OLDER: &str = "2026-01-01T00:00:01.5Z stdout F one\n";
    const NEWER: &str = "2026-01-01T00:00:02.000000000Z stderr F two\n2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n";

    #[test]
    fn output_comes_back_as_it_was_written() {
        let (_root, paths) = kept(OLDER, NEWER);

        assert_eq!(all(&paths, &ReadOptions::default()), "one\n!two\nthree\n");
        let stamped = ReadOptions { timestamps: true, ..ReadOptions::default() };
        let expected = "2026-01-01T00:00:01.5Z one\n!2026-01-01T00:00:02.000000000Z two\n2026-01-01T00:00:03Z three\n";
        assert_eq!(all(&paths, &stamped), expected);
    }

    #[test]
    fn tail_and_since_leave_out_the_beginning() {
        let (_root, paths) = kept(OLDER, NEWER);
        let tail = |tail| ReadOptions { tail: Some(tail), ..ReadOptions::default() };

        assert_eq!(all(&paths, &tail(2)), "!two\nthree\n");
        assert_eq!(all(&paths, &tail(0)), "");
        assert_eq!(all(&paths, &tail(9)), "one\n!two\nthree\n");
        let since = ReadOptions { since_ms: 1_767_225_602_000, ..ReadOptions::default() };
        assert_eq!(all(&paths, &since), "!two\nthree\n");
    }

    #[test]
    fn a_placement_of_which_nothing_is_kept_is_not_found() {
        let (_root, paths) = kept("", "");

        let other = read(&paths, &id("bbbbbbbb", 1), &ReadOptions::default(), |_, _| true);

        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

//! Which kept output is dropped.

use super::LogLimits;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// A kept file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written last.
    pub modified: SystemTime,
}

/// The names of the files that go: too old, or too many or too large together; the oldest first.
/// The files of one placement go together.
#[must_use]
pub fn plan(files: &[Kept], limits: LogLimits, now: SystemTime) -> Vec<String> {
    let mut placements = BTreeMap::<&str, (SystemTime, u64)>::new();
    for file in files {
        let (modified, bytes) = placements.entry(stem(&file.name)).or_insert((file.modified, 0));
        *modified = (*modified).max(file.modified);
        *bytes += file.bytes;
    }
    let mut newest_first: Vec<(&str, SystemTime, u64)> =
        placements.into_iter().map(|(stem, (modified, bytes))| (stem, modified, bytes)).collect();
    newest_first.sort_by_key(|(_, modified, _)| std::cmp::Reverse(*modified));
    let (mut count, mut total) = (0, 0);
    let mut gone = Vec::new();
    for (stem, modified, bytes) in newest_first {
        let age = now.duration_since(modified).unwrap_or_default();
        count += 1;
        total += bytes;
        if count > limits.count || total > limits.total_bytes || age > limits.age {
            gone.push(stem);
        }
    }
    let goes = |file: &&Kept| gone.contains(&stem(&file.name));
    files.iter().filter(goes).map(|file| file.name.clone()).collect()
}

/// Drops from `folder` what [`plan`] says.
///
/// # Errors
/// What the file system says of the folder; a file that cannot be removed is skipped.
pub fn prune(folder: &Path, limits: LogLimits, now: SystemTime) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(facts) = entry.metadata() else { continue };
        files.push(Kept { name, bytes: facts.len(), modified: facts.modified()? });
    }
    for name in plan(&files, limits, now) {
        if let Err(error) = std::fs::remove_file(folder.join(&name)) {
            tracing::warn!(%name, %error, "old output stays");
        }
    }
    Ok(())
}

/// The placement a file belongs to.
fn stem(name: &str) -> &str {
    name.split_once(".log").map_or(name, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn kept(name: &str, bytes: u64, age_s: u64) -> Kept {
        let modified = now() - Duration::from_secs(age_s);
        Kept { name: name.to_owned(), bytes, modified }
    }

    fn limits() -> LogLimits {
        LogLimits {
            count: 2,
            total_bytes: 100,
            age: Duration::from_secs(60),
            ..LogLimits::default()
        }
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let files = [kept("a.1.log", 1, 30), kept("b.1.log", 1, 10), kept("c.1.log", 1, 20)];

        assert_eq!(plan(&files, limits(), now()), ["a.1.log"]);
    }

    #[test]
    fn what_is_too_old_or_too_large_goes() {
        assert_eq!(plan(&[kept("a.1.log", 1, 61)], limits(), now()), ["a.1.log"]);
        let files = [kept("a.1.log", 60, 20), kept("b.1.log", 60, 10)];
        assert_eq!(plan(&files, limits(), now()), ["a.1.log"]);
        assert!(plan(&files[1..], limits(), now()).is_empty());
    }

    #[test]
    fn both_files_of_a_placement_go_together_and_count_as_one() {
        let files = [
            kept("a.1.log", 10, 5),
            kept("a.1.log.1", 10, 50),
            kept("b.1.log", 10, 20),
            kept("c.1.log", 10, 30),
            kept("c.1.log.1", 10, 40),
        ];

        assert_eq!(plan(&files, limits(), now()), ["c.1.log", "c.1.log.1"]);
    }
}

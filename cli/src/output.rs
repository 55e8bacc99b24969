//! What goes to stdout: tables for people, JSON for programs, ids for scripts.

use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{self, Write};
use time::format_description::well_known::Rfc3339;

use crate::failure::Failure;

/// As a shell reports SIGPIPE.
const EXIT_NO_READER: i32 = 141;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people: aligned columns, amounts with units
    #[default]
    Table,
    /// For programs: stable field names, amounts as integers with their unit in the name
    Json,
}

/// Flags of verbs that print one thing.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// How to print: `table` for people, `json` for programs
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// Flags of verbs that print a list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// How to print: `table` for people, `json` for programs
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// Print only ids, one a line
    #[arg(short, long, conflicts_with = "output")]
    pub(crate) quiet: bool,
}

impl ListArgs {
    /// Prints `items` as asked.
    pub(crate) fn print<T: Serialize>(
        &self,
        items: &[T],
        id: impl Fn(&T) -> String,
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<(), Failure> {
        if self.quiet {
            return items.iter().try_for_each(|item| line(id(item)));
        }
        match self.output {
            Format::Json => json(&items),
            Format::Table => text(table(items).render()),
        }
    }
}

/// Writes a line of data to stdout.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    bytes(format!("{}\n", text.as_ref()).as_bytes())
}

/// Writes text that ends in a newline of its own to stdout.
pub(crate) fn text(text: impl AsRef<str>) -> Result<(), Failure> {
    bytes(text.as_ref().as_bytes())
}

/// Writes data to stdout as it is. A reader that has gone (`| head`) ends the program quietly, with
/// the exit code the signal for it would give.
pub(crate) fn bytes(data: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(data).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            std::process::exit(EXIT_NO_READER)
        }
        Err(error) => Err(Failure::because("cannot write to stdout", &error)),
    }
}

/// Writes one JSON document to stdout.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::because("cannot write JSON", &error))?;
    line(text)
}

/// Says something to the person on stderr. Nothing can be done where that fails.
pub(crate) fn say(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Aligned columns.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Adds a row whose cells are taken as they are, empty ones too.
    pub(crate) fn plain_row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text: columns two spaces apart, nothing wrapped, no blanks at the end of a line.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Aligned `name: value` lines, for one thing in full. Empty values are left out.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let shown: Vec<_> = pairs.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in shown {
        let mut lines = value.lines();
        let first = lines.next().unwrap_or_default();
        text.push_str(&format!("{:<width$}  {first}\n", format!("{name}:")));
        for more in lines {
            text.push_str(&format!("{:<width$}  {more}\n", ""));
        }
    }
    text
}

/// A span of milliseconds as people say it: the largest unit that leaves at least two of it.
pub(crate) fn age(millis: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let seconds = millis / 1000;
    match UNITS.iter().find(|(unit, _)| seconds >= unit * 2) {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

/// The time from `since` to now, both Unix milliseconds; `-` for a time that never was.
pub(crate) fn age_of(since_ms: u64, now_ms: u64) -> String {
    match since_ms {
        0 => "-".to_owned(),
        since => age(now_ms.saturating_sub(since)),
    }
}

/// A time, Unix milliseconds, as `2026-03-01T08:00:00Z`.
pub(crate) fn instant(at_ms: u64) -> String {
    let seconds = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok();
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{at_ms} ms after 1970"))
}

/// Now, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_the_end() {
        let mut table = Table::new(&["ID", "STATE", "AGE"]);
        table.row(["7f3c".into(), "running".into(), "12s".into()]);
        table.row(["längere-id".into(), String::new(), "3m".into()]);

        assert_eq!(
            table.render(),
            "ID          STATE    AGE\n7f3c        running  12s\nlängere-id  -        3m\n"
        );
    }

    #[test]
    fn fields_without_a_value_are_left_out_and_long_ones_stay_in_their_column() {
        let text =
            fields(&[("id", "7f3c".into()), ("reason", String::new()), ("devices", "a\nb".into())]);

        assert_eq!(text, "id:       7f3c\ndevices:  a\n          b\n");
    }

    #[test]
    fn a_time_is_shown_to_the_second() {
        assert_eq!(instant(1_772_352_000_123), "2026-03-01T08:00:00Z");
        assert_eq!(instant(u64::MAX), "18446744073709551615 ms after 1970");
    }

    #[test]
    fn ages_use_the_largest_unit_that_leaves_two() {
        for (seconds, shown) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_800, "2d")]
        {
            assert_eq!(age(seconds * 1000), shown);
        }
        assert_eq!(age_of(0, 5000), "-");
        assert_eq!(age_of(9000, 5000), "0s");
    }
}

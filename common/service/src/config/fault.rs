//! What is wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    /// Nobody gave one.
    #[default]
    Default,
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 where it is not known.
        line: usize,
    },
    /// An environment variable, by name.
    Environment(String),
    /// A command line flag, with its dashes.
    Flag(String),
}

/// One value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The setting, as in the file: `timings.lost`.
    pub field: String,
    /// What was given; empty when nothing was.
    pub value: String,
    /// The rule it breaks, and what to do.
    pub rule: String,
    /// Where the value came from.
    pub source: Source,
}

/// Everything that is wrong, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(pub Vec<ConfigFault>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, rule, source } = self;
        match (value.is_empty(), source) {
            (true, Source::Default) => write!(f, "{field}: {rule}"),
            (true, _) => write!(f, "{field} ({source}): {rule}"),
            (false, _) => write!(f, "{field} = `{value}` ({source}): {rule}"),
        }
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let noun = if count == 1 { "fault" } else { "faults" };
        write!(f, "the configuration has {count} {noun}")?;
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

//! Logging: text for people or JSON for programs, always on standard error.
//!
//! `FGPU_LOG` holds a filter such as `info,fgpu_manager=debug` and wins over the configuration.
//! Secrets have no way in: [`Secret`](crate::secret::Secret) does not print itself.

use std::fmt;
use std::str::FromStr;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The engine's client logs whole requests, the environment of sessions included: never finer.
const ENGINE_CLIENT_CAP: &str = "bollard=info";

/// The environment variable with a filter that wins over the configured one.
pub const FILTER_VARIABLE: &str = "FGPU_LOG";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One line of text each.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Form of a line.
    pub format: LogFormat,
    /// Directives, such as `info` or `info,fgpu_manager=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error(
        "log filter `{filter}` is not valid; use a level (error, warn, info, debug, trace) or `info,fgpu_manager=debug`"
    )]
    Filter {
        /// The text given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is already set up in this process")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("`text` or `json`".to_owned()),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Checks a filter without setting it.
///
/// # Errors
/// [`LogError::Filter`] with the text.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|source| LogError::Filter { filter: filter.to_owned(), source })?;
    let cap = ENGINE_CLIENT_CAP.parse().expect("a constant that a test reads");
    Ok(parsed.add_directive(cap))
}

/// Sets up logging for the whole process.
///
/// # Errors
/// [`LogError`] if the filter (of `FGPU_LOG`, else of `config`) is not valid, or on a second call.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let from_environment = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let filter = parse_filter(from_environment.as_deref().unwrap_or(&config.filter))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().finish().try_init(),
    }
    .map_err(LogError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        assert!(parse_filter("info,fgpu_manager=debug").is_ok());
        assert!(parse_filter("trace,bollard=trace").unwrap().to_string().contains("bollard=info"));
        let refused = parse_filter("fgpu=loudly").unwrap_err();
        assert!(refused.to_string().contains("fgpu=loudly"), "{refused}");
    }

    #[test]
    fn formats_read_back() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("xml".parse::<LogFormat>().is_err());
    }
}

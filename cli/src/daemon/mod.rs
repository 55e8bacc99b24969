//! The daemons: `manager`, `agent`, and both in one process for `up` and `demo`.

pub(crate) mod agent;
pub(crate) mod choose;
pub(crate) mod flags;
pub(crate) mod local;
pub(crate) mod manager;
pub(crate) mod up;

use std::path::PathBuf;

use clap::Args;
use fgpu_service::config::ConfigFaults;
use fgpu_service::logging::{self, LogConfig};
use tokio_util::sync::CancellationToken;

use crate::failure::{EXIT_USAGE, Failure};

/// Flags of both daemons.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Configuration file, TOML; environment and flags win over it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the configuration in the form of the file, without secrets, and exit
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Check the configuration and exit
    #[arg(long, conflicts_with = "print_config")]
    pub(crate) check: bool,
}

/// Everything that is wrong with a configuration.
pub(crate) fn faults(faults: &ConfigFaults) -> Failure {
    let count = faults.0.len();
    let noun = if count == 1 { "fault" } else { "faults" };
    let failure = Failure::new(format!("the configuration has {count} {noun}")).exit(EXIT_USAGE);
    faults.0.iter().fold(failure, |failure, fault| failure.detail(fault.to_string()))
}

/// Sets logging up.
pub(crate) fn init_log(config: &LogConfig) -> Result<(), Failure> {
    logging::init(config).map_err(|error| Failure::of(&error))
}

/// A token that the first signal to stop cancels.
pub(crate) fn on_signals() -> Result<CancellationToken, Failure> {
    fgpu_service::shutdown::on_signals()
        .map_err(|error| Failure::because("cannot listen for signals", &error))
}

/// `key = "value"`, escaped.
pub(crate) fn toml_line(key: &str, value: &str) -> String {
    format!("{key} = {}\n", toml::Value::String(value.to_owned()))
}

/// A program and arguments that lead to the shim of the process runtime.
pub(crate) fn shim_command() -> Result<Vec<std::ffi::OsString>, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::because("cannot tell where this program lies", &error))?;
    Ok(vec![program.into(), "internal".into(), "process-shim".into()])
}

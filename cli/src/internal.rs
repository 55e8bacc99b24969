//! Verbs other parts of fgpu call, not people.

use clap::Subcommand;

use crate::failure::Failure;
use crate::output;

/// `fgpu internal …`
#[derive(Debug, Subcommand)]
pub(crate) enum InternalCommand {
    /// Print the slice this process was given
    PrintSlice {
        /// Stay alive afterwards, until told to stop
        #[arg(long)]
        stay: bool,
    },
}

/// Runs `fgpu internal …`.
pub(crate) fn run(command: InternalCommand) -> Result<u8, Failure> {
    match command {
        InternalCommand::PrintSlice { stay: _ } => output::line("").map(|()| 0),
    }
}

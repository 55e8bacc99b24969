//! The person's terminal: its size, and raw mode that is always taken back.

use std::io::{self, IsTerminal as _};

use fgpu_wire::v1::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};

use crate::failure::Failure;

/// Whether both input and output are a terminal.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal, if output goes to one.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    Some(TerminalSize { columns: u32::from(size.ws_col), rows: u32::from(size.ws_row) })
}

/// Raw mode for as long as this lives: keys go to the session one by one, Ctrl-C too.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Enters raw mode.
    pub(crate) fn enter() -> Result<Self, Failure> {
        let failed =
            |error: rustix::io::Errno| Failure::because("cannot set the terminal up", &error);
        let before = termios::tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

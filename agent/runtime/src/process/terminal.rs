//! Pseudo terminals.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Our end of a terminal, and the other one.
pub(super) struct Terminal {
    pub(super) master: PtyMaster,
    /// What the command opens.
    pub(super) path: PathBuf,
    /// Keeps the terminal from hanging up before the command has opened it.
    pub(super) held: std::fs::File,
}

/// Makes a terminal. Its ends are not handed on to processes we start.
pub(super) fn open() -> io::Result<Terminal> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = PathBuf::from(ptsname_r(&master)?);
    let held = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(&path)?;
    Ok(Terminal { master, path, held })
}

/// Sets the size of a terminal in characters.
pub(super) fn resize(master: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, size)?)
}

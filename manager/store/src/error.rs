//! Why the store did not do what was asked.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use crate::{Compare, LeaseId};

/// The cause of an error, whatever its type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do what was asked.
///
/// Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Someone else wrote first: read again, decide again.
    #[error("{}", conflict_text(failed))]
    Conflict {
        /// Every compare that did not hold.
        failed: Vec<Compare>,
    },
    /// The commit may or may not have happened: read again before deciding.
    #[error("the outcome of a commit to {location} is not known; read again before deciding")]
    Unknown {
        /// The endpoints, or the path of the file.
        location: String,
        /// What happened.
        source: BoxError,
    },
    /// The store did not answer; the same call may work later.
    #[error("store at {endpoint} did not answer")]
    Unavailable {
        /// The endpoints, or the path of the file.
        endpoint: String,
        /// What happened.
        source: BoxError,
    },
    /// The store answered and refused for good: credentials, permissions, certificates.
    #[error(
        "store at {endpoint} refused the call; check its user, password, roles and certificates"
    )]
    Refused {
        /// The endpoints.
        endpoint: String,
        /// What it said.
        source: BoxError,
    },
    /// There is no space for the write. Reads go on; writes work again once there is space.
    #[error("store {location} has no space left; {}", full_hint(location))]
    Full {
        /// The endpoints, or the path of the file.
        location: String,
        /// What the system or etcd said.
        source: BoxError,
    },
    /// The file does not hold what was written to it.
    #[error(
        "store file {} is damaged at byte {offset}: {detail}; restore the file from a backup \
         (its first {offset} bytes hold all that was written before the damage)",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damage starts, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The file was written by a newer release.
    #[error(
        "store file {} has format version {found}, this release reads up to version {supported}; \
         use the release that wrote it or a newer one",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version this release reads.
        supported: u32,
    },
    /// Another process has the file open.
    #[error(
        "store file {} is in use by {}; stop it first or use another file",
        path.display(),
        holder_text(*pid)
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// The process that holds it, if known.
        pid: Option<u32>,
    },
    /// The transaction exceeds a limit: split it.
    #[error("{actual} {what} exceed the limit of {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How much there is.
        actual: usize,
        /// How much there may be.
        limit: usize,
    },
    /// The history asked for is gone: take a new snapshot and watch from there.
    #[error("revision {requested} is no longer in the history, which starts at {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: i64,
        /// The oldest revision there is; 0 if the store did not tell.
        oldest: i64,
    },
    /// The lease is gone, and its keys with it.
    #[error("lease {lease} has expired")]
    LeaseExpired {
        /// The lease.
        lease: LeaseId,
    },
    /// The file is in a state that is not known, so writes are refused until it is opened again.
    #[error(
        "store file {} takes no writes since an earlier one could not be undone ({detail}); \
         check the disk, then restart",
        path.display()
    )]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// What went wrong then.
        detail: String,
    },
    /// The call makes no sense: a bug in the caller, or a wrong setting.
    #[error("{detail}")]
    Invalid {
        /// What is wrong with it.
        detail: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// Whether the very same call may be made again at once or after a pause, without reading
    /// first. Not so for [`Conflict`](Self::Conflict) and [`Unknown`](Self::Unknown).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether this is a conflict in which `compare` did not hold; with a leadership's fence:
    /// whether the writer has been deposed.
    #[must_use]
    pub fn conflicts_with(&self, compare: &Compare) -> bool {
        matches!(self, Self::Conflict { failed } if failed.contains(compare))
    }
}

fn conflict_text(failed: &[Compare]) -> String {
    let Some(first) = failed.first() else {
        return "the store has changed since it was read".to_owned();
    };
    let mut text = format!("it does not hold any more that {first}");
    if failed.len() > 1 {
        // Writing to a string cannot fail.
        let _ = write!(text, " (and {} more)", failed.len() - 1);
    }
    text
}

fn full_hint(location: &str) -> &'static str {
    if location.contains("://") {
        "compact and defragment etcd or raise its quota, then disarm its NOSPACE alarm"
    } else {
        "free space on its disk"
    }
}

fn holder_text(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

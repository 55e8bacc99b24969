//! Reading and writing the ledger file.

use super::{FILE_NAME, Ledger, VERSION};
use fgpu_domain::ids::ClusterId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the file with who the agent is.
const IDENTITY_NAME: &str = "identity.json";

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Written by a newer agent: this one would lose what it does not know.
    #[error(
        "ledger {} has version {found}, this agent knows up to {VERSION}: start the newer agent \
         again, or move the file away to start anew from the labels of the containers",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// The file system did not let us.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("cannot make an agent id: the system gives no random numbers ({reason})")]
    Random {
        /// What it said.
        reason: String,
    },
}

/// What was found in the state folder.
#[derive(Debug)]
pub struct Loaded {
    /// The ledger, new where there was none that can be read.
    pub ledger: Ledger,
    /// Where an unreadable one was moved to, and what was wrong with it.
    pub corrupt: Option<(PathBuf, String)>,
}

/// Who this agent is. It lies in a file of its own, written hardly ever, so that whatever happens
/// to the ledger the node comes back under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    agent_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterId>,
}

/// Reads the ledger of the state folder `folder`, or makes a new one.
///
/// A file that cannot be understood is moved aside under a name with `now_ms`; who the agent is
/// lies in a second file and stays.
///
/// # Errors
/// [`LedgerError::Newer`] for a file of a newer agent, which is left alone; [`LedgerError::Io`].
pub fn load(folder: &Path, now_ms: u64) -> Result<Loaded, LedgerError> {
    let path = folder.join(FILE_NAME);
    let Some(bytes) = read(&path)? else {
        return Ok(Loaded { ledger: anew(folder)?, corrupt: None });
    };
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) {
        let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if found > u64::from(VERSION) {
            return Err(LedgerError::Newer { path, found });
        }
    }
    let problem = match serde_json::from_slice::<Ledger>(&bytes) {
        Ok(ledger) => return Ok(Loaded { ledger, corrupt: None }),
        Err(problem) => problem.to_string(),
    };
    let aside = folder.join(format!("{FILE_NAME}.corrupt-{now_ms}"));
    fs::rename(&path, &aside).map_err(|source| LedgerError::Io {
        doing: "move aside",
        path,
        source,
    })?;
    Ok(Loaded { ledger: anew(folder)?, corrupt: Some((aside, problem)) })
}

/// Whether the ledger in `folder` names anything that has not ended. One that cannot be read may.
pub(crate) fn has_live_placements(folder: &Path) -> bool {
    match fs::read(folder.join(FILE_NAME)) {
        Ok(bytes) => serde_json::from_slice::<Ledger>(&bytes)
            .map_or(true, |ledger| ledger.placements.iter().any(|entry| entry.end.is_none())),
        Err(_) => false,
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, LedgerError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LedgerError::Io { doing: "read", path: path.to_owned(), source }),
    }
}

/// An empty ledger of the agent this folder belongs to, or of a new one.
fn anew(folder: &Path) -> Result<Ledger, LedgerError> {
    let kept = read(&folder.join(IDENTITY_NAME))?;
    let identity = kept.and_then(|bytes| serde_json::from_slice::<Identity>(&bytes).ok());
    Ok(match identity {
        Some(Identity { agent_id, cluster }) => Ledger { cluster, ..Ledger::new(agent_id) },
        None => Ledger::new(new_agent_id()?),
    })
}

/// Puts `ledger` in place of what is in `folder`, durably, and `known` up to date with who we are.
pub(super) fn store(
    folder: &Path,
    ledger: &Ledger,
    known: Option<Identity>,
) -> Result<Identity, LedgerError> {
    let Ledger { agent_id, cluster, .. } = ledger;
    let identity = Identity { agent_id: agent_id.clone(), cluster: cluster.clone() };
    if known.as_ref() != Some(&identity) {
        let bytes = serde_json::to_vec(&identity).expect("an identity has only string keys");
        write_atomically(&folder.join(IDENTITY_NAME), &bytes, 0o600)?;
    }
    let bytes = serde_json::to_vec_pretty(ledger).expect("a ledger has only string keys");
    write_atomically(&folder.join(FILE_NAME), &bytes, 0o600)?;
    Ok(identity)
}

/// Writes `bytes` to `path` so that a crash leaves the old content or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), LedgerError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| LedgerError::Io { doing, path, source }
    };
    let temporary = path.with_extension("tmp");
    // One that a crash left may have a mode that does not let it be opened again.
    let _ = fs::remove_file(&temporary);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(&temporary).map_err(failed("open", &temporary))?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("open", &temporary))?;
    file.write_all(bytes).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("sync", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("replace", path))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let opened = File::open(folder).map_err(failed("open", folder))?;
    opened.sync_all().map_err(failed("sync", folder))
}

fn new_agent_id() -> Result<String, LedgerError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| LedgerError::Random { reason: error.to_string() })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Entry;
    use crate::order::tests::order;
    use fgpu_domain::ids::SessionId;
    use fgpu_domain::session::OnDisconnect;

    fn ledger() -> Ledger {
        let entry = Entry {
            session: SessionId::new("abcdef12").unwrap(),
            generation: 2,
            spec: Some(order(&["GPU-1"]).spec),
            grant: Some(order(&["GPU-1"]).grant),
            owner: "ann".to_owned(),
            on_disconnect: OnDisconnect::Keep,
            running: None,
            end: None,
        };
        let cluster = Some(ClusterId::new("cluster-1").unwrap());
        Ledger { cluster, placements: vec![entry], ..Ledger::new("me".to_owned()) }
    }

    #[test]
    fn what_is_stored_is_read_back_and_only_the_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &ledger(), None).unwrap();

        let loaded = load(folder.path(), 1).unwrap();

        assert_eq!(loaded.ledger, ledger());
        assert_eq!(loaded.corrupt, None);
        let mode = fs::metadata(folder.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn without_a_file_there_is_a_new_identity() {
        let folder = tempfile::tempdir().unwrap();

        let (one, two) = (load(folder.path(), 1).unwrap(), load(folder.path(), 1).unwrap());

        assert_eq!(one.ledger.agent_id.len(), 32);
        assert_ne!(one.ledger.agent_id, two.ledger.agent_id);
    }

    #[test]
    fn a_corrupt_file_is_moved_aside_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), b"{ \"version\": 1, \"age").unwrap();

        let loaded = load(folder.path(), 77).unwrap();

        let (aside, problem) = loaded.corrupt.unwrap();
        assert!(aside.ends_with("ledger.json.corrupt-77"), "{aside:?}");
        assert!(!problem.is_empty());
        assert_eq!(fs::read(aside).unwrap(), b"{ \"version\": 1, \"age");
        assert!(!folder.path().join(FILE_NAME).exists());
    }

    #[test]
    fn a_corrupt_ledger_does_not_take_the_identity_with_it() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &ledger(), None).unwrap();
        fs::write(folder.path().join(FILE_NAME), b"\0\0\0").unwrap();

        let loaded = load(folder.path(), 1).unwrap();

        assert_eq!(loaded.ledger.agent_id, "me");
        assert_eq!(loaded.ledger.cluster, Some(ClusterId::new("cluster-1").unwrap()));
        assert!(loaded.ledger.placements.is_empty() && loaded.corrupt.is_some());
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, r#"{"version":9,"something":"else"}"#).unwrap();

        let refused = load(folder.path(), 1).unwrap_err();

        assert!(
            refused.to_string().contains("has version 9, this agent knows up to 1"),
            "{refused}"
        );
        assert!(path.exists());
    }
}

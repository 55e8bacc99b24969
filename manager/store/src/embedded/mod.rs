//! The embedded store: one crash-safe file, everything in memory.
//!
//! [`EmbeddedStore`] is the handle. Reads come from memory (`state`); all changes go through one
//! thread (`writer`), which appends a frame to the file (`log`, format in `frame`), syncs it, and
//! only then changes the memory. Opening reads the file back (`replay`).
//!
//! What must always hold: memory never shows what is not durable; the file is never changed
//! except at its end or by replacing it as a whole; one process at a time has it open.

mod file;
mod frame;
mod lease;
mod log;
mod replay;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use self::file::{LogFile, ReplaceError};
use self::lease::Leases;
use self::log::Log;
use self::state::State;
use self::writer::{Request, Writer};
use crate::{LeaseId, Snapshot, Store, StoreError, StoreStatus, Txn, WatchEvent, WatchStream};

/// About the most events in one item of a watch.
const WATCH_EVENTS: usize = 1000;

/// A [`Store`] in a single file.
///
/// Only one process may have the file open. Dropping the store waits for a write under way and
/// lets go of the file. History for watches reaches back to the last rewriting of the file, and
/// at most 100,000 changes or 32 MiB.
///
/// A plain copy of the file, made at any time, is a backup: at worst its end is torn.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    committed: watch::Receiver<i64>,
    /// `None` only while dropping.
    requests: Option<mpsc::UnboundedSender<Request>>,
    writer: Option<std::thread::JoinHandle<()>>,
    expiry: AbortHandle,
}

/// What the handle, the writer and the watches share.
struct Shared {
    path: PathBuf,
    state: RwLock<State>,
    leases: Arc<Leases>,
    size_bytes: AtomicU64,
}

impl Shared {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EmbeddedStore {
    /// Opens the file at `path`, or creates it (mode 600). Its folder must exist.
    ///
    /// A torn write at the end, left by a crash, is cut off with a warning; nothing acknowledged
    /// is lost by that. Keys bound to a lease of an earlier process are deleted. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it open, [`StoreError::Corrupt`] if it is
    /// damaged, [`StoreError::NewerFormat`] if a newer release wrote it, [`StoreError::Io`] and
    /// [`StoreError::Full`] if the system refuses.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), |file| file).await
    }

    /// Opens the file, with the log file wrapped by `wrap`, so that tests can make it fail.
    async fn open_with(
        path: &Path,
        wrap: impl FnOnce(Box<dyn LogFile>) -> Box<dyn LogFile> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let (log, state) = tokio::task::spawn_blocking(move || load(&path, wrap))
            .await
            .map_err(|panicked| StoreError::Invalid { detail: panicked.to_string() })??;
        let store = Self::start(log, state)?;
        store.delete_orphaned().await?;
        Ok(store)
    }

    fn start(log: Log, state: State) -> Result<Self, StoreError> {
        let path = log.path().to_owned();
        let (committed, committed_seen) = watch::channel(state.revision);
        let shared = Arc::new(Shared {
            path: path.clone(),
            state: RwLock::new(state),
            leases: Arc::new(Leases::new()),
            size_bytes: AtomicU64::new(log.len()),
        });
        let (sender, requests) = mpsc::unbounded_channel();
        let writer = Writer { log, shared: Arc::clone(&shared), requests, committed };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| StoreError::Io { action: "start a thread for", path, source })?;
        let expiry = lease::expire(Arc::clone(&shared.leases), sender.downgrade());
        Ok(Self {
            shared,
            committed: committed_seen,
            requests: Some(sender),
            writer: Some(thread),
            expiry: tokio::spawn(expiry).abort_handle(),
        })
    }

    /// Deletes the keys that were bound to leases of the process that had the file before.
    async fn delete_orphaned(&self) -> Result<(), StoreError> {
        let lease = frame::ORPHANED;
        if !self.shared.state().iter().any(|(_, record)| record.lease == Some(lease)) {
            return Ok(());
        }
        match self.ask(|reply| Request::EndLease { lease, reply }).await {
            // A full disk must not keep the store from starting; it is tried again later.
            Err(StoreError::Full { .. }) => {
                self.shared.leases.add_orphaned();
                Ok(())
            }
            other => other,
        }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(writer::Reply<T>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.as_ref().is_some_and(|sender| sender.send(request(reply)).is_ok());
        if !sent {
            return Err(closed(&self.shared.path));
        }
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Unknown {
                location: self.shared.path.display().to_string(),
                source: "the writing thread has stopped".into(),
            })
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.expiry.abort();
        self.requests = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!(path = %self.shared.path.display(), "the store's writing thread has panicked");
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        Ok(self.shared.state().range(prefix))
    }

    async fn commit(&self, txn: Txn) -> Result<i64, StoreError> {
        txn.check()?;
        self.ask(|reply| Request::Commit { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream, StoreError> {
        let next = match from_revision {
            0 => self.shared.state().revision + 1,
            from => from,
        };
        let watcher = Watcher {
            shared: Arc::clone(&self.shared),
            committed: self.committed.clone(),
            prefix: prefix.to_owned(),
            next,
        };
        Ok(Box::pin(stream::unfold(Some(watcher), Watcher::next_item)))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        Ok(self.shared.leases.grant(ttl))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.leases.keep_alive(lease)
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.leases.end(lease);
        self.ask(|reply| Request::EndLease { lease, reply }).await
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        let current = self.shared.state().revision;
        if revision > current {
            let detail =
                format!("cannot compact to revision {revision}, the store is at {current}");
            return Err(StoreError::Invalid { detail });
        }
        self.ask(|reply| Request::Compact { revision, reply }).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        Ok(StoreStatus {
            kind: "embedded",
            location: self.shared.path.display().to_string(),
            revision: self.shared.state().revision,
            size_bytes: self.shared.size_bytes.load(Ordering::Relaxed),
            quota_bytes: None,
        })
    }
}

/// A watch: it reads the history at its own pace, so a slow one holds nobody up.
struct Watcher {
    shared: Arc<Shared>,
    committed: watch::Receiver<i64>,
    prefix: String,
    next: i64,
}

impl Watcher {
    /// The next item; without a watcher after the last one.
    async fn next_item(
        watcher: Option<Self>,
    ) -> Option<(Result<Vec<WatchEvent>, StoreError>, Option<Self>)> {
        let mut watcher = watcher?;
        loop {
            // Marked as seen before the history is read: a later change wakes the wait below.
            watcher.committed.borrow_and_update();
            let read =
                watcher.shared.state().changes_from(watcher.next, &watcher.prefix, WATCH_EVENTS);
            match read {
                Err(error) => return Some((Err(error), None)),
                Ok((events, next)) => {
                    watcher.next = next;
                    if !events.is_empty() {
                        return Some((Ok(events), Some(watcher)));
                    }
                }
            }
            let caught_up = watcher.next > watcher.shared.state().revision;
            if caught_up && watcher.committed.changed().await.is_err() {
                return Some((Err(closed(&watcher.shared.path)), None));
            }
        }
    }
}

fn load(
    path: &Path,
    wrap: impl FnOnce(Box<dyn LogFile>) -> Box<dyn LogFile>,
) -> Result<(Log, State), StoreError> {
    let (file, path) = file::open_locked(path)?;
    let bytes = file::read_all(&file, &path)?;
    if bytes.is_empty() {
        let state = State::new(1, Vec::new());
        let log = Log::create(&path, &state).map_err(|error| match error {
            ReplaceError::Kept(source) | ReplaceError::NotSynced(source) => {
                file::failed("create", &path, source)
            }
        })?;
        return Ok((log.wrapped(wrap), state));
    }
    let replayed = replay::replay(&path, &bytes)?;
    let torn = bytes.len() - replayed.len;
    let len = u64::try_from(replayed.len).expect("a usize fits into 64 bits");
    let mut log = Log::new(Box::new(file), path, replayed.salt, len).wrapped(wrap);
    if torn > 0 {
        tracing::warn!(path = %log.path().display(), offset = len, bytes = torn, "cut off a write that a crash had torn");
        log.cut_to_len().map_err(|source| file::failed("truncate", log.path(), source))?;
    }
    Ok((log, replayed.state))
}

fn closed(path: &Path) -> StoreError {
    StoreError::Unavailable {
        endpoint: path.display().to_string(),
        source: Box::new(io::Error::other("the store was closed")),
    }
}

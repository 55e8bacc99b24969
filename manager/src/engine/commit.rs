//! Writing to the store so that the outcome is always known.
//!
//! Every transaction carries two conditions: the leader's fence, and that the engine's mark has not
//! moved since the last one; and it moves the mark to an id of its own. When the store does not say
//! whether it took a transaction, the very same one is sent again until there is an answer: if the
//! mark has moved to our id, it had been taken; of all the copies sent at most one can be.

use super::EngineError;
use super::plan::Chunk;
use crate::records::keys;
use fgpu_service::retry::{Backoff, Retry};
use fgpu_service::secret;
use fgpu_store::{Compare, Store, StoreError, Txn};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(2) };

/// Whether the store takes writes, for all to see.
#[derive(Debug, Default)]
pub(crate) struct StoreHealth(AtomicU8);

const HEALTHY: u8 = 0;
const AWAY: u8 = 1;
const FULL: u8 = 2;

/// How one attempt to write ended.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It is durable.
    Done,
    /// It was not made, and never will be.
    Refused(EngineError),
    /// Not known, or it may be tried again: try again after a pause.
    Again,
    /// Someone else leads, or has written: all state here is void.
    Deposed,
}

/// A transaction on its way to the store.
#[derive(Debug)]
pub(super) struct Pending {
    txn: Txn,
    id: Vec<u8>,
    /// Whether an earlier attempt may have been taken.
    uncertain: bool,
    /// Whether it may be given up.
    optional: bool,
}

impl Pending {
    /// Whether it writes nothing but the mark.
    pub(super) fn is_probe(&self) -> bool {
        self.txn.writes.len() == 1
    }
}

/// Writes under one leadership.
pub(crate) struct Committer {
    store: Arc<dyn Store>,
    fence: Compare,
    epoch: i64,
    /// Random part of this term's batch ids.
    term: String,
    batches: u64,
    /// Mod revision of the mark; 0: it does not exist.
    mark: i64,
    health: Arc<StoreHealth>,
    retry: Retry,
}

impl StoreHealth {
    /// Why writes are refused at the moment, if they are.
    pub(crate) fn away(&self) -> Option<EngineError> {
        match self.0.load(Ordering::Acquire) {
            HEALTHY => None,
            FULL => Some(EngineError::StoreFull),
            _ => Some(EngineError::StoreUnavailable),
        }
    }

    fn set(&self, state: u8) {
        let before = self.0.swap(state, Ordering::AcqRel);
        if (before == HEALTHY) != (state == HEALTHY) {
            match state {
                HEALTHY => tracing::info!("the store takes writes again"),
                _ => tracing::error!(
                    "the store takes no writes; what runs goes on, nothing new starts"
                ),
            }
        }
    }
}

impl Committer {
    /// Writes to `store` under `fence`; `mark` is the mod revision of the engine's mark.
    pub(crate) fn new(store: Arc<dyn Store>, fence: Compare, epoch: i64, mark: i64) -> Self {
        let random = secret::random::<8>().unwrap_or_default();
        Self {
            store,
            fence,
            epoch,
            term: secret::hex(&random),
            batches: 0,
            mark,
            health: Arc::new(StoreHealth::default()),
            retry: Retry::new(BACKOFF),
        }
    }

    pub(super) fn health(&self) -> &Arc<StoreHealth> {
        &self.health
    }

    /// The pause before the next attempt; longer from failure to failure.
    pub(super) fn pause(&mut self) -> Duration {
        self.retry.next_pause()
    }

    /// The transaction that writes `chunk`.
    pub(super) fn prepare(&mut self, chunk: Chunk) -> Pending {
        self.batches += 1;
        let id = format!("{}-{}-{}", self.epoch, self.term, self.batches).into_bytes();
        let unmoved = Compare::ModRevision { key: keys::COMMIT.to_owned(), revision: self.mark };
        let mut txn =
            Txn::new().compare(self.fence.clone()).compare(unmoved).put(keys::COMMIT, id.clone());
        let optional = !chunk.continues;
        for (key, value) in chunk.writes {
            txn = match value {
                Some(value) => txn.put(key, value),
                None => txn.delete(key),
            };
        }
        Pending { txn, id, uncertain: false, optional }
    }

    /// Sends `pending` once. The future borrows nothing, so the caller can do other things.
    pub(super) fn send(
        &self,
        pending: &Pending,
    ) -> impl Future<Output = Result<i64, StoreError>> + Send + use<> {
        let (store, txn) = (Arc::clone(&self.store), pending.txn.clone());
        async move { store.commit(txn).await }
    }

    /// What the answer to `pending` means.
    pub(super) async fn judge(
        &mut self,
        pending: &mut Pending,
        answer: Result<i64, StoreError>,
    ) -> Attempt {
        match answer {
            Ok(revision) => self.done(revision),
            Err(error) if error.conflicts_with(&self.fence) => {
                tracing::warn!(error = &error as &dyn Error, "deposed");
                Attempt::Deposed
            }
            Err(StoreError::Conflict { .. }) => self.look_at_mark(pending).await,
            Err(error @ StoreError::Unknown { .. }) => {
                pending.uncertain = true;
                self.note(&error);
                Attempt::Again
            }
            Err(error) => {
                let refusal = self.note(&error);
                let certain = !pending.uncertain && pending.optional;
                if certain { Attempt::Refused(refusal) } else { Attempt::Again }
            }
        }
    }

    /// The mark has moved: by an earlier copy of this transaction, or by someone else.
    async fn look_at_mark(&mut self, pending: &Pending) -> Attempt {
        let snapshot = match self.store.range(keys::COMMIT).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.note(&error);
                return Attempt::Again;
            }
        };
        let mark = snapshot.entries.iter().find(|entry| entry.key == keys::COMMIT);
        match mark {
            Some(entry) if entry.value == pending.id => self.done(entry.mod_revision),
            _ => {
                tracing::error!("another writer moved the engine's mark; reading everything anew");
                Attempt::Deposed
            }
        }
    }

    fn done(&mut self, mark: i64) -> Attempt {
        self.mark = mark;
        self.retry.reset();
        self.health.set(HEALTHY);
        Attempt::Done
    }

    /// Records that the store failed, and says how callers are told.
    fn note(&self, error: &StoreError) -> EngineError {
        tracing::warn!(error = error as &dyn Error, "a write failed");
        match error {
            StoreError::Full { .. } => {
                self.health.set(FULL);
                EngineError::StoreFull
            }
            StoreError::TooLarge { .. } | StoreError::Invalid { .. } => {
                EngineError::StoreRefused(error.to_string())
            }
            _ => {
                self.health.set(AWAY);
                EngineError::StoreUnavailable
            }
        }
    }
}

//! Writing to the store so that the outcome is always known.
//!
//! Every transaction carries two conditions: the leader's fence, and that the engine's mark is the one
//! that the transaction before it has set; and it moves the mark to an id of its own. So the next one
//! can be sent before the answer to the last one is there, and is made only after it. When the store
//! does not say whether it took a transaction, the very same one is sent again until there is an
//! answer: if the mark has moved to its id, or to one that rests on it, it had been taken; of all the
//! copies sent at most one can be.

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
pub(super) enum Verdict {
    /// It is durable.
    Done,
    /// It was not made, and never will be.
    Refused(EngineError),
    /// Not known, or it may be tried again once all before it are made: after a pause.
    Again,
    /// It came before what it rests on: it may be sent again once that is made.
    TooEarly,
    /// The mark has moved: by an earlier copy of this transaction, or by someone else.
    Moved,
    /// Someone else leads, or has written: all state here is void.
    Deposed,
}

/// Whether all that a transaction rests on was known to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rests {
    /// When it was sent.
    pub(super) at_sending: bool,
    /// By now.
    pub(super) now: bool,
}

/// A transaction on its way to the store.
#[derive(Debug)]
pub(super) struct Pending {
    txn: Txn,
    id: Vec<u8>,
    /// What must hold of the mark.
    unmoved: Compare,
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

    /// What the mark is once it is made.
    pub(super) fn id(&self) -> &[u8] {
        &self.id
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
    /// What the mark is when all that was prepared is made.
    unmoved: Compare,
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
    /// Writes to `store` under `fence`; `mark` is the mod revision of the engine's mark, 0 if there is
    /// none yet.
    pub(crate) fn new(store: Arc<dyn Store>, fence: Compare, epoch: i64, mark: i64) -> Self {
        let random = secret::random::<8>().unwrap_or_default();
        Self {
            store,
            fence,
            epoch,
            term: secret::hex(&random),
            batches: 0,
            unmoved: Compare::ModRevision { key: keys::COMMIT.to_owned(), revision: mark },
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

    /// The transaction that writes `chunk`, resting on the one prepared before it.
    pub(super) fn prepare(&mut self, chunk: Chunk) -> Pending {
        self.batches += 1;
        let id = format!("{}-{}-{}", self.epoch, self.term, self.batches).into_bytes();
        let moved = Compare::Value { key: keys::COMMIT.to_owned(), value: id.clone() };
        let unmoved = std::mem::replace(&mut self.unmoved, moved);
        let mut txn = Txn::new()
            .compare(self.fence.clone())
            .compare(unmoved.clone())
            .put(keys::COMMIT, id.clone());
        let optional = !chunk.continues;
        for (key, value) in chunk.writes {
            txn = match value {
                Some(value) => txn.put(key, value),
                None => txn.delete(key),
            };
        }
        Pending { txn, id, unmoved, uncertain: false, optional }
    }

    /// Lets the next transaction rest on what `given_up` rested on, which will never be made.
    pub(super) fn rest_as(&mut self, given_up: &Pending) {
        self.unmoved = given_up.unmoved.clone();
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
    pub(super) fn judge(
        &mut self,
        pending: &mut Pending,
        rests: Rests,
        answer: Result<i64, StoreError>,
    ) -> Verdict {
        match answer {
            Ok(_) => {
                self.done();
                Verdict::Done
            }
            Err(error) if error.conflicts_with(&self.fence) => {
                tracing::warn!(error = &error as &dyn Error, "deposed");
                Verdict::Deposed
            }
            Err(StoreError::Conflict { .. }) if rests.at_sending => Verdict::Moved,
            Err(StoreError::Conflict { .. }) => Verdict::TooEarly,
            Err(error @ StoreError::Unknown { .. }) => {
                pending.uncertain = true;
                self.note(&error);
                Verdict::Again
            }
            Err(error) => {
                let refusal = self.note(&error);
                let certain = rests.now && !pending.uncertain && pending.optional;
                if certain { Verdict::Refused(refusal) } else { Verdict::Again }
            }
        }
    }

    /// The mark as it is in the store.
    pub(super) async fn mark(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.store.range(keys::COMMIT).await {
            Ok(snapshot) => {
                let mut entries = snapshot.entries.into_iter();
                Ok(entries.find(|entry| entry.key == keys::COMMIT).map(|entry| entry.value))
            }
            Err(error) => {
                self.note(&error);
                Err(error)
            }
        }
    }

    /// The store has taken a transaction.
    pub(super) fn done(&mut self) {
        self.retry.reset();
        self.health.set(HEALTHY);
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

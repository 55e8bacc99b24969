//! The contract both stores keep.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;

use crate::{LeaseId, PageStream, Snapshot, StoreError, StoreStatus, Txn, WatchStream};

/// A key-value store with one revision counter, compare-and-set transactions, watches and leases.
///
/// Revisions follow etcd: an empty store is at revision 1, and every transaction that changes
/// something adds 1. All calls may be made from any number of tasks at once. Over a network,
/// every call has a deadline of its own; the embedded store waits for the disk alone.
///
/// # An unknown commit
///
/// [`StoreError::Unknown`] means the commit may have happened, may not have happened, or (over a
/// network) may still happen. Read again before deciding, and settle it by committing again
/// under the same compares: of the two at most one can succeed, provided that the transaction
/// compares the keys it writes.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// All entries whose key starts with `prefix` (empty: all), as of one revision.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the store does not answer within its deadline.
    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError>;

    /// As [`range`](Self::range), a page at a time: all pages are of one revision, sorted by key
    /// within and over pages. While the caller works on one page, the store may read the next ones,
    /// but only a few.
    ///
    /// The stream ends after the last page or after its first error, and only then is it known that
    /// nothing is missing. [`StoreError::Compacted`] means that the revision was compacted
    /// meanwhile: what came is void, and the caller must begin again.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the store does not answer within its deadline.
    async fn range_pages(&self, prefix: &str) -> Result<PageStream, StoreError> {
        let whole = self.range(prefix).await?;
        Ok(Box::pin(stream::iter([Ok(whole)])))
    }

    /// Applies `txn` if all its compares hold and returns the store's revision after it.
    ///
    /// A transaction that changes nothing (no writes, or deletes of absent keys only) returns the
    /// current revision. When this returns `Ok`, the writes survive a crash.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] with every compare that did not hold; [`StoreError::Unknown`] if
    /// the outcome is not known; [`StoreError::LeaseExpired`] if a write names a lease that is
    /// gone; [`StoreError::TooLarge`] and [`StoreError::Invalid`] before anything is sent;
    /// [`StoreError::Full`] if there is no space (nothing was changed).
    async fn commit(&self, txn: Txn) -> Result<i64, StoreError>;

    /// Changes to keys that start with `prefix`, from `from_revision` (inclusive) on; 0 means
    /// from now on. To follow a [`Snapshot`], pass its revision + 1.
    ///
    /// Each item holds whole revisions, in order, none missing. The stream ends after its first
    /// error and never without one: [`StoreError::Compacted`] means that changes were missed and
    /// the caller must take a new snapshot; after any other error it may watch again from the
    /// revision after the last one seen. The store may be dropped before the stream.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the watch could not be set up.
    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream, StoreError>;

    /// Grants a lease that lives for at least `ttl` from now unless kept alive. etcd rounds up
    /// to whole seconds and to its own minimum.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; a lease granted all the same ends by itself.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Gives `lease` its full time to live again.
    ///
    /// # Errors
    /// [`StoreError::LeaseExpired`] if it is gone: its keys are deleted or about to be.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends `lease` and deletes the keys bound to it, in one revision. A lease that is already
    /// gone is no error.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the lease then ends by itself.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Forgets the history before `revision`: a later watch from before it gets
    /// [`StoreError::Compacted`]. Entries are untouched. Repeating it does no harm.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if `revision` lies in the future.
    async fn compact(&self, revision: i64) -> Result<(), StoreError>;

    /// What the store is and how full it is.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the store does not answer within its deadline.
    async fn status(&self) -> Result<StoreStatus, StoreError>;
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        (**self).range(prefix).await
    }

    async fn range_pages(&self, prefix: &str) -> Result<PageStream, StoreError> {
        (**self).range_pages(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<i64, StoreError> {
        (**self).commit(txn).await
    }

    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream, StoreError> {
        (**self).watch(prefix, from_revision).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        (**self).grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        (**self).keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        (**self).revoke_lease(lease).await
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        (**self).compact(revision).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        (**self).status().await
    }
}

//! Being the leader: keeping the lease alive, and noticing when it is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Election, find_leader};
use crate::{Compare, LeaseId, Store, StoreError};

/// A campaign that was won.
pub(super) struct Won {
    pub(super) epoch: i64,
    pub(super) lease: LeaseId,
    /// When the call that granted the lease was made: it lives at least until this + ttl.
    pub(super) proven: Instant,
}

/// Being the leader. Dropping it gives it up without telling anyone: others wait for the lease
/// to end. [`resign`](Self::resign) lets them follow at once.
pub struct Leadership {
    /// The fencing token: greater than that of any leader before.
    pub epoch: i64,
    key: String,
    lease: LeaseId,
    store: Arc<dyn Store>,
    lost: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Leadership {
    /// Begins to keep what was won alive.
    pub(super) fn start(election: &Election, store: Arc<dyn Store>, won: Won) -> Self {
        let Won { epoch, lease, proven } = won;
        let lost = CancellationToken::new();
        let keeper = Keeper {
            store: Arc::clone(&store),
            key: election.key.clone(),
            ttl: election.ttl,
            epoch,
            lease,
            proven,
        };
        let guard = lost.clone().drop_guard();
        let task = tokio::spawn(async move {
            // Fires however the task ends, also by being aborted.
            let _guard = guard;
            keeper.keep().await;
        });
        tracing::info!(key = election.key, epoch, "leading");
        let task = AbortOnDropHandle::new(task);
        Self { epoch, key: election.key.clone(), lease, store, lost, task }
    }

    /// Holds only while this is the leadership; belongs into every transaction made under it.
    #[must_use]
    pub fn fence(&self) -> Compare {
        Compare::CreateRevision { key: self.key.clone(), revision: self.epoch }
    }

    /// Cancelled as soon as this cannot be proven to be the leadership any more.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Whether [`lost`](Self::lost) has fired.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Gives the leadership up, so that the next candidate follows at once.
    ///
    /// # Errors
    /// As [`Store::revoke_lease`]; it is given up all the same, others wait for the lease to end.
    pub async fn resign(self) -> Result<(), StoreError> {
        let Self { key, epoch, lease, store, lost, task } = self;
        drop(task);
        lost.cancel();
        store.revoke_lease(lease).await?;
        tracing::info!(key, epoch, "resigned");
        Ok(())
    }
}

/// Keeps a leadership alive.
struct Keeper {
    store: Arc<dyn Store>,
    key: String,
    ttl: Duration,
    epoch: i64,
    lease: LeaseId,
    proven: Instant,
}

impl Keeper {
    /// Returns once the leadership is lost.
    async fn keep(mut self) {
        let mut next = self.proven + self.ttl / 3;
        loop {
            let give_up = self.proven + self.ttl - self.ttl / 10;
            sleep_until(next.min(give_up)).await;
            let now = Instant::now();
            if now >= give_up {
                tracing::error!(
                    key = self.key,
                    epoch = self.epoch,
                    "leadership lost: the store did not answer in time"
                );
                return;
            }
            next = match timeout_at(give_up, self.renew()).await {
                Ok(Ok(true)) => {
                    self.proven = now;
                    now + self.ttl / 3
                }
                Ok(Ok(false)) | Ok(Err(StoreError::LeaseExpired { .. })) => {
                    tracing::error!(
                        key = self.key,
                        epoch = self.epoch,
                        "leadership lost: the lease or the leader key is gone"
                    );
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        key = self.key,
                        error = &error as &dyn std::error::Error,
                        "leadership not renewed yet"
                    );
                    Instant::now() + self.ttl / 20
                }
                Err(_) => give_up,
            };
        }
    }

    /// Renews the lease and looks whether the key is still ours: it may have been deleted by hand.
    async fn renew(&self) -> Result<bool, StoreError> {
        self.store.keep_alive(self.lease).await?;
        let leader = find_leader(&*self.store, &self.key).await?;
        Ok(leader.is_some_and(|leader| leader.epoch == self.epoch))
    }
}

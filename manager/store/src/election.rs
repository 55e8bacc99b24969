//! Leader election over any [`Store`].
//!
//! The leader is whoever has put the leader key under a lease of its own. The key's create
//! revision is the leadership's *epoch*: it grows from leader to leader. [`Leadership::fence`]
//! goes into every transaction of the leader, so that a deposed one cannot write, however late
//! it learns of it.
//!
//! A leader also stops by itself: [`Leadership::lost`] fires when the lease can no longer be
//! proven alive by the local monotonic clock, which is before anyone else can be elected.

mod leadership;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use self::leadership::Leadership;
use self::leadership::Won;
use crate::{Compare, Entry, Store, StoreError, Txn, WatchEvent};

/// Pause after a failed call, at first and at most; it doubles in between.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is being elected, and on whose behalf.
#[derive(Debug, Clone)]
pub struct Election {
    /// The leader key.
    pub key: String,
    /// What others learn about the leader, such as its address; opaque here.
    pub identity: Vec<u8>,
    /// How long the leadership outlives its holder; at least 1 s on etcd. The holder renews it
    /// every third of this and gives up a tenth of this before it ends.
    pub ttl: Duration,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The identity it campaigned with.
    pub identity: Vec<u8>,
    /// Its epoch.
    pub epoch: i64,
}

impl From<Entry> for Leader {
    fn from(entry: Entry) -> Self {
        Self { identity: entry.value, epoch: entry.create_revision }
    }
}

impl Election {
    /// Waits until this candidate leads; `None` if `shutdown` came first.
    ///
    /// A store that is away or full is waited for.
    ///
    /// # Errors
    /// What waiting does not help against, such as [`StoreError::Refused`] or
    /// [`StoreError::Invalid`].
    pub async fn campaign(
        &self,
        store: Arc<dyn Store>,
        shutdown: CancellationToken,
    ) -> Result<Option<Leadership>, StoreError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = self.attempt(&store, &shutdown).await;
            if shutdown.is_cancelled() {
                if let Ok(Some(won)) = attempt {
                    Leadership::start(self, store, won).resign().await?;
                }
                return Ok(None);
            }
            match attempt {
                Ok(Some(won)) => return Ok(Some(Leadership::start(self, store, won))),
                Ok(None) => pause = FIRST_PAUSE,
                Err(error) if is_passing(&error) => {
                    tracing::warn!(
                        key = self.key,
                        error = &error as &dyn std::error::Error,
                        "cannot campaign yet"
                    );
                    // The next round ends at once if it was the shutdown that cut this short.
                    shutdown.run_until_cancelled(sleep(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Who leads now, if anyone.
    ///
    /// # Errors
    /// As [`Store::range`].
    pub async fn find_leader(&self, store: &dyn Store) -> Result<Option<Leader>, StoreError> {
        find_leader(store, &self.key).await
    }

    /// Waits while someone leads, then tries once; `None` if someone else was faster, or if
    /// `shutdown` ended the waiting. A try that has begun is finished: cut short, it could leave
    /// a leader key behind that nobody leads under.
    async fn attempt(
        &self,
        store: &Arc<dyn Store>,
        shutdown: &CancellationToken,
    ) -> Result<Option<Won>, StoreError> {
        let Some(waited) = shutdown.run_until_cancelled(self.wait_while_led(store)).await else {
            return Ok(None);
        };
        waited?;
        let proven = Instant::now();
        let lease = store.grant_lease(self.ttl).await?;
        let txn = Txn::new().compare(Compare::absent(&self.key)).put_with_lease(
            &self.key,
            self.identity.clone(),
            lease,
        );
        match store.commit(txn).await {
            Ok(epoch) => Ok(Some(Won { epoch, lease, proven })),
            Err(error) => {
                // Whether or not the key was written, without the lease it does not stay.
                let revoked = store.revoke_lease(lease).await;
                if let Err(error) = revoked {
                    tracing::debug!(%lease, %error, "lease of a failed campaign is left to end by itself");
                }
                match error {
                    StoreError::Conflict { .. } | StoreError::LeaseExpired { .. } => Ok(None),
                    other => Err(other),
                }
            }
        }
    }

    async fn wait_while_led(&self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        loop {
            let snapshot = store.range(&self.key).await?;
            if !snapshot.entries.iter().any(|entry| entry.key == self.key) {
                return Ok(());
            }
            let mut changes = store.watch(&self.key, snapshot.revision + 1).await?;
            let mut gone = false;
            while !gone {
                match changes.next().await {
                    Some(Ok(events)) => gone = events.iter().any(|event| self.is_end(event)),
                    // Only a reason to look again, and the range tells if the store is away.
                    Some(Err(_)) | None => {
                        sleep(FIRST_PAUSE).await;
                        break;
                    }
                }
            }
        }
    }

    fn is_end(&self, event: &WatchEvent) -> bool {
        matches!(event, WatchEvent::Deleted { key, .. } if *key == self.key)
    }
}

/// Follows who leads, for those that do not: the receiver holds the current leader, and the last
/// one known while the store is away.
///
/// Works in the background until every receiver is dropped.
pub fn observe(store: Arc<dyn Store>, key: impl Into<String>) -> watch::Receiver<Option<Leader>> {
    let (sender, receiver) = watch::channel(None);
    let key = key.into();
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&*store, &key, &sender) => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

/// Whether waiting may help.
fn is_passing(error: &StoreError) -> bool {
    error.is_retryable()
        || matches!(
            error,
            StoreError::Unknown { .. } | StoreError::Full { .. } | StoreError::Compacted { .. }
        )
}

async fn find_leader(store: &dyn Store, key: &str) -> Result<Option<Leader>, StoreError> {
    let snapshot = store.range(key).await?;
    Ok(snapshot.entries.into_iter().find(|entry| entry.key == key).map(Leader::from))
}

async fn follow(store: &dyn Store, key: &str, sender: &watch::Sender<Option<Leader>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match follow_once(store, key, sender).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                tracing::debug!(
                    key,
                    error = &error as &dyn std::error::Error,
                    "cannot see who leads"
                );
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        sleep(pause).await;
    }
}

/// Follows until the watch ends; an error if it could not even begin.
async fn follow_once(
    store: &dyn Store,
    key: &str,
    sender: &watch::Sender<Option<Leader>>,
) -> Result<(), StoreError> {
    let publish = |leader: Option<Leader>| {
        sender.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
    };
    let snapshot = store.range(key).await?;
    let mut changes = store.watch(key, snapshot.revision + 1).await?;
    publish(snapshot.entries.into_iter().find(|entry| entry.key == key).map(Leader::from));
    while let Some(Ok(events)) = changes.next().await {
        for event in events.into_iter().filter(|event| event.key() == key) {
            publish(match event {
                WatchEvent::Put(entry) => Some(Leader::from(entry)),
                WatchEvent::Deleted { .. } => None,
            });
        }
    }
    Ok(())
}

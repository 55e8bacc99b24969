//! Leases of the embedded store. They live in memory: whoever held one is this very process, so
//! a lease never outlives it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::frame::ORPHANED;
use super::writer::Request;
use crate::{LeaseId, StoreError};

/// Pause before keys of an ended lease are deleted again, after that has failed.
const RETRY: Duration = Duration::from_secs(1);

struct Lease {
    ttl: Duration,
    /// `None` once it has ended; its keys may still be there.
    deadline: Option<Instant>,
}

/// All leases.
pub(super) struct Leases {
    leases: Mutex<HashMap<LeaseId, Lease>>,
    next: Mutex<i64>,
    changed: Notify,
}

impl Leases {
    pub(super) fn new() -> Self {
        // A lease id of an earlier process must not name a lease of this one.
        let next = (i64::from(super::log::random()) << 24) + 1;
        let leases = Mutex::new(HashMap::new());
        Self { leases, next: Mutex::new(next), changed: Notify::new() }
    }

    pub(super) fn grant(&self, ttl: Duration) -> LeaseId {
        let id = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            LeaseId(*next)
        };
        let deadline = Some(Instant::now() + ttl);
        self.lock().insert(id, Lease { ttl, deadline });
        self.changed.notify_one();
        id
    }

    /// Lets keys that were bound to a lease of an earlier process be deleted as soon as possible.
    pub(super) fn add_orphaned(&self) {
        self.lock().insert(ORPHANED, Lease { ttl: Duration::ZERO, deadline: None });
        self.changed.notify_one();
    }

    pub(super) fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut leases = self.lock();
        match leases.get_mut(&id) {
            Some(lease) if lease.deadline.is_some_and(|deadline| deadline > now) => {
                lease.deadline = Some(now + lease.ttl);
                Ok(())
            }
            _ => Err(StoreError::LeaseExpired { lease: id }),
        }
    }

    /// Whether a key may be bound to it. Reads no clock, so that the writer's thread may ask.
    pub(super) fn lives(&self, id: LeaseId) -> bool {
        self.lock().get(&id).is_some_and(|lease| lease.deadline.is_some())
    }

    /// Ends a lease; its keys are to be deleted next. `false` if it was gone already.
    pub(super) fn end(&self, id: LeaseId) -> bool {
        self.lock().get_mut(&id).is_some_and(|lease| lease.deadline.take().is_some())
    }

    /// Forgets a lease whose keys are deleted.
    pub(super) fn remove(&self, id: LeaseId) {
        self.lock().remove(&id);
    }

    /// Marks leases whose time is over as ended; all ended ones, and the next deadline.
    fn take_due(&self) -> (Vec<LeaseId>, Option<Instant>) {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut next = None;
        for (id, lease) in self.lock().iter_mut() {
            match lease.deadline {
                Some(deadline) if deadline > now => {
                    next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
                }
                _ => {
                    lease.deadline = None;
                    due.push(*id);
                }
            }
        }
        (due, next)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseId, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes the keys of leases whose time is over, until the writer is gone.
pub(super) async fn expire(leases: Arc<Leases>, writer: mpsc::WeakUnboundedSender<Request>) {
    loop {
        let (due, mut next) = leases.take_due();
        for lease in due {
            let (reply, answer) = oneshot::channel();
            // A strong sender must not outlive this statement, or the store could not close.
            let sent = writer
                .upgrade()
                .is_some_and(|writer| writer.send(Request::EndLease { lease, reply }).is_ok());
            if !sent {
                return;
            }
            if let Ok(Err(error)) = answer.await {
                tracing::warn!(%lease, error = &error as &dyn std::error::Error, "keys of an ended lease could not be deleted yet");
                let retry = Instant::now() + RETRY;
                next = Some(next.map_or(retry, |next| next.min(retry)));
            }
        }
        let changed = leases.changed.notified();
        match next {
            Some(next) => {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = changed => {}
                }
            }
            None => changed.await,
        }
    }
}

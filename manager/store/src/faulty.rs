//! A store that fails on demand, for tests.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::{LeaseId, PageStream, Snapshot, Store, StoreError, StoreStatus, Txn, WatchStream};

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call is passed on: a place holder among planned faults.
    None,
    /// The call fails with [`StoreError::Unavailable`] and does nothing.
    Unavailable,
    /// The call is carried out and its answer is lost: a commit ends in
    /// [`StoreError::Unknown`], any other call in [`StoreError::Unavailable`].
    LostAck,
    /// A commit ends in [`StoreError::Unknown`] and does nothing; any other call in
    /// [`StoreError::Unavailable`].
    LostRequest,
    /// A commit fails with [`StoreError::Full`] and does nothing; other calls are passed on.
    Full,
    /// The call is passed on after this time.
    Delay(Duration),
    /// The call is passed on, and its answer comes after this time.
    Late(Duration),
    /// A commit is refused for what it is after this time and does nothing; other calls are passed
    /// on.
    Refuse(Duration),
}

/// A [`Store`] that passes calls on to another one, except where a fault is planned.
///
/// Planned faults are used up by calls in order; then the standing fault, if any, meets every
/// call. Watches that are open already are not touched.
pub struct FaultyStore<S> {
    inner: S,
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    next: VecDeque<Fault>,
    next_commits: VecDeque<Fault>,
    standing: Option<Fault>,
    commits: usize,
}

impl<S: Store> FaultyStore<S> {
    /// Passes everything on, until told otherwise.
    pub fn new(inner: S) -> Self {
        Self { inner, plan: Mutex::default() }
    }

    /// The store behind it, which never fails on demand.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Lets the next calls, of whatever kind, meet `faults`, one each.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan().next.extend(faults);
    }

    /// Lets the next commits meet `faults`, one each; other calls use none of them up.
    pub fn fail_next_commits(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan().next_commits.extend(faults);
    }

    /// Lets every call meet `fault` until [`heal`](Self::heal).
    pub fn fail_all(&self, fault: Fault) {
        self.plan().standing = Some(fault);
    }

    /// Forgets every fault that is planned or standing.
    pub fn heal(&self) {
        let mut plan = self.plan();
        *plan = Plan { commits: plan.commits, ..Plan::default() };
    }

    /// How many commits were asked for so far, those that met a fault included.
    pub fn commits(&self) -> usize {
        self.plan().commits
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self) -> Fault {
        let mut plan = self.plan();
        plan.next.pop_front().or(plan.standing).unwrap_or(Fault::None)
    }

    fn next_commit_fault(&self) -> Fault {
        let mut plan = self.plan();
        plan.commits += 1;
        let planned = plan.next_commits.pop_front().or_else(|| plan.next.pop_front());
        planned.or(plan.standing).unwrap_or(Fault::None)
    }

    async fn pass<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match self.next_fault() {
            Fault::None | Fault::Full | Fault::Refuse(_) => call.await,
            Fault::Unavailable | Fault::LostRequest => Err(unavailable()),
            Fault::LostAck => match call.await {
                Ok(_) => Err(unavailable()),
                failed => failed,
            },
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                call.await
            }
            Fault::Late(time) => {
                let answer = call.await;
                tokio::time::sleep(time).await;
                answer
            }
        }
    }
}

#[async_trait]
impl<S: Store> Store for FaultyStore<S> {
    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        self.pass(self.inner.range(prefix)).await
    }

    async fn range_pages(&self, prefix: &str) -> Result<PageStream, StoreError> {
        self.pass(self.inner.range_pages(prefix)).await
    }

    async fn commit(&self, txn: Txn) -> Result<i64, StoreError> {
        match self.next_commit_fault() {
            Fault::None => self.inner.commit(txn).await,
            Fault::Unavailable => Err(unavailable()),
            Fault::LostRequest => Err(unknown()),
            Fault::LostAck => match self.inner.commit(txn).await {
                Ok(_) => Err(unknown()),
                failed => failed,
            },
            Fault::Full => Err(full()),
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                self.inner.commit(txn).await
            }
            Fault::Late(time) => {
                let answer = self.inner.commit(txn).await;
                tokio::time::sleep(time).await;
                answer
            }
            Fault::Refuse(time) => {
                tokio::time::sleep(time).await;
                Err(StoreError::Invalid { detail: "made to be refused".to_owned() })
            }
        }
    }

    async fn watch(&self, prefix: &str, from_revision: i64) -> Result<WatchStream, StoreError> {
        self.pass(self.inner.watch(prefix, from_revision)).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.pass(self.inner.grant_lease(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.pass(self.inner.keep_alive(lease)).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.pass(self.inner.revoke_lease(lease)).await
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        self.pass(self.inner.compact(revision)).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.pass(self.inner.status()).await
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { endpoint: "faulty store".to_owned(), source: "made to fail".into() }
}

fn unknown() -> StoreError {
    StoreError::Unknown { location: "faulty store".to_owned(), source: "made to fail".into() }
}

fn full() -> StoreError {
    let source = Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
    StoreError::Full { location: "faulty store".to_owned(), source }
}

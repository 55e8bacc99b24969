//! The one thread that writes: it decides transactions in order, and commits those that wait
//! together with one sync.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use super::log::Log;
use super::state::{Revision, Stage};
use crate::{LeaseId, StoreError, Txn};

/// Most bytes of transactions committed together, so that nobody waits long for others.
const BATCH_BYTES: usize = 4 << 20;

/// Where the answer goes; the asker may be gone.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
pub(super) enum Request {
    Commit { txn: Txn, reply: Reply<i64> },
    EndLease { lease: LeaseId, reply: Reply<()> },
    Compact { revision: i64, reply: Reply<()> },
}

/// Owns the log, and alone changes the state.
pub(super) struct Writer {
    pub(super) log: Log,
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    /// The committed revision, for watches; they end when it is dropped.
    pub(super) committed: watch::Sender<i64>,
}

impl Writer {
    /// Works until every sender is gone, then lets go of the file.
    pub(super) fn run(mut self) {
        let mut put_back = None;
        while let Some(request) = put_back.take().or_else(|| self.requests.blocking_recv()) {
            match request {
                Request::Commit { txn, reply } => {
                    let batch;
                    (batch, put_back) = self.collect(txn, reply);
                    self.commit(batch);
                }
                Request::EndLease { lease, reply } => self.end_lease(lease, reply),
                Request::Compact { revision, reply } => {
                    self.shared.write_state().compact(revision);
                    self.log.rewrite_if_due(&self.shared.state(), true);
                    let _ = reply.send(Ok(()));
                }
            }
            self.log.rewrite_if_due(&self.shared.state(), false);
            self.shared.size_bytes.store(self.log.len(), Ordering::Relaxed);
        }
    }

    /// The first transaction and those that wait behind it, up to a request of another kind.
    fn collect(
        &mut self,
        txn: Txn,
        reply: Reply<i64>,
    ) -> (Vec<(Txn, Reply<i64>)>, Option<Request>) {
        let mut bytes = txn.size_bytes();
        let mut batch = vec![(txn, reply)];
        while bytes < BATCH_BYTES {
            match self.requests.try_recv() {
                Ok(Request::Commit { txn, reply }) => {
                    bytes += txn.size_bytes();
                    batch.push((txn, reply));
                }
                Ok(other) => return (batch, Some(other)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    fn commit(&mut self, batch: Vec<(Txn, Reply<i64>)>) {
        let state = self.shared.state();
        let revision_before = state.revision;
        let mut stage = Stage::new(&state);
        let decided: Vec<_> = batch
            .into_iter()
            .map(|(txn, reply)| (stage.add(txn, |lease| self.shared.leases.lives(lease)), reply))
            .collect();
        let revisions = std::mem::take(&mut stage.revisions);
        drop(stage);
        drop(state);

        let written = self.write(revision_before, revisions);
        // No answer goes out before: even a conflict may rest on what is written only now.
        for (outcome, reply) in decided {
            let outcome = match &written {
                Ok(()) => outcome,
                Err(fault) => Err(fault.to_error(self.log.path())),
            };
            let _ = reply.send(outcome);
        }
    }

    fn end_lease(&mut self, lease: LeaseId, reply: Reply<()>) {
        let state = self.shared.state();
        let revision_before = state.revision;
        let mut stage = Stage::new(&state);
        stage.delete_keys_of(lease);
        let revisions = std::mem::take(&mut stage.revisions);
        drop(stage);
        drop(state);

        let written =
            self.write(revision_before, revisions).map_err(|fault| fault.to_error(self.log.path()));
        if written.is_ok() {
            self.shared.leases.remove(lease);
        }
        let _ = reply.send(written);
    }

    /// Makes `revisions` durable, then visible.
    fn write(
        &mut self,
        revision_before: i64,
        revisions: Vec<Arc<Revision>>,
    ) -> Result<(), super::log::AppendFault> {
        if revisions.is_empty() {
            return Ok(());
        }
        self.log.append(revision_before, &revisions)?;
        let mut state = self.shared.write_state();
        for revision in revisions {
            state.apply(revision);
        }
        self.committed.send_replace(state.revision);
        Ok(())
    }
}

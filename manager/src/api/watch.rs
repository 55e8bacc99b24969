//! Watching sessions: what is, then every change.

use super::Caller;
use crate::engine::{ChangeBatch, SessionChange, Snapshot};
use fgpu_domain::ids::SessionId;
use fgpu_domain::session::Session;
use fgpu_wire::v1;
use fgpu_wire::v1::watch_sessions_response::Event;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Events kept for a watcher that is behind; then the engine's backlog, then it is brought up to
/// date as a whole.
const EVENTS: usize = 64;

type Out = mpsc::Sender<Result<v1::WatchSessionsResponse, Status>>;

/// The watcher has gone, or the term is over.
struct Gone;

struct Watch {
    caller: Caller,
    only: Option<SessionId>,
    out: Out,
    /// Everything up to this has been sent.
    seen: Arc<Snapshot>,
}

/// Watches what `caller` may see, or `only` one session, until either side ends it.
pub(super) fn start(
    caller: Caller,
    only: Option<SessionId>,
) -> ReceiverStream<Result<v1::WatchSessionsResponse, Status>> {
    let (out, events) = mpsc::channel(EVENTS);
    // In this order nothing is missed: what comes between is in both, and skipped by its version.
    let changes = caller.term.engine.changes();
    let seen = caller.term.engine.snapshot();
    tokio::spawn(Watch { caller, only, out, seen }.run(changes));
    ReceiverStream::new(events)
}

impl Watch {
    async fn run(mut self, mut changes: broadcast::Receiver<Arc<ChangeBatch>>) {
        let ended = self.caller.term.ended.clone();
        if self.begin().await.is_err() {
            return self.end();
        }
        loop {
            let batch = tokio::select! {
                batch = changes.recv() => batch,
                () = ended.cancelled() => return self.end(),
                () = self.out.closed() => return,
            };
            let sent = match batch {
                Ok(batch) => self.take(&batch).await,
                Err(RecvError::Lagged(_)) => self.catch_up().await,
                Err(RecvError::Closed) => return,
            };
            if sent.is_err() {
                return self.end();
            }
        }
    }

    /// The last word, if the watcher still reads.
    fn end(&self) {
        if self.caller.term.ended.is_cancelled() {
            let _ = self.out.try_send(Err(self.caller.term.not_leader().into()));
        }
    }

    async fn begin(&self) -> Result<(), Gone> {
        for session in self.seen.sessions.values() {
            self.send(&SessionChange::Changed(session.clone())).await?;
        }
        self.event(Event::Synced(true)).await
    }

    async fn take(&mut self, batch: &ChangeBatch) -> Result<(), Gone> {
        if batch.snapshot.version <= self.seen.version {
            return Ok(());
        }
        for change in &batch.changes {
            self.send(change).await?;
        }
        self.seen = Arc::clone(&batch.snapshot);
        Ok(())
    }

    /// Too far behind for every single change: what differs now is sent.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        let now = self.caller.term.engine.snapshot();
        for change in now.since(&self.seen) {
            self.send(&change).await?;
        }
        self.seen = now;
        Ok(())
    }

    async fn send(&self, change: &SessionChange) -> Result<(), Gone> {
        let (session, event): (&Session, Event) = match change {
            SessionChange::Changed(session) => (session, Event::Changed((&**session).into())),
            SessionChange::Removed(session) => (session, Event::RemovedId(session.id.to_string())),
        };
        let wanted = self.only.as_ref().is_none_or(|only| session.id == *only);
        if wanted && self.caller.sees(session) {
            return self.event(event).await;
        }
        Ok(())
    }

    async fn event(&self, event: Event) -> Result<(), Gone> {
        let message = v1::WatchSessionsResponse { event: Some(event) };
        tokio::select! {
            sent = self.out.send(Ok(message)) => sent.map_err(|_| Gone),
            () = self.caller.term.ended.cancelled() => Err(Gone),
        }
    }
}

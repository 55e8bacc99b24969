//! The engine: one task that owns all state of the cluster.
//!
//! Inputs that wait are taken together, applied, placed, and written in one transaction; only then
//! is anyone told: readers (the published snapshot), watchers, agents, and last the callers. While
//! transactions are on their way, what comes in is applied on top of them in memory, as if they were
//! taken; if the store refuses one, all of that is undone and applied anew. See [`task`] for the loop,
//! [`batch`] for what is applied and not yet told, [`plan`](mod@plan) for how a batch becomes
//! transactions, [`flight`] for those on their way, and [`commit`] for what happens when the store does
//! not answer.

mod batch;
mod commit;
mod desired;
mod flight;
mod plan;
mod snapshot;
mod task;

pub(crate) use commit::{Committer, StoreHealth};
pub(crate) use snapshot::{ChangeBatch, SessionChange, Snapshot};
pub(crate) use task::Engine;

use fgpu_domain::cluster::{Applied, Cluster, Explanation, Input, Refusal};
use fgpu_domain::ids::{SessionId, UserName};
use fgpu_domain::session::{Members, SessionSpec};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Commands that may wait for the engine.
const INBOX: usize = 1024;
/// How long a caller waits before it is told that the outcome is not known.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the engine can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// Change the state; answered once the change is durable.
    Apply { input: Input, reply: Reply },
    /// Why a session waits, or where it is.
    Explain { id: SessionId, reply: oneshot::Sender<Result<Explanation, EngineError>> },
    /// What a create would do now.
    DryRun {
        spec: Box<SessionSpec>,
        owner: UserName,
        members: Members,
        reply: oneshot::Sender<Result<Explanation, EngineError>>,
    },
    /// Anything that only reads.
    Ask(Question),
}

/// A look at the cluster, or why there is none; the answer goes where the asker waits for it.
pub(crate) struct Question(Box<Look>);

type Look = dyn FnOnce(Result<&Cluster, EngineError>) + Send;

impl Question {
    fn answer(self, cluster: Result<&Cluster, EngineError>) {
        (self.0)(cluster);
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

/// Where the answer to an input goes.
pub(crate) type Reply = oneshot::Sender<Result<Applied, EngineError>>;

/// Why the engine did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum EngineError {
    /// The rules forbid it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store does not answer; nothing was changed.
    #[error("the store does not answer; nothing was changed")]
    StoreUnavailable,
    /// The store has no space; nothing was changed.
    #[error("the store has no space left; nothing was changed")]
    StoreFull,
    /// The store refuses to take it, whatever the time.
    #[error("the store refuses the write: {0}")]
    StoreRefused(String),
    /// The store has not said whether it took the change.
    #[error("the store has not confirmed the change yet; it may still be made")]
    Unsettled,
    /// This manager does not lead any more.
    #[error("this manager does not lead any more")]
    Deposed,
}

/// The way to the engine; cheap to clone.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    inbox: mpsc::Sender<Command>,
    published: watch::Receiver<Arc<Snapshot>>,
    changes: broadcast::Sender<Arc<ChangeBatch>>,
    health: Arc<StoreHealth>,
}

impl EngineHandle {
    /// Has `input` applied; returns once it is durable.
    pub(crate) async fn submit(&self, input: Input) -> Result<Applied, EngineError> {
        // Quick and without queueing while the store is away; agents' words still get through,
        // since most of them change nothing that must be written.
        if let Some(away) = self.health.away().filter(|_| is_from_people(&input)) {
            return Err(away);
        }
        self.ask(|reply| Command::Apply { input, reply }).await
    }

    pub(crate) async fn explain(&self, id: SessionId) -> Result<Explanation, EngineError> {
        self.ask(|reply| Command::Explain { id, reply }).await
    }

    pub(crate) async fn dry_run(
        &self,
        spec: SessionSpec,
        owner: UserName,
        members: Members,
    ) -> Result<Explanation, EngineError> {
        self.ask(|reply| Command::DryRun { spec: Box::new(spec), owner, members, reply }).await
    }

    /// What `question` finds in the cluster: what a snapshot does not hold.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Cluster) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        self.ask(|reply: oneshot::Sender<Result<T, EngineError>>| {
            Command::Ask(Question(Box::new(move |cluster| {
                // A caller that has gone needs no answer.
                let _ = reply.send(cluster.map(question));
            })))
        })
        .await
    }

    /// The state as last committed.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    /// Batches of changes from now on. Subscribe before taking a snapshot: batches up to the
    /// snapshot's version are then to be skipped, and none is missed.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<ChangeBatch>> {
        self.changes.subscribe()
    }

    pub(crate) fn health(&self) -> &StoreHealth {
        &self.health
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, EngineError>>) -> Command,
    ) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.inbox.send(command(reply)).await.map_err(|_| EngineError::Deposed)?;
            // The engine drops what it has not answered only when it ends.
            answer.await.map_err(|_| EngineError::Deposed)?
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(EngineError::Unsettled))
    }
}

fn is_from_people(input: &Input) -> bool {
    match input {
        Input::Create { .. }
        | Input::Stop { .. }
        | Input::Move { .. }
        | Input::Remove { .. }
        | Input::Cordon { .. }
        | Input::Labels { .. }
        | Input::CordonDevice { .. }
        | Input::PutProject { .. }
        | Input::RemoveProject { .. }
        | Input::PutClass { .. }
        | Input::RemoveClass { .. }
        | Input::RemoveNode { .. } => true,
        Input::Register { .. }
        | Input::Inventory { .. }
        | Input::Images { .. }
        | Input::Reports { .. }
        | Input::Liveness { .. } => false,
    }
}

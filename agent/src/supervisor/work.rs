//! The workers: all slow work, one task per placement.
//!
//! A worker talks back only through [`Done`]. It may be cancelled at any await: then it removes
//! what it made. When the agent goes down workers are dropped where they stand; the next agent
//! goes on from labels and ledger.

mod finish;
mod start;
mod stop;

use super::state::Effect;
use super::{Input, SupervisorSettings, WallClock};
use crate::ends::End;
use crate::inject::attach::AttachFacts;
use crate::ledger::{LedgerWriter, Running};
use crate::order::Order;
use fgpu_domain::device::Device;
use fgpu_domain::ids::ClusterId;
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::session::Progress;
use fgpu_domain::time::UnixMillis;
use fgpu_runtime::{Container, ContainerRuntime, RuntimeError};
use fgpu_service::retry::{Backoff, Retry};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How soon an engine that is away is asked again by a worker.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };

/// What a worker has to tell.
#[derive(Debug)]
pub(super) enum Done {
    /// A start is at this point.
    Progress { id: PlacementId, progress: Progress },
    /// Its container runs.
    Started { id: PlacementId, running: Running },
    /// It does not start, and nothing of it is left.
    StartFailed { id: PlacementId, end: End },
    /// It has ended after it was told to.
    Stopped { id: PlacementId, end: End },
    /// What was left of it is put away.
    Finished { id: PlacementId },
    /// A container that belonged to nothing was worked on.
    LeftoverRemoved { container: String },
}

/// What a worker works with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) runtime: Arc<dyn ContainerRuntime>,
    pub(super) settings: SupervisorSettings,
    pub(super) attach: AttachFacts,
    pub(super) devices: Vec<Device>,
    pub(super) cluster: Option<ClusterId>,
    pub(super) writer: LedgerWriter,
    /// The ledger that says why there is work.
    pub(super) revision: u64,
    pub(super) wall: WallClock,
    pub(super) done: mpsc::Sender<Input>,
}

/// All workers.
#[derive(Debug)]
pub(super) struct Workshop {
    starts: BTreeMap<PlacementId, CancellationToken>,
    leftovers: BTreeSet<String>,
    tasks: JoinSet<()>,
}

impl Workshop {
    pub(super) fn new() -> Self {
        Self { starts: BTreeMap::new(), leftovers: BTreeSet::new(), tasks: JoinSet::new() }
    }

    /// Begins the work of `effect`. `order` is there for a start.
    pub(super) fn carry_out(&mut self, effect: Effect, order: Option<Order>, tools: &Tools) {
        while self.tasks.try_join_next().is_some() {}
        let tools = tools.clone();
        match effect {
            Effect::Start(id) => {
                let Some(order) = order else { return };
                let cancel = CancellationToken::new();
                self.starts.insert(id.clone(), cancel.clone());
                self.tasks.spawn(start::run(tools, id, order, cancel));
            }
            Effect::Cancel(id) => {
                if let Some(cancel) = self.starts.remove(&id) {
                    cancel.cancel();
                }
            }
            Effect::Stop { id, container, grace_ms } => {
                let grace = Duration::from_millis(grace_ms);
                self.tasks.spawn(stop::run(tools, id, container, grace));
            }
            Effect::Finish { id, container } => {
                self.starts.remove(&id);
                self.tasks.spawn(finish::run(tools, id, container));
            }
            Effect::RemoveLeftover { container, id } => {
                if self.leftovers.insert(container.clone()) {
                    self.tasks.spawn(finish::leftover(tools, container, id));
                }
            }
        }
    }

    /// The work on a leftover is over; if it is still there, the next list will tell.
    pub(super) fn leftover_removed(&mut self, container: &str) {
        self.leftovers.remove(container);
    }

    /// A start is over, one way or the other.
    pub(super) fn start_over(&mut self, id: &PlacementId) {
        self.starts.remove(id);
    }

    /// Drops all work where it stands.
    pub(super) fn abandon(&mut self) {
        self.tasks.abort_all();
    }
}

impl Tools {
    fn now(&self) -> UnixMillis {
        (self.wall)()
    }

    async fn tell(&self, done: Done) {
        // Nobody listens any more when the agent goes down.
        let _ = self.done.send(Input::Work(done)).await;
    }

    /// All containers of one placement.
    async fn containers_of(&self, id: &PlacementId) -> Result<Vec<Container>, RuntimeError> {
        let mut all = self.runtime.list().await?;
        all.retain(|container| {
            crate::labels::read(&container.labels).is_some_and(|labelled| labelled.id == *id)
        });
        Ok(all)
    }

    /// Removes all containers of a placement. Where that cannot be done within `limit`, the next
    /// list will find them.
    async fn remove_all_of(&self, id: &PlacementId, limit: Duration) {
        let until = Instant::now() + limit;
        let mut retry = Retry::new(BACKOFF);
        loop {
            let failed = match self.containers_of(id).await {
                Ok(containers) => self.remove_each(&containers).await,
                Err(error) => Some(error),
            };
            let Some(error) = failed else { return };
            if !error.is_retryable() || Instant::now() >= until {
                tracing::warn!(session = %id.session, generation = id.generation, %error, "container stays for now");
                return;
            }
            retry.pause().await;
        }
    }

    async fn remove_each(&self, containers: &[Container]) -> Option<RuntimeError> {
        for container in containers {
            if let Err(error) = self.runtime.remove(&container.id).await {
                return Some(error);
            }
        }
        None
    }
}

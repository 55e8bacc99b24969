//! One manager leads at a time; the others wait and say who does.
//!
//! A term begins by reading every record and ends for good: nothing of it is used by the next one.

use crate::channels::Channels;
use crate::config::ManagerConfig;
use crate::engine::{Committer, Engine, EngineHandle};
use crate::error::ManagerError;
use crate::liveness::{Thresholds, Watcher};
use crate::nodes::Nodes;
use crate::records::{ensure_cluster, keys, load_records};
use crate::tokens::{Tokens, bootstrap};
use crate::upkeep;
use fgpu_domain::cluster::Cluster;
use fgpu_domain::ids::ClusterId;
use fgpu_service::clock::Clock;
use fgpu_service::retry::{Backoff, Retry};
use fgpu_store::{Compare, Election, Leadership, Store, StoreError, Txn, election};
use fgpu_wire::error::{CallError, ErrorCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

/// What this manager is at the moment.
#[derive(Clone)]
pub(crate) enum Role {
    /// Another one leads, if anyone does. While nobody does, what this one knew last is still good
    /// for reading.
    Standby { leader: Option<String>, last: Option<Arc<Term>> },
    /// This one leads.
    Leading(Arc<Term>),
    /// It is going down.
    Stopping,
}

/// One leadership, from winning to losing it.
pub(crate) struct Term {
    pub(crate) cluster_id: ClusterId,
    pub(crate) epoch: i64,
    pub(crate) config: Arc<ManagerConfig>,
    pub(crate) address: String,
    /// What the store is, for people.
    pub(crate) store: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) engine: EngineHandle,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) tokens: Tokens,
    pub(crate) channels: Channels,
    /// Cancelled when it is over.
    pub(crate) ended: CancellationToken,
}

/// What a manager needs to lead.
pub(crate) struct Leader {
    pub(crate) config: Arc<ManagerConfig>,
    pub(crate) address: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) roles: watch::Sender<Role>,
}

impl Term {
    /// What a caller gets whose term has ended meanwhile.
    pub(crate) fn not_leader(&self) -> CallError {
        not_leader(None)
    }
}

/// The error of a manager that does not lead.
pub(crate) fn not_leader(leader: Option<&str>) -> CallError {
    match leader {
        Some(address) => {
            let message = format!("this manager does not lead; {address} does");
            CallError::new(ErrorCode::NotLeader, message)
                .with("leader", address)
                .hint(format!("use --address {address}, or try again"))
        }
        None => CallError::new(ErrorCode::NotLeader, "no manager leads at the moment")
            .hint("try again in a few seconds"),
    }
}

impl Leader {
    /// Stands for election again and again, and leads whenever it wins, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), ManagerError> {
        let mut retry = Retry::new(BACKOFF);
        let mut last = None;
        while let Some(leadership) = self.campaign(last.take(), &shutdown).await? {
            match self.lead(&leadership, &shutdown).await {
                Ok(term) => {
                    retry.reset();
                    last = term;
                }
                // The store went away between winning and reading: nothing is wrong with it.
                Err(ManagerError::Store(error)) if is_passing(&error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot lead yet");
                    let _ = shutdown.run_until_cancelled(retry.pause()).await;
                }
                Err(error) => {
                    self.step_down(leadership, Role::Stopping).await;
                    return Err(error);
                }
            }
            let role = match shutdown.is_cancelled() {
                true => Role::Stopping,
                false => Role::Standby { leader: None, last: last.clone() },
            };
            self.step_down(leadership, role).await;
        }
        self.roles.send_replace(Role::Stopping);
        Ok(())
    }

    /// Waits until elected. `last` is the own term before, if there was one.
    async fn campaign(
        &self,
        last: Option<Arc<Term>>,
        shutdown: &CancellationToken,
    ) -> Result<Option<Leadership>, ManagerError> {
        let election = Election {
            key: keys::LEADER.to_owned(),
            identity: self.address.clone().into_bytes(),
            ttl: self.config.timings.leader_ttl,
        };
        let mut leader = election::observe(Arc::clone(&self.store), keys::LEADER);
        let campaign = async {
            if let Some(term) = &last
                && shutdown.run_until_cancelled(self.clear_away(term.epoch)).await.is_none()
            {
                return Ok(None);
            }
            election.campaign(Arc::clone(&self.store), shutdown.clone()).await
        };
        tokio::pin!(campaign);
        loop {
            tokio::select! {
                won = &mut campaign => return Ok(won?),
                Ok(()) = leader.changed() => {
                    let known = leader.borrow_and_update().clone();
                    let leader = known
                        .and_then(|leader| String::from_utf8(leader.identity).ok())
                        .filter(|address| *address != self.address);
                    let last = last.clone().filter(|_| leader.is_none());
                    self.roles.send_replace(Role::Standby { leader, last });
                }
            }
        }
    }

    /// Removes what a leadership that was given up while the store was away left behind, so that
    /// nobody waits for it to run out.
    async fn clear_away(&self, epoch: i64) {
        let own = Compare::CreateRevision { key: keys::LEADER.to_owned(), revision: epoch };
        let txn = Txn::new().compare(own).delete(keys::LEADER);
        let mut retry = Retry::new(BACKOFF);
        while let Err(error) = self.store.commit(txn.clone()).await {
            let waiting_helps = matches!(
                error,
                StoreError::Unavailable { .. }
                    | StoreError::Unknown { .. }
                    | StoreError::Full { .. }
            );
            if !waiting_helps {
                return;
            }
            retry.pause().await;
        }
    }

    /// Leads until the leadership is lost, the engine finds itself deposed, or `shutdown`; returns
    /// the term it was, if it came to one.
    async fn lead(
        &self,
        leadership: &Leadership,
        shutdown: &CancellationToken,
    ) -> Result<Option<Arc<Term>>, ManagerError> {
        let lost = leadership.lost();
        let begun = tokio::select! {
            begun = self.begin(leadership) => begun?,
            () = lost.cancelled() => return Ok(None),
            () = shutdown.cancelled() => return Ok(None),
        };
        let (term, engine) = begun;
        let ended = term.ended.clone();
        let _end = ended.clone().drop_guard();
        let mut tasks = JoinSet::new();
        tasks.spawn(engine.run());
        tasks.spawn(self.watcher(&term).run());
        tasks.spawn(upkeep::run(Arc::clone(&self.store)));
        tracing::info!(cluster = %term.cluster_id, epoch = term.epoch, address = self.address, "leading");
        self.roles.send_replace(Role::Leading(Arc::clone(&term)));
        tokio::select! {
            () = lost.cancelled() => Ok(Some(term)),
            () = shutdown.cancelled() => Ok(Some(term)),
            () = ended.cancelled() => Ok(Some(term)),
            Some(Err(broken)) = tasks.join_next() => Err(broken.into()),
        }
    }

    /// Reads everything and makes the term of it.
    async fn begin(&self, leadership: &Leadership) -> Result<(Arc<Term>, Engine), ManagerError> {
        let (epoch, fence) = (leadership.epoch, leadership.fence());
        let loaded = load_records(&*self.store).await?;
        let cluster_id = match loaded.cluster_id {
            Some(id) => id,
            None => ensure_cluster(&*self.store, &fence, self.clock.now()).await?,
        };
        let tokens = Tokens::new(Arc::clone(&self.store), fence.clone(), loaded.tokens);
        bootstrap(&tokens, &self.config.bootstrap, self.clock.now()).await.map_err(unwrap_store)?;
        let seed = u64::try_from(epoch).unwrap_or_default();
        let settings = self.config.domain_settings(seed);
        let records = loaded.records;
        // It takes its time on a large cluster; the leadership is kept up meanwhile.
        let restored = tokio::task::spawn_blocking(move || Cluster::restore(settings, records));
        let cluster = restored.await??;
        let status = self.store.status().await?;
        let committer = Committer::new(Arc::clone(&self.store), fence, epoch, loaded.mark);
        let (nodes, ended) = (Arc::new(Nodes::default()), CancellationToken::new());
        let (engine, handle) = Engine::new(
            cluster,
            committer,
            Arc::clone(&self.clock),
            Arc::clone(&nodes),
            self.config.commits,
            ended.clone(),
        );
        let term = Term {
            cluster_id,
            epoch,
            config: Arc::clone(&self.config),
            address: self.address.clone(),
            store: format!("{} ({})", status.kind, status.location),
            clock: Arc::clone(&self.clock),
            engine: handle,
            nodes,
            tokens,
            channels: Channels::default(),
            ended,
        };
        Ok((Arc::new(term), engine))
    }

    fn watcher(&self, term: &Term) -> Watcher {
        let timings = &self.config.timings;
        Watcher {
            nodes: Arc::clone(&term.nodes),
            engine: term.engine.clone(),
            clock: Arc::clone(&self.clock),
            thresholds: Thresholds { suspect: timings.suspect, lost: timings.lost },
            started: self.clock.monotonic(),
        }
    }

    async fn step_down(&self, leadership: Leadership, role: Role) {
        self.roles.send_replace(role);
        if let Err(error) = leadership.resign().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "others wait for the leadership to run out"
            );
        }
    }
}

fn is_passing(error: &StoreError) -> bool {
    error.is_retryable()
        || matches!(
            error,
            StoreError::Unknown { .. } | StoreError::Conflict { .. } | StoreError::Full { .. }
        )
}

fn unwrap_store(error: crate::tokens::TokensError) -> ManagerError {
    match error {
        crate::tokens::TokensError::Store(error) => ManagerError::Store(error),
        other => other.into(),
    }
}

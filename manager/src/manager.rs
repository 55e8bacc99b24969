//! Wiring: the store, the leader, the API.

use crate::api;
use crate::config::{ManagerConfig, StoreConfig};
use crate::error::ManagerError;
use crate::leader::{Leader, Role};
use fgpu_service::clock::Clock;
use fgpu_service::listen::bind;
use fgpu_store::{EmbeddedStore, EtcdStore, Store};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long callers may take to go once the manager is going down.
const GRACE: Duration = Duration::from_secs(5);

/// The edges of a manager.
pub struct Parts {
    /// Where the state is kept.
    pub store: Arc<dyn Store>,
    /// Where the time is read.
    pub clock: Arc<dyn Clock>,
}

/// Starts managers.
#[derive(Debug, Clone, Copy)]
pub struct Manager;

/// A manager at work. Dropping it leaves it running until its shutdown token is cancelled.
pub struct RunningManager {
    /// Where it listens.
    pub address: SocketAddr,
    /// How others reach it.
    pub url: String,
    shutdown: CancellationToken,
    roles: watch::Receiver<Role>,
    task: JoinHandle<Result<(), ManagerError>>,
}

/// Opens the store a configuration names.
///
/// # Errors
/// [`ManagerError::Store`]: damaged, in use, not reachable.
pub async fn open_store(config: &ManagerConfig) -> Result<Arc<dyn Store>, ManagerError> {
    match &config.store {
        StoreConfig::Embedded { path } => Ok(Arc::new(EmbeddedStore::open(path).await?)),
        StoreConfig::Etcd(etcd) => Ok(Arc::new(EtcdStore::connect(etcd.clone()).await?)),
    }
}

/// Runs a manager until `shutdown`.
///
/// # Errors
/// What keeps it from starting or working: the address, the certificates, the store's content.
pub async fn run(
    config: ManagerConfig,
    parts: Parts,
    shutdown: CancellationToken,
) -> Result<(), ManagerError> {
    Manager::start(config, parts, shutdown).await?.join().await
}

impl Manager {
    /// Starts a manager: it listens once this returns, and leads as soon as it is elected.
    ///
    /// # Errors
    /// The address or the certificates cannot be used.
    pub async fn start(
        config: ManagerConfig,
        parts: Parts,
        shutdown: CancellationToken,
    ) -> Result<RunningManager, ManagerError> {
        let (listener, address) = bind(config.listen).await?;
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let url = config.advertise.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
        let (roles, reader) = watch::channel(Role::Standby { leader: None, last: None });
        let server = api::Server::new(&config, reader.clone())?;
        let leader = Leader {
            config: Arc::new(config),
            address: url.clone(),
            store: parts.store,
            clock: parts.clock,
            roles,
        };
        let stop = shutdown.clone();
        let task = tokio::spawn(work(server.serve(listener, address, stop.clone()), leader, stop));
        Ok(RunningManager { address, url, shutdown, roles: reader, task })
    }
}

/// Serves and leads until `stop`, or until one of the two cannot go on.
async fn work(
    server: impl Future<Output = Result<(), ManagerError>> + Send + 'static,
    leader: Leader,
    stop: CancellationToken,
) -> Result<(), ManagerError> {
    let mut served = tokio::spawn(server);
    let led = leader.run(stop.clone());
    tokio::pin!(led);
    tokio::select! {
        led = &mut led => {
            stop.cancel();
            let ended = tokio::time::timeout(GRACE, &mut served).await;
            match ended {
                Ok(served) => served??,
                // Callers that do not go are cut off.
                Err(_) => served.abort(),
            }
            led
        }
        served = &mut served => {
            // The server is told to stop as well: then the leader is about to end by itself.
            stop.cancel();
            led.await?;
            served?
        }
    }
}

impl RunningManager {
    /// Returns once it leads; false if it stopped before.
    pub async fn leading(&self) -> bool {
        let mut roles = self.roles.clone();
        let reached = roles.wait_for(|role| !matches!(role, Role::Standby { .. })).await;
        reached.is_ok_and(|role| matches!(*role, Role::Leading(_)))
    }

    /// Waits until it has stopped.
    ///
    /// # Errors
    /// Why it stopped, if not by its shutdown token.
    pub async fn join(self) -> Result<(), ManagerError> {
        self.task.await?
    }

    /// Stops it and waits until it has.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub async fn stop(self) -> Result<(), ManagerError> {
        self.shutdown.cancel();
        self.join().await
    }
}

//! The two stores under test, and how to restart what is behind them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fgpu_store::{EmbeddedStore, EtcdConfig, EtcdStore, Snapshot, Store};
use fgpu_testkit::etcd::EtcdServer;
use tempfile::TempDir;

/// How long a condition may take to come about.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) trait Backend {
    /// The store; a rule lets go of it before it restarts what is behind it.
    fn store(&self) -> Arc<dyn Store>;

    /// Ends what is behind the store and starts it again with the same data.
    async fn restart(&mut self);
}

pub(crate) struct Embedded {
    folder: TempDir,
    store: Option<Arc<EmbeddedStore>>,
}

impl Embedded {
    pub(crate) async fn start() -> Self {
        let mut backend = Self { folder: tempfile::tempdir().unwrap(), store: None };
        backend.restart().await;
        backend
    }
}

impl Backend for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.as_ref().unwrap()) as Arc<dyn Store>
    }

    async fn restart(&mut self) {
        drop(self.store.take());
        let store = EmbeddedStore::open(self.folder.path().join("store")).await.unwrap();
        self.store = Some(Arc::new(store));
    }
}

pub(crate) struct Etcd {
    server: EtcdServer,
    store: Arc<EtcdStore>,
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        let server = EtcdServer::start().await;
        let store = EtcdStore::connect(EtcdConfig::new(vec![server.endpoint()])).await.unwrap();
        Self { server, store: Arc::new(store) }
    }
}

impl Backend for Etcd {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn restart(&mut self) {
        self.server.kill9().await;
        self.server.restart().await;
        // The same store goes on; its channel needs to notice first.
        let store = Arc::clone(&self.store);
        eventually("etcd answers again", async || {
            let answer = store.range("").await;
            (answer.is_ok(), answer.map(|snapshot| snapshot.revision))
        })
        .await;
    }
}

/// Waits until `probe` says yes; fails with the last state it gave.
pub(crate) async fn eventually<T: Debug>(what: &str, mut probe: impl AsyncFnMut() -> (bool, T)) {
    let start = Instant::now();
    loop {
        let (done, state) = probe().await;
        if done {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "not so after {DEADLINE:?}: {what}; last: {state:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for `future`; fails if it does not end.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("not so after {DEADLINE:?}: {what}"))
}

/// Keys and values of a snapshot, as text.
pub(crate) fn texts(snapshot: &Snapshot) -> Vec<(&str, &str)> {
    let text = |value| std::str::from_utf8(value).unwrap();
    snapshot.entries.iter().map(|entry| (entry.key.as_str(), text(&entry.value))).collect()
}

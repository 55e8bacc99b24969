//! One manager under test, its store and clock, and clients for every role.

use fgpu_domain::cluster::{Cluster, Settings};
use fgpu_domain::time::UnixMillis;
use fgpu_manager::{Manager, ManagerConfig, Parts, RunningManager, load_records};
use fgpu_service::clock::{Clock, ManualClock};
use fgpu_service::secret::Token;
use fgpu_store::{EmbeddedStore, FaultyStore, Store};
use fgpu_wire::error::CallError;
use fgpu_wire::v1;
use fgpu_wire::v1::admin_service_client::AdminServiceClient;
use fgpu_wire::v1::agent_service_client::AgentServiceClient;
use fgpu_wire::v1::device_service_client::DeviceServiceClient;
use fgpu_wire::v1::node_service_client::NodeServiceClient;
use fgpu_wire::v1::project_service_client::ProjectServiceClient;
use fgpu_wire::v1::session_service_client::SessionServiceClient;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long anything may take to come about: a hundred times what it takes.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub type Faulty = FaultyStore<EmbeddedStore>;
pub type Authed = InterceptedService<Channel, Bearer>;

/// Puts a token into every call.
#[derive(Clone)]
pub struct Bearer(pub Option<String>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// A store, a clock and tokens that outlive managers.
pub struct World {
    pub folder: TempDir,
    pub store: Arc<Faulty>,
    pub clock: Arc<ManualClock>,
    pub admin: String,
    pub agent: String,
}

/// A manager at work in a world.
pub struct Running {
    pub manager: RunningManager,
    pub channel: Channel,
    admin: String,
    pub agent: String,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
        let text = || Token::generate().unwrap().secret().expose().to_owned();
        Self { folder, store: Arc::new(store), clock, admin: text(), agent: text() }
    }

    pub fn config(&self) -> ManagerConfig {
        let mut config = ManagerConfig::local(self.folder.path());
        config.bootstrap.token = Some(self.admin.parse().unwrap());
        config.bootstrap.agent_token = Some(self.agent.parse().unwrap());
        config.allow_shared = true;
        // A store that is made to fail for a while must not end the leadership, save where a test
        // is about that.
        config.timings.leader_ttl = Duration::from_secs(120);
        config
    }

    /// Starts a manager without waiting for it to lead.
    pub async fn spawn(&self, config: ManagerConfig) -> Running {
        self.spawn_on(Arc::clone(&self.store) as Arc<dyn Store>, config).await
    }

    /// The same over another store.
    pub async fn spawn_on(&self, store: Arc<dyn Store>, config: ManagerConfig) -> Running {
        let parts = Parts { store, clock: Arc::clone(&self.clock) as Arc<dyn Clock> };
        let manager = Manager::start(config, parts, CancellationToken::new()).await.unwrap();
        let endpoint = Endpoint::from_shared(manager.url.clone()).unwrap();
        let channel = endpoint.connect_lazy();
        Running { manager, channel, admin: self.admin.clone(), agent: self.agent.clone() }
    }

    /// Starts a manager that leads.
    pub async fn start(&self) -> Running {
        let running = self.spawn(self.config()).await;
        let leads = tokio::time::timeout(DEADLINE, running.manager.leading()).await;
        assert_eq!(leads, Ok(true), "the manager does not lead");
        running
    }

    /// The cluster as the store alone describes it, every invariant checked.
    pub async fn restored(&self) -> Cluster {
        let loaded = load_records(&*self.store).await.unwrap();
        Cluster::restore(Settings::default(), loaded.records).unwrap()
    }

    pub async fn records(&self) -> usize {
        self.restored().await.sessions().len()
    }
}

/// Opens the store in `folder`; waits for a manager that has just stopped to let go of it.
pub async fn open(folder: &Path) -> Faulty {
    let path = folder.join("store.fgpu");
    eventually("the store can be opened", async || {
        let opened = EmbeddedStore::open(&path).await;
        opened.map(FaultyStore::new).map_err(|error| error.to_string())
    })
    .await
}

impl Running {
    pub fn bearer(&self) -> Bearer {
        Bearer(Some(self.admin.clone()))
    }

    pub fn sessions(&self) -> SessionServiceClient<Authed> {
        self.sessions_as(self.bearer())
    }

    pub fn sessions_as(&self, bearer: Bearer) -> SessionServiceClient<Authed> {
        SessionServiceClient::with_interceptor(self.channel.clone(), bearer)
    }

    pub fn nodes(&self) -> NodeServiceClient<Authed> {
        NodeServiceClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub fn devices_as(&self, bearer: Bearer) -> DeviceServiceClient<Authed> {
        DeviceServiceClient::with_interceptor(self.channel.clone(), bearer)
    }

    pub fn admin(&self) -> AdminServiceClient<Authed> {
        AdminServiceClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub fn projects(&self) -> ProjectServiceClient<Authed> {
        self.projects_as(self.bearer())
    }

    pub fn projects_as(&self, bearer: Bearer) -> ProjectServiceClient<Authed> {
        ProjectServiceClient::with_interceptor(self.channel.clone(), bearer)
    }

    pub fn agents(&self) -> AgentServiceClient<Authed> {
        let bearer = Bearer(Some(self.agent.clone()));
        AgentServiceClient::with_interceptor(self.channel.clone(), bearer)
    }

    pub async fn token(&self, user: &str, role: v1::Role) -> Bearer {
        let request =
            v1::CreateTokenRequest { user: user.to_owned(), role: role.into(), lifetime_ms: 0 };
        Bearer(Some(self.admin().create_token(request).await.unwrap().into_inner().secret))
    }

    pub async fn create(&self, spec: v1::SessionSpec) -> v1::Session {
        let request = v1::CreateSessionRequest { spec: Some(spec), ..Default::default() };
        self.sessions().create_session(request).await.unwrap().into_inner().session.unwrap()
    }

    pub async fn get(&self, id: &str) -> v1::Session {
        let request = v1::GetSessionRequest { session: id.to_owned() };
        self.sessions().get_session(request).await.unwrap().into_inner()
    }

    /// Waits until a session is in `phase`.
    pub async fn reaches(&self, id: &str, phase: v1::Phase) -> v1::Session {
        eventually(&format!("session {id} is {phase:?}"), async || {
            let session = self.get(id).await;
            if session.phase() == phase { Ok(session) } else { Err(format!("{session:?}")) }
        })
        .await
    }

    /// Waits until a node is in `state`.
    pub async fn node_reaches(&self, name: &str, state: v1::NodeState) -> v1::Node {
        eventually(&format!("node {name} is {state:?}"), async || {
            let request = v1::GetNodeRequest { name: name.to_owned() };
            match self.nodes().get_node(request).await {
                Ok(node) if node.get_ref().state() == state => Ok(node.into_inner()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    pub async fn list(&self) -> Vec<v1::Session> {
        let request = v1::ListSessionsRequest { all: true, ..Default::default() };
        self.sessions().list_sessions(request).await.unwrap().into_inner().sessions
    }

    pub async fn stop(self) {
        drop(self.channel);
        tokio::time::timeout(DEADLINE, self.manager.stop()).await.unwrap().unwrap();
    }
}

/// A session of `fgpu` thousandths that runs a command.
pub fn spec(fgpu_milli: u64) -> v1::SessionSpec {
    v1::SessionSpec {
        kind: v1::SessionKind::Batch.into(),
        image: "busybox".to_owned(),
        command: vec!["true".to_owned()],
        gpu: Some(v1::GpuRequest {
            amount: Some(v1::gpu_request::Amount::FgpuMilli(fgpu_milli)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn create_with(request_id: &str) -> v1::CreateSessionRequest {
    v1::CreateSessionRequest {
        spec: Some(spec(1000)),
        request_id: request_id.to_owned(),
        members: None,
    }
}

/// The stable code of a refused call.
pub fn code(status: &Status) -> &'static str {
    CallError::from_status(status).map_or("none", |error| error.code.as_str())
}

/// Tries until `attempt` is satisfied, and fails with its last words.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(state) if start.elapsed() > DEADLINE => {
                panic!("not within {DEADLINE:?}: {what}; last: {state}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

//! A supervisor on a bench: builders, and waiting for what it says.

use crate::fake_runtime::Engine;
use fgpu_agent::inject::attach::AttachChoice;
use fgpu_agent::inject::mounts::MountRules;
use fgpu_agent::ledger::{self, LedgerWriter};
use fgpu_agent::logs::LogLimits;
use fgpu_agent::notify::Notifier;
use fgpu_agent::order::{Desired, DesiredState, Order};
use fgpu_agent::state_dir::{Paths, StateDir};
use fgpu_agent::supervisor::{
    Snapshot, StaleDesired, StandingState, Supervisor, SupervisorHandle, SupervisorParts,
    SupervisorSettings,
};
use fgpu_domain::device::{Device, DeviceHealth, MigState};
use fgpu_domain::ids::{ClusterId, SessionId};
use fgpu_domain::reconcile::{PlacementId, Want};
use fgpu_domain::session::{Resources, SessionSpec};
use fgpu_domain::slice::{Grant, Isolation, Slice};
use fgpu_domain::time::UnixMillis;
use fgpu_domain::units::{ComputeMilli, CpuMilli, Fgpu, MemoryBytes};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The fence time of the bench's manager.
pub(crate) const FENCE: Duration = Duration::from_secs(30);
/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(900);

pub(crate) const CLUSTER: &str = "cluster-1";
pub(crate) const NODE: &str = "a1";

/// A supervisor over an engine, and its folder.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) engine: Engine,
    running: Option<Running>,
}

struct Running {
    handle: SupervisorHandle,
    task: JoinHandle<()>,
    shutdown: CancellationToken,
    _devices: watch::Sender<Vec<Device>>,
    _state: StateDir,
}

/// A placement by session and generation.
pub(crate) fn id(session: &str, generation: u64) -> PlacementId {
    PlacementId { session: SessionId::new(session).unwrap(), generation }
}

/// An 80 GiB device that exists only here.
pub(crate) fn device(uuid: &str) -> Device {
    Device {
        uuid: uuid.parse().unwrap(),
        index: 0,
        model: "H100-80GB".to_owned(),
        memory: MemoryBytes::gib(80),
        multiprocessors: None,
        pci_bus_id: None,
        numa_node: None,
        nvlink_peers: Vec::new(),
        mig: MigState::Unsupported,
        health: DeviceHealth::Healthy,
        simulated: true,
    }
}

/// A session with 40 GiB and half the compute of each of `devices`.
pub(crate) fn order(devices: &[&str]) -> Order {
    let resources =
        Resources { gpu: None, cpu: CpuMilli::cores(1), memory: MemoryBytes::gib(1), shm: None };
    let slice = |uuid: &&str| Slice {
        device: uuid.parse().unwrap(),
        memory: MemoryBytes::gib(40),
        compute: ComputeMilli(500),
        fgpu: Fgpu::whole(5),
    };
    let grant = Grant {
        node: NODE.parse().unwrap(),
        slices: devices.iter().map(slice).collect(),
        isolation: Isolation::Shared,
    };
    let mut spec = SessionSpec::new(vec!["work".to_owned()], resources);
    spec.image = "image".to_owned();
    Order { spec, grant, owner: "ann".to_owned(), group_environment: Default::default() }
}

/// The order with another image.
pub(crate) fn with_image(image: &str) -> Order {
    let mut order = order(&[]);
    order.spec.image = image.to_owned();
    order
}

/// Wanted to run.
pub(crate) fn run(order: Order) -> Desired {
    Desired { want: Want::Run, order: Ok(order) }
}

/// Told to stop.
pub(crate) fn stop(order: Order, grace_ms: u64) -> Desired {
    Desired { want: Want::Stop { grace_ms }, order: Ok(order) }
}

impl Bench {
    /// A node without any history, its supervisor running and accepted by a manager.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut bench = Self { folder, engine: Engine::default(), running: None };
        bench.start().await;
        bench.welcome().await;
        bench
    }

    /// Starts the supervisor on what the one before left. No manager is heard yet.
    pub(crate) async fn start(&mut self) {
        let state = StateDir::open(self.folder.path()).unwrap();
        let loaded = ledger::load(self.folder.path(), 1).unwrap();
        let (devices, watched) = watch::channel(vec![device("GPU-1"), device("GPU-2")]);
        let (engine, shutdown) = (self.engine.clone(), CancellationToken::new());
        let parts = SupervisorParts {
            settings: self.settings(),
            writer: LedgerWriter::start(self.folder.path().to_owned(), loaded.ledger.clone()),
            ledger_complete: loaded.corrupt.is_none(),
            ledger: loaded.ledger,
            runtimes: Arc::new(move |owner| Ok(engine.runtime(owner))),
            devices: watched,
            notifier: Notifier::Silent,
            wall: Arc::new(|| UnixMillis(1_800_000_100_000)),
            shutdown: shutdown.clone(),
        };
        let (handle, task) = Supervisor::start(parts).unwrap();
        self.running = Some(Running { handle, task, shutdown, _devices: devices, _state: state });
    }

    /// Ends the supervisor as SIGTERM does, and starts another.
    pub(crate) async fn restart(&mut self) {
        self.end().await;
        self.start().await;
    }

    /// Ends the supervisor as SIGTERM does.
    pub(crate) async fn end(&mut self) {
        let running = self.running.take().unwrap();
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    pub(crate) async fn welcome(&self) {
        let cluster = ClusterId::new(CLUSTER).unwrap();
        self.handle().welcomed(cluster, FENCE, Instant::now()).await.unwrap();
    }

    /// Hands over what the manager wants, of epoch 1.
    pub(crate) async fn desire(&self, generation: u64, placements: Vec<(PlacementId, Desired)>) {
        self.desire_in(1, generation, placements).await.unwrap();
    }

    pub(crate) async fn desire_in(
        &self,
        epoch: i64,
        generation: u64,
        placements: Vec<(PlacementId, Desired)>,
    ) -> Result<(), StaleDesired> {
        let placements = placements.into_iter().collect();
        let desired = DesiredState { epoch, generation, placements };
        self.handle().desired(desired).await.unwrap()
    }

    pub(crate) fn handle(&self) -> &SupervisorHandle {
        &self.running.as_ref().unwrap().handle
    }

    pub(crate) fn paths(&self) -> Paths {
        Paths::new(self.folder.path())
    }

    /// Waits until `wanted` holds; the panic shows the last state.
    pub(crate) async fn wait(
        &self,
        what: &str,
        wanted: impl Fn(&Snapshot) -> bool,
    ) -> Arc<Snapshot> {
        let mut snapshots = self.handle().snapshots();
        let reached = snapshots.wait_for(|snapshot| wanted(snapshot));
        match tokio::time::timeout(LONG, reached).await {
            Ok(reached) => reached.unwrap().clone(),
            Err(_) => panic!("never {what}: {:#?}", self.handle().snapshot()),
        }
    }

    /// The manager takes everything told so far, and the placement is forgotten.
    pub(crate) async fn forgotten(&self, id: &PlacementId) {
        self.gone(id).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.handle().acked(Instant::now()).await.unwrap();
        self.wait("forgotten", |snapshot| !snapshot.placements.contains_key(id)).await;
    }

    /// Waits until the placement runs.
    pub(crate) async fn runs(&self, id: &PlacementId) -> ledger::Running {
        let snapshot = self.wait("running", |snapshot| running(snapshot, id).is_some()).await;
        running(&snapshot, id).unwrap()
    }

    /// Waits until the placement is gone, and gives its end.
    pub(crate) async fn gone(&self, id: &PlacementId) -> fgpu_agent::ends::End {
        let snapshot = self.wait("gone", |snapshot| gone(snapshot, id).is_some()).await;
        gone(&snapshot, id).unwrap()
    }

    fn settings(&self) -> SupervisorSettings {
        SupervisorSettings {
            node: NODE.parse().unwrap(),
            paths: self.paths(),
            mounts: MountRules::default(),
            attach: AttachChoice::Auto,
            publish_on: IpAddr::from([127, 0, 0, 1]),
            advertise: "10.0.0.1".to_owned(),
            sysfs: PathBuf::from("/sys"),
            engine_patience: Duration::from_secs(300),
            relist: Duration::from_secs(5),
            logs: LogLimits::default(),
        }
    }
}

/// The placement's container, while it is told to run.
pub(crate) fn running(snapshot: &Snapshot, id: &PlacementId) -> Option<ledger::Running> {
    match &snapshot.placements.get(id)?.state {
        StandingState::Running(running) => Some(running.clone()),
        _ => None,
    }
}

/// The placement's end.
pub(crate) fn gone(snapshot: &Snapshot, id: &PlacementId) -> Option<fgpu_agent::ends::End> {
    match &snapshot.placements.get(id)?.state {
        StandingState::Gone(end) => Some(end.clone()),
        _ => None,
    }
}

//! A container engine of the imagination: it does what the trait promises, and fails on demand.
//!
//! One [`Engine`] outlives the agents that talk to it, as a real one does. What an image does is
//! in its name: `missing`, `denied`, `unreachable` and `hung` fail as they say; a command `nope`
//! is not found.

use async_trait::async_trait;
use bytes::Bytes;
use fgpu_runtime::{
    CgroupDriver, Container, ContainerRuntime, ContainerSpec, ContainerState, ContainerStats,
    EventKind, EventStream, ExecSession, ExecSpec, LimitSupport, LogChunk, LogChunkStream,
    LogOptions, LogStream, NetworkKind, Owner, PublishedPort, PullPolicy, PullProgress,
    RuntimeError, RuntimeEvent, RuntimeInfo, generation_of, prefix_timestamp,
};
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// When the first container of an engine starts; each later one a second after.
pub(crate) const FIRST_START_MS: u64 = 1_800_000_000_000;

/// Shared by all runtimes on it.
#[derive(Clone, Default)]
pub(crate) struct Engine(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { inner: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

#[derive(Default)]
struct Inner {
    containers: BTreeMap<String, Made>,
    made: u64,
    away: bool,
    live_restore: bool,
    stats_hang: bool,
    /// Host port given to every published port; 0: one after another from 40000.
    host_port: u16,
    calls: Vec<String>,
    images: Vec<String>,
    listeners: Vec<mpsc::UnboundedSender<RuntimeEvent>>,
}

struct Made {
    container: Container,
    spec: ContainerSpec,
    output: Vec<(LogStream, String)>,
}

impl Engine {
    /// A runtime on this engine.
    pub(crate) fn runtime(&self, owner: Owner) -> Arc<dyn ContainerRuntime> {
        Arc::new(FakeRuntime { engine: self.clone(), owner })
    }

    /// Every call that changed something, e.g. `start fgpu-abcdef12-1`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// How often such a call was made.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.lock().calls.iter().filter(|made| *made == call).count()
    }

    /// Names of all containers, of any owner.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().containers.values().map(|made| made.container.name.clone()).collect()
    }

    /// The specification of a container.
    pub(crate) fn spec(&self, name: &str) -> ContainerSpec {
        self.lock().named(name).spec.clone()
    }

    /// The state of a container.
    pub(crate) fn state(&self, name: &str) -> ContainerState {
        self.lock().named(name).container.state.clone()
    }

    /// The main process ends.
    pub(crate) fn exit(&self, name: &str, code: i32) {
        self.end(name, code, false);
    }

    /// The kernel kills the main process for lack of memory.
    pub(crate) fn kill_for_memory(&self, name: &str) {
        self.end(name, 137, true);
    }

    /// Somebody removes the container.
    pub(crate) fn remove_by_hand(&self, name: &str) {
        let mut inner = self.lock();
        let id = inner.named(name).container.id.clone();
        inner.containers.remove(&id);
        inner.tell(&id, EventKind::Removed);
    }

    /// The main process writes a line.
    pub(crate) fn write(&self, name: &str, stream: LogStream, line: &str) {
        let mut inner = self.lock();
        inner.named(name).output.push((stream, line.to_owned()));
        drop(inner);
        self.bump();
    }

    /// The engine goes away: no call is answered, events end.
    pub(crate) fn go_away(&self) {
        let mut inner = self.lock();
        inner.away = true;
        inner.listeners.clear();
    }

    /// It is back.
    pub(crate) fn come_back(&self) {
        self.lock().away = false;
    }

    /// Kills all containers, as an engine does that takes them down with it.
    pub(crate) fn take_containers_down(&self) {
        let mut inner = self.lock();
        for made in inner.containers.values_mut() {
            if made.container.state.is_running() {
                made.container.state = exited(137, false);
            }
        }
    }

    /// Whether containers outlive a restart of the engine.
    pub(crate) fn set_live_restore(&self, on: bool) {
        self.lock().live_restore = on;
    }

    /// Whether asking what a container uses is never answered.
    pub(crate) fn set_stats_hang(&self, on: bool) {
        self.lock().stats_hang = on;
    }

    /// Publishes every port on this port of the node.
    pub(crate) fn publish_on(&self, host_port: u16) {
        self.lock().host_port = host_port;
    }

    fn end(&self, name: &str, code: i32, oom_killed: bool) {
        let mut inner = self.lock();
        let made = inner.named(name);
        made.container.state = exited(code, oom_killed);
        made.container.ports.clear();
        let id = made.container.id.clone();
        inner.tell(&id, EventKind::Exited);
        drop(inner);
        self.bump();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap()
    }

    fn bump(&self) {
        self.0.changes.send_modify(|number| *number += 1);
    }
}

impl Inner {
    fn named(&mut self, name: &str) -> &mut Made {
        let found = self.containers.values_mut().find(|made| made.container.name == name);
        found.unwrap_or_else(|| panic!("no container {name}"))
    }

    fn tell(&mut self, id: &str, kind: EventKind) {
        self.listeners
            .retain(|listener| listener.send(RuntimeEvent { id: id.to_owned(), kind }).is_ok());
    }
}

fn exited(code: i32, oom_killed: bool) -> ContainerState {
    ContainerState::Exited {
        code,
        oom_killed,
        finished_at_unix_ms: FIRST_START_MS + 500_000,
        error: None,
        command_missing: false,
    }
}

struct FakeRuntime {
    engine: Engine,
    owner: Owner,
}

impl FakeRuntime {
    fn answer(&self) -> Result<MutexGuard<'_, Inner>, RuntimeError> {
        let inner = self.engine.lock();
        match inner.away {
            false => Ok(inner),
            true => Err(RuntimeError::EngineUnavailable {
                endpoint: "unix:///fake.sock".to_owned(),
                source: "connection refused".into(),
            }),
        }
    }

    fn no_such(id: &str) -> RuntimeError {
        RuntimeError::NoSuchContainer { id: id.to_owned() }
    }
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn mounts_supported(&self) -> bool {
        true
    }

    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let inner = self.answer()?;
        Ok(RuntimeInfo {
            kind: "docker",
            endpoint: "unix:///fake.sock".to_owned(),
            version: "1.0".to_owned(),
            api_version: String::new(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            cgroup_version: None,
            storage_driver: String::new(),
            runtimes: Vec::new(),
            default_runtime: String::new(),
            cdi_spec_dirs: Vec::new(),
            live_restore: inner.live_restore,
            security_options: Vec::new(),
            init_available: true,
            limits: LimitSupport::Enforced,
            network: NetworkKind::Bridge,
            warnings: Vec::new(),
        })
    }

    async fn ensure_image(
        &self,
        image: &str,
        _policy: PullPolicy,
        progress: mpsc::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        self.answer()?.images.insert(0, image.to_owned());
        let (image, registry) = (image.to_owned(), "registry".to_owned());
        match image.as_str() {
            "missing" => Err(RuntimeError::ImageNotFound { image }),
            "denied" => {
                Err(RuntimeError::ImageAccessDenied { image, registry, source: "403".into() })
            }
            "unreachable" => {
                let source = "no route to host".into();
                Err(RuntimeError::RegistryUnreachable { image, registry, source })
            }
            "hung" => {
                let half =
                    PullProgress { bytes_done: 5, bytes_total: 10, ..PullProgress::default() };
                let _ = progress.send(half).await;
                std::future::pending().await
            }
            _ => Ok(()),
        }
    }

    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        Ok(self.answer()?.images.clone())
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        let mut inner = self.answer()?;
        spec.check()?;
        let labels = self.owner.stamp(&spec.labels, &spec.session);
        let same = inner.containers.values().find(|made| made.container.name == spec.name);
        if let Some(same) = same {
            assert_eq!(generation_of(&same.container.labels), generation_of(&labels));
            return Ok(same.container.id.clone());
        }
        inner.made += 1;
        let id = format!("c{}", inner.made);
        inner.calls.push(format!("create {}", spec.name));
        let container = Container {
            id: id.clone(),
            name: spec.name.clone(),
            labels,
            image: spec.image.clone(),
            state: ContainerState::Created,
            ports: Vec::new(),
        };
        let made = Made { container, spec: spec.clone(), output: Vec::new() };
        inner.containers.insert(id.clone(), made);
        Ok(id)
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let mut inner = self.answer()?;
        let (number, host_port) = (inner.made, inner.host_port);
        let made = inner.containers.get_mut(id).ok_or_else(|| Self::no_such(id))?;
        if made.container.state.is_running() {
            return Ok(());
        }
        if made.spec.command.first().is_some_and(|program| program == "nope") {
            return Err(RuntimeError::CommandNotFound {
                command: "nope".to_owned(),
                reason: "no such file".to_owned(),
            });
        }
        let started_at_unix_ms = FIRST_START_MS + (number - 1) * 1000;
        made.container.state = ContainerState::Running { started_at_unix_ms, pid: 100 };
        let port = |(index, port): (usize, &fgpu_runtime::PortSpec)| PublishedPort {
            container_port: port.container_port,
            protocol: port.protocol,
            host_ip: IpAddr::from([127, 0, 0, 1]),
            host_port: match host_port {
                0 => 40_000 + u16::try_from(index).unwrap(),
                fixed => fixed,
            },
        };
        made.container.ports = made.spec.ports.iter().enumerate().map(port).collect();
        let call = format!("start {}", made.container.name);
        inner.calls.push(call);
        inner.tell(id, EventKind::Started);
        Ok(())
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let name = {
            let mut inner = self.answer()?;
            let made = inner.containers.get_mut(id).ok_or_else(|| Self::no_such(id))?;
            let name = made.container.name.clone();
            if !made.container.state.is_running() {
                return Ok(());
            }
            inner.calls.push(format!("stop {name} {}", grace.as_millis()));
            name
        };
        self.engine.exit(&name, 143);
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let mut inner = self.answer()?;
        if let Some(made) = inner.containers.remove(id) {
            inner.calls.push(format!("remove {}", made.container.name));
            inner.tell(id, EventKind::Removed);
        }
        drop(inner);
        self.engine.bump();
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let inner = self.answer()?;
        let all = inner.containers.values().map(|made| made.container.clone());
        Ok(all.filter(|container| self.owner.owns(&container.labels)).collect())
    }

    async fn inspect(&self, id: &str) -> Result<Container, RuntimeError> {
        let inner = self.answer()?;
        let made = inner.containers.get(id).ok_or_else(|| Self::no_such(id))?;
        Ok(made.container.clone())
    }

    async fn events(&self) -> Result<EventStream, RuntimeError> {
        let (sender, events) = mpsc::unbounded_channel();
        self.answer()?.listeners.push(sender);
        Ok(UnboundedReceiverStream::new(events).boxed())
    }

    async fn logs(&self, id: &str, options: LogOptions) -> Result<LogChunkStream, RuntimeError> {
        if !self.answer()?.containers.contains_key(id) {
            return Err(Self::no_such(id));
        }
        let state = (self.engine.clone(), id.to_owned(), 0, self.engine.0.changes.subscribe());
        let stamped = options.timestamps;
        let follow = options.follow;
        let lines = stream::unfold(state, move |(engine, id, next, mut changes)| async move {
            loop {
                changes.borrow_and_update();
                let (line, running) = {
                    let inner = engine.lock();
                    let made = inner.containers.get(&id)?;
                    (made.output.get(next).cloned(), made.container.state.is_running())
                };
                if let Some((stream, line)) = line {
                    let at = u128::from(FIRST_START_MS + next as u64) * 1_000_000;
                    let line = format!("{line}\n");
                    let data = match stamped {
                        true => prefix_timestamp(at, line.as_bytes()),
                        false => Bytes::from(line),
                    };
                    return Some((Ok(LogChunk { stream, data }), (engine, id, next + 1, changes)));
                }
                if !follow || !running {
                    return None;
                }
                changes.changed().await.ok()?;
            }
        });
        Ok(lines.boxed())
    }

    async fn exec(&self, _id: &str, _spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        Err(RuntimeError::Unsupported { runtime: "fake", what: "run commands".to_owned() })
    }

    async fn stats(&self, id: &str) -> Result<ContainerStats, RuntimeError> {
        let hang = self.answer()?.stats_hang;
        if hang {
            std::future::pending::<()>().await;
        }
        match self.answer()?.containers.contains_key(id) {
            true => Ok(ContainerStats { memory_bytes: 7, pids: 1, ..ContainerStats::default() }),
            false => Err(Self::no_such(id)),
        }
    }
}

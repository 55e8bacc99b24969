//! The stage of the main job: real etcd, a manager, two agents with eight fake devices each, one
//! real engine with an image, and eyes for what really runs.

use fgpu_integration::cli::Cli;
use fgpu_integration::wait::until;
use fgpu_integration::world::{AgentOptions, ManagerOptions, World};
use fgpu_testkit::docker::{DockerEngine, DockerOptions};
use fgpu_testkit::etcd::EtcdServer;
use fgpu_testkit::nvml::FakeNvml;
use fgpu_testkit::nvml::config::{Config, DeviceConfig};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The image every container here is made from: a static busybox.
pub(crate) const IMAGE: &str = "fgpu-test:1";

/// How long a session may take to get somewhere; the target is a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything the main job runs on. Fields are dropped in this order.
pub(crate) struct Stage {
    pub world: World,
    pub engine: DockerEngine,
    pub nvml: Vec<FakeNvml>,
    pub etcd: EtcdServer,
    pub runtime: Runtime,
}

impl Stage {
    /// Starts it all; `shape` may change how the manager is started.
    pub(crate) fn new(
        live_restore: bool,
        shape: impl FnOnce(ManagerOptions) -> ManagerOptions,
    ) -> Self {
        let mut stage = Self::without_agents(live_restore, shape);
        for node in ["a1", "b2"] {
            let options = stage.agent(node);
            stage.world.add_agent(options);
        }
        stage
    }

    /// As [`Stage::new`], before any agent is started.
    pub(crate) fn without_agents(
        live_restore: bool,
        shape: impl FnOnce(ManagerOptions) -> ManagerOptions,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let etcd = runtime.block_on(EtcdServer::start());
        let engine =
            DockerEngine::start(DockerOptions { live_restore, ..DockerOptions::default() });
        engine.import_busybox(IMAGE);
        let world = World::new(shape(ManagerOptions::etcd(&etcd)));
        Self { world, engine, nvml: Vec::new(), etcd, runtime }
    }

    /// An agent for `node` with eight fake devices of its own, on the stage's engine.
    pub(crate) fn agent(&mut self, node: &str) -> AgentOptions {
        let offset = u8::try_from(self.nvml.len()).unwrap() * 8;
        let devices = (0..8).map(|index| DeviceConfig::h100(offset + index)).collect();
        let nvml = FakeNvml::new(&Config::with_devices(devices));
        let options = AgentOptions::docker(node, &nvml, &self.engine);
        self.nvml.push(nvml);
        options
    }

    pub(crate) fn cli(&self) -> Cli {
        self.world.cli()
    }

    /// Starts a session that sleeps and waits until it runs.
    pub(crate) fn sleeping(&self, flags: &[&str]) -> String {
        let id = self.create(flags);
        await_phase(&self.cli(), &id, "running");
        id
    }

    /// Starts a session that sleeps.
    pub(crate) fn create(&self, flags: &[&str]) -> String {
        let mut arguments = vec!["run", "--detach", "--quiet", "--image", IMAGE];
        if !flags.contains(&"--cpu") {
            arguments.extend(["--cpu", "0.1", "--memory", "32MiB"]);
        }
        arguments.extend(flags);
        arguments.extend(["--", "sleep", "3600"]);
        self.cli().ok(&arguments)
    }

    /// What the engine says of a session's container, if it has one.
    pub(crate) fn find_container(&self, session: &str) -> Option<Value> {
        let filter = format!("label=io.fgpu.session={session}");
        let ids =
            self.engine.docker_ok(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
        let ids: Vec<&str> = ids.lines().collect();
        assert!(ids.len() < 2, "session {session} has {} containers", ids.len());
        let id = ids.first()?;
        let text = self.engine.docker_ok(&["inspect", id]);
        let mut list: Vec<Value> = serde_json::from_str(&text).unwrap();
        list.pop()
    }

    /// As [`Stage::find_container`], for one that must be there.
    pub(crate) fn container(&self, session: &str) -> Value {
        self.find_container(session).unwrap_or_else(|| panic!("{session} has no container"))
    }
}

/// Waits until a session is in a phase and returns it.
pub(crate) fn await_phase(cli: &Cli, id: &str, phase: &str) -> Value {
    until(&format!("session {id} {phase}"), PATIENCE, || {
        let session = cli.json(&["get", id]);
        if session["phase"] == phase { Ok(session) } else { Err(session.to_string()) }
    })
}

/// The file of a controller in the cgroup of process `pid`: its name in version 1 and in version 2.
pub(crate) fn cgroup_file(pid: u64, controller: &str, v1: &str, v2: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mut unified = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap(), parts.next().unwrap());
        if controllers.split(',').any(|name| name == controller) {
            let file = PathBuf::from(format!("/sys/fs/cgroup/{controllers}{path}/{v1}"));
            let other = PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}/{v1}"));
            let file = if file.exists() { file } else { other };
            return fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
                .trim()
                .to_owned();
        }
        if controllers.is_empty() {
            unified = Some(path.to_owned());
        }
    }
    let path = format!("/sys/fs/cgroup{}/{v2}", unified.unwrap());
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

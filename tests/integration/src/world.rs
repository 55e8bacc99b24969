//! A cluster under test: etcd or a file, one manager, agents, an engine, each a real process.

use crate::cli::Cli;
use crate::process::{Process, fgpu};
use crate::wait::until;
use fgpu_testkit::docker::DockerEngine;
use fgpu_testkit::etcd::EtcdServer;
use fgpu_testkit::nvml::FakeNvml;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take to come up here; the target is a second.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long what still runs may take to go down when a world ends.
const GOING_DOWN: Duration = Duration::from_secs(10);

/// How the manager of a world is started.
#[derive(Debug, Clone)]
pub struct ManagerOptions {
    /// URL of etcd; without it, the embedded file.
    pub etcd: Option<String>,
    /// More settings, as its environment has them, e.g. `TIMINGS_FENCE` and `6s`.
    pub settings: Vec<(String, String)>,
}

/// How an agent of a world is started.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Name of the node.
    pub node: String,
    /// As `--accelerator` takes it.
    pub accelerator: String,
    /// Socket of the engine; without it, plain processes.
    pub docker: Option<PathBuf>,
    /// Where it finds the manager; the manager's own address by default.
    pub manager: Option<String>,
    /// More settings, as its environment has them.
    pub settings: Vec<(String, String)>,
}

/// A cluster under test.
#[derive(Debug)]
pub struct World {
    manager: Option<Process>,
    agents: Vec<Agent>,
    options: ManagerOptions,
    port: u16,
    folder: TempDir,
}

/// An agent of a world.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    options: AgentOptions,
}

impl ManagerOptions {
    /// A manager with the embedded store.
    pub fn embedded() -> Self {
        Self { etcd: None, settings: Vec::new() }
    }

    /// A manager on this etcd.
    pub fn etcd(server: &EtcdServer) -> Self {
        Self { etcd: Some(server.endpoint()), settings: Vec::new() }
    }

    /// With one more setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl AgentOptions {
    /// An agent with simulated devices and plain processes.
    pub fn simulated(node: &str, devices: &str) -> Self {
        Self {
            node: node.to_owned(),
            accelerator: format!("sim:{devices}"),
            docker: None,
            manager: None,
            settings: Vec::new(),
        }
    }

    /// An agent that asks NVML (a fake one) and starts containers on a real engine.
    pub fn docker(node: &str, nvml: &FakeNvml, engine: &DockerEngine) -> Self {
        Self {
            accelerator: format!("nvml:{}", nvml.library().display()),
            docker: Some(engine.socket()),
            ..Self::simulated(node, "1xnone")
        }
        .with("GPU_ATTACH", "none")
    }

    /// With one more setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another way to the manager.
    #[must_use]
    pub fn through(mut self, address: SocketAddr) -> Self {
        self.manager = Some(format!("http://{address}"));
        self
    }
}

impl World {
    /// A world with a manager that answers, and no agents yet.
    pub fn new(options: ManagerOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("fgpu-world-").tempdir().unwrap();
        let mut world =
            Self { manager: None, agents: Vec::new(), options, port: free_port(), folder };
        world.start_manager();
        world
    }

    /// Starts the manager (again), on the same port and store, and waits until it leads.
    pub fn start_manager(&mut self) {
        let data = self.path("manager");
        let mut command = Command::new(fgpu());
        command
            .arg("manager")
            .env("FGPU_MANAGER_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("FGPU_MANAGER_DATA_DIR", &data)
            .env("FGPU_MANAGER_BOOTSTRAP_TOKEN_FILE", self.path("admin.token"))
            .env("FGPU_MANAGER_ALLOW_SHARED", "true")
            .env("FGPU_MANAGER_TIMINGS_LEADER_TTL", "3s");
        if let Some(etcd) = &self.options.etcd {
            command.env("FGPU_MANAGER_STORE_ETCD", etcd);
        }
        for (name, value) in &self.options.settings {
            command.env(format!("FGPU_MANAGER_{name}"), value);
        }
        self.manager = Some(Process::start("manager", &mut command, &self.path("manager.log")));
        self.await_manager();
    }

    fn await_manager(&mut self) {
        let token = self.path("admin.token");
        until("a manager that leads", PATIENCE, || {
            let manager = self.manager.as_mut().expect("it was started");
            if let Some(code) = manager.ended() {
                panic!("the manager ended with {code}:\n{}", manager.log());
            }
            let secret = fs::read_to_string(&token).map_err(|error| error.to_string())?;
            let cli = Cli { address: self.address(), token: secret.trim().to_owned() };
            let answer = cli.run(&["cluster"]);
            if answer.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&answer.stderr).into_owned())
            }
        });
    }

    /// The manager's process.
    pub fn manager(&self) -> &Process {
        self.manager.as_ref().expect("the manager runs")
    }

    /// Ends the manager as a crash would.
    pub fn kill_manager(&mut self) {
        self.manager.as_mut().expect("the manager runs").kill9();
        self.manager = None;
    }

    /// Adds an agent and waits until its node is ready.
    pub fn add_agent(&mut self, options: AgentOptions) -> usize {
        self.agents.push(Agent { process: None, options });
        let number = self.agents.len() - 1;
        self.start_agent(number);
        self.await_node(number, "ready");
        number
    }

    /// Starts an agent (again), without waiting.
    pub fn start_agent(&mut self, number: usize) {
        let options = self.agents[number].options.clone();
        let token = self.agent_token_file();
        let mut command = Command::new(fgpu());
        command
            .arg("agent")
            .env("FGPU_AGENT_MANAGERS", options.manager.unwrap_or_else(|| self.address()))
            .env("FGPU_AGENT_NODE", &options.node)
            .env("FGPU_AGENT_TOKEN_FILE", token)
            .env("FGPU_AGENT_STATE_DIR", self.path(&format!("agent-{}", options.node)))
            .env("FGPU_AGENT_ACCELERATOR", &options.accelerator)
            .env("FGPU_AGENT_ALLOW_SHARED", "true");
        match &options.docker {
            Some(socket) => command
                .env("FGPU_AGENT_RUNTIME", "docker")
                .env("FGPU_AGENT_DOCKER", format!("unix://{}", socket.display())),
            None => command.env("FGPU_AGENT_RUNTIME", "process"),
        };
        for (name, value) in &options.settings {
            command.env(format!("FGPU_AGENT_{name}"), value);
        }
        let name = format!("agent {}", options.node);
        let log = self.path(&format!("agent-{}.log", options.node));
        self.agents[number].process = Some(Process::start(&name, &mut command, &log));
    }

    /// Waits until the node of an agent is in `state`.
    pub fn await_node(&mut self, number: usize, state: &str) {
        let node = self.agents[number].options.node.clone();
        let cli = self.cli();
        until(&format!("node {node} {state}"), PATIENCE, || {
            if let Some(process) = &mut self.agents[number].process
                && let Some(code) = process.ended()
            {
                panic!("agent {node} ended with {code}:\n{}", process.log());
            }
            let nodes = cli.json(&["node", "list"]);
            let found =
                nodes.as_array().unwrap().iter().find(|entry| entry["name"] == node.as_str());
            match found.map(|entry| entry["state"].clone()) {
                Some(found) if found == state => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// Ends an agent as a crash would.
    pub fn kill_agent(&mut self, number: usize) {
        self.agents[number].process.as_mut().expect("the agent runs").kill9();
        self.agents[number].process = None;
    }

    /// An agent's process.
    pub fn agent(&self, number: usize) -> &Process {
        self.agents[number].process.as_ref().expect("the agent runs")
    }

    /// The folder of an agent's files.
    pub fn agent_folder(&self, number: usize) -> PathBuf {
        self.path(&format!("agent-{}", self.agents[number].options.node))
    }

    /// URL of the manager.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Socket address of the manager.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The command line as the administrator.
    pub fn cli(&self) -> Cli {
        let token = fs::read_to_string(self.path("admin.token")).unwrap();
        Cli { address: self.address(), token: token.trim().to_owned() }
    }

    /// A token of role agent.
    pub fn agent_token(&self) -> String {
        fs::read_to_string(self.agent_token_file()).unwrap()
    }

    fn agent_token_file(&self) -> PathBuf {
        let path = self.path("agent.token");
        if !path.exists() {
            let secret = self.cli().ok(&["token", "create", "agents", "--role", "agent"]);
            fs::write(&path, secret.trim()).unwrap();
        }
        path
    }

    /// A path in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }
}

impl Drop for World {
    /// Plain processes outlive their agent: what still runs is stopped while it can be.
    fn drop(&mut self) {
        if self.manager.is_none() || !self.path("admin.token").exists() {
            return;
        }
        let cli = self.cli();
        let live = || {
            let listed = String::from_utf8_lossy(&cli.run(&["ps", "--quiet"]).stdout).into_owned();
            listed.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        for session in live() {
            cli.run(&["stop", "--no-wait", "--grace", "1ms", &session]);
        }
        let begin = Instant::now();
        while begin.elapsed() < GOING_DOWN && !live().is_empty() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

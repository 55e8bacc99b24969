//! A whole cluster in this process: a manager with an embedded store, and agents.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use fgpu_accelerator::AcceleratorSpec;
use fgpu_agent::AgentError;
use fgpu_agent::config::RuntimeChoice;
use fgpu_agent::facts::Machine;
use fgpu_domain::ids::NodeName;
use fgpu_manager::RunningManager;
use fgpu_wire::v1::{CreateTokenRequest, ListNodesRequest, Node, NodeState, Role};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::choose::{Chosen, choose_accelerator, choose_runtime, machine_socket};
use super::{agent, manager};
use crate::connect::{Link, Repeat, Target};
use crate::failure::Failure;
use crate::nodes;

/// How long nodes may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// Flags as written, settings, texts.
pub(crate) type Given = Vec<(String, &'static str, String)>;

/// What the cluster is to be.
#[derive(Debug, Clone)]
pub(crate) struct LocalOptions {
    /// Folder for everything.
    pub(crate) data_dir: PathBuf,
    /// Names of the nodes.
    pub(crate) nodes: Vec<NodeName>,
    /// `auto`, `nvml…` or `sim:…`.
    pub(crate) accelerator: AcceleratorSpec,
    /// What runs containers.
    pub(crate) runtime: RuntimeChoice,
    /// Configuration files of manager and agents.
    pub(crate) manager_config: Option<PathBuf>,
    pub(crate) agent_config: Option<PathBuf>,
    /// More settings of manager and agents.
    pub(crate) manager: Given,
    pub(crate) agent: Given,
}

/// A cluster at work.
pub(crate) struct Local {
    manager: RunningManager,
    agents: Vec<JoinHandle<Result<(), AgentError>>>,
    work: CancellationToken,
    /// The engine's socket.
    socket: String,
    /// How it is reached, from here.
    pub(crate) target: Target,
    /// Which devices, and why.
    pub(crate) accelerator: Chosen<AcceleratorSpec>,
    /// Which runtime, and why.
    pub(crate) runtime: Chosen<RuntimeChoice>,
}

impl Local {
    /// Starts everything; the nodes may still be on their way, see [`ready`](Self::ready).
    pub(crate) async fn start(options: &LocalOptions) -> Result<Self, Failure> {
        let accelerator = choose_accelerator(&options.accelerator, options.nodes.len())?;
        let socket = docker_socket(options)?;
        let runtime = choose_runtime(options.runtime, &socket).await?;
        make_folder(&options.data_dir)?;
        let work = CancellationToken::new();
        let mut given = options.manager.clone();
        let folder = options.data_dir.join("manager");
        given.push(("--data-dir".to_owned(), "data_dir", folder.display().to_string()));
        let config = manager::load(options.manager_config.as_ref(), &given)
            .map_err(|faults| super::faults(&faults))?;
        let (token_file, tls) = (config.bootstrap.token_file.clone(), config.tls.is_some());
        let manager = manager::start_leading(config, work.clone()).await?;
        let mut local = Self {
            socket,
            target: Target {
                addresses: vec![local_url(manager.address, tls)],
                token: None,
                ca: None,
                context: None,
                project: None,
            },
            manager,
            agents: Vec::new(),
            work,
            accelerator,
            runtime,
        };
        match local.fill(options, &token_file).await {
            Ok(()) => Ok(local),
            Err(failure) => {
                let _ = local.stop().await;
                Err(failure)
            }
        }
    }

    async fn fill(&mut self, options: &LocalOptions, token_file: &Path) -> Result<(), Failure> {
        self.target.token = Some(crate::context::read_token(token_file)?);
        let agent_token = options.data_dir.join("agent.token");
        let machine = Machine::read();
        let mut configs = Vec::new();
        for node in &options.nodes {
            let given = self.agent_settings(options, node, &machine, &agent_token);
            self.ensure_agent_token(&agent_token).await?;
            let config = agent::load(options.agent_config.as_ref(), &given, &machine)
                .map_err(|faults| super::faults(&faults))?;
            self.target.ca.clone_from(&config.tls.ca);
            configs.push(config);
        }
        for config in configs {
            let machine = machine.clone();
            self.agents.push(agent::start(config, machine, self.work.clone()).await?);
        }
        Ok(())
    }

    fn agent_settings(
        &self,
        options: &LocalOptions,
        node: &NodeName,
        machine: &Machine,
        token: &Path,
    ) -> Given {
        let count = options.nodes.len() as u64;
        let folder = options.data_dir.join(format!("agent-{node}"));
        let mut given = options.agent.clone();
        let mut set = |field, text: String| given.push((format!("fgpu up ({field})"), field, text));
        set("managers", self.target.addresses.join(","));
        set("node", node.to_string());
        set("state_dir", folder.display().to_string());
        set("token_file", token.display().to_string());
        set("accelerator", self.accelerator.value.to_string());
        set("docker", self.socket.clone());
        set("runtime", runtime_word(self.runtime.value).to_owned());
        if count > 1 {
            // Nodes on one machine share it.
            set("cpu", format!("{}m", (machine.cpu.0 / count).max(10)));
            set("memory", format!("{}B", machine.memory.0 / count));
        }
        given
    }

    /// The token of our agents is made once and kept beside their files.
    async fn ensure_agent_token(&self, path: &Path) -> Result<(), Failure> {
        if path.exists() {
            return Ok(());
        }
        let request = CreateTokenRequest {
            user: "local-agent".to_owned(),
            role: Role::Agent.into(),
            lifetime_ms: 0,
        };
        let created = self
            .link()
            .call(Repeat::Never, async |c| c.admin().create_token(request.clone()).await)
            .await?;
        write_secret(path, &created.secret)
    }

    /// The way to the manager, as its administrator.
    pub(crate) fn link(&self) -> Link {
        Link::new(self.target.clone())
    }

    /// Waits until all nodes of these names are ready, and gives them.
    pub(crate) async fn ready(&self, names: &[NodeName]) -> Result<Vec<Node>, Failure> {
        let (link, deadline) = (self.link(), tokio::time::Instant::now() + READY);
        loop {
            let known = nodes::fetch(&link, ListNodesRequest::default()).await?;
            let state = |name: &NodeName| {
                let node = known.iter().find(|node| node.name == name.as_str());
                node.map_or(NodeState::NeverSeen, Node::state)
            };
            let waiting: Vec<_> = names
                .iter()
                .filter(|name| !matches!(state(name), NodeState::Ready | NodeState::Cordoned))
                .collect();
            if waiting.is_empty() {
                let ours = |node: &Node| names.iter().any(|name| node.name == name.as_str());
                return Ok(known.into_iter().filter(ours).collect());
            }
            if tokio::time::Instant::now() > deadline {
                let failure =
                    Failure::new(format!("not all nodes are ready within {} s", READY.as_secs()));
                let failure = waiting.iter().fold(failure, |failure, name| {
                    failure.detail(format!("node {name}: {:?}", state(name)))
                });
                return Err(failure.hint("FGPU_LOG=info says what they wait for"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns when a part stops by itself: that is never meant.
    pub(crate) async fn broken(&mut self) -> Failure {
        let ended = std::future::poll_fn(|context| {
            for (at, agent) in self.agents.iter_mut().enumerate() {
                if let Poll::Ready(ended) = Pin::new(agent).poll(context) {
                    return Poll::Ready((at, ended));
                }
            }
            Poll::Pending
        });
        let (at, ended) = tokio::select! {
            ended = ended => ended,
            () = self.work.cancelled() => {
                return Failure::new("the manager stopped by itself")
                    .hint("FGPU_LOG=info says why; start again with `fgpu up`");
            }
        };
        drop(self.agents.remove(at));
        agent_end(ended).unwrap_or_else(|| Failure::new("an agent stopped by itself"))
    }

    /// Stops manager and agents; sessions stay as they are.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        // Agents first: what they still say finds a manager.
        self.work.cancel();
        let mut first = None;
        for agent in self.agents {
            first = first.or(agent_end(agent.await));
        }
        if let Err(error) = self.manager.join().await {
            first.get_or_insert(manager::failure(&error));
        }
        first.map_or(Ok(()), Err)
    }
}

/// What an agent failed with, if it did.
fn agent_end(ended: Result<Result<(), AgentError>, JoinError>) -> Option<Failure> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(agent::failure(&error)),
        Err(error) => Some(Failure::because("an agent broke down", &error)),
    }
}

/// The engine's socket: a flag, then the agents' own environment and file, then DOCKER_HOST.
fn docker_socket(options: &LocalOptions) -> Result<String, Failure> {
    let own = options.agent.iter().any(|(_, field, _)| *field == "docker")
        || super::flags::lookup("FGPU_AGENT_DOCKER").is_some()
        || options.agent_config.is_some();
    if !own {
        return Ok(machine_socket());
    }
    let config = agent::load(options.agent_config.as_ref(), &options.agent, &Machine::read());
    config.map(|config| config.docker).map_err(|faults| super::faults(&faults))
}

fn runtime_word(runtime: RuntimeChoice) -> &'static str {
    match runtime {
        RuntimeChoice::Auto => "auto",
        RuntimeChoice::Docker => "docker",
        RuntimeChoice::Process => "process",
    }
}

/// How a manager that listens at `address` is reached from this machine.
fn local_url(address: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    match address.ip().is_unspecified() {
        true => format!("{scheme}://127.0.0.1:{}", address.port()),
        false => format!("{scheme}://{address}"),
    }
}

/// Makes a folder only its owner can look into.
pub(crate) fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Failure::because(format!("cannot make the folder `{}`", path.display()), &error)
            .hint("name another one with `--data-dir`")
    })
}

fn write_secret(path: &Path, secret: &str) -> Result<(), Failure> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{secret}").and_then(|()| file.sync_all()));
    written.map_err(|error| Failure::because(format!("cannot write `{}`", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_on_all_addresses_is_reached_on_loopback() {
        assert_eq!(local_url("0.0.0.0:7070".parse().unwrap(), false), "http://127.0.0.1:7070");
        assert_eq!(local_url("127.0.0.1:1".parse().unwrap(), true), "https://127.0.0.1:1");
    }
}

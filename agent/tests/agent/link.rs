//! The link by its rules, over real gRPC.

use crate::bench::{NODE, device, id, order};
use crate::fake_manager::{Manager, wanted};
use crate::fake_runtime::Engine;
use fgpu_accelerator::{Accelerator, AcceleratorError, AcceleratorInfo};
use fgpu_agent::config::AgentConfig;
use fgpu_agent::facts::Machine;
use fgpu_agent::notify::Notifier;
use fgpu_agent::{Agent, AgentParts};
use fgpu_domain::device::{Device, DeviceHealth, DeviceUsage};
use fgpu_domain::ids::DeviceUuid;
use fgpu_domain::time::UnixMillis;
use fgpu_domain::units::MemoryBytes;
use fgpu_runtime::LogStream;
use fgpu_service::secret::Secret;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use fgpu_wire::v1::channel_down::Message as Down;
use fgpu_wire::v1::open_channel::Purpose;
use fgpu_wire::v1::session_report::State;
use std::sync::{Arc, Condvar, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const A: &str = "aaaaaaaa";
const NAME_A: &str = "fgpu-aaaaaaaa-1";

/// Two devices that do nothing; asking what they do can be made to hang.
#[derive(Default)]
struct Idle {
    hangs: Mutex<bool>,
    goes_on: Condvar,
}

impl Idle {
    fn hang(&self, hangs: bool) {
        *self.hangs.lock().unwrap() = hangs;
        self.goes_on.notify_all();
    }
}

impl Accelerator for Idle {
    fn kind(&self) -> &'static str {
        "sim"
    }

    fn info(&self) -> AcceleratorInfo {
        AcceleratorInfo {
            kind: "sim",
            driver_version: None,
            nvml_version: None,
            cuda_version: None,
            simulated: true,
        }
    }

    fn discover(&self) -> Result<Vec<Device>, AcceleratorError> {
        Ok(vec![device("GPU-1"), device("GPU-2")])
    }

    fn usage(&self) -> Result<Vec<DeviceUsage>, AcceleratorError> {
        let hangs = self.hangs.lock().unwrap();
        drop(self.goes_on.wait_while(hangs, |hangs| *hangs).unwrap());
        let idle = |uuid: &str| DeviceUsage {
            uuid: uuid.parse().unwrap(),
            memory_used: MemoryBytes::ZERO,
            utilization_milli: Some(0),
            temperature_celsius: None,
            power_milliwatts: None,
            processes: Vec::new(),
        };
        Ok(vec![idle("GPU-1"), idle("GPU-2")])
    }

    fn health(&self) -> Result<Vec<(DeviceUuid, DeviceHealth)>, AcceleratorError> {
        Ok(Vec::new())
    }
}

struct Node {
    folder: tempfile::TempDir,
    engine: Engine,
    accelerator: Arc<Idle>,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, engine: Engine::default(), accelerator: Arc::default() }
    }

    fn machine() -> Machine {
        Machine { hostname: "h".to_owned(), ..Machine::read() }
    }

    fn config(&self, manager: &Manager) -> AgentConfig {
        let node = NODE.parse().unwrap();
        let machine = Self::machine();
        AgentConfig::local(node, &manager.url, &self.folder.path().join("agent"), &machine)
    }

    fn parts(&self) -> AgentParts {
        let engine = self.engine.clone();
        AgentParts {
            accelerator: self.accelerator.clone(),
            runtimes: Arc::new(move |owner| Ok(engine.runtime(owner))),
            machine: Self::machine(),
            notifier: Notifier::Silent,
            wall: Arc::new(|| UnixMillis(1_800_000_100_000)),
        }
    }

    async fn agent(&self, manager: &Manager) -> Agent {
        Agent::start(self.config(manager), self.parts()).await.unwrap()
    }
}

fn logs(follow: bool) -> Purpose {
    Purpose::Logs(v1::StreamLogsRequest { session: A.to_owned(), follow, ..Default::default() })
}

fn refusal(code: ErrorCode) -> Option<CallError> {
    Some(CallError::new(code, "not you"))
}

#[tokio::test]
async fn a_session_goes_all_the_way_and_heartbeats_say_what_was_taken() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    let mut order = order(&["GPU-1"]);
    order.spec.publish = vec![80];
    manager.until("registered", |seen| !seen.registers.is_empty()).await;

    manager.desire(vec![wanted(&id(A, 1), &order)]).await;
    let started = manager.runs(&id(A, 1)).await;
    assert_eq!(started.ports[0].host, "127.0.0.1");
    manager.until("taken", |seen| seen.heartbeats.last().is_some_and(|h| h.generation == 2)).await;
    manager
        .until("measured", |seen| {
            let last = seen.heartbeats.last();
            last.is_some_and(|h| h.devices.len() == 2 && h.containers.len() == 1)
        })
        .await;
    node.engine.exit(NAME_A, 4);

    assert_eq!(manager.gone(&id(A, 1)).await.exit_code, Some(4));
    let register = manager.seen().registers[0].clone();
    assert_eq!(register.node, NODE);
    assert!(register.cluster_id.is_empty(), "it belonged to none");
    let inventory = register.inventory.unwrap();
    assert_eq!(inventory.devices.len(), 2);
    assert_eq!(inventory.runtime.unwrap().gpu_attach, "none");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn after_a_break_everything_is_reported_anew() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    manager.desire(vec![wanted(&id(A, 1), &order(&["GPU-1"]))]).await;
    manager.runs(&id(A, 1)).await;

    manager.hang_up();
    manager.until("back", |seen| seen.registers.len() == 2).await;

    let again = manager.seen().registers[1].clone();
    let sessions = again.sessions.unwrap();
    assert!(sessions.full);
    assert!(matches!(sessions.sessions[0].state, Some(State::Running(_))));
    assert!(sessions.sessions[0].grant.is_some());
    assert_eq!((again.cluster_id.as_str(), again.epoch, again.generation), ("cluster-1", 1, 2));
    assert_eq!(again.agent_id, manager.seen().registers[0].agent_id);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_restarted_agent_comes_back_as_the_same_one() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    manager.desire(vec![wanted(&id(A, 1), &order(&["GPU-1"]))]).await;
    let before = manager.runs(&id(A, 1)).await;
    agent.stop().await.unwrap();
    assert!(node.engine.state(NAME_A).is_running(), "containers outlive the agent");

    let agent = node.agent(&manager).await;
    manager.until("back", |seen| seen.registers.len() == 2).await;

    assert_eq!(manager.runs(&id(A, 1)).await, before);
    let ids: Vec<String> = manager.seen().registers.iter().map(|r| r.agent_id.clone()).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(node.engine.count(&format!("start {NAME_A}")), 1);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn heartbeats_that_stay_unanswered_end_the_connection() {
    let (manager, node) = (Manager::start().await, Node::new());
    manager.seen().answers_heartbeats = false;

    let agent = node.agent(&manager).await;

    manager.until("dialled again", |seen| seen.registers.len() >= 2).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_agent_that_is_refused_ends_with_the_reason_and_the_next_step() {
    for (code, step) in [
        (ErrorCode::NodeNameTaken, "--node"),
        (ErrorCode::Unauthenticated, "--token-file"),
        (ErrorCode::ProtocolMismatch, "version"),
    ] {
        let (manager, node) = (Manager::start().await, Node::new());
        manager.seen().refusal = refusal(code);

        let ended = node.agent(&manager).await.join().await.unwrap_err();

        let text = ended.to_string();
        assert!(text.contains("not you") && text.contains(step), "{text}");
    }
}

#[tokio::test]
async fn an_agent_that_was_accepted_before_outlives_a_refusal() {
    let (manager, node) = (Manager::start().await, Node::new());
    node.agent(&manager).await.stop().await.unwrap();
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    manager.desire(vec![wanted(&id(A, 1), &order(&[]))]).await;
    manager.runs(&id(A, 1)).await;

    manager.seen().refusal = refusal(ErrorCode::Unauthenticated);
    manager.seen().bearer = Some("none yet".to_owned());
    manager.hang_up();
    manager.until("tried again", |seen| seen.bearer.is_none()).await;

    assert!(node.engine.state(NAME_A).is_running());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_manager_of_another_cluster_is_not_followed() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    manager.desire(vec![wanted(&id(A, 1), &order(&[]))]).await;
    manager.runs(&id(A, 1)).await;

    manager.seen().cluster = "cluster-2".to_owned();
    let beats = manager.seen().heartbeats.len();
    manager.hang_up();
    manager.until("dialled", |seen| seen.registers.len() == 2).await;

    assert!(node.engine.state(NAME_A).is_running());
    assert!(manager.seen().heartbeats.len() <= beats + 1, "no heartbeat for the other cluster");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn the_token_is_shown_as_a_bearer() {
    let (manager, node) = (Manager::start().await, Node::new());
    let mut config = node.config(&manager);
    config.token = Some(Secret::new("fgpu_abcdef_secret"));

    let agent = Agent::start(config, node.parts()).await.unwrap();

    let bearer = Some("Bearer fgpu_abcdef_secret".to_owned());
    manager.until("shown", |seen| seen.bearer == bearer).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_driver_or_an_engine_that_hangs_does_not_stop_heartbeats() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    manager.desire(vec![wanted(&id(A, 1), &order(&[]))]).await;
    manager.runs(&id(A, 1)).await;

    node.engine.set_stats_hang(true);
    node.accelerator.hang(true);
    let before = manager.seen().heartbeats.len();
    manager.until("ten more", |seen| seen.heartbeats.len() >= before + 10).await;
    manager
        .until("old figures dropped", |seen| {
            seen.heartbeats.last().is_some_and(|heartbeat| heartbeat.devices.is_empty())
        })
        .await;

    assert_eq!(manager.seen().registers.len(), 1, "the link held");
    node.accelerator.hang(false);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn output_is_followed_while_it_is_written_and_served_after_the_end() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    manager.desire(vec![wanted(&id(A, 1), &order(&[]))]).await;
    manager.runs(&id(A, 1)).await;
    node.engine.write(NAME_A, LogStream::Stdout, "first");

    let mut live = manager.open(logs(true)).await;
    let mut received = crate::fake_manager::Received::default();
    received.take(live.next().await.unwrap());
    assert_eq!(received.stdout, "first\n");
    node.engine.write(NAME_A, LogStream::Stderr, "second");
    received.take(live.next().await.unwrap());
    assert_eq!(received.stderr, "second\n");
    node.engine.exit(NAME_A, 0);
    let rest = live.rest().await;
    assert_eq!((rest.error.as_str(), rest.stdout.as_str()), ("", ""));

    manager.gone(&id(A, 1)).await;
    let kept = manager.open(logs(true)).await.rest().await;
    assert_eq!((kept.stdout.as_str(), kept.stderr.as_str()), ("first\n", "second\n"));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn output_that_is_nowhere_is_refused_with_a_code() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;

    let received = manager.open(logs(false)).await.rest().await;

    assert_eq!(received.code, "SESSION_NOT_FOUND");
    assert!(received.error.contains(A), "{}", received.error);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_published_port_is_forwarded_both_ways_and_another_is_refused() {
    let (manager, node) = (Manager::start().await, Node::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.engine.publish_on(listener.local_addr().unwrap().port());
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    let mut order = order(&[]);
    order.spec.publish = vec![80];
    manager.desire(vec![wanted(&id(A, 1), &order)]).await;
    manager.runs(&id(A, 1)).await;
    let forward = |port| Purpose::PortForward(v1::PortForwardStart { session: A.to_owned(), port });
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
    });

    let mut channel = manager.open(forward(80)).await;
    channel.send(Down::Data(b"abc".to_vec())).await;
    channel.send(Down::Closed(true)).await;
    assert_eq!(channel.rest().await.data, b"cba");
    echo.await.unwrap();

    let refused = manager.open(forward(81)).await.rest().await;
    assert_eq!(refused.code, "WRONG_PHASE");
    assert!(refused.error.contains("port 81"), "{}", refused.error);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_whose_engine_is_away_says_so_in_its_inventory() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;

    node.engine.go_away();
    manager
        .until("told", |seen| {
            seen.inventories.last().is_some_and(|told| told.condition.contains("did not answer"))
        })
        .await;
    node.engine.come_back();

    manager
        .until("well again", |seen| {
            seen.inventories.last().is_some_and(|told| told.condition.is_empty())
        })
        .await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn images_are_told_in_full_after_registering_and_then_by_what_changes() {
    let (manager, node) = (Manager::start().await, Node::new());
    let agent = node.agent(&manager).await;
    manager.until("told all", |seen| seen.images.first().is_some_and(|told| told.full)).await;

    manager.desire(vec![wanted(&id(A, 1), &order(&["GPU-1"]))]).await;
    manager
        .until("told what came", |seen| {
            let news = seen.images.last();
            news.is_some_and(|news| !news.full && news.added == ["image"])
        })
        .await;

    manager.hang_up();
    manager
        .until("told all again", |seen| {
            seen.images.last().is_some_and(|told| told.full && told.added == ["image"])
        })
        .await;
    agent.stop().await.unwrap();
}

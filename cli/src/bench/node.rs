//! A simulated node: speaks as an agent does, over real gRPC, and runs nothing.
//!
//! What it is told to run is reported as being created at once, as running a moment later, and as
//! gone when the board says so. Many nodes share one connection; each has a stream of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fgpu_wire::v1;
use fgpu_wire::v1::agent_message::Message as Up;
use fgpu_wire::v1::agent_service_client::AgentServiceClient;
use fgpu_wire::v1::manager_message::Message as Down;
use fgpu_wire::v1::session_report::State;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::board::{Board, LABEL};

/// Messages to the manager that may wait.
const OUTBOX: usize = 16;
/// From the order to a container that runs.
const START: Duration = Duration::from_millis(50);
const GIB: u64 = 1 << 30;

/// One node of the run.
pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) devices: u32,
    pub(crate) board: Arc<Board>,
    /// Containers that come to their end.
    pub(crate) ends: mpsc::UnboundedReceiver<usize>,
}

/// A connected node.
struct Agent {
    node: Node,
    out: mpsc::Sender<v1::AgentMessage>,
    /// What it has: by session its generation and its number on the board.
    held: HashMap<String, (u64, usize)>,
    by_number: HashMap<usize, String>,
    starting: VecDeque<(Instant, String)>,
    epoch: i64,
    generation: u64,
    sequence: u64,
}

impl Node {
    /// Connects over `channel` and works until the manager ends the stream or the task is dropped.
    /// `ready` is told once the manager has taken the node in.
    pub(crate) async fn run(
        self,
        channel: Channel,
        token: Arc<str>,
        ready: mpsc::Sender<()>,
    ) -> Result<(), Status> {
        let (out, receiver) = mpsc::channel(OUTBOX);
        let register = message(Up::Register(register(self.number, self.devices)));
        out.send(register).await.map_err(|_| Status::cancelled("the stream has gone"))?;
        let mut request = Request::new(ReceiverStream::new(receiver));
        let bearer = format!("Bearer {token}").parse();
        let bearer = bearer.map_err(|_| Status::internal("a token that is no header"))?;
        request.metadata_mut().insert("authorization", bearer);
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(fgpu_wire::MAX_MESSAGE_BYTES);
        let down = client.link(request).await?.into_inner();
        let agent = Agent {
            node: self,
            out,
            held: HashMap::new(),
            by_number: HashMap::new(),
            starting: VecDeque::new(),
            epoch: 0,
            generation: 0,
            sequence: 0,
        };
        agent.work(down, ready).await
    }
}

impl Agent {
    async fn work(
        mut self,
        mut down: tonic::Streaming<v1::ManagerMessage>,
        ready: mpsc::Sender<()>,
    ) -> Result<(), Status> {
        // Nodes do not beat in step.
        let offset = Duration::from_millis(u64::try_from(self.node.number % 3000).unwrap_or(0));
        let mut beat = tokio::time::interval_at(Instant::now() + offset, Duration::from_secs(3));
        loop {
            let next_start = self.starting.front().map(|(at, _)| *at);
            tokio::select! {
                answer = down.next() => match answer {
                    Some(Ok(v1::ManagerMessage { message: Some(Down::Desired(desired)) })) => {
                        self.desired(desired).await?;
                    }
                    Some(Ok(v1::ManagerMessage { message: Some(Down::Welcome(_)) })) => {
                        // Nobody may be waiting any more.
                        let _ = ready.send(()).await;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(status)) => return Err(status),
                    None => return Err(Status::cancelled("the manager ended the stream")),
                },
                Some(number) = self.node.ends.recv() => self.end(number).await?,
                () = until(next_start) => self.started().await?,
                _ = beat.tick() => self.beat().await?,
            }
        }
    }

    /// Takes a desired state: starts what is new, ends what shall stop, forgets what is not named.
    async fn desired(&mut self, desired: v1::DesiredState) -> Result<(), Status> {
        (self.epoch, self.generation) = (desired.epoch, desired.generation);
        let mut reports = Vec::new();
        for session in desired.sessions {
            let (id, generation) = (session.session_id, session.generation);
            if session.stop_grace_ms.is_some() {
                self.forget(&id);
                reports.push(gone(id, generation));
            } else if self.held.get(&id).is_none_or(|(held, _)| *held != generation) {
                let number = container_of(&session.spec, &session.group_environment);
                self.node.board.bound(number);
                self.by_number.insert(number, id.clone());
                self.held.insert(id.clone(), (generation, number));
                self.starting.push_back((Instant::now() + START, id.clone()));
                reports.push(report(id, generation, State::Creating(true)));
            }
        }
        self.tell(reports).await
    }

    /// Reports what has started by now as running.
    async fn started(&mut self) -> Result<(), Status> {
        let (now, mut reports) = (Instant::now(), Vec::new());
        while let Some((_, id)) = self.starting.pop_front_if(|(at, _)| *at <= now) {
            let Some((generation, number)) = self.held.get(&id).copied() else { continue };
            self.node.board.runs(number, self.node.number);
            let container_id = String::new();
            let at_ms = crate::output::now_ms();
            let running = v1::Started { at_ms, ports: Vec::new(), container_id };
            reports.push(report(id, generation, State::Running(running)));
        }
        self.tell(reports).await
    }

    /// Reports container `number`, and whatever else has ended by now, as gone.
    async fn end(&mut self, number: usize) -> Result<(), Status> {
        let (mut next, mut reports) = (Some(number), Vec::new());
        while let Some(number) = next {
            if let Some(id) = self.by_number.get(&number).cloned()
                && let Some((generation, _)) = self.held.get(&id).copied()
            {
                self.forget(&id);
                reports.push(gone(id, generation));
            }
            next = self.node.ends.try_recv().ok();
        }
        self.tell(reports).await
    }

    fn forget(&mut self, id: &str) {
        if let Some((_, number)) = self.held.remove(id) {
            self.by_number.remove(&number);
            self.node.board.gone(number);
        }
    }

    async fn beat(&mut self) -> Result<(), Status> {
        self.sequence += 1;
        let usage = |index| v1::DeviceUsage {
            uuid: uuid(self.node.number, index),
            memory_used_bytes: GIB,
            utilization_milli: Some(500),
            temperature_celsius: Some(50),
            power_milliwatts: Some(300_000),
            processes: Vec::new(),
        };
        let heartbeat = v1::Heartbeat {
            sequence: self.sequence,
            devices: (0..self.node.devices).map(usage).collect(),
            epoch: self.epoch,
            generation: self.generation,
            ..v1::Heartbeat::default()
        };
        self.send(Up::Heartbeat(heartbeat)).await
    }

    async fn tell(&mut self, sessions: Vec<v1::SessionReport>) -> Result<(), Status> {
        if sessions.is_empty() {
            return Ok(());
        }
        self.send(Up::Reports(v1::SessionReports { sessions, full: false })).await
    }

    async fn send(&mut self, up: Up) -> Result<(), Status> {
        self.out.send(message(up)).await.map_err(|_| Status::cancelled("the stream has gone"))
    }
}

/// The number on the board: that of the label, which all members of a gang share, and how many
/// members come before it.
fn container_of(
    spec: &Option<v1::SessionSpec>,
    environment: &std::collections::BTreeMap<String, String>,
) -> usize {
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<usize>().ok());
    let first = number(spec.as_ref().and_then(|spec| spec.labels.get(LABEL)));
    let index = number(environment.get("FGPU_CLUSTER_INDEX")).unwrap_or(0);
    first.map_or(usize::MAX, |first| first.saturating_add(index))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn message(message: Up) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

fn report(session_id: String, generation: u64, state: State) -> v1::SessionReport {
    v1::SessionReport { session_id, generation, state: Some(state), grant: None }
}

fn gone(session_id: String, generation: u64) -> v1::SessionReport {
    let at_ms = crate::output::now_ms();
    let gone = v1::Gone { exit_code: Some(0), at_ms, ..v1::Gone::default() };
    report(session_id, generation, State::Gone(gone))
}

fn uuid(node: usize, index: u32) -> String {
    format!("SIM-{node:05}-{index}")
}

pub(super) fn register(number: usize, devices: u32) -> v1::Register {
    let device = |index| v1::DeviceInfo {
        uuid: uuid(number, index),
        index,
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_bytes: 80 * GIB,
        multiprocessors: 132,
        simulated: true,
        ..v1::DeviceInfo::default()
    };
    v1::Register {
        protocol: fgpu_wire::PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        node: format!("node-{number:05}"),
        agent_id: format!("agent-{number:05}"),
        inventory: Some(v1::NodeInventory {
            address: "127.0.0.1".to_owned(),
            cpu_milli: 128_000,
            memory_bytes: 2048 * GIB,
            devices: (0..devices).map(device).collect(),
            runtime: Some(v1::NodeRuntime { kind: "process".into(), ..v1::NodeRuntime::default() }),
            ..v1::NodeInventory::default()
        }),
        sessions: Some(v1::SessionReports { sessions: Vec::new(), full: true }),
        ..v1::Register::default()
    }
}

//! A manager of the imagination: it speaks the link, remembers what it is told, and wants what the
//! test says.

use fgpu_agent::order::Order;
use fgpu_domain::reconcile::PlacementId;
use fgpu_wire::error::CallError;
use fgpu_wire::v1;
use fgpu_wire::v1::agent_message::Message as Up;
use fgpu_wire::v1::agent_service_server::{AgentService, AgentServiceServer};
use fgpu_wire::v1::manager_message::Message as Down;
use fgpu_wire::v1::session_report::State;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// At least ten times what anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

type Outbound = mpsc::Sender<Result<v1::ManagerMessage, Status>>;

/// Cheap to clone; all clones are the same manager.
#[derive(Clone)]
pub(crate) struct Manager {
    state: Arc<Mutex<Seen>>,
    pub(crate) url: String,
    _server: Arc<Server>,
}

struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What it has been told, and how it behaves.
pub(crate) struct Seen {
    pub(crate) registers: Vec<v1::Register>,
    pub(crate) heartbeats: Vec<v1::Heartbeat>,
    pub(crate) inventories: Vec<v1::NodeInventory>,
    pub(crate) images: Vec<v1::NodeImages>,
    /// The last report of each placement.
    pub(crate) reports: BTreeMap<(String, u64), v1::SessionReport>,
    pub(crate) bearer: Option<String>,
    pub(crate) answers_heartbeats: bool,
    pub(crate) refusal: Option<CallError>,
    pub(crate) cluster: String,
    desired: v1::DesiredState,
    links: Vec<Outbound>,
    channels: HashMap<String, oneshot::Sender<ChannelEnd>>,
    /// Told of everything that is heard.
    heard: Arc<Notify>,
}

/// The manager's end of a channel.
pub(crate) struct ChannelEnd {
    pub(crate) up: Streaming<v1::ChannelUp>,
    pub(crate) down: mpsc::Sender<Result<v1::ChannelDown, Status>>,
}

impl Manager {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(Seen {
            registers: Vec::new(),
            heartbeats: Vec::new(),
            inventories: Vec::new(),
            images: Vec::new(),
            reports: BTreeMap::new(),
            bearer: None,
            answers_heartbeats: true,
            refusal: None,
            cluster: "cluster-1".to_owned(),
            desired: v1::DesiredState { epoch: 1, generation: 1, sessions: Vec::new() },
            links: Vec::new(),
            channels: HashMap::new(),
            heard: Arc::default(),
        }));
        let service = AgentServiceServer::new(Service(state.clone()));
        let serve = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Self { state, url, _server: Arc::new(Server(server)) }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap()
    }

    /// Wants these sessions, to run or to stop.
    pub(crate) async fn desire(&self, sessions: Vec<v1::DesiredSession>) {
        let (desired, links) = {
            let mut seen = self.seen();
            seen.desired.generation += 1;
            seen.desired.sessions = sessions;
            (seen.desired.clone(), seen.links.clone())
        };
        for link in links {
            let _ = link.send(message(Down::Desired(desired.clone()))).await;
        }
    }

    /// Breaks all links.
    pub(crate) fn hang_up(&self) {
        self.seen().links.clear();
    }

    /// Asks for a channel, and waits for the agent to dial.
    pub(crate) async fn open(&self, purpose: v1::open_channel::Purpose) -> ChannelEnd {
        let (sender, arrived) = oneshot::channel();
        let (id, link) = {
            let mut seen = self.seen();
            let id = format!("channel-{}", seen.channels.len());
            seen.channels.insert(id.clone(), sender);
            (id, seen.links.last().unwrap().clone())
        };
        let open = v1::OpenChannel { channel_id: id, purpose: Some(purpose) };
        link.send(message(Down::OpenChannel(open))).await.unwrap();
        tokio::time::timeout(DEADLINE, arrived).await.expect("the agent dialled").unwrap()
    }

    /// Waits until what it was told is as `wanted`.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Seen) -> bool) {
        let heard = self.seen().heard.clone();
        let reached = async {
            loop {
                // Asked for first, so that nothing said in between is missed.
                let more = heard.notified();
                if wanted(&self.seen()) {
                    return;
                }
                more.await;
            }
        };
        if tokio::time::timeout(DEADLINE, reached).await.is_err() {
            let seen = self.seen();
            panic!("never {what}: {:#?} after {:?}", seen.reports, seen.registers.last());
        }
    }

    /// Waits until the placement runs.
    pub(crate) async fn runs(&self, id: &PlacementId) -> v1::Started {
        self.until("running", |seen| matches!(seen.state(id), Some(State::Running(_)))).await;
        match self.seen().state(id) {
            Some(State::Running(started)) => started,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the placement is gone.
    pub(crate) async fn gone(&self, id: &PlacementId) -> v1::Gone {
        self.until("gone", |seen| matches!(seen.state(id), Some(State::Gone(_)))).await;
        match self.seen().state(id) {
            Some(State::Gone(gone)) => gone,
            other => panic!("{other:?}"),
        }
    }
}

impl Seen {
    pub(crate) fn state(&self, id: &PlacementId) -> Option<State> {
        let key = (id.session.to_string(), id.generation);
        self.reports.get(&key).and_then(|report| report.state.clone())
    }

    fn take(&mut self, message: Up) -> Option<Down> {
        match message {
            Up::Register(register) => self.registers.push(register),
            Up::Inventory(inventory) => self.inventories.push(inventory),
            Up::Reports(reports) => self.take_reports(reports),
            Up::Images(images) => self.images.push(images),
            Up::Heartbeat(heartbeat) => {
                let sequence = heartbeat.sequence;
                self.heartbeats.push(heartbeat);
                let ack = Down::Ack(v1::HeartbeatAck { sequence });
                return self.answers_heartbeats.then_some(ack);
            }
        }
        None
    }

    fn take_reports(&mut self, reports: v1::SessionReports) {
        if reports.full {
            self.reports.clear();
        }
        for report in reports.sessions {
            self.reports.insert((report.session_id.clone(), report.generation), report);
        }
    }
}

/// A session to run as `order`.
pub(crate) fn wanted(id: &PlacementId, order: &Order) -> v1::DesiredSession {
    v1::DesiredSession {
        session_id: id.session.to_string(),
        generation: id.generation,
        spec: Some((&order.spec).into()),
        grant: Some((&order.grant).into()),
        stop_grace_ms: None,
        owner: order.owner.clone(),
        group_environment: order.group_environment.clone().into_iter().collect(),
    }
}

fn message(message: Down) -> Result<v1::ManagerMessage, Status> {
    Ok(v1::ManagerMessage { message: Some(message) })
}

struct Service(Arc<Mutex<Seen>>);

#[tonic::async_trait]
impl AgentService for Service {
    type LinkStream = ReceiverStream<Result<v1::ManagerMessage, Status>>;
    type OpenChannelStream = ReceiverStream<Result<v1::ChannelDown, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let bearer = request.metadata().get("authorization");
        let bearer = bearer.map(|value| value.to_str().unwrap().to_owned());
        let mut up = request.into_inner();
        let first = up.message().await?.and_then(|message| message.message);
        let Some(Up::Register(mut register)) = first else {
            return Err(Status::invalid_argument("register first"));
        };
        let (out, stream) = mpsc::channel(64);
        {
            let mut seen = self.0.lock().unwrap();
            seen.bearer = bearer;
            seen.heard.notify_waiters();
            if let Some(refusal) = seen.refusal.clone() {
                return Err(refusal.into());
            }
            seen.take_reports(register.sessions.clone().unwrap());
            register.sessions.as_mut().unwrap().sessions.sort_by_key(|r| r.session_id.clone());
            seen.registers.push(register);
            let welcome = v1::Welcome {
                cluster_id: seen.cluster.clone(),
                manager_version: "0.0.0".to_owned(),
                protocol: 1,
                epoch: 1,
                heartbeat_ms: 20,
                fence_ms: 30_000,
            };
            out.try_send(message(Down::Welcome(welcome))).unwrap();
            out.try_send(message(Down::Desired(seen.desired.clone()))).unwrap();
            seen.links.push(out.clone());
        }
        let (state, weak) = (self.0.clone(), out.downgrade());
        tokio::spawn(async move {
            while let Ok(Some(v1::AgentMessage { message: Some(told) })) = up.message().await {
                let answer = {
                    let mut seen = state.lock().unwrap();
                    let answer = seen.take(told);
                    seen.heard.notify_waiters();
                    answer
                };
                // A link that was hung up is not answered any more.
                let Some(out) = weak.upgrade() else { return };
                if let Some(answer) = answer {
                    let _ = out.send(message(answer)).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn open_channel(
        &self,
        request: Request<Streaming<v1::ChannelUp>>,
    ) -> Result<Response<Self::OpenChannelStream>, Status> {
        let mut up = request.into_inner();
        let first = up.message().await?.and_then(|message| message.message);
        let Some(v1::channel_up::Message::ChannelId(id)) = first else {
            return Err(Status::invalid_argument("say which channel"));
        };
        let waiting = self.0.lock().unwrap().channels.remove(&id);
        let Some(waiting) = waiting else { return Err(Status::not_found(id)) };
        let (down, stream) = mpsc::channel(16);
        let _ = waiting.send(ChannelEnd { up, down });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl ChannelEnd {
    /// Everything the agent sends until it ends: output, data, exit code, error.
    pub(crate) async fn rest(&mut self) -> Received {
        let mut all = Received::default();
        while let Some(message) = self.next().await {
            all.take(message);
        }
        all
    }

    pub(crate) async fn next(&mut self) -> Option<v1::channel_up::Message> {
        let next = tokio::time::timeout(DEADLINE, self.up.message()).await;
        next.expect("the agent says something").unwrap().and_then(|up| up.message)
    }

    pub(crate) async fn send(&self, message: v1::channel_down::Message) {
        self.down.send(Ok(v1::ChannelDown { message: Some(message) })).await.unwrap();
    }
}

/// What came up a channel.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) data: Vec<u8>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) error: String,
    pub(crate) code: String,
}

impl Received {
    pub(crate) fn take(&mut self, message: v1::channel_up::Message) {
        use v1::channel_up::Message;
        match message {
            Message::Output(chunk) => {
                let to = match chunk.stream() {
                    v1::OutputStream::Stderr => &mut self.stderr,
                    _ => &mut self.stdout,
                };
                to.push_str(&String::from_utf8_lossy(&chunk.data));
            }
            Message::Data(data) => self.data.extend_from_slice(&data),
            Message::ExitCode(code) => self.exit_code = Some(code),
            Message::ErrorMessage(text) => self.error = text,
            Message::Error(detail) => self.code = detail.code,
            Message::ChannelId(id) => panic!("{id} came twice"),
        }
    }
}

//! One connection to one manager.

use super::usage::Sampler;
use super::{LinkParts, channel, is_final};
use crate::ends::chain;
use crate::images::{ImageNames, news};
use crate::supervisor::{Snapshot, SupervisorGone};
use crate::wire;
use fgpu_domain::ids::ClusterId;
use fgpu_domain::node::Inventory;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1::agent_message::Message as Up;
use fgpu_wire::v1::agent_service_client::AgentServiceClient;
use fgpu_wire::v1::manager_message::Message as Down;
use fgpu_wire::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION, v1};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

/// How long a manager may take to accept the connection, and then the registration.
const CONNECT: Duration = Duration::from_secs(5);
const WELCOME: Duration = Duration::from_secs(10);
/// How long to wait for the engine's first word before registering without it.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// Heartbeats that may stay unanswered, in intervals.
const UNANSWERED: u32 = 4;
/// Messages on their way up.
const QUEUE: usize = 64;

/// How a connection ended.
pub(super) enum Ended {
    /// It broke, or never was.
    Lost(String),
    /// The manager will not have this agent.
    Refused(CallError),
    /// Another manager leads: its URL.
    Redirected(String),
    /// The agent is going down.
    Gone(SupervisorGone),
}

impl From<SupervisorGone> for Ended {
    fn from(gone: SupervisorGone) -> Self {
        Self::Gone(gone)
    }
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        let lost = |status: &Status| Self::Lost(format!("{}: {}", status.code(), status.message()));
        match CallError::from_status(&status) {
            Some(error) if error.code == ErrorCode::NotLeader => {
                let leader = error.metadata.get("leader").filter(|url| url.starts_with("http"));
                leader.map_or_else(|| lost(&status), |url| Self::Redirected(url.clone()))
            }
            Some(error) if is_final(error.code) => Self::Refused(error),
            // A manager that is busy or in trouble is tried again soon.
            Some(_) => lost(&status),
            None => match status.code() {
                Code::Unauthenticated => Self::Refused(plain(ErrorCode::Unauthenticated, &status)),
                Code::PermissionDenied => {
                    Self::Refused(plain(ErrorCode::PermissionDenied, &status))
                }
                _ => lost(&status),
            },
        }
    }
}

fn plain(code: ErrorCode, status: &Status) -> CallError {
    CallError::new(code, status.message())
}

/// How calls are made on this connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Caller {
    client: AgentServiceClient<Channel>,
    bearer: Option<MetadataValue<Ascii>>,
}

impl Caller {
    async fn connect(parts: &LinkParts, manager: &str) -> Result<Self, Ended> {
        let lost = |error: tonic::transport::Error| Ended::Lost(chain(&error));
        let mut endpoint = Endpoint::from_shared(manager.to_owned())
            .map_err(lost)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        if let (true, Some(tls)) = (manager.starts_with("https://"), &parts.tls) {
            endpoint = endpoint.tls_config(tls.clone()).map_err(lost)?;
        }
        let channel = endpoint.connect().await.map_err(lost)?;
        let client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let bearer = match &parts.token {
            None => None,
            Some(token) => {
                let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose()))
                    .map_err(|_| Ended::Lost("the token cannot be sent".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { client, bearer })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    async fn link(
        &mut self,
        up: ReceiverStream<v1::AgentMessage>,
    ) -> Result<Streaming<v1::ManagerMessage>, Status> {
        let request = self.request(up);
        Ok(self.client.link(request).await?.into_inner())
    }

    pub(super) async fn open_channel(
        &mut self,
        up: ReceiverStream<v1::ChannelUp>,
    ) -> Result<Streaming<v1::ChannelDown>, Status> {
        let request = self.request(up);
        Ok(self.client.open_channel(request).await?.into_inner())
    }
}

/// A connection that has been accepted.
pub(super) struct Connection {
    parts: Arc<LinkParts>,
    caller: Caller,
    up: mpsc::Sender<v1::AgentMessage>,
    down: Streaming<v1::ManagerMessage>,
    sampler: Sampler,
    heartbeat: Duration,
    sequence: u64,
    unanswered: VecDeque<(u64, Instant)>,
    reported: Arc<Snapshot>,
    told: Arc<Inventory>,
}

impl Connection {
    /// Connects, registers and keeps the link until it ends. Also says whether it was accepted.
    pub(super) async fn run(parts: &Arc<LinkParts>, manager: &str) -> (Ended, bool) {
        match Self::open(parts, manager).await {
            Ok(connection) => (connection.keep().await, true),
            Err(ended) => (ended, false),
        }
    }

    async fn open(parts: &Arc<LinkParts>, manager: &str) -> Result<Self, Ended> {
        let reported = first_look(parts).await?;
        let mut caller = Caller::connect(parts, manager).await?;
        let (up, messages) = mpsc::channel(QUEUE);
        let sent = Instant::now();
        let told = parts.inventory.borrow().clone();
        let register = Up::Register(register(parts, &reported, &told));
        // The channel is empty and its reader is held here.
        let _ = up.try_send(v1::AgentMessage { message: Some(register) });
        let accept = async {
            let mut down = caller.link(ReceiverStream::new(messages)).await?;
            Ok::<_, Status>((down.message().await?, down))
        };
        let silent = || Ended::Lost(format!("no answer to the registration for {WELCOME:?}"));
        let (first, down) = timeout(WELCOME, accept).await.map_err(|_| silent())??;
        let Some(Down::Welcome(welcome)) = first.and_then(|message| message.message) else {
            return Err(Ended::Lost("the manager did not say welcome first".to_owned()));
        };
        let cluster = check(parts, &welcome)?;
        let fence = Duration::from_millis(welcome.fence_ms);
        parts.supervisor.welcomed(cluster.clone(), fence, sent).await?;
        tracing::info!(%manager, %cluster, epoch = welcome.epoch, version = %welcome.manager_version, "registered");
        parts.notifier.ready(&format!("registered at {manager} as {}", parts.node));
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.max(10));
        Ok(Self {
            sampler: Sampler::start(parts.accelerator.clone(), parts.supervisor.clone(), heartbeat),
            parts: parts.clone(),
            caller,
            up,
            down,
            heartbeat,
            sequence: 0,
            unanswered: VecDeque::new(),
            reported,
            told,
        })
    }

    async fn keep(mut self) -> Ended {
        let mut snapshots = self.parts.supervisor.snapshots();
        let mut inventory = self.parts.inventory.clone();
        let mut images = self.parts.images.clone();
        // All of them once, and then what changes.
        if let Some(images) = &mut images {
            images.mark_changed();
        }
        let mut images_told: Option<Arc<Vec<String>>> = None;
        let mut beats = interval(self.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let overdue = self.unanswered.front().map(|(_, sent)| *sent + self.patience());
            let step = tokio::select! {
                message = self.down.message() => match message {
                    Ok(Some(message)) => self.take(message).await,
                    Ok(None) => Err(Ended::Lost("the manager ended the link".to_owned())),
                    Err(status) => Err(status.into()),
                },
                _ = beats.tick() => self.beat().await,
                changed = snapshots.changed() => match changed {
                    Ok(()) => {
                        let now = snapshots.borrow_and_update().clone();
                        self.report(now).await
                    }
                    Err(_) => Err(SupervisorGone.into()),
                },
                Ok(()) = inventory.changed() => {
                    let now = inventory.borrow_and_update().clone();
                    self.tell(now).await
                }
                Some(now) = newest(&mut images) => {
                    let news = news(images_told.as_deref().map(Vec::as_slice), &now);
                    images_told = Some(now);
                    match news {
                        Some(news) => self.send(Up::Images(news)).await,
                        None => Ok(()),
                    }
                }
                () = due(overdue) => {
                    Err(Ended::Lost(format!("heartbeats unanswered for {:?}", self.patience())))
                }
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    async fn take(&mut self, message: v1::ManagerMessage) -> Result<(), Ended> {
        match message.message {
            Some(Down::Desired(desired)) => match wire::desired_state(desired) {
                Ok(desired) => {
                    if let Err(stale) = self.parts.supervisor.desired(desired).await? {
                        tracing::warn!("{stale}");
                    }
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "a desired state was refused")
                }
            },
            Some(Down::OpenChannel(open)) => {
                let (parts, caller) = (self.parts.clone(), self.caller.clone());
                tokio::spawn(channel::serve(parts, caller, open));
            }
            Some(Down::Ack(ack)) => {
                let mut sent = None;
                while let Some((sequence, at)) = self.unanswered.front().copied() {
                    if sequence > ack.sequence {
                        break;
                    }
                    sent = Some(at);
                    self.unanswered.pop_front();
                }
                if let Some(sent) = sent {
                    self.parts.supervisor.acked(sent).await?;
                }
            }
            // Repeated, or of a later protocol.
            Some(Down::Welcome(_)) | None => {}
        }
        Ok(())
    }

    async fn beat(&mut self) -> Result<(), Ended> {
        self.sequence += 1;
        let sent = Instant::now();
        let snapshot = self.parts.supervisor.snapshot();
        // The answer to a heartbeat says that all told before it has been taken.
        self.report(snapshot.clone()).await?;
        let sample = self.sampler.latest();
        let heartbeat = v1::Heartbeat {
            sequence: self.sequence,
            devices: sample.devices.clone(),
            containers: sample.containers.clone(),
            epoch: snapshot.epoch,
            generation: snapshot.generation,
        };
        self.unanswered.push_back((self.sequence, sent));
        self.send(Up::Heartbeat(heartbeat)).await
    }

    async fn report(&mut self, now: Arc<Snapshot>) -> Result<(), Ended> {
        if let Some(changes) = wire::changes(&self.reported, &now) {
            self.send(Up::Reports(changes)).await?;
        }
        self.reported = now;
        Ok(())
    }

    async fn tell(&mut self, now: Arc<Inventory>) -> Result<(), Ended> {
        if now != self.told {
            self.send(Up::Inventory(now.as_ref().into())).await?;
            self.told = now;
        }
        Ok(())
    }

    async fn send(&self, message: Up) -> Result<(), Ended> {
        let message = v1::AgentMessage { message: Some(message) };
        match timeout(self.patience(), self.up.send(message)).await {
            Ok(Ok(())) => Ok(()),
            // The stream is over; what the manager said about it comes next.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(Ended::Lost("the manager takes nothing more".to_owned())),
        }
    }

    fn patience(&self) -> Duration {
        (self.heartbeat * UNANSWERED).max(Duration::from_secs(1))
    }
}

/// Waits for the picture to be whole, so that nothing that runs is reported missing.
async fn first_look(parts: &LinkParts) -> Result<Arc<Snapshot>, SupervisorGone> {
    let mut snapshots = parts.supervisor.snapshots();
    let observed = timeout(FIRST_LOOK, snapshots.wait_for(|snapshot| snapshot.observed)).await;
    if let Ok(Err(_)) = observed {
        return Err(SupervisorGone);
    }
    drop(observed);
    if !snapshots.borrow().complete {
        tracing::warn!(
            "the ledger was lost: not registering before the engine has told its containers"
        );
    }
    let complete = snapshots.wait_for(|snapshot| snapshot.complete).await;
    complete.map(|snapshot| snapshot.clone()).map_err(|_| SupervisorGone)
}

fn register(parts: &LinkParts, snapshot: &Snapshot, inventory: &Inventory) -> v1::Register {
    v1::Register {
        protocol: PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        node: parts.node.to_string(),
        agent_id: parts.agent_id.clone(),
        inventory: Some(inventory.into()),
        sessions: Some(wire::full_report(snapshot)),
        epoch: snapshot.epoch,
        generation: snapshot.generation,
        cluster_id: snapshot.cluster.as_ref().map_or_else(String::new, ToString::to_string),
    }
}

/// Whether the manager is one this agent may follow.
fn check(parts: &LinkParts, welcome: &v1::Welcome) -> Result<ClusterId, Ended> {
    let refused = |code, message| Err(Ended::Refused(CallError::new(code, message)));
    if welcome.protocol.abs_diff(PROTOCOL_VERSION) > 1 {
        let message = format!(
            "the manager speaks protocol {}, this agent {PROTOCOL_VERSION}",
            welcome.protocol
        );
        return refused(ErrorCode::ProtocolMismatch, message);
    }
    let Ok(cluster) = welcome.cluster_id.parse::<ClusterId>() else {
        let message = format!("`{}` is no cluster id", welcome.cluster_id);
        return refused(ErrorCode::ProtocolMismatch, message);
    };
    match &parts.supervisor.snapshot().cluster {
        Some(own) if *own != cluster => {
            let message = format!("the manager is of cluster {cluster}, this agent of {own}");
            refused(ErrorCode::WrongCluster, message)
        }
        _ => Ok(cluster),
    }
}

/// The images after the next change; `None` at once where there are none to wait for.
async fn newest(images: &mut Option<ImageNames>) -> Option<Arc<Vec<String>>> {
    let images = images.as_mut()?;
    images.changed().await.ok()?;
    Some(images.borrow_and_update().clone())
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

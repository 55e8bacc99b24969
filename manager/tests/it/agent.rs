//! An agent that only speaks the protocol.

use crate::harness::{DEADLINE, Running, eventually};
use fgpu_wire::v1;
use fgpu_wire::v1::agent_message::Message as Up;
use fgpu_wire::v1::manager_message::Message as Down;
use fgpu_wire::v1::session_report::State;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What the manager has said so far.
#[derive(Default)]
pub struct Heard {
    pub welcome: Option<v1::Welcome>,
    pub desired: Vec<v1::DesiredState>,
    pub acks: Vec<u64>,
    pub end: Option<Result<(), Status>>,
}

pub struct FakeAgent {
    pub name: String,
    up: mpsc::Sender<v1::AgentMessage>,
    pub heard: Arc<Mutex<Heard>>,
    pub channels: mpsc::Receiver<v1::OpenChannel>,
}

/// A node with two devices of 80 GiB.
pub fn inventory(name: &str) -> v1::NodeInventory {
    let device = |index: u32| v1::DeviceInfo {
        uuid: format!("GPU-{name}-{index}"),
        index,
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_bytes: 80 << 30,
        simulated: true,
        ..Default::default()
    };
    v1::NodeInventory {
        address: "127.0.0.1".to_owned(),
        cpu_milli: 64_000,
        memory_bytes: 512 << 30,
        devices: vec![device(0), device(1)],
        runtime: Some(v1::NodeRuntime {
            kind: "docker".to_owned(),
            allow_shared: true,
            allowed_mounts: vec!["/data".to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn registration(name: &str, agent_id: &str) -> v1::Register {
    v1::Register {
        protocol: fgpu_wire::PROTOCOL_VERSION,
        agent_version: "0.1.0".to_owned(),
        node: name.to_owned(),
        agent_id: agent_id.to_owned(),
        inventory: Some(inventory(name)),
        sessions: Some(v1::SessionReports { sessions: Vec::new(), full: true }),
        ..Default::default()
    }
}

impl FakeAgent {
    /// Connects as node `name` and waits for the welcome.
    pub async fn join(running: &Running, name: &str) -> Self {
        let agent = Self::dial(running, registration(name, &format!("agent-{name}"))).await;
        agent.welcomed().await;
        agent
    }

    /// Connects and says `register`; reads everything in the background.
    pub async fn dial(running: &Running, register: v1::Register) -> Self {
        let name = register.node.clone();
        let (up, messages) = mpsc::channel(64);
        up.send(v1::AgentMessage { message: Some(Up::Register(register)) }).await.unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (asked, channels) = mpsc::channel(64);
        let answer = running.agents().link(ReceiverStream::new(messages)).await;
        match answer {
            Ok(response) => {
                let heard = Arc::clone(&heard);
                tokio::spawn(read(response.into_inner(), heard, asked));
            }
            Err(status) => heard.lock().unwrap().end = Some(Err(status)),
        }
        Self { name, up, heard, channels }
    }

    pub async fn say(&self, message: Up) {
        self.up.send(v1::AgentMessage { message: Some(message) }).await.unwrap();
    }

    pub async fn heartbeat(&self, sequence: u64) {
        self.say(Up::Heartbeat(v1::Heartbeat { sequence, ..Default::default() })).await;
    }

    /// A heartbeat that is acknowledged: the manager has heard this agent now.
    pub async fn be_heard(&self, sequence: u64) {
        self.heartbeat(sequence).await;
        self.hears("the ack", |heard| heard.acks.contains(&sequence).then_some(())).await;
    }

    pub async fn report(&self, session: &v1::DesiredSession, state: State) {
        let report = v1::SessionReport {
            session_id: session.session_id.clone(),
            generation: session.generation,
            state: Some(state),
            grant: session.grant.clone(),
        };
        self.say(Up::Reports(v1::SessionReports { sessions: vec![report], full: false })).await;
    }

    pub async fn welcomed(&self) -> v1::Welcome {
        self.hears("a welcome", |heard| heard.welcome.clone()).await
    }

    /// Waits until the newest desired state names `session`.
    pub async fn wants(&self, session: &str) -> v1::DesiredSession {
        self.wants_as(session, |_| true).await
    }

    pub async fn wants_as(
        &self,
        session: &str,
        is: impl Fn(&v1::DesiredSession) -> bool,
    ) -> v1::DesiredSession {
        self.hears(&format!("desired state with {session}"), |heard| {
            let newest = heard.desired.last()?;
            newest
                .sessions
                .iter()
                .find(|wanted| wanted.session_id == session && is(wanted))
                .cloned()
        })
        .await
    }

    /// Waits until the stream has ended with an error.
    pub async fn refused(&self) -> Status {
        self.hears("a refusal", |heard| match &heard.end {
            Some(Err(status)) => Some(status.clone()),
            _ => None,
        })
        .await
    }

    pub async fn hears<T>(&self, what: &str, find: impl Fn(&Heard) -> Option<T>) -> T {
        eventually(&format!("agent {} hears {what}", self.name), async || {
            let heard = self.heard.lock().unwrap();
            find(&heard).ok_or_else(|| {
                format!(
                    "welcome {:?}, desired {:?}, end {:?}",
                    heard.welcome,
                    heard.desired.last(),
                    heard.end
                )
            })
        })
        .await
    }

    pub async fn asked(&mut self) -> v1::OpenChannel {
        tokio::time::timeout(DEADLINE, self.channels.recv()).await.unwrap().unwrap()
    }
}

async fn read(
    mut messages: tonic::Streaming<v1::ManagerMessage>,
    heard: Arc<Mutex<Heard>>,
    asked: mpsc::Sender<v1::OpenChannel>,
) {
    loop {
        let message = messages.message().await;
        match message {
            Ok(Some(message)) => match message.message.unwrap() {
                Down::OpenChannel(request) => drop(asked.send(request).await),
                Down::Welcome(welcome) => heard.lock().unwrap().welcome = Some(welcome),
                Down::Desired(desired) => heard.lock().unwrap().desired.push(desired),
                Down::Ack(ack) => heard.lock().unwrap().acks.push(ack.sequence),
            },
            Ok(None) => break heard.lock().unwrap().end = Some(Ok(())),
            Err(status) => break heard.lock().unwrap().end = Some(Err(status)),
        }
    }
}

pub fn running() -> State {
    State::Running(v1::Started { at_ms: 1_700_000_000_500, ..Default::default() })
}

pub fn gone(exit_code: i32) -> State {
    State::Gone(v1::Gone { exit_code: Some(exit_code), ..Default::default() })
}

//! One agent: a task that reads, acknowledges, and sends what is newest.

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::register::{Registered, register};
use crate::api::errors::from_engine;
use crate::engine::EngineError;
use crate::leader::Term;
use fgpu_domain::cluster::{Applied, Input};
use fgpu_service::retry::{Backoff, Retry};
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::link::{AgentMessage, ManagerMessage, Up, heartbeat_sequence};
use fgpu_wire::{PROTOCOL_VERSION, convert, v1};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;
use tonic::{Status, Streaming};

/// How long an agent may take to say who it is.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// How long an agent may take to read why its link ends.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(5);
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(3) };

/// Where messages to the agent go; boxed, because a channel keeps room for many and a manager has
/// thousands of channels.
type Out = mpsc::Sender<Box<Result<ManagerMessage, Status>>>;
/// An input on its way to the engine, and its answer.
type Submission =
    std::pin::Pin<Box<dyn Future<Output = (Input, Result<Applied, EngineError>)> + Send>>;

/// Talks with one agent until either side ends it; an error is what the agent is told.
pub(crate) async fn serve(term: Arc<Term>, inbound: Streaming<AgentMessage>, out: Out) {
    if let Err(error) = talk(&term, inbound, &out).await {
        tracing::info!(code = %error.code, %error, "an agent's link ends");
        // The agent may have gone, or read nothing.
        let _ = out.send_timeout(Box::new(Err(error.into())), LAST_WORD_WITHIN).await;
    }
}

async fn talk(
    term: &Arc<Term>,
    mut inbound: Streaming<AgentMessage>,
    out: &Out,
) -> Result<(), CallError> {
    let first = timeout(REGISTER_WITHIN, inbound.message()).await;
    let message = match first {
        Ok(Ok(Some(AgentMessage { message: Some(Up::Register(message)) }))) => message,
        Ok(Ok(None) | Err(_)) => return Ok(()),
        Ok(Ok(Some(_))) => {
            return Err(CallError::field("message", "", "an agent registers first"));
        }
        Err(_) => {
            let rule = format!("an agent registers within {} s", REGISTER_WITHIN.as_secs());
            return Err(CallError::field("message", "", rule));
        }
    };
    let registered = register(term, message)?;
    let node = registered.cell.name.clone();
    tracing::info!(%node, agent = registered.link.agent_id, "agent connected");
    let (cell, id) = (Arc::clone(&registered.cell), registered.link.id);
    // By reference: what an async function takes by value, it holds twice.
    let result = Link::new(term, registered).run(&mut inbound, out).await;
    cell.detach(id);
    let snapshot = term.engine.snapshot();
    term.nodes.retain(|name| snapshot.nodes.contains_key(name));
    tracing::info!(%node, "agent disconnected");
    result
}

/// One registered agent.
struct Link {
    term: Arc<Term>,
    registered: Registered,
    inbox: Inbox,
    outbox: Outbox,
    submission: Option<Submission>,
    retry: Retry,
    /// Before this moment the engine is not asked again.
    not_before: Option<Instant>,
}

impl Link {
    fn new(term: &Arc<Term>, mut registered: Registered) -> Self {
        let placeholder = Input::RemoveNode { node: registered.cell.name.clone() };
        let input = std::mem::replace(&mut registered.input, placeholder);
        let link = Self {
            term: Arc::clone(term),
            inbox: Inbox::new(registered.cell.name.clone(), input),
            registered,
            outbox: Outbox::default(),
            submission: None,
            retry: Retry::new(BACKOFF),
            not_before: None,
        };
        link.heard();
        link
    }

    async fn run(
        &mut self,
        inbound: &mut Streaming<AgentMessage>,
        out: &Out,
    ) -> Result<(), CallError> {
        // Made once: to wait anew with every message would cost more than the message.
        let mut desired = WatchStream::from_changes(self.registered.cell.desired());
        let cancel = self.registered.link.cancel.clone();
        let cancelled = cancel.cancelled();
        tokio::pin!(cancelled);
        loop {
            self.submit();
            let quiet_until = self.not_before.or(self.inbox.patience());
            tokio::select! {
                () = &mut cancelled => return Err(self.why_cancelled()),
                permit = out.reserve(), if !self.outbox.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(message) = self.outbox.next(self.term.epoch) {
                        permit.send(Box::new(Ok(message)));
                    }
                }
                message = inbound.message() => match message {
                    Ok(Some(message)) => self.take(message)?,
                    Ok(None) | Err(_) => return Ok(()),
                },
                Some(request) = self.registered.channels.recv(), if self.outbox.takes_channels() => {
                    self.outbox.channel(request);
                }
                update = desired.next() => {
                    let Some(update) = update else { return Ok(()) };
                    self.outbox.desired(update);
                }
                (input, answer) = answered(&mut self.submission) => {
                    self.submission = None;
                    self.settled(input, answer)?;
                }
                () = reached(quiet_until), if self.submission.is_none() => self.not_before = None,
            }
        }
    }

    fn take(&mut self, message: AgentMessage) -> Result<(), CallError> {
        self.heard();
        match message.message {
            Some(Up::Heartbeat(heartbeat)) => {
                let unreadable = |_| CallError::field("heartbeat", "", "a message");
                self.outbox.ack(heartbeat_sequence(&heartbeat).map_err(unreadable)?);
                self.registered.cell.set_usage(heartbeat);
                if let Some(quiet) = self.registered.cell.desired_after(self.outbox.generation()) {
                    self.outbox.desired(quiet);
                }
            }
            Some(Up::Reports(reports)) => {
                let full = reports.full;
                let read = reports.sessions.into_iter().map(convert::report);
                self.inbox.reports(read.collect::<Result<_, _>>()?, full);
            }
            Some(Up::Inventory(inventory)) => {
                let version = &self.registered.agent_version;
                self.inbox.inventory(convert::inventory(inventory, version)?);
            }
            Some(Up::Images(images)) => self.inbox.images(images),
            Some(Up::Register(_)) => {
                return Err(CallError::field("message", "", "an agent registers once per stream"));
            }
            // From a newer agent: something this manager does not know.
            None => {}
        }
        Ok(())
    }

    fn heard(&self) {
        let clock = &self.term.clock;
        self.term.nodes.heard(&self.registered.cell, clock.monotonic(), clock.now());
    }

    /// Tells the engine the next thing, if nothing is on its way.
    fn submit(&mut self) {
        if self.submission.is_some() || self.not_before.is_some() {
            return;
        }
        let Some(input) = self.inbox.next() else { return };
        let engine = self.term.engine.clone();
        if self.registered.known && engine.health().away().is_some() {
            // The store knows this agent: it is told so now, and the rest once the store is back.
            self.welcome();
        }
        self.submission = Some(Box::pin(async move {
            let answer = engine.submit(input.clone()).await;
            (input, answer)
        }));
    }

    fn settled(
        &mut self,
        input: Input,
        answer: Result<Applied, EngineError>,
    ) -> Result<(), CallError> {
        match answer {
            Ok(_) => {
                self.retry.reset();
                if matches!(input, Input::Register { .. }) {
                    self.welcome();
                }
                Ok(())
            }
            Err(EngineError::Deposed) => Err(self.term.not_leader()),
            Err(error @ EngineError::Refused(_)) => Err(from_engine(error)),
            Err(_) => {
                if self.registered.known {
                    self.welcome();
                }
                self.inbox.put_back(input);
                self.not_before = Some(Instant::now() + self.retry.next_pause());
                Ok(())
            }
        }
    }

    fn welcome(&mut self) {
        if self.outbox.is_welcomed() {
            return;
        }
        let timings = &self.term.config.timings;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.outbox.welcome(v1::Welcome {
            cluster_id: self.term.cluster_id.to_string(),
            manager_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            epoch: self.term.epoch,
            heartbeat_ms: millis(timings.heartbeat),
            fence_ms: millis(timings.fence),
        });
        self.outbox.desired(self.registered.cell.desired().borrow().clone());
    }

    fn why_cancelled(&self) -> CallError {
        if self.term.ended.is_cancelled() {
            return self.term.not_leader();
        }
        let node = &self.registered.cell.name;
        let message = format!("another connection of node {node} has taken this one's place");
        CallError::new(ErrorCode::NodeNameTaken, message)
            .with("node", node)
            .hint("run one agent per node name")
    }
}

async fn answered(submission: &mut Option<Submission>) -> (Input, Result<Applied, EngineError>) {
    match submission {
        Some(submission) => submission.await,
        None => pending().await,
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

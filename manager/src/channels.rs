//! Bulk data beside the links: logs, terminals, forwarded ports.
//!
//! A caller's request becomes a channel id; the agent is told through its link and dials back with
//! that id. Frames then go both ways through bounded buffers: who reads slowly is waited for, and
//! holds up nobody else.

use crate::nodes::NodeCell;
use fgpu_service::secret;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Frames kept for a reader that is behind, in each direction.
const FRAMES: usize = 16;
/// How long an agent may take to dial back.
const DIAL_BACK: Duration = Duration::from_secs(10);

/// The caller's end of a channel.
pub(crate) struct Channel {
    /// What the agent sends; ends when the agent has ended it.
    pub(crate) up: mpsc::Receiver<Result<v1::ChannelUp, Status>>,
    /// What the agent gets.
    pub(crate) down: mpsc::Sender<Result<v1::ChannelDown, Status>>,
}

/// The agent's end.
pub(crate) struct AgentEnd {
    up: mpsc::Sender<Result<v1::ChannelUp, Status>>,
    pub(crate) down: mpsc::Receiver<Result<v1::ChannelDown, Status>>,
}

/// Channels that wait for their agent to dial back.
#[derive(Clone, Default)]
pub(crate) struct Channels {
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
}

struct Waiting {
    end: AgentEnd,
    arrived: oneshot::Sender<()>,
}

/// Forgets a channel that nobody waits for any more.
struct Forget<'a>(&'a Channels, String);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Channels {
    /// Opens a channel to the agent of `cell`.
    ///
    /// # Errors
    /// `AGENT_UNAVAILABLE` if it is not connected or does not dial back, `OVERLOADED` if it has too
    /// many requests before it.
    pub(crate) async fn open(
        &self,
        cell: Option<&NodeCell>,
        node: &str,
        purpose: v1::open_channel::Purpose,
    ) -> Result<Channel, CallError> {
        let unavailable = |message: String| {
            CallError::new(ErrorCode::AgentUnavailable, message)
                .with("node", node)
                .hint("see `fgpu node list`; try again once the node is ready")
        };
        let link = cell
            .and_then(NodeCell::link)
            .ok_or_else(|| unavailable(format!("the agent of node {node} is not connected")))?;
        let random = secret::random::<16>()
            .map_err(|error| CallError::new(ErrorCode::Internal, error.to_string()))?;
        let id = secret::hex(&random);
        let (up, from_agent) = mpsc::channel(FRAMES);
        let (to_agent, down) = mpsc::channel(FRAMES);
        let (arrived, dialled) = oneshot::channel();
        self.lock().insert(id.clone(), Waiting { end: AgentEnd { up, down }, arrived });
        let _forget = Forget(self, id.clone());
        let request = v1::OpenChannel { channel_id: id, purpose: Some(purpose) };
        match link.channels.try_send(Box::new(request)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                let message = format!("node {node} has too many requests waiting");
                return Err(CallError::new(ErrorCode::Overloaded, message).with("node", node));
            }
            Err(TrySendError::Closed(_)) => {
                return Err(unavailable(format!("the agent of node {node} is not connected")));
            }
        }
        match tokio::time::timeout(DIAL_BACK, dialled).await {
            Ok(Ok(())) => Ok(Channel { up: from_agent, down: to_agent }),
            _ => Err(unavailable(format!(
                "the agent of node {node} did not open the channel within {} s",
                DIAL_BACK.as_secs()
            ))),
        }
    }

    /// The end an agent that dials back with `id` gets; `None` if nobody waits for it.
    pub(crate) fn take(&self, id: &str) -> Option<AgentEnd> {
        let Waiting { end, arrived } = self.lock().remove(id)?;
        // A caller that has gone is noticed by its end being closed.
        let _ = arrived.send(());
        Some(end)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AgentEnd {
    /// Passes on what the agent sends until it ends, the caller has gone, or `ended` fires. Returns
    /// what the agent is sent.
    pub(crate) fn pump(
        self,
        mut inbound: Streaming<v1::ChannelUp>,
        ended: CancellationToken,
    ) -> mpsc::Receiver<Result<v1::ChannelDown, Status>> {
        let Self { up, down } = self;
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = inbound.message() => next,
                    () = up.closed() => return,
                    () = ended.cancelled() => return,
                };
                let (frame, last) = match next {
                    Ok(Some(frame)) => (Ok(frame), false),
                    Ok(None) => return,
                    Err(status) => (Err(status), true),
                };
                if up.send(frame).await.is_err() || last {
                    return;
                }
            }
        });
        down
    }
}

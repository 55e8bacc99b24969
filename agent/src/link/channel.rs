//! Bulk data for one request of a person: logs, a shell, a forwarded port.
//!
//! The agent dials a call of its own for each, says which channel it is, and serves it until
//! either end has enough.

use super::connection::Caller;
use super::{LinkParts, forward, shell, stream_logs};
use crate::ends::chain;
use fgpu_domain::ids::SessionId;
use fgpu_runtime::{LogStream, RuntimeError};
use fgpu_wire::error::ErrorCode;
use fgpu_wire::v1;
use fgpu_wire::v1::channel_up::Message as Up;
use fgpu_wire::v1::open_channel::Purpose;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Messages on their way up: a slow reader holds up its own channel and nothing else.
const QUEUE: usize = 16;
/// How long the other end may take to take the last of it.
const LINGER: Duration = Duration::from_secs(10);

/// Why a channel cannot be served.
#[derive(Debug)]
pub(super) struct Refused {
    code: ErrorCode,
    message: String,
    hint: String,
}

/// The other end has gone: nothing more to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hangup;

/// How serving a channel ended, where not well.
pub(super) enum Trouble {
    /// The person has to be told.
    Refused(Refused),
    /// Nobody is there to be told.
    Hangup,
}

impl Refused {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>, hint: &str) -> Self {
        Self { code, message: message.into(), hint: hint.to_owned() }
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Hangup> for Trouble {
    fn from(_: Hangup) -> Self {
        Self::Hangup
    }
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Self {
        let code = match &error {
            RuntimeError::NotRunning { .. } | RuntimeError::NoSuchContainer { .. } => {
                ErrorCode::WrongPhase
            }
            RuntimeError::InvalidSpec { .. } | RuntimeError::CommandNotFound { .. } => {
                ErrorCode::InvalidArgument
            }
            _ => ErrorCode::AgentFailed,
        };
        Self::Refused(Refused::new(code, chain(&error), ""))
    }
}

/// The way up.
#[derive(Debug, Clone)]
pub(super) struct Sink(mpsc::Sender<v1::ChannelUp>);

impl Sink {
    pub(super) async fn send(&self, message: Up) -> Result<(), Hangup> {
        let message = v1::ChannelUp { message: Some(message) };
        self.0.send(message).await.map_err(|_| Hangup)
    }

    pub(super) async fn output(&self, stream: LogStream, data: Vec<u8>) -> Result<(), Hangup> {
        self.send(Up::Output(chunk(stream, data))).await
    }

    /// Returns when the other end has gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Sends from a thread that may block; false when the other end has gone.
    pub(super) fn blocking_output(&self, stream: LogStream, data: Vec<u8>) -> bool {
        let message = v1::ChannelUp { message: Some(Up::Output(chunk(stream, data))) };
        self.0.blocking_send(message).is_ok()
    }
}

fn chunk(stream: LogStream, data: Vec<u8>) -> v1::LogChunk {
    let stream = match stream {
        LogStream::Stdout => v1::OutputStream::Stdout,
        LogStream::Stderr => v1::OutputStream::Stderr,
    };
    v1::LogChunk { stream: stream.into(), data }
}

/// Dials the channel the manager asked for, and serves it.
pub(super) async fn serve(parts: Arc<LinkParts>, mut caller: Caller, open: v1::OpenChannel) {
    let (up, messages) = mpsc::channel(QUEUE);
    let sink = Sink(up);
    // The channel is empty and its reader is held here.
    let _ = sink.send(Up::ChannelId(open.channel_id.clone())).await;
    let mut down = match caller.open_channel(ReceiverStream::new(messages)).await {
        Ok(down) => down,
        Err(status) => {
            tracing::warn!(channel = %open.channel_id, error = %status.message(), "channel not opened");
            return;
        }
    };
    let served = tokio::select! {
        served = attend(&parts, &sink, &mut down, open.purpose) => served,
        () = parts.shutdown.cancelled() => Err(Trouble::Hangup),
    };
    if let Err(Trouble::Refused(refused)) = served {
        tracing::debug!(channel = %open.channel_id, reason = %refused.message, "channel refused");
        let detail = v1::ErrorDetail {
            code: refused.code.as_str().to_owned(),
            hint: refused.hint,
            ..v1::ErrorDetail::default()
        };
        let _ = sink.send(Up::ErrorMessage(refused.message)).await;
        let _ = sink.send(Up::Error(detail)).await;
    }
    drop(sink);
    // Dropping our end of the stream would cut off what is still on its way up.
    let drained = async { while let Ok(Some(_)) = down.message().await {} };
    let _ = tokio::time::timeout(LINGER, drained).await;
}

async fn attend(
    parts: &LinkParts,
    sink: &Sink,
    down: &mut Streaming<v1::ChannelDown>,
    purpose: Option<Purpose>,
) -> Result<(), Trouble> {
    match purpose {
        Some(Purpose::Logs(request)) => tokio::select! {
            served = stream_logs::serve(parts, sink, request) => served,
            () = hung_up(down) => Err(Trouble::Hangup),
        },
        Some(Purpose::Exec(start)) => shell::serve(parts, sink, down, start).await,
        Some(Purpose::PortForward(start)) => forward::serve(parts, sink, down, start).await,
        None => {
            let message = "this agent does not know what the channel is for";
            Err(Refused::new(ErrorCode::AgentFailed, message, "update the agent").into())
        }
    }
}

/// Returns when the call has failed; that the other end has nothing to say is no reason to stop.
async fn hung_up(down: &mut Streaming<v1::ChannelDown>) {
    loop {
        match down.message().await {
            Ok(Some(_)) => {}
            Ok(None) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// The session of a request.
pub(super) fn session_id(text: &str) -> Result<SessionId, Refused> {
    text.parse().map_err(|_| {
        Refused::new(ErrorCode::InvalidArgument, format!("`{text}` is no session id"), "")
    })
}

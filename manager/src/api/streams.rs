//! Logs, terminals and forwarded ports: the caller's side of a channel to an agent.

use super::Caller;
use crate::channels::Channel;
use fgpu_domain::session::{Phase, Session};
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use fgpu_wire::v1::channel_up::Message;
use fgpu_wire::v1::open_channel::Purpose;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Frames kept for a caller that is behind.
const FRAMES: usize = 16;

type Answers<T> = ReceiverStream<Result<T, Status>>;

/// The output of a session.
pub(super) async fn logs(
    caller: &Caller,
    mut request: v1::StreamLogsRequest,
) -> Result<Answers<v1::LogChunk>, CallError> {
    let session = caller.find(&request.session)?;
    request.session = session.id.to_string();
    let channel = open(caller, &session, Purpose::Logs(request)).await?;
    let (out, answers) = mpsc::channel(FRAMES);
    tokio::spawn(relay(channel, out, CancellationToken::new(), |frame| match frame {
        Message::Output(chunk) => Some(chunk),
        _ => None,
    }));
    Ok(ReceiverStream::new(answers))
}

/// A command in a running session.
pub(super) async fn exec(
    caller: &Caller,
    mut input: Streaming<v1::ExecRequest>,
) -> Result<Answers<v1::ExecResponse>, Status> {
    use v1::exec_request::Message as Input;
    let first = input.message().await?.and_then(|request| request.message);
    let Some(Input::Start(mut start)) = first else {
        return Err(CallError::field("start", "", "the first message says what to run").into());
    };
    let session = running(caller, &start.session)?;
    start.session = session.id.to_string();
    let Channel { up, down } = open(caller, &session, Purpose::Exec(start)).await?;
    let over = CancellationToken::new();
    tokio::spawn(feed(input, down.clone(), over.clone(), |request| match request.message? {
        Input::Stdin(data) => Some(v1::channel_down::Message::Data(data)),
        Input::StdinClosed(_) => Some(v1::channel_down::Message::Closed(true)),
        Input::Resize(size) => Some(v1::channel_down::Message::Resize(size)),
        Input::Start(_) => None,
    }));
    let (out, answers) = mpsc::channel(FRAMES);
    tokio::spawn(relay(Channel { up, down }, out, over, |frame| {
        let message = match frame {
            Message::Output(chunk) => v1::exec_response::Message::Output(chunk),
            Message::ExitCode(code) => v1::exec_response::Message::ExitCode(code),
            _ => return None,
        };
        Some(v1::ExecResponse { message: Some(message) })
    }));
    Ok(ReceiverStream::new(answers))
}

/// One TCP connection into a running session.
pub(super) async fn port_forward(
    caller: &Caller,
    mut input: Streaming<v1::PortForwardRequest>,
) -> Result<Answers<v1::PortForwardResponse>, Status> {
    use v1::port_forward_request::Message as Input;
    let first = input.message().await?.and_then(|request| request.message);
    let Some(Input::Start(mut start)) = first else {
        return Err(CallError::field("start", "", "the first message names the port").into());
    };
    if !(1..=65_535).contains(&start.port) {
        return Err(CallError::field("port", start.port, "a port from 1 to 65535").into());
    }
    let session = running(caller, &start.session)?;
    start.session = session.id.to_string();
    let Channel { up, down } = open(caller, &session, Purpose::PortForward(start)).await?;
    let over = CancellationToken::new();
    tokio::spawn(feed(input, down.clone(), over.clone(), |request| match request.message? {
        Input::Data(data) => Some(v1::channel_down::Message::Data(data)),
        Input::Start(_) => None,
    }));
    let (out, answers) = mpsc::channel(FRAMES);
    tokio::spawn(relay(Channel { up, down }, out, over, |frame| match frame {
        Message::Data(data) => Some(v1::PortForwardResponse { data }),
        _ => None,
    }));
    Ok(ReceiverStream::new(answers))
}

/// A session that commands can be run in.
fn running(caller: &Caller, text: &str) -> Result<std::sync::Arc<Session>, CallError> {
    let session = caller.find(text)?;
    match session.phase {
        Phase::Running { .. } | Phase::Stopping { .. } => Ok(session),
        Phase::Pending { .. }
        | Phase::Scheduled { .. }
        | Phase::Starting { .. }
        | Phase::Lost { .. }
        | Phase::Ended(_) => Err(wrong_phase(&session, "it must be running")),
    }
}

/// Opens a channel to the agent that has, or had, the session.
async fn open(caller: &Caller, session: &Session, purpose: Purpose) -> Result<Channel, CallError> {
    let grant = match &session.phase {
        Phase::Ended(ended) => ended.grant.as_ref(),
        phase => phase.grant(),
    };
    let Some(grant) = grant else {
        return Err(wrong_phase(session, "it has not been placed on a node"));
    };
    let cell = caller.term.nodes.find(&grant.node);
    caller.term.channels.open(cell.as_deref(), grant.node.as_str(), purpose).await
}

fn wrong_phase(session: &Session, rule: &str) -> CallError {
    let (id, phase) = (&session.id, session.phase.name());
    CallError::new(ErrorCode::WrongPhase, format!("session {id} is {phase}: {rule}"))
        .with("session", id)
        .with("phase", phase)
        .hint(format!("see `fgpu explain {id}`"))
}

/// Passes on what the agent sends, until it ends or the caller has gone; `over` tells the other
/// direction.
async fn relay<T>(
    mut channel: Channel,
    out: mpsc::Sender<Result<T, Status>>,
    over: CancellationToken,
    convert: impl Fn(Message) -> Option<T>,
) {
    let _over = over.drop_guard();
    let mut failure: Option<v1::ErrorDetail> = None;
    loop {
        let frame = tokio::select! {
            frame = channel.up.recv() => frame,
            () = out.closed() => return,
        };
        let answer = match frame {
            None => match failure.take() {
                Some(detail) => Err(agent_failed(detail, String::new()).into()),
                None => return,
            },
            Some(Err(status)) => Err(interrupted(&status).into()),
            Some(Ok(v1::ChannelUp { message: Some(Message::Error(detail)) })) => {
                // Its text follows, or the end.
                failure = Some(detail);
                continue;
            }
            Some(Ok(v1::ChannelUp { message: Some(Message::ErrorMessage(text)) })) => {
                Err(agent_failed(failure.take().unwrap_or_default(), text).into())
            }
            Some(Ok(v1::ChannelUp { message })) => match message.and_then(&convert) {
                Some(answer) => Ok(answer),
                None => continue,
            },
        };
        let last = answer.is_err();
        if out.send(answer).await.is_err() || last {
            return;
        }
    }
}

/// Passes on what the caller sends, until it ends or the agent has.
async fn feed<T: Send + 'static>(
    mut input: Streaming<T>,
    down: mpsc::Sender<Result<v1::ChannelDown, Status>>,
    over: CancellationToken,
    convert: impl Fn(T) -> Option<v1::channel_down::Message>,
) {
    loop {
        let next = tokio::select! {
            next = input.message() => next,
            () = down.closed() => return,
            () = over.cancelled() => return,
        };
        let message = match next {
            Ok(Some(request)) => match convert(request) {
                Some(message) => message,
                None => continue,
            },
            // The caller has said all: the other side learns so, and may still answer.
            Ok(None) => v1::channel_down::Message::Closed(true),
            Err(_) => return,
        };
        let last = matches!(message, v1::channel_down::Message::Closed(_));
        let sent = down.send(Ok(v1::ChannelDown { message: Some(message) })).await;
        if sent.is_err() || last {
            return;
        }
    }
}

/// What the agent says it could not do.
fn agent_failed(detail: v1::ErrorDetail, text: String) -> CallError {
    let code = ErrorCode::parse(&detail.code).unwrap_or(ErrorCode::AgentFailed);
    let message = match text.is_empty() {
        true => "the agent could not do it".to_owned(),
        false => text,
    };
    let mut error = CallError::new(code, message).hint(detail.hint);
    error.metadata = detail.metadata;
    error.fields = detail.fields;
    error
}

fn interrupted(status: &Status) -> CallError {
    let message = format!("the agent's channel broke: {}", status.message());
    CallError::new(ErrorCode::AgentUnavailable, message).hint("try again once its node is ready")
}

//! A command beside the main process of a session, with its input, output and terminal.

use super::LinkParts;
use super::channel::{Refused, Sink, Trouble, session_id};
use crate::supervisor::{Snapshot, StandingState};
use bytes::Bytes;
use fgpu_domain::ids::SessionId;
use fgpu_runtime::{ExecResizer, ExecSpec};
use fgpu_wire::error::ErrorCode;
use fgpu_wire::v1;
use fgpu_wire::v1::channel_down::Message as Down;
use fgpu_wire::v1::channel_up::Message as Up;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tonic::Streaming;

/// Runs the command until it ends, or the other end goes.
pub(super) async fn serve(
    parts: &LinkParts,
    sink: &Sink,
    down: &mut Streaming<v1::ChannelDown>,
    start: v1::ExecStart,
) -> Result<(), Trouble> {
    let session = session_id(&start.session)?;
    let container = running_container(&parts.supervisor.snapshot(), &session)?;
    let size = start.size;
    let exec = parts.supervisor.runtime().exec(&container, spec(start)).await?;
    let (stdin, mut output, resizer, exit) = exec.into_parts();
    if let Some(size) = size {
        resize(&*resizer, size).await;
    }
    let pump = async {
        while let Some(chunk) = output.next().await {
            let chunk = chunk?;
            sink.output(chunk.stream, chunk.data.to_vec()).await?;
        }
        let code = exit.await?;
        sink.send(Up::ExitCode(code)).await?;
        Ok::<(), Trouble>(())
    };
    tokio::select! {
        pumped = pump => pumped,
        () = feed(down, stdin, &*resizer) => Err(Trouble::Hangup),
        () = sink.closed() => Err(Trouble::Hangup),
    }
}

/// Passes on input and sizes; returns when the call has failed.
async fn feed(
    down: &mut Streaming<v1::ChannelDown>,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    resizer: &dyn ExecResizer,
) {
    loop {
        match down.message().await {
            Ok(Some(v1::ChannelDown { message })) => match message {
                Some(Down::Data(data)) => {
                    if let Some(input) = &stdin
                        && input.send(Bytes::from(data)).await.is_err()
                    {
                        // The command has closed its input; it may go on all the same.
                        stdin = None;
                    }
                }
                Some(Down::Closed(_)) => stdin = None,
                Some(Down::Resize(size)) => resize(resizer, size).await,
                None => {}
            },
            Ok(None) => {
                drop(stdin.take());
                std::future::pending::<()>().await;
            }
            Err(_) => return,
        }
    }
}

async fn resize(resizer: &dyn ExecResizer, size: v1::TerminalSize) {
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    if let Err(error) = resizer.resize(cells(size.columns), cells(size.rows)).await {
        tracing::debug!(%error, "terminal keeps its size");
    }
}

fn spec(start: v1::ExecStart) -> ExecSpec {
    let some = |text: String| (!text.is_empty()).then_some(text);
    ExecSpec {
        command: start.command,
        env: start.env,
        tty: start.tty,
        stdin: start.stdin,
        workdir: some(start.workdir),
        user: some(start.user),
    }
}

/// The container of a session that runs here.
pub(super) fn running_container(
    snapshot: &Snapshot,
    session: &SessionId,
) -> Result<String, Refused> {
    let standing = snapshot.newest(session).map(|(_, standing)| standing);
    let container = standing
        .filter(|standing| matches!(standing.state, StandingState::Running(_)))
        .and_then(|standing| standing.container.clone());
    container.ok_or_else(|| {
        let message = format!("session {session} does not run on this node");
        Refused::new(ErrorCode::WrongPhase, message, "see `fgpu get` for where it stands")
    })
}

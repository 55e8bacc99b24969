//! Commands run in a container of the engine.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::engine::{Engine, EngineError};
use super::streams::chunk;
use crate::{Container, ExecResizer, ExecSession, ExecSpec, LogChunk, RuntimeError};

/// Pieces of input or output held for a slow side.
const PIECES_AHEAD: usize = 64;
/// What a terminal takes for the end of input.
const END_OF_INPUT: &[u8] = b"\x04";
/// How often the engine is asked again for what it is about to know, and how long apart.
const TRIES: u32 = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

pub(super) async fn exec(
    engine: &Engine,
    container: &Container,
    spec: ExecSpec,
) -> Result<ExecSession, RuntimeError> {
    let id = container.id.as_str();
    if spec.command.is_empty() {
        return Err(RuntimeError::invalid("command", "is empty"));
    }
    if !container.state.is_running() {
        return Err(RuntimeError::NotRunning { id: id.to_owned() });
    }
    let (tty, stdin, command) = (spec.tty, spec.stdin, spec.command[0].clone());
    let docker = engine.client().await?;
    let made = engine.within(docker.create_exec(id, options(spec))).await;
    let exec = made.map_err(|error| error.of_container("run a command in", id))?.id;
    let start = StartExecOptions { tty, ..StartExecOptions::default() };
    let started = engine.within(docker.start_exec(&exec, Some(start))).await;
    let (output, input) = match started {
        Ok(StartExecResults::Attached { output, input }) => (output, input),
        Ok(StartExecResults::Detached) => {
            let doing = format!("run a command in container {id}");
            let error = EngineError::Answered {
                status: 0,
                message: "it did not attach to its output".to_owned(),
            };
            return Err(error.into_runtime(doing));
        }
        Err(error) => return Err(not_started(error, id, command)),
    };
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    let (exit_sender, exit) = oneshot::channel();
    let watcher = (engine.clone(), exec.clone());
    tokio::spawn(async move {
        let (engine, exec) = watcher;
        forward(&engine, output, sender).await;
        // Nobody may be waiting for it.
        let _ = exit_sender.send(exit_code(&engine, &exec).await);
    });
    Ok(ExecSession {
        stdin: stdin.then(|| feed(input, tty)),
        output: Box::pin(ReceiverStream::new(pieces)),
        resizer: Box::new(Resizer { engine: engine.clone(), exec, tty }),
        exit,
    })
}

fn options(spec: ExecSpec) -> CreateExecOptions<String> {
    CreateExecOptions {
        attach_stdin: Some(spec.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(spec.tty),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: Some(spec.command),
        user: spec.user,
        working_dir: spec.workdir,
        ..CreateExecOptions::default()
    }
}

fn not_started(error: EngineError, id: &str, command: String) -> RuntimeError {
    match error {
        EngineError::Answered { message, .. } if message.contains("executable file not found") => {
            RuntimeError::CommandNotFound { command, reason: message }
        }
        other => other.of_container("run a command in", id),
    }
}

/// Writes what is sent to the input of the command, then ends it.
fn feed(mut input: Pin<Box<dyn AsyncWrite + Send>>, tty: bool) -> mpsc::Sender<Bytes> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES_AHEAD);
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            if input.write_all(&piece).await.is_err() {
                // The command has ended.
                return;
            }
        }
        if tty {
            let _ = input.write_all(END_OF_INPUT).await;
            let _ = input.flush().await;
        } else {
            let _ = input.shutdown().await;
        }
    });
    sender
}

/// Hands on the output to its end, also when nobody reads it any more.
async fn forward(
    engine: &Engine,
    mut output: Output,
    sender: mpsc::Sender<Result<LogChunk, RuntimeError>>,
) {
    while let Some(piece) = output.next().await {
        let piece = piece.map(chunk).map_err(|error| {
            engine.failed(error).into_runtime("read the output of a command".to_owned())
        });
        let _ = sender.send(piece).await;
    }
}

async fn exit_code(engine: &Engine, exec: &str) -> Result<i32, RuntimeError> {
    let failed = |error: EngineError| error.into_runtime("tell an exit code".to_owned());
    for _ in 0..TRIES {
        let docker = engine.client().await?;
        let told = engine.within(docker.inspect_exec(exec)).await;
        let told = told.map_err(failed)?;
        if let (Some(false), Some(code)) = (told.running, told.exit_code) {
            return Ok(i32::try_from(code).unwrap_or(-1));
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    Err(failed(EngineError::Answered {
        status: 0,
        message: "the output has ended but the command runs on".to_owned(),
    }))
}

struct Resizer {
    engine: Engine,
    exec: String,
    tty: bool,
}

#[async_trait]
impl ExecResizer for Resizer {
    async fn resize(&self, width: u16, height: u16) -> Result<(), RuntimeError> {
        if !self.tty {
            return Err(RuntimeError::Unsupported {
                runtime: "docker",
                what: "resize a command without a terminal".to_owned(),
            });
        }
        let mut tries = TRIES;
        loop {
            let docker = self.engine.client().await?;
            let size = ResizeExecOptions { height, width };
            match self.engine.within(docker.resize_exec(&self.exec, size)).await {
                Ok(()) => return Ok(()),
                // The engine attaches before it starts.
                Err(EngineError::Answered { message, .. })
                    if tries > 0 && message.contains("not") && message.contains("start") =>
                {
                    tries -= 1;
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                Err(error) => return Err(error.into_runtime("resize a terminal".to_owned())),
            }
        }
    }
}

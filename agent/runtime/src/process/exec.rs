//! Commands run beside the main process, in the same cgroup, environment and folder.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::launch::{self, Failure, Input, Order};
use super::shim::path_of;
use super::state::Stored;
use super::terminal::{self, Terminal};
use super::{ProcessConfig, blocking};
use crate::{ExecResizer, ExecSession, ExecSpec, LogChunk, LogStream, RuntimeError};

/// Pieces of input or output held for a slow side.
const PIECES_AHEAD: usize = 64;
const PIECE_BYTES: usize = 16 << 10;
/// What a terminal takes for the end of input.
const END_OF_INPUT: &[u8] = b"\x04";

/// Input of a command, where it has one, and its terminal.
type Connected = (Option<mpsc::Sender<Bytes>>, Box<dyn ExecResizer>);
type OutputSender = mpsc::Sender<Result<LogChunk, RuntimeError>>;

/// Process groups of commands that run, by container.
#[derive(Debug, Clone, Default)]
pub(super) struct Running {
    groups: Arc<Mutex<HashMap<String, Vec<u32>>>>,
}

impl Running {
    pub(super) fn groups_of(&self, id: &str) -> Vec<u32> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(id).cloned().unwrap_or_default()
    }

    fn add(&self, id: &str, group: u32) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.entry(id.to_owned()).or_default().push(group);
    }

    fn remove(&self, id: &str, group: u32) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_container) = groups.get_mut(id) {
            of_container.retain(|each| *each != group);
            if of_container.is_empty() {
                groups.remove(id);
            }
        }
    }
}

pub(super) async fn exec(
    config: &ProcessConfig,
    stored: &Stored,
    spec: ExecSpec,
    running: &Running,
) -> Result<ExecSession, RuntimeError> {
    let id = stored.spec.id.clone();
    if spec.command.is_empty() {
        return Err(RuntimeError::invalid("command", "is empty"));
    }
    if !stored.is_running() {
        return Err(RuntimeError::NotRunning { id });
    }
    let io = |error: std::io::Error| Failure::io(&error).into_error(&id, &spec.command);
    let ends = Ends::make(&spec).map_err(io)?;
    let (mut command, socket) = launch::launcher(&config.shim_command).map_err(io)?;
    let output = || match spec.tty {
        true => Stdio::null(),
        false => Stdio::piped(),
    };
    command.stdout(output()).stderr(output());
    let mut command = tokio::process::Command::from(command);
    let mut child = command.spawn().map_err(io)?;
    // It holds the other end of the socket, too.
    drop(command);
    let order = order(stored, &spec, ends.input());
    let argv = spec.command.clone();
    let told = {
        let id = id.clone();
        blocking(move || launch::give_order(socket, &order).map_err(|f| f.into_error(&id, &argv)))
    };
    if let Err(error) = told.await {
        // The launcher ends after it has said why; one that hangs is ended.
        let _ = child.kill().await;
        return Err(error);
    }
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    let (stdin, resizer) = ends.connect(&spec, &sender).map_err(io)?;
    if let Some(from) = child.stdout.take() {
        copy(LogStream::Stdout, from, sender.clone());
    }
    if let Some(from) = child.stderr.take() {
        copy(LogStream::Stderr, from, sender);
    }
    Ok(ExecSession {
        stdin,
        output: Box::pin(ReceiverStream::new(pieces)),
        resizer,
        exit: watch(child, id, running.clone()),
    })
}

fn order(stored: &Stored, spec: &ExecSpec, input: Input) -> Order {
    let own = &stored.spec;
    let mut env = own.env.clone();
    env.extend(spec.env.clone());
    if spec.tty {
        env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
    }
    Order {
        argv: spec.command.clone(),
        env,
        workdir: spec.workdir.clone().unwrap_or_else(|| own.workdir.clone()),
        user: spec.user.clone().or_else(|| own.user.clone()),
        cgroup: own.cgroup_root.clone().map(|root| (root, own.session.clone())),
        input,
    }
}

/// Waits for the command to end, whether or not anybody asks for its code.
fn watch(
    mut child: tokio::process::Child,
    id: String,
    running: Running,
) -> oneshot::Receiver<Result<i32, RuntimeError>> {
    use std::os::unix::process::ExitStatusExt;
    let (sender, exit) = oneshot::channel();
    let group = child.id();
    if let Some(group) = group {
        running.add(&id, group);
    }
    tokio::spawn(async move {
        let ended = child.wait().await;
        if let Some(group) = group {
            running.remove(&id, group);
        }
        let code = ended
            .map(|status| match (status.code(), status.signal()) {
                (Some(code), _) => code,
                (None, signal) => 128 + signal.unwrap_or(0),
            })
            .map_err(|error| Failure::io(&error).into_error(&id, &[]));
        let _ = sender.send(code);
    });
    exit
}

/// Our ends of what connects us with a command.
enum Ends {
    Nothing,
    Pipe { read: std::io::PipeReader, write: std::io::PipeWriter },
    Terminal(Terminal),
}

impl Ends {
    fn make(spec: &ExecSpec) -> std::io::Result<Self> {
        Ok(match (spec.tty, spec.stdin) {
            (true, _) => Self::Terminal(terminal::open()?),
            (false, true) => {
                let (read, write) = std::io::pipe()?;
                Self::Pipe { read, write }
            }
            (false, false) => Self::Nothing,
        })
    }

    fn input(&self) -> Input {
        match self {
            Self::Nothing => Input::Null,
            Self::Pipe { read, .. } => Input::File(path_of(read)),
            Self::Terminal(terminal) => Input::Terminal(terminal.path.clone()),
        }
    }

    /// Begins to move bytes; the command has opened its own ends by now.
    fn connect(self, spec: &ExecSpec, sender: &OutputSender) -> std::io::Result<Connected> {
        match self {
            Self::Nothing => Ok((None, Box::new(Resizer(None)))),
            Self::Pipe { read, write } => {
                drop(read);
                let write = pipe::Sender::from_owned_fd(OwnedFd::from(write))?;
                Ok((Some(feed(write, &[])), Box::new(Resizer(None))))
            }
            Self::Terminal(terminal) => {
                let flags = fcntl(&terminal.master, FcntlArg::F_GETFL)?;
                let flags = OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK;
                fcntl(&terminal.master, FcntlArg::F_SETFL(flags))?;
                // A terminal is read and written just as a pipe is; it only says so differently.
                let master = OwnedFd::from(terminal.master);
                let read = pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
                let write = pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?;
                copy(LogStream::Stdout, read, sender.clone());
                let input = spec.stdin.then(|| feed(write, END_OF_INPUT));
                Ok((input, Box::new(Resizer(Some(master)))))
            }
        }
    }
}

/// Writes what is sent to the input of the command, then `last`.
fn feed(mut to: pipe::Sender, last: &'static [u8]) -> mpsc::Sender<Bytes> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES_AHEAD);
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            if to.write_all(&piece).await.is_err() {
                // The command does not read any more.
                return;
            }
        }
        // Nobody may be there to read it.
        let _ = to.write_all(last).await;
    });
    sender
}

fn copy(stream: LogStream, mut from: impl AsyncRead + Unpin + Send + 'static, to: OutputSender) {
    tokio::spawn(async move {
        let mut buffer = vec![0; PIECE_BYTES];
        // A terminal ends with an error once nobody has it open.
        while let Ok(read) = from.read(&mut buffer).await {
            let data = Bytes::copy_from_slice(&buffer[..read]);
            if read == 0 || to.send(Ok(LogChunk { stream, data })).await.is_err() {
                return;
            }
        }
    });
}

/// Our end of the terminal, where there is one.
struct Resizer(Option<OwnedFd>);

#[async_trait]
impl ExecResizer for Resizer {
    async fn resize(&self, width: u16, height: u16) -> Result<(), RuntimeError> {
        let Some(master) = &self.0 else {
            return Err(RuntimeError::Unsupported {
                runtime: "process",
                what: "resize a command without a terminal".to_owned(),
            });
        };
        terminal::resize(master, width, height)
            .map_err(|source| RuntimeError::State { path: "/dev/ptmx".into(), source })
    }
}

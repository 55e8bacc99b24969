//! `fgpu exec`: run a command in a running session.

use std::time::Duration;

use clap::Args;
use fgpu_wire::v1::{self, ExecRequest, exec_request, exec_response};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::{ConnectArgs, Link};
use crate::failure::{EXIT_OURS, EXIT_USAGE, Failure};
use crate::logs;
use crate::parse;
use crate::terminal::{self, RawMode};

/// `fgpu exec`
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Pass this terminal's (or program's) input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable; `KEY` alone takes the value it has here; may be repeated
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = parse::env)]
    pub(crate) env: Vec<(String, String)>,
    /// Working directory of the command
    #[arg(short, long, value_name = "PATH", default_value = "", hide_default_value = true)]
    pub(crate) workdir: String,
    /// User of the command
    #[arg(short, long, value_name = "USER", default_value = "", hide_default_value = true)]
    pub(crate) user: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// Session: its id, a unique beginning of it, or its name
    pub(crate) session: String,
    /// Command and its arguments
    #[arg(trailing_var_arg = true, required = true)]
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Runs `fgpu exec`; gives the exit code of the command.
pub(crate) async fn run(args: ExecArgs) -> Result<u8, Failure> {
    let link = args.connect.link()?;
    let start = v1::ExecStart {
        session: args.session,
        command: args.command,
        env: args.env.into_iter().collect(),
        tty: args.tty,
        stdin: args.interactive,
        workdir: args.workdir,
        user: args.user,
        size: None,
    };
    talk(&link, start).await.map_err(|failure| failure.or_exit(EXIT_OURS))
}

/// Runs a command with this process's input and output; gives its exit code.
pub(crate) async fn talk(link: &Link, mut start: v1::ExecStart) -> Result<u8, Failure> {
    if start.tty && start.stdin && !terminal::is_interactive() {
        return Err(Failure::new("`--tty` needs a terminal for input and output")
            .hint("leave `-t` out: `-i` alone passes input from a pipe")
            .exit(EXIT_USAGE));
    }
    let raw = start.tty && start.stdin;
    start.size = terminal::size().filter(|_| start.tty);
    let with_input = start.stdin;
    let (sender, receiver) = mpsc::channel(16);
    let first = ExecRequest { message: Some(exec_request::Message::Start(start)) };
    let _ = sender.send(first).await;
    let clients = link.connect().await?;
    let answered = clients.sessions().exec(ReceiverStream::new(receiver)).await;
    let mut responses = answered.map_err(|status| Failure::from(&status))?.into_inner();
    let _raw = if raw { Some(RawMode::enter()?) } else { None };
    let mut tasks = tokio::task::JoinSet::new();
    if raw {
        tasks.spawn(pass_resizes(sender.clone()));
    }
    if with_input {
        tasks.spawn(pass_input(sender));
    } else {
        // Kept open: the end of our side would be the end of the command's.
        tasks.spawn(async move { sender.closed().await });
    }
    loop {
        let message = responses.message().await.map_err(|status| Failure::from(&status))?;
        match message.and_then(|response| response.message) {
            Some(exec_response::Message::Output(chunk)) => logs::print(&chunk)?,
            Some(exec_response::Message::ExitCode(code)) => {
                return Ok(u8::try_from(code & 0xff).unwrap_or(1));
            }
            None => {
                return Err(Failure::new("the command's connection ended without an exit code")
                    .hint("the session may have ended: see `fgpu get`"));
            }
        }
    }
}

/// Sends our input, then its end.
async fn pass_input(sender: mpsc::Sender<ExecRequest>) {
    let mut input = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = input.read(&mut buffer).await.unwrap_or(0);
        let message = match count {
            0 => exec_request::Message::StdinClosed(true),
            count => exec_request::Message::Stdin(buffer[..count].to_vec()),
        };
        let sent = sender.send(ExecRequest { message: Some(message) }).await;
        if sent.is_err() || count == 0 {
            break;
        }
    }
    sender.closed().await;
}

/// Sends the size of the terminal whenever it changes.
async fn pass_resizes(sender: mpsc::Sender<ExecRequest>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        // A dragged border changes the size many times a second.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let Some(size) = terminal::size() else { continue };
        let message = Some(exec_request::Message::Resize(size));
        if sender.send(ExecRequest { message }).await.is_err() {
            return;
        }
    }
}

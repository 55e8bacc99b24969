//! `fgpu port-forward`: reach a port inside a session at a loopback port here.

use clap::Args;
use fgpu_wire::v1::{PortForwardRequest, PortForwardStart, port_forward_request::Message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::{Clients, ConnectArgs, Link, Repeat};
use crate::failure::Failure;
use crate::output;
use crate::parse;
use crate::progress;

/// `fgpu port-forward`
#[derive(Debug, Args)]
pub(crate) struct PortForwardArgs {
    /// Session: its id, a unique beginning of it, or its name
    pub(crate) session: String,
    /// Port here and port in the session; one number for both, `:80` for any free port here
    #[arg(required = true, value_name = "[LOCAL:]REMOTE", value_parser = parse::forward)]
    pub(crate) ports: Vec<(u16, u16)>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Runs `fgpu port-forward` until it is interrupted.
pub(crate) async fn run(args: PortForwardArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let request = fgpu_wire::v1::GetSessionRequest { session: args.session };
    let session = link
        .call(Repeat::Safe, async |clients| clients.sessions().get_session(request.clone()).await)
        .await?;
    let mut listeners = Vec::new();
    for (local, remote) in args.ports {
        let listener = TcpListener::bind(("127.0.0.1", local)).await.map_err(|error| {
            Failure::because(format!("cannot listen on 127.0.0.1:{local}"), &error)
                .hint(format!("choose another port here, or any: `:{remote}`"))
        })?;
        let at = listener.local_addr().map_err(|error| Failure::of(&error))?;
        output::line(at.to_string())?;
        let label = progress::label(&session);
        output::say(format!("forwarding {at} to port {remote} of session {label}"));
        listeners.push((listener, remote));
    }
    serve(&link, &session.id, listeners).await
}

async fn serve(
    link: &Link,
    session: &str,
    listeners: Vec<(TcpListener, u16)>,
) -> Result<(), Failure> {
    let (sender, mut accepted) = mpsc::channel(16);
    for (listener, remote) in listeners {
        let sender = sender.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if sender.send((stream, remote)).await.is_err() {
                    return;
                }
            }
        });
    }
    loop {
        let (stream, remote) = tokio::select! {
            accepted = accepted.recv() => match accepted {
                Some(accepted) => accepted,
                None => return Ok(()),
            },
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        match link.connect().await {
            Ok(clients) => {
                let start = PortForwardStart { session: session.to_owned(), port: remote.into() };
                tokio::spawn(async move {
                    if let Err(failure) = carry(&clients, start, stream).await {
                        output::say(failure.to_string());
                    }
                });
            }
            Err(failure) => output::say(failure.to_string()),
        }
    }
}

/// Carries one connection; each side's end is passed on by itself.
async fn carry(
    clients: &Clients,
    start: PortForwardStart,
    stream: TcpStream,
) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel(16);
    let first = PortForwardRequest { message: Some(Message::Start(start)) };
    let _ = sender.send(first).await;
    let answered = clients.sessions().port_forward(ReceiverStream::new(receiver)).await;
    let mut responses = answered.map_err(|status| Failure::from(&status))?.into_inner();
    let (mut read, mut write) = stream.into_split();
    let upwards = tokio::spawn(async move {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let count = read.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            let message = Some(Message::Data(buffer[..count].to_vec()));
            if sender.send(PortForwardRequest { message }).await.is_err() {
                return;
            }
        }
    });
    let result = loop {
        match responses.message().await {
            Ok(Some(response)) => {
                if write.write_all(&response.data).await.is_err() {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(status) => break Err(Failure::from(&status)),
        }
    };
    let _ = write.shutdown().await;
    upwards.abort();
    result
}

//! One TCP connection to a port of a session.

use super::LinkParts;
use super::channel::{Refused, Sink, Trouble, session_id};
use super::shell::running_container;
use crate::supervisor::{Snapshot, StandingState};
use fgpu_domain::ids::SessionId;
use fgpu_runtime::NetworkKind;
use fgpu_wire::error::ErrorCode;
use fgpu_wire::v1;
use fgpu_wire::v1::channel_down::Message as Down;
use fgpu_wire::v1::channel_up::Message as Up;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tonic::Streaming;

/// Bytes of one message.
const PIECE: usize = 32 << 10;
/// How long the port may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

/// Connects to the port and passes bytes on both ways until the session's end closes.
pub(super) async fn serve(
    parts: &LinkParts,
    sink: &Sink,
    down: &mut Streaming<v1::ChannelDown>,
    start: v1::PortForwardStart,
) -> Result<(), Trouble> {
    let session = session_id(&start.session)?;
    let snapshot = parts.supervisor.snapshot();
    running_container(&snapshot, &session)?;
    let info = parts.supervisor.engine().borrow().info.clone();
    let network = info.map(|info| info.network);
    let address = address(&snapshot, &session, start.port, network, parts.publish_on)?;
    let failed = |reason: String| {
        let message = format!("port {} of session {session} does not accept: {reason}", start.port);
        Refused::new(
            ErrorCode::AgentFailed,
            message,
            "does the program listen on it, on all addresses?",
        )
    };
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(error.to_string()).into()),
        Err(_) => return Err(failed(format!("no answer within {CONNECT:?}")).into()),
    };
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    tokio::select! {
        up = to_caller(reader, sink) => up,
        () = to_session(down, writer) => Err(Trouble::Hangup),
        () = sink.closed() => Err(Trouble::Hangup),
    }
}

async fn to_caller(mut reader: OwnedReadHalf, sink: &Sink) -> Result<(), Trouble> {
    let mut buffer = vec![0; PIECE];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => sink.send(Up::Data(buffer[..count].to_vec())).await?,
        }
    }
}

/// Returns when the call has failed.
async fn to_session(down: &mut Streaming<v1::ChannelDown>, writer: OwnedWriteHalf) {
    let mut writer = Some(writer);
    loop {
        let message = match down.message().await {
            Ok(Some(message)) => message.message,
            Ok(None) => {
                close(writer.take()).await;
                std::future::pending().await
            }
            Err(_) => return,
        };
        match message {
            Some(Down::Data(data)) => {
                let Some(open) = &mut writer else { continue };
                if open.write_all(&data).await.is_err() {
                    writer = None;
                }
            }
            Some(Down::Closed(_)) => close(writer.take()).await,
            Some(Down::Resize(_)) | None => {}
        }
    }
}

/// Tells the session that nothing more comes; it may still answer.
async fn close(writer: Option<OwnedWriteHalf>) {
    if let Some(mut writer) = writer {
        let _ = writer.shutdown().await;
    }
}

/// Where the port is reached from this machine.
fn address(
    snapshot: &Snapshot,
    session: &SessionId,
    port: u32,
    network: Option<NetworkKind>,
    publish_on: IpAddr,
) -> Result<SocketAddr, Refused> {
    let invalid = || {
        let message = format!("{port} is no port: 1 to 65535");
        Refused::new(ErrorCode::InvalidArgument, message, "")
    };
    let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(invalid)?;
    let standing = snapshot.newest(session).map(|(_, standing)| &standing.state);
    let published = match standing {
        Some(StandingState::Running(running)) => {
            running.ports.iter().find(|known| known.container_port == port)
        }
        _ => None,
    };
    let local = match publish_on {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        address => address,
    };
    match (published, network) {
        (Some(known), _) => Ok(SocketAddr::new(local, known.host_port)),
        (None, Some(NetworkKind::Host)) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        (None, _) => {
            let message = format!("port {port} of session {session} is not published");
            let hint = format!("create the session with `--publish {port}`");
            Err(Refused::new(ErrorCode::WrongPhase, message, &hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::id;
    use crate::ledger::Running;
    use crate::supervisor::Standing;
    use fgpu_domain::session::PublishedPort;
    use fgpu_domain::time::UnixMillis;

    fn snapshot() -> Snapshot {
        let port =
            PublishedPort { container_port: 80, host: "10.0.0.1".to_owned(), host_port: 40_000 };
        let running = Running { container: "c1".to_owned(), at: UnixMillis(1), ports: vec![port] };
        let standing = Standing {
            state: StandingState::Running(running),
            grant: None,
            container: Some("c1".to_owned()),
            resend: 0,
        };
        Snapshot { placements: [(id("aaaaaaaa", 1), standing)].into(), ..Snapshot::default() }
    }

    fn reached(port: u32, network: NetworkKind, publish_on: &str) -> Result<String, Refused> {
        let session = "aaaaaaaa".parse().unwrap();
        let publish_on = publish_on.parse().unwrap();
        address(&snapshot(), &session, port, Some(network), publish_on).map(|at| at.to_string())
    }

    #[test]
    fn a_port_is_reached_where_it_was_published() {
        assert_eq!(reached(80, NetworkKind::Bridge, "10.0.0.1").unwrap(), "10.0.0.1:40000");
        assert_eq!(reached(80, NetworkKind::Bridge, "0.0.0.0").unwrap(), "127.0.0.1:40000");
        assert_eq!(reached(8080, NetworkKind::Host, "127.0.0.1").unwrap(), "127.0.0.1:8080");
    }

    #[test]
    fn a_port_that_is_not_published_or_none_is_refused() {
        assert!(reached(8080, NetworkKind::Bridge, "127.0.0.1").is_err());
        assert!(reached(0, NetworkKind::Host, "127.0.0.1").is_err());
        assert!(reached(70_000, NetworkKind::Host, "127.0.0.1").is_err());
    }
}

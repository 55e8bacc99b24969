//! The server: all services on one port, behind the gate.

use super::coalesce::Coalesced;
use super::gate::GateLayer;
use super::{admin, agents, devices, nodes, projects, sessions};
use crate::config::ManagerConfig;
use crate::error::ManagerError;
use crate::leader::Role;
use fgpu_service::tls;
use fgpu_wire::link::AgentServiceServer;
use fgpu_wire::v1::admin_service_server::AdminServiceServer;
use fgpu_wire::v1::device_service_server::DeviceServiceServer;
use fgpu_wire::v1::node_service_server::NodeServiceServer;
use fgpu_wire::v1::project_service_server::ProjectServiceServer;
use fgpu_wire::v1::session_service_server::SessionServiceServer;
use fgpu_wire::{DESCRIPTORS, MAX_MESSAGE_BYTES};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::ServerTlsConfig;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

/// A request of a person: a specification is at most a few hundred KiB.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Pings that find callers that are gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes a stream, and a connection, may have on the way: small, because a thousand agents hold one
/// each; enough for logs and terminals.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
const MAX_STREAMS: u32 = 256;
/// The service whose health says whether this manager leads.
const LEADING: &str = "fgpu.v1.SessionService";

/// Everything served, not yet on a socket.
pub(crate) struct Server {
    roles: watch::Receiver<Role>,
    tls: Option<ServerTlsConfig>,
}

impl Server {
    /// Loads the certificates; without any, only loopback is served.
    pub(crate) fn new(
        config: &ManagerConfig,
        roles: watch::Receiver<Role>,
    ) -> Result<Self, ManagerError> {
        if config.tls.is_none() && !config.listen.ip().is_loopback() {
            return Err(ManagerError::Exposed { address: config.listen });
        }
        let tls = config.tls.as_ref().map(tls::load_server).transpose()?;
        Ok(Self { roles, tls })
    }

    /// Serves on `listener` until `shutdown`, then until every call has ended.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        address: SocketAddr,
        shutdown: CancellationToken,
    ) -> Result<(), ManagerError> {
        let failed = |source| ManagerError::Server { address: address.to_string(), source };
        let mut builder = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .tcp_nodelay(true);
        if let Some(tls) = self.tls {
            builder = builder.tls_config(tls).map_err(failed)?;
        }
        let (reporter, health) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .build_v1()?;
        let follow = report_health(reporter, self.roles.clone());
        let router = builder
            .layer(GateLayer::new(self.roles))
            .add_service(health)
            .add_service(reflection)
            .add_service(
                SessionServiceServer::new(sessions::Sessions)
                    .max_decoding_message_size(MAX_REQUEST_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                NodeServiceServer::new(nodes::Nodes).max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                DeviceServiceServer::new(devices::Devices)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(AdminServiceServer::new(admin::Admin::default()))
            .add_service(
                ProjectServiceServer::new(projects::Projects::default())
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                AgentServiceServer::new(agents::Agents)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            );
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let incoming = incoming.map(|accepted| accepted.map(Coalesced::new));
        tracing::info!(%address, "listening");
        let served = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned());
        tokio::select! {
            served = served => served.map_err(failed),
            () = follow => Ok(()),
        }
    }
}

/// Keeps health in step with the role; never returns while the manager runs.
async fn report_health(
    reporter: tonic_health::server::HealthReporter,
    mut roles: watch::Receiver<Role>,
) {
    reporter.set_service_status("", ServingStatus::Serving).await;
    loop {
        let leads = matches!(*roles.borrow_and_update(), Role::Leading(_));
        let status = if leads { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(LEADING, status).await;
        if roles.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

//! The link to the manager: dial, register, then heartbeats and reports up and desired state down.
//!
//! [`run`] dials the managers in turn, with full jitter between attempts, for as long as the agent
//! lives. One connection is `connection`; what it measures comes from `usage`, off the link's own
//! task, so that a driver or an engine that hangs never stops a heartbeat; bulk data goes through
//! connections of `channel`.

mod channel;
mod connection;
mod forward;
mod shell;
mod stream_logs;
mod usage;

use crate::images::ImageNames;
use crate::notify::Notifier;
use crate::state_dir::Paths;
use crate::supervisor::{SupervisorGone, SupervisorHandle};
use connection::{Connection, Ended};
use fgpu_accelerator::Accelerator;
use fgpu_domain::ids::{ClusterId, NodeName};
use fgpu_domain::node::Inventory;
use fgpu_service::retry::{Backoff, Retry};
use fgpu_service::secret::Secret;
use fgpu_wire::error::{CallError, ErrorCode};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::ClientTlsConfig;

/// Between attempts at managers that are away. A crowd that lost its manager comes back spread
/// over this.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(10) };
/// Between attempts that were refused: only an administrator changes that.
const REFUSED_BACKOFF: Backoff =
    Backoff { first: Duration::from_secs(10), longest: Duration::from_secs(60) };
/// Without a manager for this long, systemd is told that the agent is up all the same.
const READY_ANYWAY: Duration = Duration::from_secs(10);

/// What the link works with.
pub struct LinkParts {
    /// Managers, as URLs.
    pub managers: Vec<String>,
    /// Certificates for those reached by `https`.
    pub tls: Option<ClientTlsConfig>,
    /// The token to show.
    pub token: Option<Secret>,
    /// The node.
    pub node: NodeName,
    /// Tells this agent from another under the same name.
    pub agent_id: String,
    /// The cluster that has accepted this agent before.
    pub cluster: Option<ClusterId>,
    /// The state of the node.
    pub supervisor: SupervisorHandle,
    /// What the node is.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// The images it holds; `None` where there are none.
    pub images: Option<ImageNames>,
    /// Measures devices.
    pub accelerator: Arc<dyn Accelerator>,
    /// Where kept output lies.
    pub paths: Paths,
    /// Where published ports listen.
    pub publish_on: IpAddr,
    /// Tells systemd.
    pub notifier: Notifier,
    /// Ends the link.
    pub shutdown: CancellationToken,
}

/// Why the link gave up for good.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A manager will not have an agent that it never had before.
    #[error("manager {manager} refuses this agent: {refusal}{}", hint(refusal))]
    Refused {
        /// The manager.
        manager: String,
        /// Its words.
        refusal: Box<CallError>,
    },
    /// The agent is going down.
    #[error(transparent)]
    Gone(#[from] SupervisorGone),
}

fn hint(refusal: &CallError) -> String {
    let own = match refusal.code {
        ErrorCode::NodeNameTaken => {
            "give this node another name with `--node`, or stop the other agent"
        }
        ErrorCode::Unauthenticated => "give the agent a valid token with `--token-file`",
        ErrorCode::ProtocolMismatch => "install the agent of the manager's version",
        ErrorCode::WrongCluster => {
            "dial the manager of its own cluster, or give it a fresh `--state-dir` to join this one"
        }
        _ => "",
    };
    let hint = if refusal.hint.is_empty() { own } else { refusal.hint.as_str() };
    if hint.is_empty() { String::new() } else { format!("; {hint}") }
}

/// Keeps the link up until shutdown.
///
/// # Errors
/// [`LinkError::Refused`] where an agent that no manager ever accepted is refused for what it is:
/// then somebody is there to read it. Later refusals are logged and tried again.
pub async fn run(parts: LinkParts) -> Result<(), LinkError> {
    let parts = Arc::new(parts);
    let ready = tokio::spawn(ready_anyway(parts.notifier));
    let ended = dial_in_turn(&parts).await;
    ready.abort();
    ended
}

async fn dial_in_turn(parts: &Arc<LinkParts>) -> Result<(), LinkError> {
    let (mut retry, mut refused_retry) = (Retry::new(BACKOFF), Retry::new(REFUSED_BACKOFF));
    let mut turn = 0;
    let mut leader: Option<String> = None;
    let mut accepted = parts.cluster.is_some();
    loop {
        let next = parts.managers[turn % parts.managers.len()].clone();
        let manager = leader.take().unwrap_or(next);
        let connection = Connection::run(parts, &manager);
        let (ended, welcomed) = tokio::select! {
            ended = connection => ended,
            () = parts.shutdown.cancelled() => return Ok(()),
        };
        accepted |= welcomed;
        if welcomed {
            retry.reset();
            refused_retry.reset();
        }
        let pause = match ended {
            Ended::Gone(gone) => return Err(gone.into()),
            Ended::Redirected(to) => {
                tracing::info!(%manager, leader = %to, "another manager leads");
                leader = Some(to);
                retry.next_pause()
            }
            Ended::Refused(refusal) => {
                if !accepted && is_final(refusal.code) {
                    return Err(LinkError::Refused { manager, refusal: Box::new(refusal) });
                }
                tracing::error!(%manager, code = %refusal.code, "refused: {refusal}{}", hint(&refusal));
                parts.notifier.status(&format!("refused by {manager}: {refusal}"));
                turn += 1;
                refused_retry.next_pause()
            }
            Ended::Lost(reason) => {
                tracing::warn!(%manager, %reason, "no manager; sessions keep running, trying on");
                parts.notifier.status(&format!("no manager at {manager}: {reason}"));
                turn += 1;
                retry.next_pause()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = parts.shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Refusals that no waiting changes.
fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NodeNameTaken
            | ErrorCode::Unauthenticated
            | ErrorCode::PermissionDenied
            | ErrorCode::ProtocolMismatch
            | ErrorCode::WrongCluster
            | ErrorCode::InvalidArgument
    )
}

/// An agent without a manager is up too: its sessions run.
async fn ready_anyway(notifier: Notifier) {
    tokio::time::sleep(READY_ANYWAY).await;
    notifier.ready("running; looking for a manager");
}

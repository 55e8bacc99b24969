//! Output of a session: from its container while there is one, else from what was kept.

use super::LinkParts;
use super::channel::{Refused, Sink, Trouble, session_id};
use crate::logs::archive;
use crate::logs::read::{ReadOptions, read};
use crate::supervisor::{Snapshot, StandingState};
use fgpu_domain::ids::SessionId;
use fgpu_domain::reconcile::PlacementId;
use fgpu_runtime::{LogOptions, RuntimeError};
use fgpu_wire::error::ErrorCode;
use fgpu_wire::v1;
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a container that has just gone may take to be put away.
const PUT_AWAY: Duration = Duration::from_secs(60);

/// Where output is to be had.
enum Place {
    /// In this container.
    Container(PlacementId, String),
    /// Nowhere yet.
    NotStarted,
    /// In what was kept, if anything.
    Kept,
}

/// Sends what is asked for. With `follow`, waits for a session that has not started, and ends when
/// its container does.
pub(super) async fn serve(
    parts: &LinkParts,
    sink: &Sink,
    request: v1::StreamLogsRequest,
) -> Result<(), Trouble> {
    let session = session_id(&request.session)?;
    let mut snapshots = parts.supervisor.snapshots();
    loop {
        let place = place(&snapshots.borrow_and_update(), &session);
        match place {
            Place::Container(id, container) => {
                match live(parts, sink, &request, &container).await {
                    // It was put away while we looked.
                    Err(Trouble::Refused(_)) if gone(&mut snapshots, &id).await => {}
                    served => return served,
                }
            }
            Place::NotStarted if request.follow => {
                tokio::select! {
                    changed = snapshots.changed() => changed.map_err(|_| Trouble::Hangup)?,
                    () = sink.closed() => return Err(Trouble::Hangup),
                }
            }
            Place::NotStarted => return Ok(()),
            Place::Kept => return kept(parts, sink, &request, &session).await,
        }
    }
}

fn place(snapshot: &Snapshot, session: &SessionId) -> Place {
    let Some((id, standing)) = snapshot.newest(session) else { return Place::Kept };
    match (&standing.state, &standing.container) {
        (StandingState::Running(_), Some(container)) => {
            Place::Container(id.clone(), container.clone())
        }
        (StandingState::Preparing(_), _) => Place::NotStarted,
        (StandingState::Running(_), None) | (StandingState::Gone(_), _) => Place::Kept,
    }
}

async fn live(
    parts: &LinkParts,
    sink: &Sink,
    request: &v1::StreamLogsRequest,
    container: &str,
) -> Result<(), Trouble> {
    let since = (request.since_ms > 0).then_some(request.since_ms / 1000);
    let options = LogOptions {
        follow: request.follow,
        tail: request.tail,
        timestamps: request.timestamps,
        since_unix_s: since.and_then(|seconds| i64::try_from(seconds).ok()),
    };
    let mut output = parts.supervisor.runtime().logs(container, options).await?;
    while let Some(chunk) = output.next().await {
        match chunk {
            Ok(chunk) => sink.output(chunk.stream, chunk.data.to_vec()).await?,
            // Removed while it was read to its end.
            Err(RuntimeError::NoSuchContainer { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether the placement gets to its end soon, so that its output is in what was kept.
async fn gone(snapshots: &mut watch::Receiver<Arc<Snapshot>>, id: &PlacementId) -> bool {
    let is_gone = |snapshot: &Arc<Snapshot>| {
        let standing = snapshot.placements.get(id);
        standing.is_none_or(|standing| matches!(standing.state, StandingState::Gone(_)))
    };
    matches!(tokio::time::timeout(PUT_AWAY, snapshots.wait_for(is_gone)).await, Ok(Ok(_)))
}

async fn kept(
    parts: &LinkParts,
    sink: &Sink,
    request: &v1::StreamLogsRequest,
    session: &SessionId,
) -> Result<(), Trouble> {
    let nothing = || {
        let message = format!("no output of session {session} is kept on node {}", parts.node);
        let hint = "it never ran here, or its output was dropped by the node's limits";
        Refused::new(ErrorCode::SessionNotFound, message, hint)
    };
    let (paths, session, sink) = (parts.paths.clone(), session.clone(), sink.clone());
    let options = ReadOptions {
        tail: request.tail,
        timestamps: request.timestamps,
        since_ms: request.since_ms,
    };
    let reading = tokio::task::spawn_blocking(move || {
        let Some(id) = archive::newest_of(&paths, &session) else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        read(&paths, &id, &options, |stream, data| sink.blocking_output(stream, data))
    });
    match reading.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(nothing().into()),
        Ok(Err(error)) => {
            let message = format!("kept output cannot be read: {error}");
            Err(Refused::new(ErrorCode::AgentFailed, message, "").into())
        }
        Err(_) => Err(Trouble::Hangup),
    }
}

//! Putting away what is left of a placement that has ended: output kept, container removed.

use super::{Done, Tools};
use crate::ends;
use crate::logs::archive;
use fgpu_domain::reconcile::PlacementId;
use std::time::Duration;

/// How long the end may take to become durable before the container goes all the same.
const DURABLE: Duration = Duration::from_secs(10);
/// How long reading the output of a container may take.
const ARCHIVE: Duration = Duration::from_secs(60);
/// How long removing is tried before it is left to the next list.
const REMOVE: Duration = Duration::from_secs(15);

/// Puts away what is left of `id`. Always tells that it is finished: what could not be removed now
/// is found by a later list, and holds nothing.
pub(super) async fn run(tools: Tools, id: PlacementId, container: Option<String>) {
    if let Some(container) = &container {
        keep_output(&tools, &id, container).await;
    }
    let durable = tools.writer.durable(tools.revision, DURABLE).await;
    if durable {
        tools.remove_all_of(&id, REMOVE).await;
    } else {
        tracing::error!(session = %id.session, "its end cannot be written down: the container stays");
    }
    tools.settings.paths.forget_slice(&id);
    tools.tell(Done::Finished { id }).await;
}

/// Removes a container of ours that belongs to nothing that runs; its output is kept where it is
/// known whose it is and none was kept before.
pub(super) async fn leftover(tools: Tools, container: String, id: Option<PlacementId>) {
    if let Some(id) = id.as_ref().filter(|id| !archive::exists(&tools.settings.paths, id)) {
        keep_output(&tools, id, &container).await;
    }
    // What is known of it may not be on disk yet.
    let durable = tools.writer.durable(tools.revision, DURABLE).await;
    if durable && let Err(error) = tools.runtime.remove(&container).await {
        tracing::warn!(%container, error = %ends::chain(&error), "leftover container stays for now");
    }
    tools.tell(Done::LeftoverRemoved { container }).await;
}

async fn keep_output(tools: &Tools, id: &PlacementId, container: &str) {
    let settings = &tools.settings;
    let keep = archive::keep(&*tools.runtime, container, &settings.paths, id, settings.logs);
    match tokio::time::timeout(ARCHIVE, keep).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(session = %id.session, error = %ends::chain(&error), "output is not kept in full");
        }
        Err(_) => {
            tracing::warn!(session = %id.session, seconds = ARCHIVE.as_secs(), "reading the output took too long: not kept in full");
        }
    }
}

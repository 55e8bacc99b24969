//! Stopping a placement that runs.

use super::{BACKOFF, Done, Tools};
use crate::ends::{self, End};
use fgpu_domain::reconcile::PlacementId;
use fgpu_runtime::RuntimeError;
use fgpu_service::retry::Retry;
use std::time::Duration;

/// Stops the container and tells its end. Tries as long as it takes: what was told to stop may not
/// stay because an engine was away for a while.
pub(super) async fn run(tools: Tools, id: PlacementId, container: String, grace: Duration) {
    let mut retry = Retry::new(BACKOFF);
    let mut told = false;
    let end = loop {
        match stop(&tools, &container, grace).await {
            Ok(end) => break end,
            Err(error) => {
                if !told {
                    tracing::warn!(session = %id.session, error = %ends::chain(&error), "cannot stop it yet; trying on");
                    told = true;
                }
            }
        }
        retry.pause().await;
    };
    tools.tell(Done::Stopped { id, end }).await;
}

async fn stop(tools: &Tools, container: &str, grace: Duration) -> Result<End, RuntimeError> {
    let gone =
        || End::failed("", "its container was removed while it was being stopped", tools.now());
    match tools.runtime.stop(container, grace).await {
        Ok(()) => {}
        Err(RuntimeError::NoSuchContainer { .. }) => return Ok(gone()),
        Err(error) => return Err(error),
    }
    match tools.runtime.inspect(container).await {
        Ok(found) => match End::of_state(&found.state, tools.now()) {
            Some(end) => Ok(end),
            None => Err(RuntimeError::StartFailed {
                id: container.to_owned(),
                reason: "it runs although it was stopped".to_owned(),
            }),
        },
        Err(RuntimeError::NoSuchContainer { .. }) => Ok(gone()),
        Err(error) => Err(error),
    }
}

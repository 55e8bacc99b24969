//! Starting a placement: image, slice file, container, command.

use super::{BACKOFF, Done, Tools};
use crate::ends::{self, End};
use crate::inject::{self, Facts, InjectError, SliceFile};
use crate::ledger::{Running, write_atomically};
use crate::order::Order;
use crate::supervisor::state::running_of;
use fgpu_domain::device::with_instances;
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::session::Progress;
use fgpu_domain::time::UnixMillis;
use fgpu_runtime::{
    ContainerSpec, ContainerState, PullPhase, PullPolicy, PullProgress, RuntimeError,
};
use fgpu_service::retry::Retry;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// How long what a failed start left is tried to be removed.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// Why a start came to nothing.
struct Failure {
    code: &'static str,
    message: String,
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        let (code, message) = ends::of_error(&error);
        Self { code, message }
    }
}

impl From<InjectError> for Failure {
    fn from(error: InjectError) -> Self {
        Self { code: error.code(), message: ends::chain(&error) }
    }
}

/// Starts `id`, or gives it up when cancelled; tells how it went.
pub(super) async fn run(tools: Tools, id: PlacementId, order: Order, cancel: CancellationToken) {
    let started = tokio::select! {
        started = start(&tools, &id, &order) => Some(started),
        () = cancel.cancelled() => None,
    };
    let end = match started {
        Some(Ok(running)) => return tools.tell(Done::Started { id, running }).await,
        Some(Err(Failure { code, message })) => End::failed(code, message, tools.now()),
        None => End::never_ran(tools.now()),
    };
    tools.remove_all_of(&id, CLEAN_UP).await;
    tools.settings.paths.forget_slice(&id);
    tools.tell(Done::StartFailed { id, end }).await;
}

async fn start(tools: &Tools, id: &PlacementId, order: &Order) -> Result<Running, Failure> {
    let facts = facts(tools)?;
    let (spec, slice) = inject::container_spec(id, order, &facts)?;
    let ignored = inject::dropped(&order.spec.env, order.grant.isolation);
    if !ignored.is_empty() {
        tracing::warn!(session = %id.session, names = ignored.join(","), "environment of the session that it may not set is left out");
    }
    write_slice(tools, id, slice).await?;
    let until = Instant::now() + tools.settings.engine_patience;
    let mut retry = Retry::new(BACKOFF);
    loop {
        match attempt(tools, id, &spec).await {
            Ok(running) => return Ok(running),
            Err(RuntimeError::EngineUnavailable { .. }) if Instant::now() < until => {
                retry.pause().await;
            }
            Err(error @ RuntimeError::EngineUnavailable { .. }) => {
                let patience = tools.settings.engine_patience.as_secs();
                let said = ends::chain(&error);
                let message = format!("nothing was started for {patience} s: {said}");
                return Err(Failure { code: ends::ENGINE_UNAVAILABLE, message });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// One try; every step may be repeated.
async fn attempt(
    tools: &Tools,
    id: &PlacementId,
    spec: &ContainerSpec,
) -> Result<Running, RuntimeError> {
    if !spec.image.is_empty() {
        ensure_image(tools, id, &spec.image).await?;
    }
    let progress = Progress::Creating;
    tools.tell(Done::Progress { id: id.clone(), progress }).await;
    let container = tools.runtime.create(spec).await?;
    tools.runtime.start(&container).await?;
    let found = tools.runtime.inspect(&container).await?;
    let at = match found.state {
        ContainerState::Running { started_at_unix_ms, .. } => UnixMillis(started_at_unix_ms),
        // Already over: its end is seen by the observer like any other.
        ContainerState::Exited { .. } | ContainerState::Created => tools.now(),
    };
    Ok(running_of(&found, at, &tools.settings.advertise))
}

async fn ensure_image(tools: &Tools, id: &PlacementId, image: &str) -> Result<(), RuntimeError> {
    let (sender, steps) = mpsc::channel(16);
    let pull = tools.runtime.ensure_image(image, PullPolicy::IfNotPresent, sender);
    // The last step is taken when the pull is over and has dropped its sender.
    let (pulled, ()) = tokio::join!(pull, tell_progress(tools, id, steps));
    pulled
}

async fn tell_progress(tools: &Tools, id: &PlacementId, mut steps: mpsc::Receiver<PullProgress>) {
    let mut last: Option<Instant> = None;
    while let Some(step) = steps.recv().await {
        let due = last.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY);
        if !due || step.phase == PullPhase::Done {
            continue;
        }
        last = Some(Instant::now());
        let progress = Progress::Pulling { done: step.bytes_done, total: step.bytes_total };
        tools.tell(Done::Progress { id: id.clone(), progress }).await;
    }
}

async fn write_slice(tools: &Tools, id: &PlacementId, slice: SliceFile) -> Result<(), Failure> {
    let path = tools.settings.paths.slice_file(id);
    let write = move || write_atomically(&path, slice.to_json().as_bytes(), 0o444);
    let failed = |message| Failure { code: ends::STATE_UNWRITABLE, message };
    match tokio::task::spawn_blocking(write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(ends::chain(&error))),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn facts(tools: &Tools) -> Result<Facts, Failure> {
    let Some(cluster) = tools.cluster.clone() else {
        let message = "no manager has accepted this agent yet".to_owned();
        return Err(Failure { code: ends::BAD_ORDER, message });
    };
    Ok(Facts {
        cluster,
        devices: with_instances(&tools.devices),
        attach: tools.attach.clone(),
        attach_choice: tools.settings.attach,
        mounts: tools.settings.mounts.clone(),
        mounts_supported: tools.runtime.mounts_supported(),
        paths: tools.settings.paths.clone(),
        publish_on: tools.settings.publish_on,
        sysfs: tools.settings.sysfs.clone(),
    })
}

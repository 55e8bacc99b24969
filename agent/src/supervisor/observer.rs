//! Watches the container engine: its events as they come, and now and then all of its containers.
//!
//! Events are hints, the list is the truth. Every call has the runtime's own deadline, so an
//! engine that hangs is noticed within one turn of the list and one deadline.

use super::Input;
use crate::ends;
use crate::inject::attach::AttachFacts;
use crate::supervisor::state::Listing;
use fgpu_runtime::{
    Container, ContainerRuntime, EventKind, EventStream, RuntimeError, RuntimeInfo,
};
use fgpu_service::retry::{Backoff, Retry};
use futures_util::StreamExt as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How soon an engine that is away is asked again.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(5) };
/// How long events are gathered before the containers are looked at.
const GATHER: Duration = Duration::from_millis(5);

/// What was seen of the engine.
#[derive(Debug)]
pub(super) enum Sight {
    /// What it says of itself.
    Engine(Arc<RuntimeInfo>, AttachFacts),
    /// It does not answer.
    Away(String),
    /// All containers.
    Listed(Listing),
    /// One container, after an event.
    Container(Container),
}

/// Watches until nobody listens any more.
pub(super) async fn observe(
    runtime: Arc<dyn ContainerRuntime>,
    inputs: mpsc::Sender<Input>,
    relist: Duration,
) {
    let mut retry = Retry::new(BACKOFF);
    loop {
        let Err(error) = watch(&*runtime, &inputs, relist, &mut retry).await else { return };
        let sight = Sight::Away(ends::chain(&error));
        if inputs.send(Input::Seen(sight)).await.is_err() {
            return;
        }
        retry.pause().await;
    }
}

/// Watches until the engine fails, or nobody listens any more.
async fn watch(
    runtime: &dyn ContainerRuntime,
    inputs: &mpsc::Sender<Input>,
    relist: Duration,
    retry: &mut Retry,
) -> Result<(), RuntimeError> {
    let info = Arc::new(runtime.info().await?);
    let asked = info.clone();
    let attach = tokio::task::spawn_blocking(move || AttachFacts::read(&asked)).await;
    let live_restore = info.live_restore;
    let sight = Sight::Engine(info, attach.unwrap_or_default());
    if inputs.send(Input::Seen(sight)).await.is_err() {
        return Ok(());
    }
    let mut events: Option<EventStream> = None;
    loop {
        // Before the list, so that nothing happens between the two unseen.
        let mut stream = match events.take() {
            Some(stream) => stream,
            None => runtime.events().await?,
        };
        let began = Instant::now();
        let containers = runtime.list().await?;
        retry.reset();
        let listing = Listing { began, containers, live_restore };
        if inputs.send(Input::Seen(Sight::Listed(listing))).await.is_err() {
            return Ok(());
        }
        if follow(runtime, inputs, &mut stream, Instant::now() + relist).await? {
            events = Some(stream);
        }
        if inputs.is_closed() {
            return Ok(());
        }
    }
}

/// Follows events until `until`, or until the stream breaks: then false.
async fn follow(
    runtime: &dyn ContainerRuntime,
    inputs: &mpsc::Sender<Input>,
    events: &mut EventStream,
    until: Instant,
) -> Result<bool, RuntimeError> {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tokio::time::sleep_until(until) => return Ok(true),
            () = inputs.closed() => return Ok(true),
        };
        let Some(event) = event else { return Ok(false) };
        let mut ids = BTreeSet::new();
        let mut removed = note(&mut ids, event.id, event.kind);
        let gather = Instant::now() + GATHER;
        while let Ok(Some(event)) = tokio::time::timeout_at(gather, events.next()).await {
            removed |= note(&mut ids, event.id, event.kind);
        }
        for id in ids {
            match runtime.inspect(&id).await {
                Ok(container) => {
                    let sight = Sight::Container(container);
                    if inputs.send(Input::Seen(sight)).await.is_err() {
                        return Ok(true);
                    }
                }
                Err(RuntimeError::NoSuchContainer { .. }) => removed = true,
                Err(error) => return Err(error),
            }
        }
        if removed {
            // Only a list tells that something is not there.
            return Ok(true);
        }
    }
}

/// Notes a container to look at; true where only a list will tell. Starts are the workers' own.
fn note(ids: &mut BTreeSet<String>, id: String, kind: EventKind) -> bool {
    match kind {
        EventKind::Exited | EventKind::Oom => {
            ids.insert(id);
            false
        }
        EventKind::Removed => true,
        EventKind::Started => false,
    }
}

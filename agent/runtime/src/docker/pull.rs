//! Pulling images: progress added up over layers, and the three ways a pull fails kept apart.

use std::collections::HashMap;

use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::engine::{DeadlinePassed, Engine, EngineError};
use super::{DockerConfig, ImageReference, credentials};
use crate::{Cause, PullPhase, PullPolicy, PullProgress, RuntimeError};

/// Words of engines and registries for "no such image".
const NOT_FOUND: [&str; 5] = [
    "manifest unknown",
    "name unknown",
    "no matching manifest",
    "repository name not known",
    "not found",
];
/// Words for "not for you".
const DENIED: [&str; 7] = [
    "unauthorized",
    "no basic auth credentials",
    "denied",
    "authentication required",
    "forbidden",
    "authorization failed",
    "incorrect username or password",
];
/// Words for "no answer, or a broken or busy one".
const UNREACHABLE: [&str; 21] = [
    "connection refused",
    "connection reset",
    "no such host",
    "i/o timeout",
    "timeout exceeded",
    "handshake timeout",
    "deadline exceeded",
    "network is unreachable",
    "no route to host",
    "server misbehaving",
    "name resolution",
    "dial tcp",
    "unexpected eof",
    ": eof",
    "x509",
    "tls:",
    "http response to https client",
    "toomanyrequests",
    "too many requests",
    "unexpected http status: 5",
    "service unavailable",
];

pub(super) async fn ensure(
    engine: &Engine,
    config: &DockerConfig,
    image: &str,
    policy: PullPolicy,
    progress: &mpsc::Sender<PullProgress>,
) -> Result<(), RuntimeError> {
    let reference = ImageReference::parse(image)?;
    if policy != PullPolicy::Always && present(engine, image).await? {
        let done = PullProgress { phase: PullPhase::Done, ..PullProgress::default() };
        let _ = progress.try_send(done);
        return Ok(());
    }
    if policy == PullPolicy::Never {
        let image = image.to_owned();
        return Err(RuntimeError::ImageNotFound { image });
    }
    let credentials = match &config.registry_config {
        Some(path) => credentials::find(path, &reference).await?,
        None => None,
    };
    let options = CreateImageOptionsBuilder::new()
        .from_image(&reference.name)
        .tag(reference.version())
        .build();
    let docker = engine.client().await?;
    let pulling = docker.create_image(Some(options), None, credentials);
    tokio::select! {
        done = follow(engine, config, pulling, progress) => {
            done.map_err(|error| named(error, image, &reference))
        }
        error = engine.until_silent() => Err(error.into_runtime(format!("pull {image}"))),
    }
}

async fn present(engine: &Engine, image: &str) -> Result<bool, RuntimeError> {
    let docker = engine.client().await?;
    match engine.within(docker.inspect_image(image)).await {
        Ok(_) => Ok(true),
        Err(EngineError::Answered { status: 404, .. }) => Ok(false),
        Err(error) => Err(error.into_runtime(format!("inspect image {image}"))),
    }
}

/// How a pull failed.
enum PullError {
    Engine(EngineError),
    Idle(DeadlinePassed),
}

async fn follow(
    engine: &Engine,
    config: &DockerConfig,
    pulling: impl Stream<Item = Result<CreateImageInfo, bollard::errors::Error>>,
    progress: &mpsc::Sender<PullProgress>,
) -> Result<(), PullError> {
    let mut pulling = std::pin::pin!(pulling);
    let mut layers = Layers::default();
    let idle = config.pull_idle_deadline;
    loop {
        let next = tokio::time::timeout(idle, pulling.next()).await;
        match next.map_err(|_| PullError::Idle(DeadlinePassed(idle)))? {
            Some(Ok(told)) => layers.note(&told),
            Some(Err(error)) => return Err(PullError::Engine(engine.failed(error))),
            None => break,
        }
        let _ = progress.try_send(layers.progress());
    }
    layers.finish();
    // The last one should arrive: room is waited for, unless nobody reads any more.
    let _ = progress.try_send(layers.progress());
    Ok(())
}

fn named(error: PullError, image: &str, reference: &ImageReference) -> RuntimeError {
    let (image, registry) = (image.to_owned(), reference.registry.clone());
    let (status, message) = match error {
        PullError::Idle(passed) => {
            let source = Cause::from(passed);
            return RuntimeError::RegistryUnreachable { image, registry, source };
        }
        PullError::Engine(EngineError::Answered { status, message }) => (status, message),
        PullError::Engine(other) => return other.into_runtime(format!("pull {image}")),
    };
    match classify(status, &message) {
        Some(Failure::NotFound) => RuntimeError::ImageNotFound { image },
        Some(Failure::Denied) => {
            RuntimeError::ImageAccessDenied { image, registry, source: message.into() }
        }
        Some(Failure::Unreachable) => {
            RuntimeError::RegistryUnreachable { image, registry, source: message.into() }
        }
        None if message.contains("invalid reference format") => {
            RuntimeError::invalid("image", format!("`{image}` is not an image name"))
        }
        None => {
            RuntimeError::EngineFailed { doing: format!("pull {image}"), status, reason: message }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Failure {
    NotFound,
    Denied,
    Unreachable,
}

/// Why a pull failed, from the status of the engine's answer (0 within a stream) and its words:
/// engines have no code for it.
fn classify(status: u16, message: &str) -> Option<Failure> {
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    // A refused connection may say "not found" about a host, and a hidden repository may say both
    // "denied" and "does not exist": the order decides.
    if says(&UNREACHABLE) {
        return Some(Failure::Unreachable);
    }
    if says(&DENIED) || matches!(status, 401 | 403) {
        return Some(Failure::Denied);
    }
    (says(&NOT_FOUND) || status == 404).then_some(Failure::NotFound)
}

/// The layers of an image that is being pulled.
#[derive(Debug, Default)]
struct Layers {
    phase: PullPhase,
    by_id: HashMap<String, Layer>,
}

#[derive(Debug, Default)]
struct Layer {
    done: u64,
    total: u64,
    complete: bool,
}

impl Layers {
    fn note(&mut self, told: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&told.id, &told.status) else {
            return;
        };
        if status.starts_with("Pulling from") {
            // The id of this one is the tag.
            return;
        }
        let layer = self.by_id.entry(id.clone()).or_default();
        let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let detail = told.progress_detail.clone().unwrap_or_default();
        match status.as_str() {
            "Downloading" => {
                layer.done = number(detail.current).unwrap_or(layer.done).max(layer.done);
                layer.total = number(detail.total).unwrap_or(layer.total).max(layer.done);
                self.phase = PullPhase::Downloading;
            }
            "Extracting" => {
                layer.total = number(detail.total).unwrap_or(0).max(layer.total);
                layer.done = layer.total;
                self.phase = PullPhase::Extracting;
            }
            "Download complete" | "Verifying Checksum" => layer.done = layer.total,
            "Pull complete" | "Already exists" => {
                layer.done = layer.total;
                layer.complete = true;
            }
            _ => {}
        }
    }

    fn finish(&mut self) {
        self.phase = PullPhase::Done;
        for layer in self.by_id.values_mut() {
            layer.done = layer.total;
            layer.complete = true;
        }
    }

    fn progress(&self) -> PullProgress {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        PullProgress {
            phase: self.phase,
            bytes_done: self.by_id.values().map(|layer| layer.done).sum(),
            bytes_total: self.by_id.values().map(|layer| layer.total).sum(),
            layers_done: count(self.by_id.values().filter(|layer| layer.complete).count()),
            layers_total: count(self.by_id.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn told(id: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn progress_adds_up_over_layers_and_never_falls() {
        let mut layers = Layers::default();
        layers.note(&told("latest", "Pulling from a/b", 0, 0));
        layers.note(&told("l1", "Pulling fs layer", 0, 0));
        layers.note(&told("l2", "Already exists", 0, 0));
        layers.note(&told("l1", "Downloading", 30, 100));
        assert_eq!(
            layers.progress(),
            PullProgress {
                phase: PullPhase::Downloading,
                bytes_done: 30,
                bytes_total: 100,
                layers_done: 1,
                layers_total: 2
            }
        );
        layers.note(&told("l1", "Downloading", 10, 100));
        assert_eq!(layers.progress().bytes_done, 30);
        layers.note(&told("l1", "Extracting", 5, 100));
        layers.note(&told("l1", "Pull complete", 0, 0));
        layers.finish();
        assert_eq!(
            layers.progress(),
            PullProgress {
                phase: PullPhase::Done,
                bytes_done: 100,
                bytes_total: 100,
                layers_done: 2,
                layers_total: 2
            }
        );
    }

    #[test]
    fn the_three_ways_a_pull_fails_are_told_apart() {
        use Failure::{Denied, NotFound, Unreachable};
        let cases = [
            (404, "manifest for r/a:t not found: manifest unknown: manifest unknown", NotFound),
            (404, "no such image", NotFound),
            (
                404,
                "pull access denied for a, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
                Denied,
            ),
            (500, "Head \"http://r/v2/a/manifests/t\": no basic auth credentials", Denied),
            (0, "unauthorized: authentication required", Denied),
            (
                500,
                "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                Unreachable,
            ),
            (500, "dial tcp: lookup r.invalid: no such host", Unreachable),
            (0, "received unexpected HTTP status: 503 Service Unavailable", Unreachable),
            (429, "toomanyrequests: You have reached your pull rate limit", Unreachable),
            (500, "Get \"https://r/v2/\": context deadline exceeded", Unreachable),
            (500, "Get \"https://r/v2/\": EOF", Unreachable),
        ];
        for (status, message, failure) in cases {
            assert_eq!(classify(status, message), Some(failure), "{message}");
        }
        assert_eq!(classify(500, "no space left on device"), None);
    }
}

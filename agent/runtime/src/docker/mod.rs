//! The Docker runtime: containers of a Docker engine, reached through its socket.
//!
//! Start at [`DockerRuntime`]. What a container is made with is decided in `create`, a pure
//! function; what is read back is turned into our words in `observe`; `engine` holds the
//! connection and its deadlines. Containers are hardened by default, see [`DockerConfig`].

mod config;
mod create;
mod credentials;
mod engine;
mod exec;
mod observe;
mod pull;
mod reference;
mod streams;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptions,
    RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

pub use config::{DEFAULT_CAPABILITIES, DockerConfig, default_endpoint};
use engine::{Engine, EngineError};
pub use reference::ImageReference;

use crate::cgroup::{CgroupError, Cgroups};
use crate::{
    CgroupDriver, Container, ContainerRuntime, ContainerSpec, ContainerState, ContainerStats,
    EventStream, ExecSession, ExecSpec, Limits, LogChunkStream, LogOptions, PullPolicy,
    PullProgress, RuntimeError, RuntimeInfo, generation_of,
};

/// How many containers are asked for at once when all are listed.
const LIST_CONCURRENCY: usize = 8;
/// How long the engine may take to kill after the grace has passed, and to remove.
const ENDING: Duration = Duration::from_secs(60);

/// Containers of a Docker engine. Cheap to clone; all clones are the same runtime.
#[derive(Debug, Clone)]
pub struct DockerRuntime {
    config: Arc<DockerConfig>,
    engine: Engine,
    /// The last answer about the engine itself: making a container depends on it.
    info: Arc<Mutex<Option<RuntimeInfo>>>,
}

impl DockerRuntime {
    /// A runtime for the engine of `config`, which need not be there yet.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidSpec`] where the endpoint is not a Unix socket.
    pub fn new(config: DockerConfig) -> Result<Self, RuntimeError> {
        let engine = Engine::new(&config)?;
        Ok(Self { config: Arc::new(config), engine, info: Arc::default() })
    }

    /// What the engine said about itself, asked again after it was away: it may be another one.
    async fn cached_info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let known = self.info.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known.filter(|_| self.engine.is_known()) {
            Some(info) => Ok(info),
            None => self.info().await,
        }
    }

    /// The container as the engine describes it, where it is ours.
    async fn owned(&self, id: &str) -> Result<ContainerInspectResponse, RuntimeError> {
        self.find(id)
            .await?
            .filter(|found| self.config.owner.owns(&observe::labels(found)))
            .ok_or_else(|| RuntimeError::NoSuchContainer { id: id.to_owned() })
    }

    /// The container as the engine describes it, whoever it belongs to.
    async fn find(&self, id: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let docker = self.engine.client().await?;
        let asked = docker.inspect_container(id, None);
        match self.engine.within(asked).await {
            Ok(found) => Ok(Some(found)),
            Err(EngineError::Answered { status: 404, .. }) => Ok(None),
            Err(error) => Err(error.into_runtime(format!("inspect container {id}"))),
        }
    }

    /// A container in our words, with what its init said where that is the only trace of a command
    /// that could not be run.
    async fn described(&self, found: &ContainerInspectResponse) -> Container {
        let mut seen = observe::container(found);
        let id = seen.id.clone();
        if observe::init_may_have_failed(found, &seen)
            && let ContainerState::Exited { error, command_missing, .. } = &mut seen.state
        {
            // Output that cannot be read tells nothing; the exit code stands.
            let said = self.last_line(&id).await.unwrap_or_default();
            *error = observe::init_failure(&said);
            *command_missing = error.is_some();
        }
        seen
    }

    async fn last_line(&self, id: &str) -> Result<String, RuntimeError> {
        let options = LogOptions { tail: Some(1), ..LogOptions::default() };
        let chunks: Vec<_> = streams::logs(&self.engine, id, &options).await?.try_collect().await?;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.data).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The id of the container that holds the name of `spec`, where it is the one asked for.
    async fn holder_of_name(&self, spec: &ContainerSpec) -> Result<Option<String>, RuntimeError> {
        let Some(found) = self.find(&spec.name).await? else {
            return Ok(None);
        };
        let labels = observe::labels(&found);
        let id = found.id.unwrap_or_default();
        if self.config.owner.owns(&labels) && generation_of(&labels) == generation_of(&spec.labels)
        {
            return Ok(Some(id));
        }
        let by = match self.config.owner.owns(&labels) {
            true => format!(
                "container {id} of generation `{}`: remove it first",
                generation_of(&labels)
            ),
            false => format!("container {id}, which is not ours"),
        };
        let name = spec.name.clone();
        Err(RuntimeError::NameInUse { name, by })
    }

    async fn create_new(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let info = self.cached_info().await.map_err(EngineError::Other)?;
        let body = create::body(spec, &self.config, &info).map_err(EngineError::Other)?;
        let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
        let docker = self.engine.client().await.map_err(EngineError::Other)?;
        let made = docker.create_container(Some(options), body);
        let made = self.engine.watched(made, ENDING).await?;
        for warning in made.warnings {
            tracing::warn!(container = spec.name, warning, "engine warned");
        }
        Ok(made.id)
    }

    /// Puts the limits of a container on the parent cgroup of its session, where that is ours to
    /// manage. The engine holds the same limits on the container itself.
    async fn limit_session(&self, found: &ContainerInspectResponse) -> Result<(), RuntimeError> {
        let info = self.cached_info().await?;
        if info.cgroup_driver != CgroupDriver::Cgroupfs {
            return Ok(());
        }
        let session = observe::session(found);
        let limits = limits_of(found.host_config.as_ref());
        self.with_cgroups(session, move |cgroups, session| match cgroups.check_writable() {
            Ok(()) => cgroups.ensure(session, &limits),
            Err(reason) => {
                tracing::debug!(session, reason, "limits are on the container alone");
                Ok(())
            }
        })
        .await
    }

    async fn remove_session_cgroup(&self, session: String) -> Result<(), RuntimeError> {
        if self.cached_info().await?.cgroup_driver != CgroupDriver::Cgroupfs {
            return Ok(());
        }
        self.with_cgroups(session, |cgroups, session| match cgroups.remove(session) {
            // Another container of the session runs there.
            Err(CgroupError::Busy { path, .. }) => {
                tracing::debug!(path, "cgroup is still in use");
                Ok(())
            }
            other => other,
        })
        .await
    }

    async fn with_cgroups(
        &self,
        session: String,
        act: impl FnOnce(&Cgroups, &str) -> Result<(), CgroupError> + Send + 'static,
    ) -> Result<(), RuntimeError> {
        let root = self.config.cgroup_root.clone();
        let work = move || {
            let cgroups = match Cgroups::detect(&root, CgroupDriver::Cgroupfs) {
                Ok(cgroups) => cgroups,
                // The engine is in charge of a machine that we do not see.
                Err(CgroupError::NoHierarchy) => return Ok(()),
                Err(error) => return Err(cgroup_error(session, error)),
            };
            act(&cgroups, &session).map_err(|error| cgroup_error(session, error))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Waits for a container whose removal somebody else began.
    async fn wait_gone(&self, id: &str) -> Result<(), RuntimeError> {
        let deadline = tokio::time::Instant::now() + ENDING;
        while self.find(id).await?.is_some() {
            if tokio::time::Instant::now() > deadline {
                return Err(RuntimeError::EngineFailed {
                    doing: format!("remove container {id}"),
                    status: 0,
                    reason: format!("removal has been in progress for {} s", ENDING.as_secs()),
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

#[async_trait]
impl ContainerRuntime for DockerRuntime {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn mounts_supported(&self) -> bool {
        true
    }

    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let docker = self.engine.client().await?;
        let answer = self.engine.within(docker.info()).await;
        let answer = answer.map_err(|error| error.into_runtime("describe itself".to_owned()))?;
        let info =
            observe::info(answer, &self.config, docker.client_version(), self.engine.endpoint());
        *self.info.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.clone());
        Ok(info)
    }

    async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        progress: mpsc::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        pull::ensure(&self.engine, &self.config, image, policy, &progress).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        spec.check()?;
        if let Some(id) = self.holder_of_name(spec).await? {
            return Ok(id);
        }
        let error = match self.create_new(spec).await {
            Ok(id) => return Ok(id),
            Err(error) => error,
        };
        // Somebody, perhaps an earlier call of ours that was given up, took the name meanwhile.
        if let EngineError::Answered { status: 409, .. } = &error
            && let Some(id) = self.holder_of_name(spec).await?
        {
            return Ok(id);
        }
        Err(create::error(error, spec))
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let found = self.owned(id).await?;
        if observe::container(&found).state.is_running() {
            return Ok(());
        }
        self.limit_session(&found).await?;
        let docker = self.engine.client().await?;
        let started = docker.start_container(id, None);
        let started = self.engine.watched(started, ENDING).await;
        started.map_err(|error| create::start_error(error, &found))
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.owned(id).await?;
        // The engine counts whole seconds: never less than asked.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let options = StopContainerOptionsBuilder::new()
            .t(i32::try_from(seconds).unwrap_or(i32::MAX))
            .build();
        let docker = self.engine.client().await?;
        let stopped = docker.stop_container(id, Some(options));
        let stopped = self.engine.watched(stopped, grace + ENDING).await;
        stopped.map_err(|error| error.of_container("stop", id))
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let found = match self.owned(id).await {
            Err(RuntimeError::NoSuchContainer { .. }) => return Ok(()),
            other => other?,
        };
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true);
        let docker = self.engine.client().await?;
        let removed = docker.remove_container(id, Some(options.build()));
        match self.engine.watched(removed, ENDING).await {
            Ok(()) | Err(EngineError::Answered { status: 404, .. }) => {}
            Err(EngineError::Answered { status: 409, .. }) => self.wait_gone(id).await?,
            Err(error) => return Err(error.of_container("remove", id)),
        }
        self.remove_session_cgroup(observe::session(&found)).await
    }

    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        let docker = self.engine.client().await?;
        let listed = self.engine.within(docker.list_images(None::<ListImagesOptions>)).await;
        let listed = listed.map_err(|error| error.into_runtime("list images".to_owned()))?;
        Ok(observe::image_names(listed))
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let filters = HashMap::from([("label".to_owned(), self.config.owner.filters())]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let docker = self.engine.client().await?;
        let listed = self.engine.within(docker.list_containers(Some(options))).await;
        let listed = listed.map_err(|error| error.into_runtime("list containers".to_owned()))?;
        // The list has no exit codes, pids or times: each one is asked for; some may be gone by then.
        let ids = listed.into_iter().filter_map(|each| each.id);
        let mut containers: Vec<Container> = stream::iter(ids)
            .map(async |id| self.find(&id).await)
            .buffer_unordered(LIST_CONCURRENCY)
            .try_filter_map(async |found| match found {
                Some(found) => Ok(Some(self.described(&found).await)),
                None => Ok(None),
            })
            .try_collect()
            .await?;
        containers.retain(|each| self.config.owner.owns(&each.labels));
        containers.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(containers)
    }

    async fn inspect(&self, id: &str) -> Result<Container, RuntimeError> {
        Ok(self.described(&self.owned(id).await?).await)
    }

    async fn events(&self) -> Result<EventStream, RuntimeError> {
        streams::events(&self.engine, &self.config.owner).await
    }

    async fn logs(&self, id: &str, options: LogOptions) -> Result<LogChunkStream, RuntimeError> {
        self.owned(id).await?;
        streams::logs(&self.engine, id, &options).await
    }

    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        let found = self.owned(id).await?;
        exec::exec(&self.engine, &observe::container(&found), spec).await
    }

    async fn stats(&self, id: &str) -> Result<ContainerStats, RuntimeError> {
        let found = self.owned(id).await?;
        streams::stats(&self.engine, &observe::container(&found)).await
    }
}

fn cgroup_error(session: String, error: CgroupError) -> RuntimeError {
    RuntimeError::Cgroup { session, source: Box::new(error) }
}

/// The limits a container was made with: they are kept by the engine, not by us.
fn limits_of(host: Option<&HostConfig>) -> Limits {
    let positive =
        |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    let host = host.cloned().unwrap_or_default();
    Limits {
        cpu_milli: positive(host.nano_cpus).map(|nanos| nanos / create::NANO_CPUS_PER_MILLI),
        memory_bytes: positive(host.memory),
        pids: positive(host.pids_limit)
            .and_then(|pids| u32::try_from(pids).ok())
            .unwrap_or(Limits::default().pids),
        cpuset: host.cpuset_cpus.filter(|cores| !cores.is_empty()),
        shm_bytes: positive(host.shm_size),
    }
}

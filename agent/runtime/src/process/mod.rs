//! The process runtime: plain processes on the node, for machines without a container engine.
//!
//! Start at [`ProcessRuntime`]. Every session runs under a *shim*, a small process of our own
//! program that outlives us: it joins a session of its own, becomes the reaper of whatever its
//! command leaves behind, writes the output to files and the exit code to disk. So nothing is lost
//! when we are killed: [`crate::ContainerRuntime::list`] is rebuilt from the state folder and
//! `/proc`, and a process number that was given away again is told by its start time.
//!
//! Files of a container, in `<state>/containers/<id>/`:
//!
//! | file | written by | holds |
//! | --- | --- | --- |
//! | `spec.json` | runtime | what was asked for |
//! | `run.json` | shim | process numbers and start times |
//! | `exit.json` | shim | how it ended |
//! | `output.log`, `output.log.1` … | shim | its output |
//! | `shim.log` | shim | complaints of the shim itself |
//!
//! There is no image, no network and no file system of its own: the image is only a name, ports
//! are those of the node, and mounts are refused.

mod config;
mod control;
mod exec;
mod launch;
mod observe;
mod output;
mod proc;
mod shim;
mod state;
mod terminal;

use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use crate::cgroup::{CgroupError, Cgroups};
use crate::{
    CgroupDriver, Container, ContainerRuntime, ContainerSpec, ContainerStats, EventStream,
    ExecSession, ExecSpec, GpuAttachment, LimitSupport, LogChunkStream, LogOptions, NetworkKind,
    PullPhase, PullPolicy, PullProgress, RuntimeError, RuntimeInfo, generation_of,
};
use control::signal_group;
use state::{Stored, StoredSpec};

pub use config::ProcessConfig;
pub use shim::shim_main;

/// How long the shim may take to start its command, and a killed process to go.
const SHIM_DEADLINE: Duration = Duration::from_secs(30);

/// Plain processes on the node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProcessRuntime {
    config: ProcessConfig,
    store: state::Store,
    limits: LimitSupport,
    /// Process groups of commands run beside main processes, where no cgroup holds them together.
    execs: exec::Running,
}

impl ProcessRuntime {
    /// A runtime on the state folder of `config`.
    ///
    /// # Errors
    /// [`RuntimeError::State`] where the folder cannot be made, [`RuntimeError::InvalidSpec`]
    /// where there is no shim to run.
    pub fn new(config: ProcessConfig) -> Result<Self, RuntimeError> {
        let limits = limit_support(&config.cgroup_root);
        Self::with_limits(config, limits)
    }

    /// A runtime that leaves cgroups alone, whether or not it could write them; `reason` is shown.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn without_cgroups(
        config: ProcessConfig,
        reason: impl Into<String>,
    ) -> Result<Self, RuntimeError> {
        let reason = reason.into();
        Self::with_limits(config, LimitSupport::NotEnforced { reason })
    }

    fn with_limits(config: ProcessConfig, limits: LimitSupport) -> Result<Self, RuntimeError> {
        if config.shim_command.is_empty() {
            return Err(RuntimeError::invalid("shim_command", "is empty"));
        }
        let store = state::Store::open(&config.state_dir)?;
        Ok(Self { config, store, limits, execs: exec::Running::default() })
    }

    /// The container, where it is ours.
    fn owned(&self, id: &str) -> Result<Stored, RuntimeError> {
        self.store
            .load(id)?
            .filter(|stored| self.config.owner.owns(&stored.spec.labels))
            .ok_or_else(|| RuntimeError::NoSuchContainer { id: id.to_owned() })
    }

    fn check(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        spec.check()?;
        if spec.entrypoint.iter().flatten().count() + spec.command.len() == 0 {
            return Err(RuntimeError::invalid(
                "command",
                "the process runtime has no image to take a command from: give one",
            ));
        }
        if !spec.mounts.is_empty() {
            return Err(RuntimeError::invalid(
                "mounts",
                "the process runtime cannot mount: hand files over by their path on the node",
            ));
        }
        if spec.gpu != GpuAttachment::None {
            return Err(RuntimeError::invalid(
                "gpu",
                "the process runtime attaches no devices: its processes see those of the node",
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl ContainerRuntime for ProcessRuntime {
    fn kind(&self) -> &'static str {
        "process"
    }

    fn mounts_supported(&self) -> bool {
        false
    }

    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        let enforced = self.limits == LimitSupport::Enforced;
        let cgroups = Cgroups::detect(&self.config.cgroup_root, CgroupDriver::Cgroupfs).ok();
        Ok(RuntimeInfo {
            kind: self.kind(),
            endpoint: self.config.state_dir.display().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: String::new(),
            cgroup_driver: match enforced {
                true => CgroupDriver::Cgroupfs,
                false => CgroupDriver::None,
            },
            cgroup_version: cgroups.map(|cgroups| cgroups.version()),
            storage_driver: String::new(),
            runtimes: Vec::new(),
            default_runtime: String::new(),
            cdi_spec_dirs: Vec::new(),
            live_restore: true,
            security_options: vec!["no-new-privileges".to_owned()],
            init_available: true,
            limits: self.limits.clone(),
            network: NetworkKind::Host,
            warnings: vec![
                "sessions are plain processes: they see the files, network and devices of the node"
                    .to_owned(),
            ],
        })
    }

    /// There are no images: any is there.
    async fn ensure_image(
        &self,
        _image: &str,
        _policy: PullPolicy,
        progress: mpsc::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        let _ =
            progress.try_send(PullProgress { phase: PullPhase::Done, ..PullProgress::default() });
        Ok(())
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        self.check(spec)?;
        let enforced = self.limits == LimitSupport::Enforced;
        let wanted = StoredSpec::new(spec, &self.config, enforced)?;
        let Some(holder) = self.store.create(&wanted)? else {
            return Ok(wanted.id);
        };
        let ours = self.config.owner.owns(&holder.spec.labels);
        if ours && generation_of(&holder.spec.labels) == generation_of(&spec.labels) {
            return Ok(holder.spec.id);
        }
        Err(RuntimeError::NameInUse {
            name: spec.name.clone(),
            by: match ours {
                true => format!(
                    "container {} of generation `{}`: remove it first",
                    holder.spec.id,
                    generation_of(&holder.spec.labels)
                ),
                false => format!("container {}, which is not ours", holder.spec.id),
            },
        })
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let stored = self.owned(id)?;
        if stored.is_running() {
            return Ok(());
        }
        self.run_shim(&stored).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let stored = self.owned(id)?;
        let Some(run) = stored.run.as_ref().filter(|_| stored.is_running()) else {
            return Ok(());
        };
        signal_group(run.pid, Signal::SIGTERM);
        if self.wait_ended(id, grace).await? {
            return Ok(());
        }
        self.kill_all(stored).await?;
        if self.wait_ended(id, SHIM_DEADLINE).await? {
            return Ok(());
        }
        Err(RuntimeError::EngineFailed {
            doing: format!("stop container {id}"),
            status: 0,
            reason: format!(
                "its main process is still there {} s after KILL",
                SHIM_DEADLINE.as_secs()
            ),
        })
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let stored = match self.owned(id) {
            Err(RuntimeError::NoSuchContainer { .. }) => return Ok(()),
            other => other?,
        };
        self.stop(id, Duration::ZERO).await?;
        self.kill_all(stored.clone()).await?;
        self.wait_shim_gone(&stored).await;
        let spec = stored.spec.clone();
        let work = move || match spec.cgroups() {
            Some(cgroups) => match cgroups.remove(&spec.session) {
                Err(CgroupError::Busy { path, processes }) => {
                    tracing::warn!(path, ?processes, "cgroup is still in use");
                    Ok(())
                }
                other => other.map_err(|source| spec.cgroup_error(source)),
            },
            None => Ok(()),
        };
        blocking(work).await?;
        self.store.remove(&stored)
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let mut containers: Vec<_> = self
            .store
            .load_all()?
            .into_iter()
            .filter(|stored| self.config.owner.owns(&stored.spec.labels))
            .map(|stored| observe::container(&stored))
            .collect();
        containers.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(containers)
    }

    async fn inspect(&self, id: &str) -> Result<Container, RuntimeError> {
        Ok(observe::container(&self.owned(id)?))
    }

    async fn events(&self) -> Result<EventStream, RuntimeError> {
        Ok(observe::events(self.store.clone(), self.config.owner.clone()))
    }

    async fn logs(&self, id: &str, options: LogOptions) -> Result<LogChunkStream, RuntimeError> {
        let stored = self.owned(id)?;
        Ok(output::read(self.store.clone(), stored, options))
    }

    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        let stored = self.owned(id)?;
        exec::exec(&self.config, &stored, spec, &self.execs).await
    }

    async fn stats(&self, id: &str) -> Result<ContainerStats, RuntimeError> {
        let stored = self.owned(id)?;
        blocking(move || observe::stats(&stored)).await
    }
}

fn limit_support(root: &str) -> LimitSupport {
    let checked = Cgroups::detect(root, CgroupDriver::Cgroupfs)
        .map_err(|error| error.to_string())
        .and_then(|cgroups| cgroups.check_writable());
    match checked {
        Ok(()) => LimitSupport::Enforced,
        Err(reason) => LimitSupport::NotEnforced { reason },
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

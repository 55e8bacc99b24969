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

mod exec;
mod launch;
mod observe;
mod output;
mod proc;
mod shim;
mod state;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::cgroup::{CgroupError, Cgroups, DEFAULT_ROOT};
use crate::{
    CgroupDriver, Container, ContainerRuntime, ContainerSpec, ContainerStats, EventStream,
    ExecSession, ExecSpec, GpuAttachment, LimitSupport, LogChunkStream, LogOptions, NetworkKind,
    Owner, PullPhase, PullPolicy, PullProgress, RuntimeError, RuntimeInfo, generation_of,
};
use launch::Failure;
use state::{Stored, StoredSpec};

pub use shim::shim_main;

/// How long the shim may take to start its command, and a killed process to go.
const SHIM_DEADLINE: Duration = Duration::from_secs(10);
/// How often files are looked at while something is awaited.
const POLL: Duration = Duration::from_millis(20);

/// Settings of the process runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Who the containers belong to.
    pub owner: Owner,
    /// Program and arguments that lead to [`shim_main`]; its own arguments follow them.
    pub shim_command: Vec<OsString>,
    /// Folder of the state; made where it is missing.
    pub state_dir: PathBuf,
    /// Name of the cgroup that holds those of the sessions.
    pub cgroup_root: String,
    /// Size in bytes at which the output of a container is rotated.
    pub log_file_bytes: u64,
    /// Files of output kept per container, at least 1.
    pub log_files: u32,
}

impl ProcessConfig {
    /// The defaults for `owner`: three files of 16 MiB of output per container.
    pub fn new(owner: Owner, shim_command: Vec<OsString>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            owner,
            shim_command,
            state_dir: state_dir.into(),
            cgroup_root: DEFAULT_ROOT.to_owned(),
            log_file_bytes: 16 << 20,
            log_files: 3,
        }
    }
}

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
        if config.shim_command.is_empty() {
            return Err(RuntimeError::invalid("shim_command", "is empty"));
        }
        let store = state::Store::open(&config.state_dir)?;
        let limits = limit_support(&config.cgroup_root);
        Ok(Self {
            config,
            store,
            limits,
            execs: exec::Running::default(),
        })
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

    /// Starts the shim and waits for it to say how the start went.
    async fn run_shim(&self, stored: &Stored) -> Result<(), RuntimeError> {
        let id = stored.spec.id.clone();
        let failed = |reason: String| RuntimeError::StartFailed {
            id: id.clone(),
            reason,
        };
        let log = stored.folder.join("shim.log");
        let log = std::fs::File::create(&log).map_err(|source| state::at(&log, source))?;
        let mut command = tokio::process::Command::new(&self.config.shim_command[0]);
        command
            .args(&self.config.shim_command[1..])
            .arg(shim::RUN)
            .arg(&stored.folder)
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command
            .spawn()
            .map_err(|error| failed(format!("the shim could not be run: {error}")))?;
        let mut said = String::new();
        if let Some(mut output) = child.stdout.take() {
            let listen = output.read_to_string(&mut said);
            match tokio::time::timeout(SHIM_DEADLINE, listen).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(failed(format!("the shim cannot be heard: {error}"))),
                Err(_) => return Err(failed("the shim did not start its command in time".into())),
            }
        }
        // Collects the shim when it ends, so that no zombie stays while we live.
        tokio::spawn(async move { child.wait().await });
        if said.trim() == shim::STARTED {
            return Ok(());
        }
        Err(match serde_json::from_str::<Failure>(&said) {
            Ok(failure) => failure.into_error(&id, &stored.spec.argv),
            Err(_) => failed(format!(
                "the shim ended without a word; see {}",
                stored.folder.join("shim.log").display()
            )),
        })
    }

    /// Waits until the main process has ended, or until `longest` has passed; says whether it has.
    async fn wait_ended(&self, id: &str, longest: Duration) -> Result<bool, RuntimeError> {
        let deadline = tokio::time::Instant::now() + longest;
        loop {
            match self.store.load(id)? {
                Some(stored) if stored.is_running() => {}
                _ => return Ok(true),
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the shim itself is gone: it leaves its cgroup only then.
    async fn wait_shim_gone(&self, stored: &Stored) {
        let deadline = tokio::time::Instant::now() + SHIM_DEADLINE;
        while stored.shim_runs() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills all processes of a container, but not its shim, which has to write down the end.
    async fn kill_all(&self, stored: Stored) -> Result<(), RuntimeError> {
        let execs = self.execs.groups_of(&stored.spec.id);
        let work = move || -> Result<(), RuntimeError> {
            for group in execs {
                signal_group(group, Signal::SIGKILL);
            }
            if let Some(run) = stored.run.as_ref().filter(|_| stored.is_running()) {
                signal_group(run.pid, Signal::SIGKILL);
                proc::kill_descendants(run.shim_pid, &[]);
            }
            match stored.spec.cgroups() {
                Some(cgroups) => cgroups
                    .kill(&stored.spec.session)
                    .map_err(|source| stored.spec.cgroup_error(source)),
                None => Ok(()),
            }
        };
        blocking(work).await
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
        let _ = progress.try_send(PullProgress {
            phase: PullPhase::Done,
            ..PullProgress::default()
        });
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
        Ok(observe::events(
            self.store.clone(),
            self.config.owner.clone(),
        ))
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

/// Signals a process group; one that is gone is fine.
fn signal_group(group: u32, signal: Signal) {
    // 0 and 1 would be our own group, and every process.
    let Some(number) = i32::try_from(group).ok().filter(|number| *number > 1) else {
        return;
    };
    match killpg(Pid::from_raw(number), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(group, %signal, %error, "processes could not be signalled"),
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

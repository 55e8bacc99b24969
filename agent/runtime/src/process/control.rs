//! Starting and ending: what the runtime does to shims and their commands.

use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;

use super::launch::Failure;
use super::state::{self, Stored};
use super::{ProcessRuntime, SHIM_DEADLINE, blocking, proc, shim};
use crate::RuntimeError;

/// How often files are looked at while something is awaited.
const POLL: Duration = Duration::from_millis(20);

impl ProcessRuntime {
    /// Starts the shim and waits for it to say how the start went.
    pub(super) async fn run_shim(&self, stored: &Stored) -> Result<(), RuntimeError> {
        let id = stored.spec.id.clone();
        let failed = |reason: String| RuntimeError::StartFailed { id: id.clone(), reason };
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
    pub(super) async fn wait_ended(
        &self,
        id: &str,
        longest: Duration,
    ) -> Result<bool, RuntimeError> {
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
    pub(super) async fn wait_shim_gone(&self, stored: &Stored) {
        let deadline = tokio::time::Instant::now() + SHIM_DEADLINE;
        while stored.shim_runs() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills all processes of a container, but not its shim, which has to write down the end.
    pub(super) async fn kill_all(&self, stored: Stored) -> Result<(), RuntimeError> {
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

/// Signals a process group; one that is gone is fine.
pub(super) fn signal_group(group: u32, signal: Signal) {
    // 0 and 1 would be our own group, and every process.
    let Some(number) = i32::try_from(group).ok().filter(|number| *number > 1) else {
        return;
    };
    match killpg(Pid::from_raw(number), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(group, %signal, %error, "processes could not be signalled"),
    }
}

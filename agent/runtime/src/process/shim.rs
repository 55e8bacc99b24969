//! The shim: the process that stays with a command from its start to its end.
//!
//! It runs outside the cgroup of the session, so that neither a limit nor a kill of the session
//! meets it, and depends on nothing but the folder of its container.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdout, setsid};

use super::launch::{self, Failure, Input, Order};
use super::output::Writer;
use super::state::{Exit, Run, Stored};
use super::{proc, terminal};
use crate::time::unix_millis;
use crate::{LogStream, RuntimeError};

/// First argument of the shim.
pub(super) const RUN: &str = "run";
/// What the shim says when its command runs.
pub(super) const STARTED: &str = "started";
/// How long output may still come after all processes are gone.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// Protects the shim from the kernel's killer; its command is not protected.
const OOM_SCORE: &str = "-900";

/// Runs the shim with the arguments that follow the configured shim command: `run FOLDER` or
/// `launch`. The program that embeds the process runtime calls this, early and with nothing else
/// running.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    match (args.next(), args.next()) {
        (Some(mode), Some(folder)) if mode == RUN => run_main(folder.into()),
        (Some(mode), None) if mode == launch::LAUNCH => launch::launch_main(),
        _ => ExitCode::from(2),
    }
}

fn run_main(folder: PathBuf) -> ExitCode {
    match run(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reason = format!("{error}: {:?}", std::error::Error::source(&error));
            complain(&reason);
            report(
                &serde_json::to_string(&Failure { not_found: false, reason }).unwrap_or_default(),
            );
            ExitCode::FAILURE
        }
    }
}

fn run(folder: PathBuf) -> Result<(), RuntimeError> {
    let stored = Stored::read(&folder)?
        .ok_or_else(|| RuntimeError::NoSuchContainer { id: folder.display().to_string() })?;
    // Held to the end of the process: two starts at once run one command.
    let lock = std::fs::File::create(folder.join("shim.lock"))
        .map_err(|source| super::state::at(&folder, source))?;
    if lock.try_lock().is_err() {
        report(STARTED);
        return Ok(());
    }
    stored.clear()?;
    isolate(&stored)?;
    let writer = Arc::new(Mutex::new(Writer::open(
        &folder,
        stored.spec.log_file_bytes,
        stored.spec.log_files,
    )));
    let mut command = match Started::start(&stored, &writer) {
        Ok(command) => command,
        Err(failure) => {
            stored.write_exit(&Exit {
                code: failure.code(),
                oom_killed: false,
                finished_at_unix_ms: unix_millis(),
                error: Some(failure.reason.clone()),
            })?;
            report(&serde_json::to_string(&failure).unwrap_or_default());
            return Ok(());
        }
    };
    let own = std::process::id();
    stored.write_run(&Run {
        shim_pid: own,
        shim_start: proc::stat(own).map_or(0, |stat| stat.start),
        pid: command.pid,
        start: proc::stat(command.pid).map_or(0, |stat| stat.start),
        started_at_unix_ms: unix_millis(),
    })?;
    report(STARTED);
    let code = command.wait(&stored);
    finish(&stored, command, code)
}

/// Leaves the session, the cgroups and the fate of whoever started us.
fn isolate(stored: &Stored) -> Result<(), RuntimeError> {
    let failed = |doing: &str, error: &dyn std::fmt::Display| RuntimeError::StartFailed {
        id: stored.spec.id.clone(),
        reason: format!("the shim could not {doing}: {error}"),
    };
    // Fails where we lead a group already, which is as good.
    let _ = setsid();
    set_child_subreaper(true).map_err(|error| failed("become a reaper", &error))?;
    signals().thread_block().map_err(|error| failed("block signals", &error))?;
    // Needs privileges; without, the kernel may choose us.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    if let Some(cgroups) = stored.spec.cgroups() {
        cgroups
            .add_helper(std::process::id())
            .and_then(|()| cgroups.ensure(&stored.spec.session, &stored.spec.limits))
            .map_err(|source| stored.spec.cgroup_error(source))?;
    }
    Ok(())
}

/// The signals the shim waits for.
fn signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]
    {
        set.add(signal);
    }
    set
}

/// A command that runs, and what must stay open for it.
struct Started {
    pid: u32,
    /// One message per source of output that has ended.
    ended: mpsc::Receiver<()>,
    sources: usize,
    _input: Option<io::PipeWriter>,
}

impl Started {
    fn start(stored: &Stored, writer: &Arc<Mutex<Writer>>) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(&error);
        let shim = own_command().map_err(failed)?;
        let (mut command, socket) = launch::launcher(&shim).map_err(failed)?;
        let spec = &stored.spec;
        let terminal = match spec.tty {
            true => Some(terminal::open().map_err(failed)?),
            false => None,
        };
        let (held_input, kept) = match spec.open_stdin && !spec.tty {
            true => io::pipe().map(|(read, write)| (Some(read), Some(write))).map_err(failed)?,
            false => (None, None),
        };
        let input = match (&terminal, &held_input) {
            (Some(terminal), _) => Input::Terminal(terminal.path.clone()),
            (None, Some(read)) => Input::File(path_of(read)),
            (None, None) => Input::Null,
        };
        let output = || match spec.tty {
            true => Stdio::null(),
            false => Stdio::piped(),
        };
        let mut child = command.stdout(output()).stderr(output()).spawn().map_err(failed)?;
        // The command holds the other end of the socket, too.
        drop(command);
        launch::give_order(socket, &order(stored, input)).inspect_err(|_| {
            // The launcher ends after it has said why; one that hangs is ended.
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let (sender, ended) = mpsc::channel();
        let mut sources = 0;
        let mut copy = |stream, from: Box<dyn Read + Send>| {
            copy_output(stream, from, Arc::clone(writer), sender.clone());
            sources += 1;
        };
        if let Some(terminal) = terminal {
            drop(terminal.held);
            copy(LogStream::Stdout, Box::new(terminal.master));
        }
        if let Some(from) = child.stdout.take() {
            copy(LogStream::Stdout, Box::new(from));
        }
        if let Some(from) = child.stderr.take() {
            copy(LogStream::Stderr, Box::new(from));
        }
        Ok(Self { pid: child.id(), ended, sources, _input: kept })
    }

    /// Waits for the main process to end, collects whatever else ends meanwhile, and hands on
    /// requests to end. Returns its exit code.
    fn wait(&mut self, stored: &Stored) -> i32 {
        loop {
            if let Some(code) = self.reap() {
                return code;
            }
            match signals().wait() {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => {
                    complain(&format!("{}: passes {signal} on", stored.spec.name));
                    let group = Pid::from_raw(i32::try_from(self.pid).unwrap_or(i32::MAX));
                    let _ = killpg(group, signal);
                }
            }
        }
    }

    /// Collects all that have ended; the code of the main process where it is among them.
    fn reap(&self) -> Option<i32> {
        let mut code = None;
        loop {
            let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
                Err(_) => continue,
                Ok(status) => status,
            };
            let (pid, ended) = match status {
                WaitStatus::Exited(pid, code) => (pid, code),
                WaitStatus::Signaled(pid, signal, _) => (pid, 128 + signal as i32),
                _ => continue,
            };
            if u32::try_from(pid.as_raw()) == Ok(self.pid) {
                code = Some(ended);
            }
        }
    }
}

/// Ends what the main process left behind and writes down how it ended.
fn finish(stored: &Stored, command: Started, code: i32) -> Result<(), RuntimeError> {
    let finished_at_unix_ms = unix_millis();
    let cgroups = stored.spec.cgroups();
    proc::kill_descendants(std::process::id(), &[]);
    command.reap();
    if let Some(cgroups) = &cgroups
        && let Err(error) = cgroups.kill(&stored.spec.session)
    {
        complain(&error.to_string());
    }
    for _ in 0..command.sources {
        if command.ended.recv_timeout(LAST_OUTPUT).is_err() {
            complain("output did not end");
            break;
        }
    }
    stored.write_exit(&Exit {
        code,
        oom_killed: cgroups.is_some_and(|each| each.oom_kills(&stored.spec.session) > 0),
        finished_at_unix_ms,
        error: None,
    })
}

fn order(stored: &Stored, input: Input) -> Order {
    let spec = &stored.spec;
    let mut env = spec.env.clone();
    if spec.tty {
        env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
    }
    Order {
        argv: spec.argv.clone(),
        env,
        workdir: spec.workdir.clone(),
        user: spec.user.clone(),
        cgroup: spec.cgroup_root.clone().map(|root| (root, spec.session.clone())),
        input,
    }
}

/// Copies output to the log until it ends. What cannot be written is dropped: a full disk must not
/// stop the command.
fn copy_output(
    stream: LogStream,
    mut from: Box<dyn Read + Send>,
    writer: Arc<Mutex<Writer>>,
    ended: mpsc::Sender<()>,
) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        loop {
            match from.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A terminal ends with an error once nobody has it open.
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    let mut writer =
                        writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    writer.write(stream, &buffer[..read]);
                }
            }
        }
        // The shim may have given up waiting.
        let _ = ended.send(());
    });
}

/// The command line that leads here, as we were called.
fn own_command() -> io::Result<Vec<OsString>> {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    // `run FOLDER` are the last two.
    args.truncate(args.len().saturating_sub(2));
    let program = std::env::current_exe()?;
    match args.first_mut() {
        Some(first) => *first = program.into(),
        None => args.push(program.into()),
    }
    Ok(args)
}

/// A path under which another process can open what we have open.
pub(super) fn path_of(open: &impl std::os::fd::AsRawFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd()).into()
}

/// Tells whoever started us, and closes that line.
fn report(text: &str) {
    // They may have gone.
    let _ = writeln!(io::stdout(), "{text}");
    let _ = io::stdout().flush();
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = dup2_stdout(null);
    }
}

/// Writes a line to `shim.log`, which is our standard error.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

//! The last step before a command: our program, re-executed, becomes it.
//!
//! The launcher gets its order through its standard input, which is one end of a socket. It makes
//! itself what the command is to be (session, cgroup, terminal, user, folder) and executes it. The
//! socket closes by itself when that succeeds; otherwise the failure is written to it first. So
//! the other side knows exactly whether the command runs, and nothing of the order, which may hold
//! secrets, is ever in a file or an argument.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::prctl::set_no_new_privs;
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Group, Uid, User, dup2_stderr, dup2_stdin, dup2_stdout, fchown, getuid, initgroups,
    setgid, setgroups, setsid, setuid,
};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;
use crate::{CgroupDriver, RuntimeError};

/// First argument of the launcher.
pub(super) const LAUNCH: &str = "launch";
/// How long the launcher may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a launcher is to become.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: String,
    pub(super) user: Option<String>,
    /// Cgroup of all sessions, and the session.
    pub(super) cgroup: Option<(String, String)>,
    pub(super) input: Input,
}

/// Where the command reads from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Input {
    /// Nothing.
    Null,
    /// A file, such as a pipe of the process that gave the order.
    File(PathBuf),
    /// A terminal, for output too.
    Terminal(PathBuf),
}

/// Why a command does not run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Whether the program is missing or not executable.
    pub(super) not_found: bool,
    pub(super) reason: String,
}

impl Failure {
    /// The exit code a shell would give.
    pub(super) fn code(&self) -> i32 {
        if self.not_found { 127 } else { 126 }
    }

    pub(super) fn into_error(self, id: &str, argv: &[String]) -> RuntimeError {
        match self.not_found {
            true => RuntimeError::CommandNotFound {
                command: argv.first().cloned().unwrap_or_default(),
                reason: self.reason,
            },
            false => RuntimeError::StartFailed { id: id.to_owned(), reason: self.reason },
        }
    }

    pub(super) fn io(error: &io::Error) -> Self {
        Self::other(format!("the command could not be launched: {error}"))
    }

    fn other(reason: String) -> Self {
        Self { not_found: false, reason }
    }
}

/// The command line of a launcher, with one end of a new socket as its input; and the other end.
pub(super) fn launcher(shim: &[OsString]) -> io::Result<(Command, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let program = shim.first().ok_or_else(|| io::Error::other("no shim command"))?;
    let mut command = Command::new(program);
    command
        .args(&shim[1..])
        .arg(LAUNCH)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    Ok((command, ours))
}

/// Gives a launcher that has been spawned its order, and waits until the command runs.
pub(super) fn give_order(mut socket: UnixStream, order: &Order) -> Result<(), Failure> {
    let broken =
        |error: io::Error| Failure::other(format!("the launcher cannot be heard: {error}"));
    let text = serde_json::to_vec(order).map_err(|error| broken(error.into()))?;
    let mut said = Vec::new();
    socket
        .set_read_timeout(Some(DEADLINE))
        .and_then(|()| socket.write_all(&text))
        .and_then(|()| socket.shutdown(Shutdown::Write))
        .and_then(|()| socket.read_to_end(&mut said))
        .map_err(broken)?;
    if said.is_empty() {
        return Ok(());
    }
    let unclear = |_| Failure::other(String::from_utf8_lossy(&said).into_owned());
    Err(serde_json::from_slice(&said).unwrap_or_else(unclear))
}

/// Becomes what the order on standard input says. Returns only where that fails.
pub(super) fn launch_main() -> ExitCode {
    let mut text = Vec::new();
    // The copy closes when the command is executed.
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let read = io::stdin().lock().read_to_end(&mut text);
    let (Ok(socket), Ok(_)) = (socket, read) else {
        return ExitCode::FAILURE;
    };
    let failure = match serde_json::from_slice::<Order>(&text) {
        Ok(order) => become_command(&order),
        Err(error) => Failure::other(format!("order not understood: {error}")),
    };
    // With nobody listening there is nobody to tell.
    if let Ok(said) = serde_json::to_vec(&failure) {
        let _ = UnixStream::from(socket).write_all(&said);
    }
    ExitCode::from(u8::try_from(failure.code()).unwrap_or(u8::MAX))
}

fn become_command(order: &Order) -> Failure {
    if let Err(failure) = prepare(order) {
        return failure;
    }
    let program = match find_program(order) {
        Ok(program) => program,
        Err(failure) => return failure,
    };
    let error = Command::new(&program)
        .arg0(&order.argv[0])
        .args(&order.argv[1..])
        .env_clear()
        .envs(&order.env)
        .exec();
    let gone = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
    Failure { not_found: gone, reason: format!("{}: {error}", program.display()) }
}

fn prepare(order: &Order) -> Result<(), Failure> {
    let step = |doing: &str, error: &dyn std::fmt::Display| {
        Failure::other(format!("could not {doing}: {error}"))
    };
    if order.argv.is_empty() {
        return Err(Failure::other("the command is empty".to_owned()));
    }
    // A fresh process is no leader of a group: this cannot fail for that reason.
    setsid().map_err(|error| step("begin a session", &error))?;
    SigSet::empty().thread_set_mask().map_err(|error| step("unblock signals", &error))?;
    umask(Mode::from_bits_truncate(0o022));
    // The shim may be protected from the kernel's killer; its command is not.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    if let Some((root, session)) = &order.cgroup {
        Cgroups::detect(root, CgroupDriver::Cgroupfs)
            .and_then(|cgroups| cgroups.add(session, std::process::id()))
            .map_err(|error| step("join the cgroup of the session", &error))?;
    }
    let user = match &order.user {
        Some(text) => Some(find_user(text)?),
        None => None,
    };
    connect(&order.input, user.as_ref()).map_err(|error| step("open its input", &error))?;
    if let Some(user) = user {
        user.become_it().map_err(|error| step("change the user", &error))?;
    }
    set_no_new_privs().map_err(|error| step("forbid new privileges", &error))?;
    std::env::set_current_dir(&order.workdir)
        .map_err(|error| step(&format!("go to {}", order.workdir), &error))
}

fn connect(input: &Input, user: Option<&Account>) -> io::Result<()> {
    match input {
        Input::Null => dup2_stdin(std::fs::File::open("/dev/null")?)?,
        Input::File(path) => dup2_stdin(std::fs::File::open(path)?)?,
        Input::Terminal(path) => {
            // The leader of a session without a terminal gets the first one it opens.
            let terminal = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
            if let Some(user) = user {
                fchown(&terminal, Some(user.uid), None)?;
            }
            dup2_stdin(&terminal)?;
            dup2_stdout(&terminal)?;
            dup2_stderr(&terminal)?;
        }
    }
    Ok(())
}

/// The program of `order`, looked for in its own path.
fn find_program(order: &Order) -> Result<PathBuf, Failure> {
    let name = &order.argv[0];
    let executable = |path: &Path| {
        let found = path.metadata();
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let folders = order.env.get("PATH").map_or("", String::as_str);
    let candidates: Vec<PathBuf> = match name.contains('/') {
        true => vec![name.into()],
        false => std::env::split_paths(folders).map(|folder| folder.join(name)).collect(),
    };
    let found = candidates.into_iter().find(|path| executable(path));
    found.ok_or_else(|| Failure {
        not_found: true,
        reason: match name.contains('/') {
            true => "no executable file there".to_owned(),
            false => format!("executable file not found in {folders}"),
        },
    })
}

/// Who a command runs as.
struct Account {
    uid: Uid,
    gid: Gid,
    /// Name whose further groups come along.
    name: Option<String>,
}

impl Account {
    fn become_it(&self) -> nix::Result<()> {
        if getuid() == self.uid && !getuid().is_root() {
            return Ok(());
        }
        match &self.name {
            Some(name) => {
                let name = CString::new(name.as_str()).map_err(|_| nix::errno::Errno::EINVAL)?;
                initgroups(&name, self.gid)?;
            }
            None => setgroups(&[self.gid])?,
        }
        setgid(self.gid)?;
        setuid(self.uid)
    }
}

/// Reads `user`, `uid`, `user:group` or `uid:gid`.
fn find_user(text: &str) -> Result<Account, Failure> {
    let (user, group) =
        text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let unknown = |what: &str| Failure::other(format!("{what} of `{text}` is not known here"));
    let known = match user.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
        Err(_) => User::from_name(user).ok().flatten(),
    };
    let uid = match (&known, user.parse()) {
        (Some(known), _) => known.uid,
        (None, Ok(uid)) => Uid::from_raw(uid),
        (None, Err(_)) => return Err(unknown("user")),
    };
    let gid = match group {
        None => known.as_ref().map_or(Gid::from_raw(0), |known| known.gid),
        Some(group) => match group.parse() {
            Ok(gid) => Gid::from_raw(gid),
            Err(_) => Group::from_name(group)
                .ok()
                .flatten()
                .map(|group| group.gid)
                .ok_or_else(|| unknown("group"))?,
        },
    };
    Ok(Account { uid, gid, name: known.filter(|_| group.is_none()).map(|known| known.name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(program: &str, path: &str) -> Order {
        Order {
            argv: vec![program.to_owned()],
            env: BTreeMap::from([("PATH".to_owned(), path.to_owned())]),
            workdir: "/".to_owned(),
            user: None,
            cgroup: None,
            input: Input::Null,
        }
    }

    #[test]
    fn a_program_is_looked_for_in_the_path_of_the_order() {
        let found = find_program(&order("sh", "/nowhere:/bin")).unwrap();
        assert_eq!(found, Path::new("/bin/sh"));
        assert!(find_program(&order("sh", "/nowhere")).unwrap_err().not_found);
        assert!(find_program(&order("/etc/passwd", "/bin")).unwrap_err().not_found);
    }

    #[test]
    fn users_are_read_by_name_and_number() {
        let root = find_user("root").unwrap();
        assert_eq!((root.uid, root.gid), (Uid::from_raw(0), Gid::from_raw(0)));
        let both = find_user("12345:678").unwrap();
        assert_eq!((both.uid, both.gid), (Uid::from_raw(12345), Gid::from_raw(678)));
        assert!(find_user("no-such-user").is_err());
        assert!(find_user("root:no-such-group").is_err());
    }
}

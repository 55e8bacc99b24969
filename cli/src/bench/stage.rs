//! The processes of a run: etcd and a manager, in a folder that is gone afterwards.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fgpu_service::secret::Token;
use fgpu_wire::v1;
use tempfile::TempDir;

use crate::connect::{Link, Repeat, Target};
use crate::failure::Failure;

/// How long a process may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);
/// Lines of a log that are shown when its process fails.
const LOG_LINES: usize = 20;

/// A process that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: &'static str,
    log: std::path::PathBuf,
}

/// An etcd, ours or another's.
#[derive(Debug)]
pub(crate) struct Etcd {
    process: Option<Process>,
    /// URLs of its members, with commas.
    pub(crate) endpoints: String,
}

/// How a manager is started.
#[derive(Debug, Clone)]
pub(crate) struct ManagerOptions {
    /// What its keys are put under.
    pub(crate) prefix: String,
    /// The administrator's token.
    pub(crate) token: String,
    /// The agents' token.
    pub(crate) agent_token: String,
    /// More settings, by the name of their variable.
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// A manager that leads.
#[derive(Debug)]
pub(crate) struct Manager {
    process: Process,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) agent_token: String,
    /// From its start to the first answer.
    pub(crate) came_up: Duration,
}

impl Process {
    fn start(name: &'static str, command: &mut Command, folder: &Path) -> Result<Self, Failure> {
        let log = folder.join(format!("{name}.log"));
        let opened = File::options().create(true).append(true).open(&log);
        let files = opened.and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = files.map_err(|error| Failure::because("cannot write a log", &error))?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child =
            child.map_err(|error| Failure::because(format!("cannot start {name}"), &error))?;
        Ok(Self { child, name, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the process has ended, with the end of its log.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let text = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                Err(Failure::new(format!("{} ended with {status}", self.name)).detail(end))
            }
            Err(error) => Err(Failure::because(format!("cannot look at {}", self.name), &error)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    /// Starts the etcd on the path, with its data in `folder`, every write on disk before it is
    /// acknowledged.
    pub(crate) async fn start(folder: &Path) -> Result<Self, Failure> {
        let (client, peer) = (free_port()?, free_port()?);
        let (client, peer) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new("etcd");
        command
            .arg("--name=bench")
            .arg(format!("--data-dir={}", folder.join("etcd").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=bench={peer}"))
            .arg("--quota-backend-bytes=8589934592")
            .args(["--logger=zap", "--log-level=error"]);
        let started = Process::start("etcd", &mut command, folder).map_err(|failure| {
            failure.hint("install etcd (`apt-get install etcd-server`), or name `--etcd-endpoints`")
        });
        let mut process = started?;
        let address = client.trim_start_matches("http://").to_owned();
        let begin = Instant::now();
        while super::measure::StoreCounts::of(&address).await.is_err() {
            process.check()?;
            if begin.elapsed() > PATIENCE {
                return Err(Failure::new("etcd does not answer within a minute"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Self { process: Some(process), endpoints: client })
    }

    /// One that runs already.
    pub(crate) fn at(endpoints: String) -> Self {
        Self { process: None, endpoints }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The first member's address, for its metrics.
    pub(crate) fn address(&self) -> &str {
        let first = self.endpoints.split(',').next().unwrap_or_default();
        first.trim_start_matches("http://").trim_end_matches('/')
    }
}

impl ManagerOptions {
    /// A manager whose keys lie under `prefix`, with tokens of its own.
    pub(crate) fn new(prefix: &str) -> Result<Self, Failure> {
        let token = || {
            let token = Token::generate().map_err(|error| Failure::of(&error))?;
            Ok::<_, Failure>(token.secret().expose().to_owned())
        };
        let (token, agent_token) = (token()?, token()?);
        Ok(Self { prefix: prefix.to_owned(), token, agent_token, settings: Vec::new() })
    }

    /// With one more setting.
    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.settings.push((name, value.to_string()));
        self
    }
}

impl Manager {
    /// Starts this very binary as a manager and waits for its first answer.
    pub(crate) async fn start(
        folder: &Path,
        etcd: &Etcd,
        options: &ManagerOptions,
    ) -> Result<Self, Failure> {
        let program: OsString = match std::env::current_exe() {
            Ok(path) => path.into(),
            Err(error) => return Err(Failure::because("cannot find this program", &error)),
        };
        let ManagerOptions { token, agent_token, .. } = options.clone();
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(program);
        command
            .arg("manager")
            .env("FGPU_MANAGER_LISTEN", &address)
            .env("FGPU_MANAGER_DATA_DIR", folder.join("manager"))
            .env("FGPU_MANAGER_STORE_ETCD", &etcd.endpoints)
            .env("FGPU_MANAGER_STORE_ETCD_PREFIX", &options.prefix)
            .env("FGPU_MANAGER_ALLOW_SHARED", "true")
            .env("FGPU_MANAGER_LOG_FILTER", "warn")
            .env("FGPU_BOOTSTRAP_TOKEN", &token)
            .env("FGPU_BOOTSTRAP_AGENT_TOKEN", &agent_token);
        for (name, value) in &options.settings {
            command.env(name, value);
        }
        let begin = Instant::now();
        let process = Process::start("manager", &mut command, folder)?;
        let url = format!("http://{address}");
        let mut manager = Self { process, url, token, agent_token, came_up: Duration::ZERO };
        manager.await_answer(begin).await?;
        Ok(manager)
    }

    async fn await_answer(&mut self, begin: Instant) -> Result<(), Failure> {
        loop {
            self.process.check()?;
            match self.ask().await {
                Ok(()) => {
                    self.came_up = begin.elapsed();
                    return Ok(());
                }
                Err(failure) if begin.elapsed() > PATIENCE => return Err(failure),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn ask(&self) -> Result<(), Failure> {
        let (addresses, token) = (vec![self.url.clone()], Some(self.token.clone()));
        let target = Target { addresses, token, ca: None, context: None, project: None };
        let call = async |clients: crate::connect::Clients| {
            clients.admin().get_cluster(v1::GetClusterRequest {}).await
        };
        let link = Link::new(target);
        link.call_for(Repeat::Never, Duration::ZERO, call).await.map(drop)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        self.process.check()
    }

    /// Asks it to end, so that it gives its leadership back, and waits for that.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let begin = Instant::now();
        while self.check().is_ok() {
            if begin.elapsed() > PATIENCE {
                return Err(Failure::new("the manager does not end within a minute"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// A folder that is gone when dropped; on a disk, or nothing that is measured would be true.
pub(crate) fn folder() -> Result<TempDir, Failure> {
    let made = tempfile::Builder::new().prefix("fgpu-bench-").tempdir();
    made.map_err(|error| Failure::because("cannot make a temporary folder", &error))
}

/// A loopback port that was free a moment ago.
fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0));
    let port = listener.and_then(|listener| listener.local_addr()).map(|address| address.port());
    port.map_err(|error| Failure::because("no port is free", &error))
}

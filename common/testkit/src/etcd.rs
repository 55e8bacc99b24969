//! A private etcd for one test.
//!
//! [`EtcdServer`] runs the etcd that is installed, on free ports of the loopback interface and
//! with its data in a temporary folder. It can be stopped, killed, paused and started again with
//! the same data; dropping it leaves nothing behind.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long etcd may take to start or stop.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks at its state.
const POLL: Duration = Duration::from_millis(20);
/// How often other ports are tried.
const PORT_ATTEMPTS: usize = 10;

/// An etcd server of our own.
///
/// Its methods panic with the reason and the end of its log if etcd is not installed or does not
/// do what it should: that fails the test which needs it.
pub struct EtcdServer {
    folder: TempDir,
    client_port: u16,
    peer_port: u16,
    /// Health is asked for here, because this port never speaks TLS.
    health_port: u16,
    scheme: &'static str,
    extra: Vec<String>,
    child: Option<Child>,
}

impl EtcdServer {
    /// Starts etcd with an empty key space and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts etcd with further flags, such as `--quota-backend-bytes=16777216`.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::start_scheme("http", flags).await
    }

    /// Starts etcd for TLS clients only, with the PEM files its flags name (`--cert-file=…`,
    /// `--key-file=…`, `--trusted-ca-file=…`, `--client-cert-auth`). The certificate must be good
    /// for 127.0.0.1.
    pub async fn start_tls(flags: &[&str]) -> Self {
        Self::start_scheme("https", flags).await
    }

    async fn start_scheme(scheme: &'static str, flags: &[&str]) -> Self {
        let mut failures = Vec::new();
        for _ in 0..PORT_ATTEMPTS {
            let mut server = Self {
                folder: tempfile::tempdir().expect("a temporary folder can be made"),
                client_port: free_port(),
                peer_port: free_port(),
                health_port: free_port(),
                scheme,
                extra: flags.iter().map(|&flag| flag.to_owned()).collect(),
                child: None,
            };
            match server.spawn_and_wait().await {
                Ok(()) => return server,
                // Another program may have taken a port since it was found free.
                Err(failure) if failure.contains("address already in use") => {
                    failures.push(failure);
                }
                Err(failure) => panic!("{failure}"),
            }
        }
        panic!("no free ports for etcd in {PORT_ATTEMPTS} attempts, last: {:?}", failures.last());
    }

    /// The URL for clients.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client_port)
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Stops etcd in good order (SIGTERM) and waits for its end. The data stay.
    pub async fn stop(&mut self) {
        self.signal("TERM");
        self.wait_for_end().await;
    }

    /// Kills etcd (SIGKILL) and waits for its end. The data stay as they are.
    pub async fn kill9(&mut self) {
        self.signal("KILL");
        self.wait_for_end().await;
    }

    /// Freezes etcd (SIGSTOP): connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen etcd go on (SIGCONT).
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Starts etcd again on the same ports and data, killing it first if it runs, and waits
    /// until it answers.
    pub async fn restart(&mut self) {
        if self.child.is_some() {
            self.kill9().await;
        }
        let start = Instant::now();
        loop {
            match self.spawn_and_wait().await {
                Ok(()) => return,
                // Some connection may sit on our port for a moment.
                Err(failure)
                    if failure.contains("address already in use") && start.elapsed() < DEADLINE =>
                {
                    tokio::time::sleep(POLL).await;
                }
                Err(failure) => panic!("{failure}"),
            }
        }
    }

    async fn spawn_and_wait(&mut self) -> Result<(), String> {
        self.child = Some(self.spawn());
        let start = Instant::now();
        let mut last = String::from("not asked yet");
        while start.elapsed() < DEADLINE {
            let child = self.child.as_mut().expect("it was spawned above");
            if let Some(status) = child.try_wait().expect("a child of ours can be waited for") {
                self.child = None;
                return Err(format!("etcd ended at once with {status}:\n{}", self.log_end()));
            }
            match health(self.health_port).await {
                Ok(answer) if answer.contains("\"true\"") => return Ok(()),
                Ok(answer) => last = answer,
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!("etcd is not healthy after {DEADLINE:?}, last: {last}\n{}", self.log_end()))
    }

    fn spawn(&self) -> Child {
        let client = self.endpoint();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = File::create(self.log_path()).expect("the temporary folder can be written");
        let log_too = log.try_clone().expect("an open file can be cloned");
        Command::new("etcd")
            .arg("--name=test")
            .arg(format!("--data-dir={}", self.folder.path().join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-metrics-urls=http://127.0.0.1:{}", self.health_port))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            // One member needs no patience: it starts faster, and short leases are allowed.
            .args(["--heartbeat-interval=10", "--election-timeout=100"])
            .args(["--logger=zap", "--log-level=warn"])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start etcd: {error}; install it with `apt-get install etcd-server`")
            })
    }

    fn signal(&self, name: &str) {
        let pid = self.pid().expect("etcd runs, or a signal makes no sense");
        let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
        assert!(
            status.as_ref().is_ok_and(std::process::ExitStatus::success),
            "kill -{name} {pid}: {status:?}"
        );
    }

    async fn wait_for_end(&mut self) {
        let mut child = self.child.take().expect("etcd runs, or its end cannot be waited for");
        let start = Instant::now();
        while child.try_wait().expect("a child of ours can be waited for").is_none() {
            if start.elapsed() > DEADLINE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("etcd has not ended after {DEADLINE:?}:\n{}", self.log_end());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("etcd.log")
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Works on a frozen process, too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port nobody listens on, below those the system gives to outgoing connections, so that it is
/// still free when etcd is started again.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    loop {
        // Test processes run side by side: each begins elsewhere.
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(97).wrapping_add(step) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("it is below 32,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What `/health` says.
async fn health(port: u16) -> io::Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await.map_err(io::Error::other)?
}

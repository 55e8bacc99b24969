//! A private image registry on the loopback address.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fgpu_testkit::docker::DockerEngine;

use crate::bench::DEADLINE;

const INSTALL: &str = "apt-get install docker-registry apache2-utils";

/// A registry that ends with the test.
pub(crate) struct Registry {
    port: u16,
    child: Child,
    credentials: Option<(&'static str, &'static str)>,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// Starts a registry, for everybody or for one user.
    pub(crate) fn start(credentials: Option<(&'static str, &'static str)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let root = folder.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n"
        );
        if let Some((user, password)) = credentials {
            let hashed = Command::new("htpasswd")
                .args(["-nbB", user, password])
                .output()
                .unwrap_or_else(|error| panic!("htpasswd could not be run ({error}): {INSTALL}"));
            std::fs::write(folder.path().join("users"), hashed.stdout).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {root}/users}}}}\n");
        }
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        // It ends with us, however we end.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("setpriv could not be run ({error}): {INSTALL}"));
        let mut registry = Self { port, child, credentials, _folder: folder };
        registry.wait();
        registry
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while !self.answers() {
            let ended = self.child.try_wait().unwrap();
            let log = std::fs::read_to_string(self._folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "the registry ended ({INSTALL}): {log}");
            assert!(start.elapsed() < DEADLINE, "the registry does not answer: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        let mut answer = [0; 9];
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .and_then(|mut socket| {
                socket.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
                socket.read_exact(&mut answer)
            })
            .is_ok()
            && answer.starts_with(b"HTTP/1.")
    }

    /// Host and port, as they begin the name of an image.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host())
    }

    /// Puts an image of the engine into the registry; returns its name there.
    pub(crate) fn push(&self, engine: &DockerEngine, image: &str, name: &str) -> String {
        let name = self.name(name);
        engine.docker_ok(&["tag", image, &name]);
        if let Some((user, password)) = self.credentials {
            engine.docker_ok(&["login", "-u", user, "-p", password, &self.host()]);
        }
        engine.docker_ok(&["push", &name]);
        name
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

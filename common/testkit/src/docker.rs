//! A private Docker engine for tests.
//!
//! It has its own socket, folders, bridge and containerd, so that it neither sees nor disturbs
//! another engine of the machine. Whatever happens to the test process, nothing of it stays: a
//! small shell script waits for the test process to go and then removes containers, daemon,
//! mounts, bridge and files. So an engine may live in a `static`.
//!
//! All calls block, and panic with the reason where the engine does not do what they ask.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the engine may take to start or stop.
const DEADLINE: Duration = Duration::from_secs(90);
/// What to do where a program is missing.
const INSTALL: &str = "apt-get install docker.io busybox-static iproute2 util-linux";

/// How an engine is started.
#[derive(Debug, Clone, Default)]
pub struct DockerOptions {
    /// Keeps containers running while the engine restarts.
    pub live_restore: bool,
    /// More arguments for `dockerd`.
    pub arguments: Vec<String>,
}

/// A private Docker engine.
#[derive(Debug)]
pub struct DockerEngine {
    folder: PathBuf,
    bridge: String,
    options: DockerOptions,
    storage: &'static str,
    daemon: Mutex<Option<Child>>,
    sweeper: Mutex<Child>,
}

impl DockerEngine {
    /// Starts an engine and waits until it answers.
    ///
    /// # Panics
    /// Where it does not start, with the end of its log, or with what to install.
    pub fn start(options: DockerOptions) -> Self {
        for program in ["dockerd", "docker", "ip", "setsid"] {
            assert!(has_program(program), "{program} is not installed: {INSTALL}");
        }
        let folder = tempfile::Builder::new()
            .prefix("fgpu-docker-")
            .tempdir()
            .expect("the temporary folder is writable")
            .keep();
        let bridge = name_of_bridge(&folder);
        let sweeper = start_sweeper(&folder, &bridge);
        add_bridge(&bridge);
        let mut engine = Self {
            folder,
            bridge,
            options,
            storage: "overlay2",
            daemon: Mutex::new(None),
            sweeper: Mutex::new(sweeper),
        };
        if !engine.launch() {
            // No overlay on this file system: the slow driver works everywhere.
            engine.storage = "vfs";
            assert!(engine.launch(), "dockerd did not start:\n{}", engine.end_of_log());
        }
        engine
    }

    /// Socket of the engine.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// Endpoint of the engine, as `DOCKER_HOST` wants it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A folder on the node that lives as long as the engine.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs the command line client.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        Command::new("docker")
            .arg("--host")
            .arg(self.endpoint())
            .args(arguments)
            .env("DOCKER_CONFIG", self.folder.join("client"))
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("docker could not be run ({error}): {INSTALL}"))
    }

    /// Runs the command line client, which must succeed; returns what it said.
    ///
    /// # Panics
    /// Where it fails.
    pub fn docker_ok(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        assert!(
            output.status.success(),
            "docker {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Makes an image of a folder, with `changes` such as `CMD ["/bin/sh"]`.
    ///
    /// # Panics
    /// Where the engine refuses.
    pub fn import_folder(&self, image: &str, folder: &Path, changes: &[&str]) {
        let tar = self.folder.join("image.tar");
        let packed =
            Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.is_ok_and(|status| status.success()), "tar of {}", folder.display());
        let tar = tar.display().to_string();
        let mut arguments = vec!["import"];
        for change in changes {
            arguments.extend(["--change", change]);
        }
        arguments.extend([tar.as_str(), image]);
        self.docker_ok(&arguments);
    }

    /// Makes an image with a statically linked busybox: `/bin/sh` and the usual tools.
    ///
    /// # Panics
    /// Where busybox is not installed, or the engine refuses.
    pub fn import_busybox(&self, image: &str) {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or_else(|| panic!("busybox is not installed: {INSTALL}"));
        let root = self.folder.join("busybox");
        let bin = root.join("bin");
        for folder in ["bin", "tmp", "etc", "root", "dev", "proc", "sys", "var/run"] {
            std::fs::create_dir_all(root.join(folder)).expect("own folder");
        }
        std::fs::copy(busybox, bin.join("busybox")).expect("busybox can be read");
        let listed = Command::new(busybox).arg("--list").output();
        let listed = listed.expect("busybox lists its tools").stdout;
        for tool in String::from_utf8_lossy(&listed).lines() {
            // One that is there already is busybox itself.
            let _ = std::os::unix::fs::symlink("busybox", bin.join(tool));
        }
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        std::fs::write(root.join("etc/passwd"), users).expect("own folder");
        std::fs::write(root.join("etc/group"), "root:x:0:\nnobody:x:65534:\n").expect("own folder");
        self.import_folder(image, &root, &["ENV PATH=/bin", "CMD [\"/bin/sh\"]"]);
    }

    /// Process id of the daemon, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running().as_ref().map(Child::id)
    }

    /// Stops the daemon as a service manager would, and waits for it to end.
    pub fn stop(&self) {
        self.signal("TERM");
        self.reap();
    }

    /// Kills the daemon, as a crash would.
    pub fn kill9(&self) {
        self.signal("KILL");
        self.reap();
    }

    /// Halts the daemon: it accepts connections and never answers.
    ///
    /// # Panics
    /// Where it does not halt.
    pub fn pause(&self) {
        self.signal("STOP");
        let pid = self.pid().expect("the daemon runs");
        let deadline = Instant::now() + DEADLINE;
        while !is_halted(pid) {
            assert!(Instant::now() < deadline, "dockerd {pid} does not halt");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets a halted daemon go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Starts the daemon again on the same folders; stops it first where it runs.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn restart(&self) {
        if self.pid().is_some() {
            self.stop();
        }
        assert!(self.launch(), "dockerd did not start again:\n{}", self.end_of_log());
    }

    /// Starts the daemon; says whether it answers.
    fn launch(&self) -> bool {
        let at = |name: &str| self.folder.join(name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(at("dockerd.log"))
            .expect("own folder");
        // One that is named must exist; that of the machine is not for us.
        std::fs::write(at("daemon.json"), "{}").expect("own folder");
        // A crash leaves the file, and its number may be another process by now.
        let _ = std::fs::remove_file(at("docker.pid"));
        self.end_containerd();
        let child = Command::new("dockerd")
            .args(["--host", &self.endpoint()])
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("docker.pid"))
            .arg("--config-file")
            .arg(at("daemon.json"))
            .args(["--bridge", &self.bridge])
            .args(["--cgroup-parent", &format!("/{}", self.bridge)])
            .args(["--storage-driver", self.storage])
            .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            .arg(format!("--live-restore={}", self.options.live_restore))
            .args(&self.options.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("dockerd could not be run ({error}): {INSTALL}"));
        *self.running() = Some(child);
        let deadline = Instant::now() + DEADLINE;
        while !self.answers() {
            let ended = match self.running().as_mut() {
                Some(child) => child.try_wait().is_ok_and(|ended| ended.is_some()),
                None => true,
            };
            if ended || Instant::now() > deadline {
                self.kill9();
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Ends the containerd of a daemon that crashed: the next one would take it for its own, alive
    /// or not.
    fn end_containerd(&self) {
        let file = self.folder.join("exec/containerd/containerd.pid");
        let Ok(pid) = std::fs::read_to_string(&file) else {
            return;
        };
        let process = Path::new("/proc").join(pid.trim());
        let ours = || {
            // Empty for one that has ended and waits to be collected.
            std::fs::read_to_string(process.join("cmdline"))
                .is_ok_and(|line| line.contains(&*self.folder.to_string_lossy()))
        };
        let deadline = Instant::now() + DEADLINE;
        while ours() && Instant::now() < deadline {
            let _ = Command::new("kill").args(["-KILL", pid.trim()]).status();
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = std::fs::remove_file(&file);
    }

    fn answers(&self) -> bool {
        let Ok(mut socket) = UnixStream::connect(self.socket()) else {
            return false;
        };
        let mut answer = [0; 12];
        socket.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
            && socket
                .write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
                .is_ok()
            && socket.read_exact(&mut answer).is_ok()
            && answer.ends_with(b"200")
    }

    fn signal(&self, signal: &str) {
        if let Some(pid) = self.pid() {
            // One that has ended by itself cannot be signalled, and need not be.
            let _ = Command::new("kill")
                .args([format!("-{signal}"), pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }

    /// Waits for the daemon to end; kills it where it takes too long.
    fn reap(&self) {
        let Some(mut child) = self.running().take() else {
            return;
        };
        let deadline = Instant::now() + DEADLINE;
        while child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_of_log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("dockerd.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for DockerEngine {
    fn drop(&mut self) {
        let sweeper = self.sweeper.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Its input ends: it begins.
        drop(sweeper.stdin.take());
        let _ = sweeper.wait();
        self.reap();
    }
}

/// Waits for its input to end, then removes all of an engine. Arguments: folder and bridge.
const SWEEP: &str = r#"
folder=$1 bridge=$2
cat >/dev/null
daemon=$(cat "$folder/docker.pid" 2>/dev/null)
named() { tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF "$folder"; }
if [ -n "$daemon" ] && named "$daemon"; then
    kill -CONT "$daemon"
    export DOCKER_HOST="unix://$folder/docker.sock" DOCKER_CONFIG="$folder/client"
    containers=$(timeout 10 docker ps -aq --no-trunc)
    parents=$(timeout 10 docker inspect -f '{{.HostConfig.CgroupParent}}' $containers)
    [ -n "$containers" ] && timeout 60 docker rm -f $containers
    kill -TERM "$daemon"
    tries=0
    while kill -0 "$daemon" && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
fi
for each in /proc/[0-9]*; do
    pid=${each#/proc/}
    [ "$pid" = $$ ] || [ "$pid" = "$PPID" ] || ! named "$pid" || kill -KILL "$pid"
done
for container in $(ls "$folder/data/containers" 2>/dev/null); do
    for each in /proc/[0-9]*; do
        grep -qF "$container" "$each/cgroup" 2>/dev/null && kill -KILL "${each#/proc/}"
    done
    find /sys/fs/cgroup -depth -type d -path "*$container*" -exec rmdir -p {} \;
done
for parent in $parents; do
    for tree in /sys/fs/cgroup /sys/fs/cgroup/*; do rmdir -p "$tree$parent"; done
done
find /sys/fs/cgroup -depth -type d -path "*/$bridge*" -exec rmdir {} \;
tries=0
while grep -qF " $folder/" /proc/mounts && [ $tries -lt 50 ]; do
    grep -F " $folder/" /proc/mounts | cut -d' ' -f2 | sort -r | xargs -r -n1 umount -l
    tries=$((tries + 1)); sleep 0.1
done
ip link del "$bridge"
rm -rf "$folder"
"#;

/// Starts the script that cleans up after this process, whatever becomes of it.
fn start_sweeper(folder: &Path, bridge: &str) -> Child {
    // In a session of its own: a signal to the group of the tests does not reach it.
    Command::new("setsid")
        .args(["sh", "-c", SWEEP, "fgpu-docker-sweeper"])
        .arg(folder)
        .arg(bridge)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("setsid could not be run ({error}): {INSTALL}"))
}

fn name_of_bridge(folder: &Path) -> String {
    // The random end of the folder's name; interfaces have at most 15 characters.
    let name = folder.to_string_lossy();
    let end: String = name.chars().rev().filter(char::is_ascii_alphanumeric).take(6).collect();
    format!("fgpu{end}")
}

/// Adds a bridge with the first network that nobody uses.
fn add_bridge(bridge: &str) {
    run("ip", &["link", "add", bridge, "type", "bridge"]);
    let start = std::process::id();
    for step in 0..4_000 {
        let [_, _, high, low] = (start.wrapping_add(step) % 4_096).to_be_bytes();
        let address = Ipv4Addr::new(10, 240 + high, low, 1);
        let text = format!("{address}/24");
        let taken = Command::new("ip").args(["-4", "-o", "addr"]).output();
        let taken = taken.map(|out| String::from_utf8_lossy(&out.stdout).contains(&text));
        if !taken.unwrap_or(true) {
            run("ip", &["addr", "add", &text, "dev", bridge]);
            run("ip", &["link", "set", bridge, "up"]);
            return;
        }
    }
    panic!("no network of 10.240.0.0/12 is free for a bridge");
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} could not be run ({error}): {INSTALL}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {} (a private engine needs root)",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Says whether every thread of a process has come to a halt: a signal takes a moment.
fn is_halted(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).exists())
}

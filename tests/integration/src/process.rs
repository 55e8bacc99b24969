//! A program under test: started with its output in a file, killed when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by the name `kill` knows it.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(status.success(), "{} could not be sent SIG{signal}", self.name);
    }

    /// Ends it at once, as a crash would.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end and waits for it.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().unwrap().code()
    }

    /// Its exit code, if it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- {} ({})\n{}", self.name, self.log.display(), self.log());
        }
    }
}

/// Where the binary under test lies: beside the folder of this test binary.
pub fn fgpu() -> PathBuf {
    let mut folder = std::env::current_exe().unwrap();
    while folder.pop() {
        let binary = folder.join("fgpu");
        if binary.is_file() {
            return binary;
        }
    }
    panic!("the fgpu binary is not built: cargo build -p fgpu-cli");
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    /// CPU time of all its threads, user and system.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_mib: f64,
}

/// Reads what process `pid` has used.
pub fn resources(pid: u32) -> Resources {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The command's name is in brackets and may hold spaces; counting starts behind it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = resident.split_whitespace().next().unwrap().parse().unwrap();
    // USER_HZ is 100 on every Linux that counts.
    Resources { cpu_seconds: ticks / 100.0, resident_mib: kib / 1024.0 }
}

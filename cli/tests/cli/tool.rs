//! Running the program as a person does.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// The program with a home of its own and nothing of ours in its environment.
pub struct Tool {
    home: tempfile::TempDir,
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Tool {
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fgpu"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FGPU_")) {
            command.env_remove(name);
        }
        command
            .args(line.split_whitespace())
            .env("HOME", self.home.path())
            .env_remove("XDG_CONFIG_HOME")
            .env("COLUMNS", "100")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs `fgpu LINE` to its end.
    pub async fn run(&self, line: &str) -> Ran {
        finish(self.command(line).spawn().unwrap(), line).await
    }

    /// Runs `fgpu LINE` with `input`.
    pub async fn run_with_input(&self, line: &str, input: &str) -> Ran {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        finish(child, line).await
    }
}

/// Waits for the end of a run.
pub async fn finish(child: Child, line: &str) -> Ran {
    let deadline = Duration::from_secs(120);
    let output: Output = tokio::time::timeout(deadline, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("`fgpu {line}` did not end within {deadline:?}"))
        .unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Compares a text with the file of this name; `UPDATE_SNAPSHOTS=1` writes it instead.
pub fn snapshot(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let first = known.lines().zip(text.lines()).find(|(a, b)| a != b);
    assert!(
        known == text,
        "{} is not what is printed now (first difference: {first:?}); if that is meant, run the \
         test with UPDATE_SNAPSHOTS=1 and look at the change",
        path.display()
    );
}

//! The command line as a person or a script uses it.

use crate::process::fgpu;
use serde_json::Value;
use std::process::{Command, Output};

/// `fgpu` with an address and a token.
#[derive(Debug, Clone)]
pub struct Cli {
    pub address: String,
    pub token: String,
}

impl Cli {
    /// The command, ready to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(fgpu());
        command
            .args(arguments)
            .env("FGPU_ADDRESS", &self.address)
            .env("FGPU_TOKEN", &self.token)
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .stdin(std::process::Stdio::null());
        command
    }

    /// Runs it, whatever comes.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it says on success, trimmed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "fgpu {arguments:?}: {}\n{out}{err}", output.status);
        out.trim().to_owned()
    }

    /// What it says in JSON.
    ///
    /// # Panics
    /// When it fails, or says something else.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let out = self.ok(&all);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    /// What it says when it must fail.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "fgpu {arguments:?} did not fail");
        text(&output.stderr)
    }
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

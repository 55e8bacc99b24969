//! The fake NVML library (`fgpu-fake-nvml`), where it is and how to use it.
//!
//! [`FakeNvml`] is a copy of the library with its own file of devices, for tests in one process.
//! A program that is started gets [`library_path`] and [`CONFIG_VARIABLE`] instead, or such a copy.

pub use fgpu_fake_nvml::{CONFIG_VARIABLE, config};

use fgpu_fake_nvml::config::Config;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const FILE_NAME: &str = "libfgpu_fake_nvml.so";

/// One fake driver: the library, and what it answers.
#[derive(Debug)]
pub struct FakeNvml {
    folder: TempDir,
}

impl FakeNvml {
    /// A driver that answers as `config` says.
    ///
    /// # Panics
    /// When the library cannot be built or copied.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fake = Self { folder };
        // A copy, not a link: the loader takes files of one inode for one library.
        std::fs::copy(library_path(), fake.library()).expect("copying the fake NVML library");
        fake.set(config);
        fake
    }

    /// The library to load.
    #[must_use]
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// The file it answers from, for [`CONFIG_VARIABLE`].
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1.json")
    }

    /// Answers as `config` says from the next call on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set(&self, config: &Config) {
        config.write(&self.config_path()).expect("writing what the fake NVML library answers");
    }
}

/// The fake NVML library of this build.
///
/// This crate depends on it, so whatever cargo or nextest builds with this crate has it beside
/// itself, up to date, as `target/<profile>/deps/libfgpu_fake_nvml.so`. Where a build was moved or
/// cleaned in between, cargo is asked for it.
///
/// # Panics
/// When it cannot be built; the message says what cargo said.
#[must_use]
pub fn library_path() -> PathBuf {
    let profile = profile_folder();
    let places = [profile.join("deps").join(FILE_NAME), profile.join(FILE_NAME)];
    let found = || places.iter().find(|path| path.exists()).cloned();
    found().unwrap_or_else(|| {
        build(&profile);
        found().unwrap_or_else(|| panic!("cargo built fgpu-fake-nvml, yet not as {places:?}"))
    })
}

/// `target/<profile>` of the running test.
fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().expect("the running program has a path");
    let folder = program.parent().expect("a program is in a folder");
    if folder.ends_with("deps") || folder.ends_with("examples") {
        return folder.parent().expect("`deps` is in a profile's folder").to_owned();
    }
    folder.to_owned()
}

fn build(profile: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--package", "fgpu-fake-nvml"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.arg("--target-dir").arg(profile.parent().unwrap_or(profile));
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let output = command.output().expect("starting cargo to build fgpu-fake-nvml");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo cannot build fgpu-fake-nvml:\n{said}");
}

//! The files a container is made of, written so that a crash at any moment leaves them whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ProcessConfig;
use super::proc;
use crate::cgroup::{CgroupError, Cgroups};
use crate::{CgroupDriver, ContainerSpec, Labels, Limits, PortSpec, RuntimeError};

/// Where commands are looked for when the specification does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What was asked for: `spec.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredSpec {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) labels: Labels,
    pub(super) workdir: String,
    pub(super) user: Option<String>,
    pub(super) limits: Limits,
    pub(super) ports: Vec<PortSpec>,
    pub(super) tty: bool,
    pub(super) open_stdin: bool,
    pub(super) session: String,
    /// Cgroup of all sessions; `None` where limits are not enforced.
    pub(super) cgroup_root: Option<String>,
    pub(super) log_file_bytes: u64,
    pub(super) log_files: u32,
}

/// Who runs: `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) shim_pid: u32,
    pub(super) shim_start: u64,
    pub(super) pid: u32,
    pub(super) start: u64,
    pub(super) started_at_unix_ms: u64,
}

/// How it ended: `exit.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) oom_killed: bool,
    pub(super) finished_at_unix_ms: u64,
    pub(super) error: Option<String>,
}

/// A container as its files tell.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) folder: PathBuf,
    pub(super) spec: StoredSpec,
    pub(super) run: Option<Run>,
    pub(super) exit: Option<Exit>,
}

impl StoredSpec {
    pub(super) fn new(
        spec: &ContainerSpec,
        config: &ProcessConfig,
        enforced: bool,
    ) -> Result<Self, RuntimeError> {
        let mut env = spec.env.clone();
        env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
        let argv = spec.entrypoint.iter().flatten().chain(&spec.command);
        Ok(Self {
            id: new_id()?,
            name: spec.name.clone(),
            image: spec.image.clone(),
            argv: argv.cloned().collect(),
            env,
            labels: config.owner.stamp(&spec.labels, &spec.session),
            workdir: spec.workdir.clone().unwrap_or_else(|| "/".to_owned()),
            user: spec.user.clone(),
            limits: spec.limits.clone(),
            ports: spec.ports.clone(),
            tty: spec.tty,
            open_stdin: spec.open_stdin,
            session: spec.session.clone(),
            cgroup_root: enforced.then(|| config.cgroup_root.clone()),
            log_file_bytes: config.log_file_bytes,
            log_files: config.log_files.max(1),
        })
    }

    /// The cgroups its session is in; `None` where limits are not enforced.
    pub(super) fn cgroups(&self) -> Option<Cgroups> {
        let root = self.cgroup_root.as_deref()?;
        Cgroups::detect(root, CgroupDriver::Cgroupfs).ok()
    }

    pub(super) fn cgroup_error(&self, source: CgroupError) -> RuntimeError {
        RuntimeError::Cgroup { session: self.session.clone(), source: Box::new(source) }
    }
}

impl Stored {
    /// Reads the files of the container in `folder`; `None` where there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, RuntimeError> {
        let Some(spec) = read_json(&folder.join("spec.json"))? else {
            return Ok(None);
        };
        Ok(Some(Self {
            spec,
            // Before the exit: a start that comes between the two is then seen as running.
            run: read_json(&folder.join("run.json"))?,
            exit: read_json(&folder.join("exit.json"))?,
            folder: folder.to_owned(),
        }))
    }

    /// Says whether the main process runs, or its end is being written down.
    pub(super) fn is_running(&self) -> bool {
        match (&self.exit, &self.run) {
            (None, Some(run)) => proc::is_alive(run.pid, run.start) || self.shim_runs(),
            _ => false,
        }
    }

    pub(super) fn shim_runs(&self) -> bool {
        self.run.as_ref().is_some_and(|run| proc::is_alive(run.shim_pid, run.shim_start))
    }

    pub(super) fn write_run(&self, run: &Run) -> Result<(), RuntimeError> {
        write_json(&self.folder.join("run.json"), run)
    }

    pub(super) fn write_exit(&self, exit: &Exit) -> Result<(), RuntimeError> {
        write_json(&self.folder.join("exit.json"), exit)
    }

    /// Forgets an earlier run.
    pub(super) fn clear(&self) -> Result<(), RuntimeError> {
        for name in ["run.json", "exit.json"] {
            let path = self.folder.join(name);
            ignore_absent(fs::remove_file(&path)).map_err(|source| at(&path, source))?;
        }
        Ok(())
    }
}

/// All containers of a state folder, whoever they belong to. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Store {
    folder: Arc<PathBuf>,
}

impl Store {
    pub(super) fn open(folder: &Path) -> Result<Self, RuntimeError> {
        for part in ["containers", "names"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|source| at(&path, source))?;
        }
        let folder = folder.canonicalize().map_err(|source| at(folder, source))?;
        Ok(Self { folder: Arc::new(folder) })
    }

    /// Makes the container of `spec`, or returns the one that holds its name.
    ///
    /// The name is taken by a hard link of the finished specification: of two at once, one wins.
    pub(super) fn create(&self, spec: &StoredSpec) -> Result<Option<Stored>, RuntimeError> {
        let (folder, name) = (self.container(&spec.id), self.name(&spec.name));
        fs::create_dir(&folder).map_err(|source| at(&folder, source))?;
        let file = folder.join("spec.json");
        write_json(&file, spec)?;
        loop {
            match fs::hard_link(&file, &name) {
                Ok(()) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(at(&name, source)),
            }
            let holder: Option<StoredSpec> = read_json(&name)?;
            let holder = match &holder {
                Some(holder) => self.load(&holder.id)?,
                None => continue,
            };
            if holder.is_some() {
                fs::remove_dir_all(&folder).map_err(|source| at(&folder, source))?;
                return Ok(holder);
            }
            // Left by a removal that was cut short.
            ignore_absent(fs::remove_file(&name)).map_err(|source| at(&name, source))?;
        }
    }

    pub(super) fn load(&self, id: &str) -> Result<Option<Stored>, RuntimeError> {
        // An id is part of a path.
        if id.is_empty() || !id.chars().all(|each| each.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        Stored::read(&self.container(id))
    }

    /// All containers; those that hold no name were given up half made, and are left out.
    pub(super) fn load_all(&self) -> Result<Vec<Stored>, RuntimeError> {
        let folder = self.folder.join("containers");
        let entries = fs::read_dir(&folder).map_err(|source| at(&folder, source))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| at(&folder, source))?;
            let Some(stored) = self.load(&entry.file_name().to_string_lossy())? else {
                continue;
            };
            let holder: Option<StoredSpec> = read_json(&self.name(&stored.spec.name))?;
            if holder.is_some_and(|holder| holder.id == stored.spec.id) {
                found.push(stored);
            }
        }
        Ok(found)
    }

    pub(super) fn remove(&self, stored: &Stored) -> Result<(), RuntimeError> {
        // The specification goes first: without it there is no container.
        let spec = stored.folder.join("spec.json");
        ignore_absent(fs::remove_file(&spec)).map_err(|source| at(&spec, source))?;
        let name = self.name(&stored.spec.name);
        let holder: Option<StoredSpec> = read_json(&name)?;
        if holder.is_some_and(|holder| holder.id == stored.spec.id) {
            ignore_absent(fs::remove_file(&name)).map_err(|source| at(&name, source))?;
        }
        ignore_absent(fs::remove_dir_all(&stored.folder))
            .map_err(|source| at(&stored.folder, source))
    }

    fn container(&self, id: &str) -> PathBuf {
        self.folder.join("containers").join(id)
    }

    fn name(&self, name: &str) -> PathBuf {
        self.folder.join("names").join(name)
    }
}

pub(super) fn at(path: &Path, source: io::Error) -> RuntimeError {
    RuntimeError::State { path: path.to_owned(), source }
}

fn ignore_absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn new_id() -> Result<String, RuntimeError> {
    let source = Path::new("/proc/sys/kernel/random/uuid");
    let text = fs::read_to_string(source).map_err(|error| at(source, error))?;
    Ok(text.chars().filter(char::is_ascii_alphanumeric).collect::<String>())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| at(path, source))?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| at(path, io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Writes a file so that it is there whole or not at all, also after a power cut.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RuntimeError> {
    let half = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            // The environment may hold secrets.
            .mode(0o600)
            .open(&half)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(&half, path)?;
        match path.parent() {
            Some(folder) => fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| at(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Owner;

    fn config(folder: &Path) -> ProcessConfig {
        let owner = Owner { cluster: "c1".to_owned(), node: "n1".to_owned() };
        ProcessConfig::new(owner, vec!["shim".into()], folder)
    }

    fn spec(folder: &Path, name: &str) -> StoredSpec {
        let asked = ContainerSpec::new(name, "none", "s1");
        StoredSpec::new(&asked, &config(folder), false).unwrap()
    }

    #[test]
    fn a_name_is_taken_once_and_free_after_removal() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (one, two) = (spec(folder.path(), "a"), spec(folder.path(), "a"));

        assert!(store.create(&one).unwrap().is_none());
        let holder = store.create(&two).unwrap().unwrap();
        assert_eq!(holder.spec.id, one.id);
        assert_eq!(store.load_all().unwrap().len(), 1);

        store.remove(&holder).unwrap();
        assert!(store.load_all().unwrap().is_empty());
        assert!(store.create(&two).unwrap().is_none());
    }

    #[test]
    fn a_name_left_by_a_removal_that_was_cut_short_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (one, two) = (spec(folder.path(), "a"), spec(folder.path(), "a"));
        store.create(&one).unwrap();
        fs::remove_file(store.container(&one.id).join("spec.json")).unwrap();

        assert!(store.create(&two).unwrap().is_none());
        assert_eq!(store.load_all().unwrap()[0].spec.id, two.id);
    }

    #[test]
    fn an_id_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for id in ["", "..", "../names", "a/b"] {
            assert!(store.load(id).unwrap().is_none(), "{id}");
        }
    }

    #[test]
    fn the_environment_is_that_of_the_specification_and_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let stored = spec(folder.path(), "a");
        assert_eq!(stored.env.keys().collect::<Vec<_>>(), ["PATH"]);
    }
}

//! Taking the output of a container over into a file.

use super::record::Cutter;
use super::{LogLimits, retention};
use crate::state_dir::Paths;
use fgpu_domain::ids::SessionId;
use fgpu_domain::reconcile::PlacementId;
use fgpu_runtime::{ContainerRuntime, LogOptions, LogStream, RuntimeError};
use futures_util::StreamExt as _;
use std::io;
use std::path::{Path, PathBuf};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;

/// Why output is not kept.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The runtime does not give it.
    #[error("output of container {container} cannot be read")]
    Runtime {
        /// The container.
        container: String,
        /// What the runtime said.
        source: RuntimeError,
    },
    /// The file cannot be written.
    #[error("output cannot be kept in {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The file with the newest output of a placement.
#[must_use]
pub fn file_of(paths: &Paths, id: &PlacementId) -> PathBuf {
    paths.logs().join(format!("{}.{}.log", id.session, id.generation))
}

/// The file with older output, which exists only after much was written.
#[must_use]
pub fn older_file_of(paths: &Paths, id: &PlacementId) -> PathBuf {
    paths.logs().join(format!("{}.{}.log.1", id.session, id.generation))
}

/// Whether output of the placement is kept.
#[must_use]
pub fn exists(paths: &Paths, id: &PlacementId) -> bool {
    file_of(paths, id).exists()
}

/// The newest placement of a session whose output is kept.
#[must_use]
pub fn newest_of(paths: &Paths, session: &SessionId) -> Option<PlacementId> {
    let entries = std::fs::read_dir(paths.logs()).ok()?;
    let generation = |name: &str| {
        let rest = name.strip_prefix(session.as_str())?.strip_prefix('.')?;
        rest.strip_suffix(".log")?.parse::<u64>().ok()
    };
    let found = entries.filter_map(|entry| generation(entry.ok()?.file_name().to_str()?)).max()?;
    Some(PlacementId { session: session.clone(), generation: found })
}

/// Keeps all output of `container`, and drops what the limits say.
///
/// # Errors
/// [`ArchiveError`]; what was read until then is kept.
pub async fn keep(
    runtime: &dyn ContainerRuntime,
    container: &str,
    paths: &Paths,
    id: &PlacementId,
    limits: LogLimits,
) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::Runtime { container: container.to_owned(), source };
    let options = LogOptions { timestamps: true, ..LogOptions::default() };
    let mut output = runtime.logs(container, options).await.map_err(failed)?;
    let mut file = Rotating::create(paths, id, limits.placement_bytes / 2).await?;
    let mut cutters = [Cutter::new(LogStream::Stdout), Cutter::new(LogStream::Stderr)];
    let mut records = Vec::new();
    let mut problem = None;
    while let Some(chunk) = output.next().await {
        match chunk {
            Ok(chunk) => {
                let cutter = &mut cutters[usize::from(chunk.stream == LogStream::Stderr)];
                cutter.push(&chunk.data, &mut records);
            }
            Err(error) => {
                problem = Some(error);
                break;
            }
        }
        file.write(&mut records, false).await?;
    }
    cutters.iter_mut().for_each(|cutter| cutter.finish(&mut records));
    file.write(&mut records, true).await?;
    let (folder, now) = (paths.logs(), std::time::SystemTime::now());
    let pruned = tokio::task::spawn_blocking(move || retention::prune(&folder, limits, now)).await;
    if let Ok(Err(error)) = pruned {
        tracing::warn!(%error, "old output is not dropped");
    }
    problem.map_or(Ok(()), |source| Err(failed(source)))
}

/// A file and the one before it.
struct Rotating {
    file: File,
    path: PathBuf,
    older: PathBuf,
    written: u64,
    most: u64,
}

/// Written in pieces of at least this, bytes.
const PIECE: usize = 64 << 10;

impl Rotating {
    async fn create(paths: &Paths, id: &PlacementId, most: u64) -> Result<Self, ArchiveError> {
        let (path, older) = (file_of(paths, id), older_file_of(paths, id));
        // Left by an agent that was interrupted here: all of it comes again.
        let _ = tokio::fs::remove_file(&older).await;
        let file = open(&path).await?;
        Ok(Self { file, path, older, written: 0, most: most.max(1) })
    }

    async fn write(&mut self, records: &mut Vec<u8>, all: bool) -> Result<(), ArchiveError> {
        if records.len() < PIECE && !all {
            return Ok(());
        }
        if self.written >= self.most {
            tokio::fs::rename(&self.path, &self.older).await.map_err(failed(&self.path))?;
            self.file = open(&self.path).await?;
            self.written = 0;
        }
        self.file.write_all(records).await.map_err(failed(&self.path))?;
        self.file.flush().await.map_err(failed(&self.path))?;
        self.written += records.len() as u64;
        records.clear();
        Ok(())
    }
}

async fn open(path: &Path) -> Result<File, ArchiveError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).await.map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::Io { path, source }
}

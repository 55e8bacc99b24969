//! The trait every container runtime of a node implements.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::{
    Container, ContainerSpec, ContainerStats, ExecSession, ExecSpec, LogChunk, LogOptions,
    RuntimeError, RuntimeEvent, RuntimeInfo,
};

/// Pieces of output as they come.
pub type LogChunkStream = Pin<Box<dyn Stream<Item = Result<LogChunk, RuntimeError>> + Send>>;
/// Events as they come.
pub type EventStream = Pin<Box<dyn Stream<Item = RuntimeEvent> + Send>>;

/// A container runtime of a node.
///
/// An `id` is what `create` returned; a container of another owner counts as absent
/// ([`RuntimeError::NoSuchContainer`]). Any call may fail with
/// [`RuntimeError::EngineUnavailable`], which says: nothing is known, ask again later.
#[async_trait]
pub trait ContainerRuntime: Send + Sync {
    /// Short name: `docker` or `process`.
    fn kind(&self) -> &'static str;

    /// Whether [`ContainerSpec::mounts`] are made. Where not, a specification with mounts is
    /// refused, and whoever hands files to a session does so by their path on the node.
    fn mounts_supported(&self) -> bool;

    /// What the runtime is and can do.
    ///
    /// # Errors
    /// [`RuntimeError::EngineUnavailable`].
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError>;

    /// Sees to it that `image` is on the node.
    ///
    /// Progress is sent when there is room for it: a slow reader misses some, the pull never waits.
    ///
    /// # Errors
    /// [`RuntimeError::ImageNotFound`], [`RuntimeError::ImageAccessDenied`],
    /// [`RuntimeError::RegistryUnreachable`] or [`RuntimeError::Credentials`].
    async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        progress: mpsc::Sender<PullProgress>,
    ) -> Result<(), RuntimeError>;

    /// Names of the images on the node, the newest first; none where the runtime has no images.
    ///
    /// # Errors
    /// [`RuntimeError::EngineUnavailable`].
    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        Ok(Vec::new())
    }

    /// Makes a container, or returns the id of the one of ours with this name and the same
    /// `io.fgpu.generation` label.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidSpec`], [`RuntimeError::ImageNotFound`] where the image is not on
    /// the node, [`RuntimeError::NameInUse`] where another container has the name.
    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError>;

    /// Starts a container; one that runs already is left alone.
    ///
    /// # Errors
    /// [`RuntimeError::CommandNotFound`], [`RuntimeError::StartFailed`],
    /// [`RuntimeError::PortUnavailable`]. Behind an init process a missing command shows only
    /// afterwards, as exit code 127.
    async fn start(&self, id: &str) -> Result<(), RuntimeError>;

    /// Ends a container: TERM, then KILL to all its processes after `grace`. One that has ended
    /// already is left alone. When this returns it does not run any more.
    ///
    /// # Errors
    /// [`RuntimeError::NoSuchContainer`] and those of the engine.
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;

    /// Removes a container and its empty cgroups, killing it where it still runs. One that is
    /// absent is a success.
    ///
    /// # Errors
    /// Those of the engine.
    async fn remove(&self, id: &str) -> Result<(), RuntimeError>;

    /// All containers of this owner, in every state, sorted by name.
    ///
    /// # Errors
    /// Those of the engine.
    async fn list(&self) -> Result<Vec<Container>, RuntimeError>;

    /// One container.
    ///
    /// # Errors
    /// [`RuntimeError::NoSuchContainer`] and those of the engine.
    async fn inspect(&self, id: &str) -> Result<Container, RuntimeError>;

    /// Events of this owner's containers from now on. They are hints to list again: some may be
    /// missed or come twice. When the stream ends, subscribe and list again.
    ///
    /// # Errors
    /// Those of the engine.
    async fn events(&self) -> Result<EventStream, RuntimeError>;

    /// Output of a container, also of one that has ended.
    ///
    /// # Errors
    /// [`RuntimeError::NoSuchContainer`] and those of the engine.
    async fn logs(&self, id: &str, options: LogOptions) -> Result<LogChunkStream, RuntimeError>;

    /// Runs a command in a running container.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`], [`RuntimeError::InvalidSpec`] without a command,
    /// [`RuntimeError::CommandNotFound`]; an engine may instead report a missing command by exit
    /// code 126 or 127.
    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecSession, RuntimeError>;

    /// What a running container uses.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`] and those of the engine.
    async fn stats(&self, id: &str) -> Result<ContainerStats, RuntimeError>;
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// When it is not on the node.
    #[default]
    IfNotPresent,
    /// Always: the tag may have moved.
    Always,
    /// Never: one that is not on the node is [`RuntimeError::ImageNotFound`].
    Never,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// What is being done.
    pub phase: PullPhase,
    /// Bytes downloaded of the layers whose size is known.
    pub bytes_done: u64,
    /// Size in bytes of the layers whose size is known; grows as layers begin.
    pub bytes_total: u64,
    /// Layers that are complete on the node.
    pub layers_done: u32,
    /// Layers of the image.
    pub layers_total: u32,
}

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPhase {
    /// Asking the registry.
    #[default]
    Resolving,
    /// Downloading layers.
    Downloading,
    /// Unpacking layers.
    Extracting,
    /// The image is on the node.
    Done,
}

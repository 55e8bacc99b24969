//! Why a runtime did not do what was asked, and whether to ask again.

use std::path::PathBuf;

/// The error behind an error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a runtime did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The registry answered that there is no such image, or it is not on the node and may not be
    /// pulled.
    #[error("image {image} was not found: check its name and tag")]
    ImageNotFound {
        /// The image asked for.
        image: String,
    },
    /// The registry refused to give the image. Some registries answer so for images that do not
    /// exist.
    #[error(
        "registry {registry} refused image {image}: it is not there, or needs credentials on the node (`docker login {registry}`)"
    )]
    ImageAccessDenied {
        /// The image asked for.
        image: String,
        /// Host name of the registry.
        registry: String,
        /// The answer of the registry.
        source: Cause,
    },
    /// The registry did not answer, or answered that it is broken or busy.
    #[error("registry {registry} did not give image {image}")]
    RegistryUnreachable {
        /// The image asked for.
        image: String,
        /// Host name of the registry.
        registry: String,
        /// What went wrong on the way.
        source: Cause,
    },
    /// The credentials that the node's Docker configuration promises could not be read.
    #[error("credentials of registry {registry} could not be read: {reason}")]
    Credentials {
        /// Host name of the registry.
        registry: String,
        /// What is wrong with them, without any secret.
        reason: String,
    },
    /// The engine is not there, or did not answer within the deadline.
    #[error("container engine at {endpoint} did not answer")]
    EngineUnavailable {
        /// The endpoint called.
        endpoint: String,
        /// The failed call, or the deadline that passed.
        source: Cause,
    },
    /// The engine answered with an error that has no name of its own here.
    #[error("container engine could not {doing}: {reason}")]
    EngineFailed {
        /// What was being done, and to what.
        doing: String,
        /// HTTP status of the answer, 0 where there was none.
        status: u16,
        /// The words of the engine.
        reason: String,
    },
    /// A container with this name is there already, and is not the one asked for.
    #[error("container name {name} is in use by {by}")]
    NameInUse {
        /// The name asked for.
        name: String,
        /// Who holds it.
        by: String,
    },
    /// The specification cannot be carried out as it stands.
    #[error("container specification: {field}: {reason}")]
    InvalidSpec {
        /// The field at fault.
        field: &'static str,
        /// What is wrong, with the value and what would be right.
        reason: String,
    },
    /// The command is not in the image, or not on the node for the process runtime.
    #[error("command {command} was not found or is not executable: {reason}")]
    CommandNotFound {
        /// The program looked for.
        command: String,
        /// The words of who looked.
        reason: String,
    },
    /// The container could not be started.
    #[error("container {id} could not be started: {reason}")]
    StartFailed {
        /// The container.
        id: String,
        /// The words of the engine or the operating system.
        reason: String,
    },
    /// A port to be published could not be had on the node.
    #[error("container {id}: port could not be published: {reason}")]
    PortUnavailable {
        /// The container.
        id: String,
        /// The words of the engine.
        reason: String,
    },
    /// There is no container of ours with this id.
    #[error("container {id} does not exist")]
    NoSuchContainer {
        /// The id or name asked for.
        id: String,
    },
    /// The call needs a running container.
    #[error("container {id} is not running")]
    NotRunning {
        /// The container.
        id: String,
    },
    /// This runtime cannot do that at all.
    #[error("the {runtime} runtime cannot {what}")]
    Unsupported {
        /// Kind of the runtime.
        runtime: &'static str,
        /// What was asked.
        what: String,
    },
    /// A file of the runtime could not be read or written.
    #[error("runtime state at {path}")]
    State {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A cgroup could not be made, read or limited.
    #[error("cgroup of session {session}")]
    Cgroup {
        /// The session the cgroup is for.
        session: String,
        /// What went wrong.
        source: Box<crate::cgroup::CgroupError>,
    },
}

impl RuntimeError {
    /// Says whether the same call may succeed later without anybody changing the request.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::RegistryUnreachable { .. }
            | Self::EngineUnavailable { .. }
            | Self::PortUnavailable { .. }
            | Self::State { .. }
            | Self::Cgroup { .. } => true,
            Self::EngineFailed { status, .. } => *status == 0 || *status >= 500,
            Self::ImageNotFound { .. }
            | Self::ImageAccessDenied { .. }
            | Self::Credentials { .. }
            | Self::NameInUse { .. }
            | Self::InvalidSpec { .. }
            | Self::CommandNotFound { .. }
            | Self::StartFailed { .. }
            | Self::NoSuchContainer { .. }
            | Self::NotRunning { .. }
            | Self::Unsupported { .. } => false,
        }
    }

    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidSpec { field, reason: reason.into() }
    }
}

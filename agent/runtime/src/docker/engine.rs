//! The connection to a Docker engine, with its deadlines.
//!
//! A call that only reads must answer within the call deadline. One that may rightly take longer
//! (create, start, stop, remove, pull) is watched: beside it, the engine is asked for a sign of
//! life every few seconds, and the call is given up when none comes. Either way a hung engine is
//! known within 15 seconds.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};

use super::DockerConfig;
use crate::{Cause, RuntimeError};

/// Seconds the client library itself waits: longer than any deadline of ours.
const LIBRARY_TIMEOUT_S: u64 = 30 * 24 * 3_600;
/// Time between two signs of life.
const BETWEEN_SIGNS: Duration = Duration::from_secs(4);

/// A Docker engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    socket: Arc<PathBuf>,
    call_deadline: Duration,
    /// The version both sides speak; asked for again after the engine was away.
    version: Arc<Mutex<Option<ClientVersion>>>,
}

/// Why a call to an engine failed.
#[derive(Debug)]
pub(super) enum EngineError {
    /// It is not there, or does not answer.
    Unavailable { endpoint: String, source: Cause },
    /// It answered with an error.
    Answered { status: u16, message: String },
    /// Something beside the call failed.
    Other(RuntimeError),
}

/// A deadline that passed.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs_f32())]
pub(super) struct DeadlinePassed(pub(super) Duration);

impl Engine {
    pub(super) fn new(config: &DockerConfig) -> Result<Self, RuntimeError> {
        let path = match config.endpoint.split_once("://") {
            None => config.endpoint.as_str(),
            Some(("unix", path)) => path,
            Some(_) => "",
        };
        if !path.starts_with('/') {
            return Err(RuntimeError::invalid(
                "endpoint",
                format!(
                    "`{}` is not a Unix socket such as unix:///var/run/docker.sock",
                    config.endpoint
                ),
            ));
        }
        Ok(Self {
            socket: Arc::new(path.into()),
            call_deadline: config.call_deadline,
            version: Arc::default(),
        })
    }

    /// Says whether the engine is the one that answered last, as far as we know.
    pub(super) fn is_known(&self) -> bool {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// A client that speaks a version the engine knows.
    pub(super) async fn client(&self) -> Result<Docker, RuntimeError> {
        let known = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let version = known.as_ref().unwrap_or(API_DEFAULT_VERSION);
        let docker =
            Docker::connect_with_unix(&self.socket.to_string_lossy(), LIBRARY_TIMEOUT_S, version)
                .map_err(|error| self.unavailable(error))?;
        if known.is_some() {
            return Ok(docker);
        }
        let docker = self
            .within(docker.negotiate_version())
            .await
            .map_err(|error| error.into_runtime("tell its version".to_owned()))?;
        self.remember(Some(docker.client_version()));
        Ok(docker)
    }

    /// Runs a call that only reads.
    pub(super) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(self.call_deadline, call).await {
            Ok(answer) => answer.map_err(|error| self.failed(error)),
            Err(_) => Err(self.silent(self.call_deadline)),
        }
    }

    /// Runs a call that may take up to `longest`, as long as the engine gives signs of life.
    pub(super) async fn watched<T>(
        &self,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
        longest: Duration,
    ) -> Result<T, EngineError> {
        tokio::select! {
            answer = tokio::time::timeout(longest, call) => match answer {
                Ok(answer) => answer.map_err(|error| self.failed(error)),
                Err(_) => Err(self.silent(longest)),
            },
            error = self.until_silent() => Err(error),
        }
    }

    /// Asks for signs of life until one stays out.
    pub(super) async fn until_silent(&self) -> EngineError {
        loop {
            tokio::time::sleep(BETWEEN_SIGNS).await;
            let docker = match self.client().await {
                Ok(docker) => docker,
                Err(error) => return EngineError::Other(error),
            };
            match self.within(docker.ping()).await {
                // An error is an answer, too: it is alive.
                Ok(_) | Err(EngineError::Answered { .. }) => {}
                Err(error) => return error,
            }
        }
    }

    /// What went wrong with a call, in our words.
    pub(super) fn failed(&self, error: bollard::errors::Error) -> EngineError {
        use bollard::errors::Error as Library;
        match error {
            Library::DockerResponseServerError { status_code, message } => {
                if status_code == 400 && message.contains("client version") {
                    // The engine was replaced by an older one.
                    self.remember(None);
                }
                EngineError::Answered { status: status_code, message }
            }
            Library::DockerStreamError { error } => {
                EngineError::Answered { status: 0, message: error }
            }
            Library::JsonDataError { message, .. } => EngineError::Answered {
                status: 0,
                message: format!("answer not understood: {message}"),
            },
            other => self.gone(other),
        }
    }

    fn silent(&self, after: Duration) -> EngineError {
        self.gone(DeadlinePassed(after))
    }

    fn gone(&self, source: impl Into<Cause>) -> EngineError {
        self.remember(None);
        EngineError::Unavailable { endpoint: self.endpoint(), source: source.into() }
    }

    fn unavailable(&self, source: impl Into<Cause>) -> RuntimeError {
        self.gone(source).into_runtime(String::new())
    }

    fn remember(&self, version: Option<ClientVersion>) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }
}

impl EngineError {
    /// The error of a call that has no better name for what the engine answered.
    pub(super) fn into_runtime(self, doing: String) -> RuntimeError {
        match self {
            Self::Unavailable { endpoint, source } => {
                RuntimeError::EngineUnavailable { endpoint, source }
            }
            Self::Answered { status, message } => {
                RuntimeError::EngineFailed { doing, status, reason: message.trim().to_owned() }
            }
            Self::Other(error) => error,
        }
    }

    /// The error of a call about container `id`.
    pub(super) fn of_container(self, verb: &str, id: &str) -> RuntimeError {
        match self {
            Self::Answered { status: 404, .. } => {
                RuntimeError::NoSuchContainer { id: id.to_owned() }
            }
            Self::Answered { status: 409, message } if message.contains("not running") => {
                RuntimeError::NotRunning { id: id.to_owned() }
            }
            other => other.into_runtime(format!("{verb} container {id}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Owner;

    fn engine(endpoint: &str) -> Result<Engine, RuntimeError> {
        let owner = Owner { cluster: "c".to_owned(), node: "n".to_owned() };
        Engine::new(&DockerConfig { endpoint: endpoint.to_owned(), ..DockerConfig::new(owner) })
    }

    #[test]
    fn an_endpoint_is_a_unix_socket() {
        for good in ["unix:///run/d.sock", "/run/d.sock"] {
            assert_eq!(engine(good).unwrap().socket.as_path(), Path::new("/run/d.sock"));
        }
        for bad in ["tcp://1.2.3.4:2375", "d.sock", "", "unix://d.sock"] {
            assert!(engine(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hung_engine_is_known_within_15_seconds() {
        let deadline = engine("/run/d.sock").unwrap().call_deadline;
        // A call may begin just after a sign of life came.
        assert!(BETWEEN_SIGNS + deadline <= Duration::from_secs(15));
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_unavailable_and_worth_a_retry() {
        let error = engine("/nowhere/d.sock").unwrap().client().await.unwrap_err();
        assert!(matches!(error, RuntimeError::EngineUnavailable { .. }), "{error:?}");
        assert!(error.is_retryable());
    }
}

//! Commands run beside the main process of a container.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::runtime::LogChunkStream;
use crate::{Cause, RuntimeError};

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecSpec {
    /// Program and arguments; at least the program.
    pub command: Vec<String>,
    /// Environment, on top of that of the container.
    pub env: BTreeMap<String, String>,
    /// Gives it a terminal: one stream of output, and input that ends with ^D.
    pub tty: bool,
    /// Gives it standard input; without, it is at its end.
    pub stdin: bool,
    /// Working directory; `None` keeps that of the container.
    pub workdir: Option<String>,
    /// User; `None` keeps that of the container.
    pub user: Option<String>,
}

/// A command that runs. Dropping it gives up its output and input, but does not end it, except
/// that the process runtime hangs up its terminal and closes its pipes.
pub struct ExecSession {
    /// What is sent here is its standard input; dropping it ends the input. `None` where
    /// [`ExecSpec::stdin`] was not set.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// Its output, to its end.
    pub output: LogChunkStream,
    /// Sets the size of its terminal.
    pub resizer: Box<dyn ExecResizer>,
    pub(crate) exit: oneshot::Receiver<Result<i32, RuntimeError>>,
}

impl ExecSession {
    /// Waits for the command to end; its output goes where `output` was taken to, so read that
    /// first or at the same time.
    ///
    /// # Errors
    /// [`RuntimeError::EngineUnavailable`] where the engine went away before it ended.
    pub async fn exit_code(self) -> Result<i32, RuntimeError> {
        let Self { exit, .. } = self;
        wait(exit).await
    }

    /// Parts to use apart: input, output, terminal, exit code.
    #[expect(clippy::type_complexity, reason = "the four parts of the struct itself")]
    pub fn into_parts(
        self,
    ) -> (
        Option<mpsc::Sender<Bytes>>,
        LogChunkStream,
        Box<dyn ExecResizer>,
        impl Future<Output = Result<i32, RuntimeError>> + Send,
    ) {
        (self.stdin, self.output, self.resizer, wait(self.exit))
    }
}

async fn wait(exit: oneshot::Receiver<Result<i32, RuntimeError>>) -> Result<i32, RuntimeError> {
    let gone = |source: oneshot::error::RecvError| RuntimeError::EngineUnavailable {
        endpoint: "exec session".to_owned(),
        source: Cause::from(source),
    };
    exit.await.map_err(gone)?
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ExecSession").finish_non_exhaustive()
    }
}

/// The terminal of a command that runs.
#[async_trait]
pub trait ExecResizer: Send + Sync {
    /// Sets the size of the terminal, in characters.
    ///
    /// # Errors
    /// [`RuntimeError::Unsupported`] where the command has no terminal, and those of the engine.
    async fn resize(&self, width: u16, height: u16) -> Result<(), RuntimeError>;
}

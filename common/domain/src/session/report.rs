//! What an agent says about one placement of a session.

use super::{Event, Progress, PublishedPort};
use crate::ids::SessionId;
use crate::slice::Grant;
use crate::time::UnixMillis;

/// How one placement stands on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The session.
    pub session: SessionId,
    /// Which placement of it.
    pub generation: u64,
    /// How it stands.
    pub state: ReportState,
    /// What the container's labels or the agent's ledger say it holds.
    pub grant: Option<Grant>,
}

/// How a placement stands on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportState {
    /// Being started.
    Preparing(Progress),
    /// Its container runs.
    Running {
        /// When it started.
        at: UnixMillis,
        /// Where its ports can be reached.
        ports: Vec<PublishedPort>,
    },
    /// Nothing of it runs any more.
    Gone {
        /// Exit code, if the command ran.
        exit_code: Option<i32>,
        /// Stable code of what went wrong; empty when nothing did.
        code: String,
        /// For people.
        message: String,
    },
}

impl From<ReportState> for Event {
    fn from(state: ReportState) -> Self {
        match state {
            ReportState::Preparing(progress) => Self::Preparing(progress),
            ReportState::Running { at, ports } => Self::Started { at, ports },
            ReportState::Gone { exit_code, code, message } => {
                Self::Gone { exit_code, code, message }
            }
        }
    }
}

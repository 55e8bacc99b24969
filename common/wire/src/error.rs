//! Error codes: what a program may rely on, and the gRPC status each is sent with.
//!
//! A failed call carries an [`v1::ErrorDetail`] in the status details: code, ids and numbers, field
//! violations, and the next step. [`CallError`] is both ends of that.

use crate::v1;
use prost::Message;
use std::collections::BTreeMap;
use std::fmt;
use tonic::{Code, Status};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal => $status:ident,)*) => {
        /// What went wrong, as a stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as sent, e.g. `NAME_IN_USE`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The gRPC status it is sent with.
            #[must_use]
            pub fn status(self) -> Code {
                match self { $(Self::$name => Code::$status,)* }
            }
        }
    };
}

codes! {
    /// A field is missing or out of range.
    InvalidArgument = "INVALID_ARGUMENT" => InvalidArgument,
    /// More than the hardware of any node holds, even when empty.
    Unsatisfiable = "UNSATISFIABLE" => InvalidArgument,
    /// The name belongs to a session that has not ended.
    NameInUse = "NAME_IN_USE" => AlreadyExists,
    /// The same request id was used for another request.
    RequestIdReused = "REQUEST_ID_REUSED" => AlreadyExists,
    /// No such session, or not one the caller may see.
    SessionNotFound = "SESSION_NOT_FOUND" => NotFound,
    /// The beginning of an id fits several sessions.
    AmbiguousSession = "AMBIGUOUS_SESSION" => InvalidArgument,
    /// No such node.
    NodeNotFound = "NODE_NOT_FOUND" => NotFound,
    /// No such device.
    DeviceNotFound = "DEVICE_NOT_FOUND" => NotFound,
    /// No such token.
    TokenNotFound = "TOKEN_NOT_FOUND" => NotFound,
    /// The node takes no new sessions.
    NodeCordoned = "NODE_CORDONED" => FailedPrecondition,
    /// The node is still in use.
    NodeInUse = "NODE_IN_USE" => FailedPrecondition,
    /// Another live agent has this node name.
    NodeNameTaken = "NODE_NAME_TAKEN" => AlreadyExists,
    /// No such project.
    ProjectNotFound = "PROJECT_NOT_FOUND" => NotFound,
    /// A project of this name, another one, is there already.
    ProjectExists = "PROJECT_EXISTS" => AlreadyExists,
    /// The project does not take sessions of this user.
    NotAMember = "NOT_A_MEMBER" => PermissionDenied,
    /// Sessions of the project have not ended.
    ProjectInUse = "PROJECT_IN_USE" => FailedPrecondition,
    /// No such priority class.
    ClassNotFound = "CLASS_NOT_FOUND" => NotFound,
    /// Sessions of the priority class have not ended.
    ClassInUse = "CLASS_IN_USE" => FailedPrecondition,
    /// More than the quota of the project, or of the user in it, allows.
    QuotaExceeded = "QUOTA_EXCEEDED" => ResourceExhausted,
    /// No session of this id to follow.
    DependencyNotFound = "DEPENDENCY_NOT_FOUND" => NotFound,
    /// A session that was to complete first has ended otherwise.
    DependencyFailed = "DEPENDENCY_FAILED" => FailedPrecondition,
    /// The agent belongs to another cluster.
    WrongCluster = "WRONG_CLUSTER" => FailedPrecondition,
    /// The agent is too old or too new for this manager.
    ProtocolMismatch = "PROTOCOL_MISMATCH" => FailedPrecondition,
    /// The session is not in a phase that allows this.
    WrongPhase = "WRONG_PHASE" => FailedPrecondition,
    /// What a plan of moves rests on has changed.
    PlanStale = "PLAN_STALE" => FailedPrecondition,
    /// No plan of moves with this id, or not any more.
    PlanNotFound = "PLAN_NOT_FOUND" => NotFound,
    /// No token, or not a valid one.
    Unauthenticated = "UNAUTHENTICATED" => Unauthenticated,
    /// The token does not allow this.
    PermissionDenied = "PERMISSION_DENIED" => PermissionDenied,
    /// This manager does not lead; the metadata names the one that does.
    NotLeader = "NOT_LEADER" => Unavailable,
    /// The store does not answer; nothing was changed.
    StoreUnavailable = "STORE_UNAVAILABLE" => Unavailable,
    /// The store has no space left; nothing was changed.
    StoreFull = "STORE_FULL" => ResourceExhausted,
    /// The node's agent is not connected.
    AgentUnavailable = "AGENT_UNAVAILABLE" => Unavailable,
    /// The agent could not do it; the message says why.
    AgentFailed = "AGENT_FAILED" => Unknown,
    /// The caller fell too far behind.
    Overloaded = "OVERLOADED" => ResourceExhausted,
    /// The manager is going down.
    ShuttingDown = "SHUTTING_DOWN" => Unavailable,
    /// A bug.
    Internal = "INTERNAL" => Internal,
}

impl ErrorCode {
    /// The code with this text, if there is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A failed call: what is sent as a gRPC status with details, and what a client reads back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// Stable code.
    pub code: ErrorCode,
    /// The fact, with its numbers.
    pub message: String,
    /// Ids and numbers by name.
    pub metadata: BTreeMap<String, String>,
    /// Fields at fault.
    pub fields: Vec<v1::FieldViolation>,
    /// The next step; empty when there is none.
    pub hint: String,
}

impl CallError {
    /// An error with nothing but a code and a message.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            metadata: BTreeMap::new(),
            fields: Vec::new(),
            hint: String::new(),
        }
    }

    /// A field with a value it may not have.
    #[must_use]
    pub fn field(field: &str, value: impl ToString, rule: impl Into<String>) -> Self {
        let (value, rule) = (value.to_string(), rule.into());
        let message = format!("{field} `{value}`: {rule}");
        let mut error = Self::new(ErrorCode::InvalidArgument, message);
        error.fields.push(v1::FieldViolation { field: field.to_owned(), value, rule });
        error
    }

    /// Adds an id or a number.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.metadata.insert(name.to_owned(), value.to_string());
        self
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let detail = v1::ErrorDetail {
            code: error.code.as_str().to_owned(),
            metadata: error.metadata,
            fields: error.fields,
            hint: error.hint,
        };
        let bytes = detail.encode_to_vec();
        Status::with_details(error.code.status(), error.message, bytes.into())
    }
}

impl CallError {
    /// What a status says, where it carries a detail of ours.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        let detail = v1::ErrorDetail::decode(status.details()).ok()?;
        Some(Self {
            code: ErrorCode::parse(&detail.code)?,
            message: status.message().to_owned(),
            metadata: detail.metadata,
            fields: detail.fields,
            hint: detail.hint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_whole_error_and_gives_it_back() {
        let error = CallError::field("--fgpu", "7.93", "multiples of 0.1")
            .with("quantum", "0.1")
            .hint("ask for 7.9 or 8");

        let status = Status::from(error.clone());

        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(CallError::from_status(&status), Some(error));
        assert_eq!(CallError::from_status(&Status::internal("other")), None);
    }

    #[test]
    fn every_code_reads_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
        }
    }
}

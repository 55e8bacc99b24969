//! What callers are told when something is refused.

use crate::engine::EngineError;
use crate::leader::not_leader;
use crate::tokens::TokensError;
use fgpu_domain::cluster::{Applied, Refusal};
use fgpu_store::StoreError;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;

/// A refusal of the rules, with the flag at fault and the next step.
pub(crate) fn from_refusal(refusal: &Refusal) -> CallError {
    let code = ErrorCode::parse(refusal.code()).unwrap_or(ErrorCode::Internal);
    let message = refusal.to_string();
    let mut error = CallError::new(code, message.clone()).hint(refusal.hint());
    if let Some(field) = refusal.field() {
        let (field, value) = (field.to_owned(), String::new());
        error.fields.push(v1::FieldViolation { field, value, rule: message });
    }
    match refusal {
        Refusal::NameInUse { name, session } => error.with("name", name).with("session", session),
        Refusal::RequestIdReused { request, session } => {
            error.with("request_id", request).with("session", session)
        }
        Refusal::SessionNotFound { session } => error.with("session", session),
        Refusal::AmbiguousSession { session, count, .. } => {
            error.with("session", session).with("count", count)
        }
        Refusal::NodeNotFound { node }
        | Refusal::NodeCordoned { node, .. }
        | Refusal::NodeInUse { node, .. }
        | Refusal::NodeNameTaken { node } => error.with("node", node),
        Refusal::DeviceNotFound { device } => error.with("device", device),
        Refusal::DeviceTaken { device, node, other } => {
            error.with("device", device).with("node", node).with("other", other)
        }
        Refusal::WrongPhase { session, phase, .. } => {
            error.with("session", session).with("phase", phase)
        }
        Refusal::ProjectNotFound { .. }
        | Refusal::NotAMember { .. }
        | Refusal::ProjectInUse { .. }
        | Refusal::ClassNotFound { .. }
        | Refusal::ClassInUse { .. }
        | Refusal::QuotaExceeded(_)
        | Refusal::DependencyNotFound { .. }
        | Refusal::PlanStale { .. }
        | Refusal::GangNeverFits { .. }
        | Refusal::DependencyFailed { .. } => CallError::from(refusal.clone()),
        Refusal::MountNotAllowed { path } => error.with("path", path),
        Refusal::Spec(_) | Refusal::NeverFits(_) | Refusal::NoImage | Refusal::NoCommand => error,
    }
}

/// An answer of the engine to something else than was asked.
pub(crate) fn unexpected(applied: &Applied) -> CallError {
    CallError::new(ErrorCode::Internal, format!("the engine answered {applied:?}"))
}

/// An answer of the engine that is none.
pub(crate) fn from_engine(error: EngineError) -> CallError {
    match error {
        EngineError::Refused(refusal) => from_refusal(&refusal),
        EngineError::StoreUnavailable => store_unavailable(),
        EngineError::StoreFull => CallError::new(ErrorCode::StoreFull, error.to_string())
            .hint("free space for the store; what runs goes on meanwhile"),
        EngineError::StoreRefused(_) => CallError::new(ErrorCode::Internal, error.to_string()),
        EngineError::Unsettled => CallError::new(ErrorCode::StoreUnavailable, error.to_string())
            .hint("repeat the call; a create with the same request id is made once"),
        EngineError::Deposed => not_leader(None),
    }
}

pub(crate) fn store_unavailable() -> CallError {
    CallError::new(ErrorCode::StoreUnavailable, EngineError::StoreUnavailable.to_string())
        .with("retry_after_ms", 2000)
        .hint("what runs goes on; try again in a few seconds")
}

/// A token that could not be written.
pub(crate) fn from_tokens(error: &TokensError) -> CallError {
    match error {
        TokensError::Store(StoreError::Full { .. }) => from_engine(EngineError::StoreFull),
        TokensError::Store(StoreError::Conflict { .. }) => not_leader(None),
        TokensError::Store(_) => store_unavailable(),
        TokensError::Random(_) | TokensError::Record(_) | TokensError::File { .. } => {
            CallError::new(ErrorCode::Internal, error.to_string())
        }
    }
}

//! What a failed call to etcd means.

use std::error::Error as StdError;
use std::time::Duration;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use crate::{BoxError, LeaseId, StoreError};

/// The error for a failed call that changes nothing, or whose change may be repeated.
///
/// The lease of `LeaseExpired` and the revisions of `Compacted` are left at 0: the caller knows
/// them.
pub(super) fn classify(location: &str, error: Error) -> StoreError {
    match &error {
        Error::GRpcStatus(status) => {
            let meaning = meaning(status);
            to_store_error(meaning, location, Box::new(error))
        }
        // The client checks the answer to a keep-alive itself and has only this text for it.
        Error::LeaseKeepAliveError(text) if text.contains("not found") => {
            StoreError::LeaseExpired { lease: LeaseId(0) }
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
            StoreError::Invalid { detail: error.to_string() }
        }
        _ => to_store_error(Meaning::Unavailable, location, Box::new(error)),
    }
}

/// The error for a failed commit: unknown, unless etcd has refused it or never got it.
pub(super) fn classify_commit(location: &str, error: Error) -> StoreError {
    let never_sent = never_sent(&error);
    let refused = matches!(&error, Error::GRpcStatus(status) if is_backpressure(status));
    match classify(location, error) {
        StoreError::Unavailable { endpoint, source } if !never_sent && !refused => {
            StoreError::Unknown { location: endpoint, source }
        }
        known => known,
    }
}

/// The cause given when a deadline has passed.
pub(super) fn no_answer(limit: Duration) -> BoxError {
    format!("no answer within {} ms", limit.as_millis()).into()
}

#[derive(Clone, Copy)]
enum Meaning {
    Unavailable,
    Refused,
    Full,
    TooLarge,
    LeaseExpired,
    Compacted,
    Invalid,
}

fn meaning(status: &Status) -> Meaning {
    let text = status.message();
    match status.code() {
        Code::ResourceExhausted if text.contains("database space exceeded") => Meaning::Full,
        Code::ResourceExhausted if text.contains("larger than max") => Meaning::TooLarge,
        Code::InvalidArgument if text.contains("request is too large") => Meaning::TooLarge,
        Code::NotFound if text.contains("lease not found") => Meaning::LeaseExpired,
        Code::OutOfRange if text.contains("has been compacted") => Meaning::Compacted,
        Code::OutOfRange if text.contains("future revision") => Meaning::Invalid,
        Code::InvalidArgument if text.contains("authentication failed") => Meaning::Refused,
        Code::InvalidArgument if text.contains("user name is empty") => Meaning::Refused,
        Code::InvalidArgument => Meaning::Invalid,
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::DataLoss => Meaning::Refused,
        _ => Meaning::Unavailable,
    }
}

fn to_store_error(meaning: Meaning, location: &str, source: BoxError) -> StoreError {
    let location = location.to_owned();
    match meaning {
        Meaning::Unavailable => StoreError::Unavailable { endpoint: location, source },
        Meaning::Refused => StoreError::Refused { endpoint: location, source },
        Meaning::Full => StoreError::Full { location, source },
        Meaning::TooLarge => StoreError::Invalid {
            detail: format!(
                "etcd at {location} takes only smaller requests; start it with its default \
                 --max-request-bytes or a larger one ({source})"
            ),
        },
        Meaning::LeaseExpired => StoreError::LeaseExpired { lease: LeaseId(0) },
        Meaning::Compacted => StoreError::Compacted { requested: 0, oldest: 0 },
        Meaning::Invalid => StoreError::Invalid { detail: source.to_string() },
    }
}

/// etcd turns a request away before proposing it when too many are under way.
fn is_backpressure(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.message().contains("too many requests")
}

/// Whether no connection could be made at all, so that nothing was sent.
fn never_sent(error: &Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = match error {
        // The client's error does not pass on its source.
        Error::GRpcStatus(status) => Some(status),
        Error::TransportError(error) => Some(error),
        _ => None,
    };
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(code: Code, text: &str) -> StoreError {
        classify_commit("http://etcd:2379", Error::GRpcStatus(Status::new(code, text)))
    }

    #[test]
    fn a_commit_that_etcd_refused_has_failed_and_any_other_fault_leaves_it_unknown() {
        let full = committed(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
        let busy = committed(Code::ResourceExhausted, "etcdserver: too many requests");
        assert!(matches!(busy, StoreError::Unavailable { .. }), "{busy:?}");
        let lease = committed(Code::NotFound, "etcdserver: requested lease not found");
        assert!(matches!(lease, StoreError::LeaseExpired { .. }), "{lease:?}");
        let denied = committed(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(matches!(denied, StoreError::Refused { .. }), "{denied:?}");

        for (code, text) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "transport is closing"),
            (Code::DeadlineExceeded, "context deadline exceeded"),
            (Code::Cancelled, "operation was canceled"),
            (Code::Unknown, "h2 protocol error"),
            (Code::Internal, "stream ended"),
        ] {
            let unknown = committed(code, text);
            assert!(matches!(unknown, StoreError::Unknown { .. }), "{code:?} {text}: {unknown:?}");
        }
    }
}

//! The one way in: which manager leads, who is asking, and may they.

use super::policy::{is_open, rule};
use super::{Caller, errors};
use crate::leader::{Role, Term, not_leader};
use fgpu_wire::error::{CallError, ErrorCode};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Puts the gate before every service.
#[derive(Clone)]
pub(super) struct GateLayer {
    roles: watch::Receiver<Role>,
}

/// A service behind the gate.
#[derive(Clone)]
pub(super) struct Gate<S> {
    roles: watch::Receiver<Role>,
    inner: S,
}

impl GateLayer {
    pub(super) fn new(roles: watch::Receiver<Role>) -> Self {
        Self { roles }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { roles: self.roles.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if !is_open(path) {
            let role = self.roles.borrow().clone();
            match admit(&role, path, request.headers()) {
                Ok(caller) => drop(request.extensions_mut().insert(caller)),
                Err(error) => {
                    let response = Status::from(error).into_http();
                    return Box::pin(async move { Ok(response) });
                }
            }
        }
        Box::pin(self.inner.call(request))
    }
}

/// Whether the call may be made, and by whom it is.
fn admit(role: &Role, path: &str, headers: &HeaderMap) -> Result<Caller, CallError> {
    let (term, leads) = match role {
        Role::Leading(term) => (term, true),
        Role::Standby { leader: None, last: Some(term) } => (term, false),
        Role::Standby { leader, .. } => return Err(not_leader(leader.as_deref())),
        Role::Stopping => {
            let error = CallError::new(ErrorCode::ShuttingDown, "this manager is going down");
            return Err(error.hint("try again in a few seconds"));
        }
    };
    let caller = authenticate(term, headers)?;
    let rule = rule(path).filter(|rule| rule.roles.contains(&caller.identity.role));
    let Some(rule) = rule else {
        let message = format!("a token of {} may not call {path}", caller.identity.user);
        return Err(CallError::new(ErrorCode::PermissionDenied, message)
            .with("user", &caller.identity.user)
            .hint("ask an administrator for a token with another role"));
    };
    if !leads && !rule.stale {
        return Err(errors::store_unavailable());
    }
    Ok(caller)
}

fn authenticate(term: &Arc<Term>, headers: &HeaderMap) -> Result<Caller, CallError> {
    let refused = |message: &str| {
        CallError::new(ErrorCode::Unauthenticated, message)
            .hint("set FGPU_TOKEN, or log in with a context that holds a valid token")
    };
    let header = headers.get(AUTHORIZATION).ok_or_else(|| refused("the call carries no token"))?;
    let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    let identity = token.and_then(|text| term.tokens.authenticate(text.trim(), term.clock.now()));
    let identity = identity.ok_or_else(|| refused("the token is not valid, or not any more"))?;
    Ok(Caller { identity, term: Arc::clone(term) })
}

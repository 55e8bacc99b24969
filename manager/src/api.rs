//! The API: every call passes the [`gate`] (who is asking, and may they), is converted, put to the
//! engine or answered from its snapshot, and converted back.

mod admin;
mod agents;
mod coalesce;
mod defrag;
mod devices;
pub(crate) mod errors;
mod explain;
mod gate;
mod groups;
mod map;
mod nodes;
mod policy;
mod projects;
mod server;
mod sessions;
mod streams;
mod watch;

pub(crate) use server::Server;

use crate::leader::Term;
use crate::tokens::{Identity, Role};
use fgpu_domain::ids::UserName;
use fgpu_domain::session::Session;
use fgpu_wire::error::{CallError, ErrorCode};
use std::sync::Arc;
use tonic::{Request, Status};

/// Who makes a call, and the term it is answered in; put into every request by the gate.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) term: Arc<Term>,
}

impl Caller {
    /// The caller of `request`.
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let missing = || CallError::new(ErrorCode::Internal, "a call has passed the gate unseen");
        Ok(request.extensions().get::<Self>().cloned().ok_or_else(missing)?)
    }

    /// Whose sessions the caller may see and touch: `None` for all.
    fn owner(&self) -> Option<&UserName> {
        match self.identity.role {
            Role::Admin => None,
            Role::Member | Role::Agent => Some(&self.identity.user),
        }
    }

    fn sees(&self, session: &Session) -> bool {
        self.owner().is_none_or(|owner| session.owner == *owner)
    }

    /// The session meant by `text`, if the caller may see it.
    fn find(&self, text: &str) -> Result<Arc<Session>, CallError> {
        let snapshot = self.term.engine.snapshot();
        groups::find(&snapshot.sessions, text, self.owner())
            .map_err(|refusal| errors::from_refusal(&refusal))
    }
}

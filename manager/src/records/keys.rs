//! Keys of the store.

use fgpu_domain::cluster::RecordKey;
use fgpu_domain::ids::{ClassName, NodeName, ProjectName, SessionId};
use fgpu_service::secret::TokenId;

/// The cluster's own record.
pub(crate) const CLUSTER: &str = "cluster";
/// The mark of the last batch of the engine.
pub(crate) const COMMIT: &str = "engine/commit";
/// Who leads.
pub(crate) const LEADER: &str = "leader";
/// Before every node.
pub(crate) const NODES: &str = "nodes/";
/// Before every project.
pub(crate) const PROJECTS: &str = "projects/";
/// Before every priority class.
pub(crate) const CLASSES: &str = "classes/";
/// Before the history of every project.
pub(crate) const USAGE: &str = "usage/";
/// Before every session.
pub(crate) const SESSIONS: &str = "sessions/";
/// Before every token.
pub(crate) const TOKENS: &str = "tokens/";

pub(crate) fn node(name: &NodeName) -> String {
    [NODES, name.as_str()].concat()
}

pub(crate) fn session(id: &SessionId) -> String {
    [SESSIONS, id.as_str()].concat()
}

pub(crate) fn project(name: &ProjectName) -> String {
    [PROJECTS, name.as_str()].concat()
}

pub(crate) fn class(name: &ClassName) -> String {
    [CLASSES, name.as_str()].concat()
}

pub(crate) fn usage(name: &ProjectName) -> String {
    [USAGE, name.as_str()].concat()
}

pub(crate) fn token(id: &TokenId) -> String {
    [TOKENS, id.as_str()].concat()
}

pub(crate) fn of(key: &RecordKey) -> String {
    match key {
        RecordKey::Session(id) => session(id),
        RecordKey::Node(name) => node(name),
        RecordKey::Project(name) => project(name),
        RecordKey::Class(name) => class(name),
        RecordKey::Usage(name) => usage(name),
    }
}

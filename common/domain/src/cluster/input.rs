//! What can be done to a cluster, and what comes back.

use crate::class::PriorityClass;
use crate::ids::{ClassName, DeviceUuid, NodeName, ProjectName, RequestId, SessionId, UserName};
use crate::node::{Cordon, Inventory, Liveness, Node};
use crate::project::Project;
use crate::session::{Members, Report, Session, SessionSpec, StopReason};
use crate::slice::Grant;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One change, from a person, an agent or the passing of time.
#[derive(Debug, Clone)]
pub enum Input {
    /// A new session, or an array or gang of them; with a request id that was seen before, what
    /// was made then.
    Create {
        /// The id it gets if it is new; members of a group after the first get ids that follow
        /// from it.
        id: SessionId,
        /// What is asked for.
        spec: Box<SessionSpec>,
        /// Who asks.
        owner: UserName,
        /// The caller's own id of the request.
        request_id: Option<RequestId>,
        /// How many, and what holds them together.
        members: Members,
    },
    /// Stop a session; harmless if it has ended.
    Stop {
        /// Which.
        id: SessionId,
        /// Why.
        reason: StopReason,
        /// Instead of the session's own grace, milliseconds.
        grace_ms: Option<u64>,
    },
    /// Stop a movable session and start it anew in another place, which is kept free for it.
    Move {
        /// Which.
        id: SessionId,
        /// The placement that is meant: it must still be the current one.
        generation: u64,
        /// The new place.
        to: Box<Grant>,
    },
    /// Forget a session that has ended.
    Remove {
        /// Which.
        id: SessionId,
    },
    /// An agent connects and says everything it is and has.
    Register {
        /// The node's name.
        name: NodeName,
        /// The agent's own id.
        agent_id: String,
        /// What the node is.
        inventory: Box<Inventory>,
        /// Every placement the agent has.
        reports: Vec<Report>,
    },
    /// The node changed.
    Inventory {
        /// Which.
        node: NodeName,
        /// What it is now.
        inventory: Box<Inventory>,
    },
    /// Which images a node holds: what has changed since the last word, or all of them.
    Images {
        /// Which node.
        node: NodeName,
        /// Whether nothing else is there but what was added.
        full: bool,
        /// Names of images that are there now.
        added: Vec<String>,
        /// Names of images that are gone.
        removed: Vec<String>,
    },
    /// How placements stand.
    Reports {
        /// On which node.
        node: NodeName,
        /// The news.
        reports: Vec<Report>,
        /// Whether this is everything the agent has.
        full: bool,
    },
    /// An agent is heard, or has been silent for long.
    Liveness {
        /// Which node.
        node: NodeName,
        /// How it is heard.
        liveness: Liveness,
    },
    /// Keep new sessions away, or let them in again.
    Cordon {
        /// Which node.
        node: NodeName,
        /// How.
        cordon: Cordon,
    },
    /// Change the labels set through the API.
    Labels {
        /// Which node.
        node: NodeName,
        /// Labels to set.
        set: BTreeMap<String, String>,
        /// Labels to remove.
        remove: Vec<String>,
    },
    /// Keep new slices away from a device, or let them on it again.
    CordonDevice {
        /// Which.
        device: DeviceUuid,
        /// Whether to.
        cordoned: bool,
    },
    /// Make a project, or change it; when it was made stays as it is.
    PutProject {
        /// As it shall be.
        project: Box<Project>,
    },
    /// Forget a project nothing waits or runs in.
    RemoveProject {
        /// Which.
        name: ProjectName,
    },
    /// Make a priority class, or change it.
    PutClass {
        /// As it shall be.
        class: Box<PriorityClass>,
    },
    /// Forget a priority class nothing waits or runs in.
    RemoveClass {
        /// Which.
        name: ClassName,
    },
    /// Forget a node that is silent and holds nothing.
    RemoveNode {
        /// Which.
        node: NodeName,
    },
}

/// What an input led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The session as it is now.
    Session {
        /// The session.
        session: Arc<Session>,
        /// Whether a create found it by its request id.
        existed: bool,
    },
    /// The members of an array or a gang as they are now, in the order of their index.
    Group {
        /// The sessions.
        sessions: Vec<Arc<Session>>,
        /// Whether a create found them by its request id.
        existed: bool,
    },
    /// The project as it is now.
    Project(Arc<Project>),
    /// The class as it is now.
    Class(Arc<PriorityClass>),
    /// The node as it is now.
    Node(Arc<Node>),
    /// The record is gone.
    Removed,
    /// Nothing to tell.
    Nothing,
}

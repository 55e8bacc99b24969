//! Why an input is refused: a stable code, the numbers, and the next step.

use crate::check::Broken;
use crate::ids::{
    ClassName, DeviceUuid, NodeName, ProjectName, RequestId, SessionId, SessionName, UserName,
};
use crate::placement::NeverFits;
use crate::project::QuotaHit;
use crate::session::{Outcome, SpecError};
use crate::slice::SliceError;

/// Why an input is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The specification breaks a rule, whatever the cluster.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No registered node could hold it, even when empty.
    #[error(transparent)]
    NeverFits(NeverFits),
    /// A gang that all registered nodes together could not hold, even when empty.
    #[error(
        "all nodes together hold no more than {most} of the {size} members of the gang, even when \
         empty"
    )]
    GangNeverFits {
        /// Members asked for.
        size: u32,
        /// The most that would have room.
        most: u32,
    },
    /// The name belongs to a live session of the same owner.
    #[error("name `{name}` is in use by session {session}")]
    NameInUse {
        /// The name.
        name: SessionName,
        /// Who has it.
        session: SessionId,
    },
    /// The request id was used for something else.
    #[error("request id `{request}` was used for another request, which made session {session}")]
    RequestIdReused {
        /// The id.
        request: RequestId,
        /// What it made.
        session: SessionId,
    },
    /// No node allows the mount.
    #[error("no node allows mounting `{path}`")]
    MountNotAllowed {
        /// The host path.
        path: String,
    },
    /// Every node runs containers from images, and none was named.
    #[error("no image was named, and every node that could take the session runs images")]
    NoImage,
    /// The runtime has no images, so there is nothing to run without a command.
    #[error(
        "no command was given, and every node that could take the session runs plain processes"
    )]
    NoCommand,
    /// No such session, or not the caller's.
    #[error("there is no session `{session}`")]
    SessionNotFound {
        /// What was asked for.
        session: String,
    },
    /// Several sessions begin so.
    #[error("`{session}` means {count} sessions: {matches}…")]
    AmbiguousSession {
        /// What was asked for.
        session: String,
        /// The first of them.
        matches: String,
        /// How many.
        count: usize,
    },
    /// No such node.
    #[error("there is no node `{node}`")]
    NodeNotFound {
        /// What was asked for.
        node: NodeName,
    },
    /// The node asked for takes no new sessions.
    #[error("node {node} is {state} and takes no new sessions")]
    NodeCordoned {
        /// The node.
        node: NodeName,
        /// `cordoned` or `draining`.
        state: &'static str,
    },
    /// The node is connected or holds sessions.
    #[error("node {node} cannot be removed: {why}")]
    NodeInUse {
        /// The node.
        node: NodeName,
        /// What keeps it.
        why: String,
    },
    /// Another agent has the name and is heard.
    #[error("node name {node} is taken by another agent that is connected")]
    NodeNameTaken {
        /// The name.
        node: NodeName,
    },
    /// No such device.
    #[error("there is no device `{device}`")]
    DeviceNotFound {
        /// What was asked for.
        device: DeviceUuid,
    },
    /// Another node has a device with this uuid.
    #[error("device {device} of node {node} is registered by node {other} already")]
    DeviceTaken {
        /// The device.
        device: DeviceUuid,
        /// Who registers it.
        node: NodeName,
        /// Who has it.
        other: NodeName,
    },
    /// No such project.
    #[error("there is no project `{project}`")]
    ProjectNotFound {
        /// What was asked for.
        project: ProjectName,
    },
    /// The project does not take sessions of this user.
    #[error("user {user} is not a member of project {project}")]
    NotAMember {
        /// The project.
        project: ProjectName,
        /// Who asked.
        user: UserName,
    },
    /// Sessions of the project wait or run.
    #[error("project {project} cannot be removed: {sessions} of its sessions have not ended")]
    ProjectInUse {
        /// The project.
        project: ProjectName,
        /// How many.
        sessions: usize,
    },
    /// No such priority class.
    #[error("there is no priority class `{class}`")]
    ClassNotFound {
        /// What was asked for.
        class: ClassName,
    },
    /// Sessions of the class wait or run.
    #[error("priority class {class} cannot be removed: {sessions} of its sessions have not ended")]
    ClassInUse {
        /// The class.
        class: ClassName,
        /// How many.
        sessions: usize,
    },
    /// More than the quota allows, however long it waits, or more waiting than it allows.
    #[error(transparent)]
    QuotaExceeded(Box<QuotaHit>),
    /// A session to follow that is not there, or not one the caller may follow.
    #[error("there is no session `{session}` to follow")]
    DependencyNotFound {
        /// What was asked for.
        session: SessionId,
    },
    /// A session to follow that has failed already.
    #[error("session {session}, which was to complete first, has ended: {outcome}")]
    DependencyFailed {
        /// Which.
        session: SessionId,
        /// How it ended.
        outcome: Outcome,
    },
    /// What a move was planned for is not so any more.
    #[error("session {session} cannot be moved as planned: {why}")]
    PlanStale {
        /// The session.
        session: SessionId,
        /// What has changed.
        why: String,
    },
    /// The session is in the wrong phase.
    #[error("session {session} is {phase}: {rule}")]
    WrongPhase {
        /// The session.
        session: SessionId,
        /// Its phase.
        phase: &'static str,
        /// What would be needed.
        rule: &'static str,
    },
}

impl Refusal {
    /// The stable code, one of those of the wire's error table.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spec(SpecError::Slice(SliceError::MoreThanAnyNode { .. }))
            | Self::NeverFits(_)
            | Self::GangNeverFits { .. }
            | Self::MountNotAllowed { .. } => "UNSATISFIABLE",
            Self::Spec(_) | Self::NoImage | Self::NoCommand => "INVALID_ARGUMENT",
            Self::NameInUse { .. } => "NAME_IN_USE",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::SessionNotFound { .. } => "SESSION_NOT_FOUND",
            Self::AmbiguousSession { .. } => "AMBIGUOUS_SESSION",
            Self::NodeNotFound { .. } => "NODE_NOT_FOUND",
            Self::NodeCordoned { .. } => "NODE_CORDONED",
            Self::NodeInUse { .. } => "NODE_IN_USE",
            Self::NodeNameTaken { .. } | Self::DeviceTaken { .. } => "NODE_NAME_TAKEN",
            Self::DeviceNotFound { .. } => "DEVICE_NOT_FOUND",
            Self::ProjectNotFound { .. } => "PROJECT_NOT_FOUND",
            Self::NotAMember { .. } => "NOT_A_MEMBER",
            Self::ProjectInUse { .. } => "PROJECT_IN_USE",
            Self::ClassNotFound { .. } => "CLASS_NOT_FOUND",
            Self::ClassInUse { .. } => "CLASS_IN_USE",
            Self::QuotaExceeded(_) => "QUOTA_EXCEEDED",
            Self::DependencyNotFound { .. } => "DEPENDENCY_NOT_FOUND",
            Self::DependencyFailed { .. } => "DEPENDENCY_FAILED",
            Self::PlanStale { .. } => "PLAN_STALE",
            Self::WrongPhase { .. } => "WRONG_PHASE",
        }
    }

    /// The flag at fault, where one is.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Spec(error) => Some(error.field()),
            Self::NeverFits(never) => match never {
                NeverFits::NoNodes | NeverFits::Together { .. } => None,
                NeverFits::UnknownNode { .. } => Some("--node"),
                NeverFits::Labels { .. } => Some("--node-label"),
                NeverFits::Cpu { .. } => Some("--cpu"),
                NeverFits::Memory { .. } => Some("--memory"),
                NeverFits::Slice(SliceError::NoSuchModel { .. }) => Some("--gpu-model"),
                NeverFits::Slice(
                    SliceError::NoSuchProfile { .. } | SliceError::MoreInstancesThanAnyNode { .. },
                ) => Some("--mig"),
                NeverFits::Slice(_) => Some("--fgpu"),
            },
            Self::GangNeverFits { .. } => Some("--size"),
            Self::NameInUse { .. } => Some("--name"),
            Self::RequestIdReused { .. } => Some("--request-id"),
            Self::MountNotAllowed { .. } => Some("--volume"),
            Self::NoImage => Some("--image"),
            Self::NoCommand => Some("COMMAND"),
            Self::NodeNotFound { .. } | Self::NodeCordoned { .. } => Some("--node"),
            Self::ProjectNotFound { .. } | Self::NotAMember { .. } => Some("--project"),
            Self::ClassNotFound { .. } => Some("--class"),
            Self::DependencyNotFound { .. } | Self::DependencyFailed { .. } => Some("--after"),
            Self::SessionNotFound { .. }
            | Self::ProjectInUse { .. }
            | Self::ClassInUse { .. }
            | Self::QuotaExceeded(_)
            | Self::AmbiguousSession { .. }
            | Self::NodeInUse { .. }
            | Self::NodeNameTaken { .. }
            | Self::DeviceNotFound { .. }
            | Self::DeviceTaken { .. }
            | Self::PlanStale { .. }
            | Self::WrongPhase { .. } => None,
        }
    }

    /// What to do next; empty where the message says it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Spec(_) => String::new(),
            Self::NeverFits(_) => {
                "ask for less, or see `fgpu device list` for what there is".to_owned()
            }
            Self::GangNeverFits { most, .. } => format!(
                "`--size {most}` or less for each member; `fgpu device list` shows what there is"
            ),
            Self::NameInUse { session, .. } => {
                format!("choose another `--name`, or `fgpu stop {session}` first")
            }
            Self::RequestIdReused { .. } => "use a new request id for a new request".to_owned(),
            Self::MountNotAllowed { .. } => {
                "an administrator lists folders in the agents' `allowed_mounts`".to_owned()
            }
            Self::NoImage => "name one with `--image`".to_owned(),
            Self::NoCommand => "add the command after `--`".to_owned(),
            Self::SessionNotFound { .. } => "see `fgpu ps -a`".to_owned(),
            Self::AmbiguousSession { .. } => "write more of the id".to_owned(),
            Self::NodeNotFound { .. } => "see `fgpu node list`".to_owned(),
            Self::NodeCordoned { node, .. } => {
                format!("`fgpu node uncordon {node}`, or leave out `--node`")
            }
            Self::NodeInUse { node, .. } => {
                format!("`fgpu node drain {node}`, stop its agent, and wait until it is lost")
            }
            Self::NodeNameTaken { .. } => {
                "give this agent another `--node-name`, or stop the other one".to_owned()
            }
            Self::DeviceNotFound { .. } => "see `fgpu device list`".to_owned(),
            Self::DeviceTaken { .. } => {
                "two agents must not offer the same device: stop one of them".to_owned()
            }
            Self::ProjectNotFound { .. } => "see `fgpu project list`".to_owned(),
            Self::NotAMember { project, .. } => {
                format!("an administrator adds members with `fgpu project set {project}`")
            }
            Self::ProjectInUse { project, .. } => {
                format!("stop them first: see `fgpu ps --project {project}`")
            }
            Self::ClassNotFound { .. } => "see `fgpu class list`".to_owned(),
            Self::ClassInUse { .. } => "stop them first: see `fgpu ps`".to_owned(),
            Self::QuotaExceeded(_) => {
                "ask for less, wait until less is in use, or have an administrator raise the quota"
                    .to_owned()
            }
            Self::DependencyNotFound { .. } => "see `fgpu ps -a`".to_owned(),
            Self::DependencyFailed { session, .. } => {
                format!("`--after {session}:any` follows it however it ended")
            }
            Self::PlanStale { .. } => "make a new plan with `fgpu defrag --plan`".to_owned(),
            Self::WrongPhase { session, .. } => format!("see `fgpu get {session}`"),
        }
    }
}

/// Why records do not make a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Two records of one thing.
    #[error("{what} is recorded twice")]
    Twice {
        /// The thing.
        what: String,
    },
    /// A session holds something on a node that is not recorded.
    #[error("session {session} holds a slice on node {node}, which is not recorded")]
    UnknownNode {
        /// The session.
        session: SessionId,
        /// The node.
        node: NodeName,
    },
    /// The records break an invariant.
    #[error("the records contradict each other: {}", .broken.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Broken {
        /// Every broken invariant.
        broken: Vec<Broken>,
    },
}

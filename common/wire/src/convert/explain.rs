//! Explanations and refusals.

use crate::error::{CallError, ErrorCode};
use crate::v1;
use fgpu_domain::cluster::{Explanation, Hold, Refusal};
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::placement::{Hint, NoPlacement, Reason};
use fgpu_domain::plans::reservation::{Delay, Reservation};
use fgpu_domain::plans::would_fit::WouldFit;
use fgpu_domain::project::{QuotaHit, QuotaScope};
use fgpu_domain::slice::Grant;
use fgpu_domain::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes named one by one; beyond that the counts tell.
const NAMED_NODES: usize = 200;

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        // A test holds that every refusal has a code of the table.
        let code = ErrorCode::parse(refusal.code()).unwrap_or(ErrorCode::Internal);
        let mut error = Self::new(code, refusal.to_string()).hint(refusal.hint());
        if let Some(field) = refusal.field() {
            error.fields.push(v1::FieldViolation {
                field: field.to_owned(),
                value: String::new(),
                rule: refusal.to_string(),
            });
        }
        for (name, value) in ids(&refusal) {
            error = error.with(name, value);
        }
        error
    }
}

/// The ids in a refusal, by the names programs find them under.
fn ids(refusal: &Refusal) -> Vec<(&'static str, String)> {
    match refusal {
        Refusal::NameInUse { session, .. }
        | Refusal::RequestIdReused { session, .. }
        | Refusal::PlanStale { session, .. }
        | Refusal::WrongPhase { session, .. } => vec![("session", session.to_string())],
        Refusal::SessionNotFound { session } | Refusal::AmbiguousSession { session, .. } => {
            vec![("session", session.clone())]
        }
        Refusal::NodeNotFound { node }
        | Refusal::NodeCordoned { node, .. }
        | Refusal::NodeInUse { node, .. }
        | Refusal::NodeNameTaken { node } => vec![("node", node.to_string())],
        Refusal::DeviceNotFound { device } => vec![("device", device.to_string())],
        Refusal::DeviceTaken { device, node, other } => vec![
            ("device", device.to_string()),
            ("node", node.to_string()),
            ("other", other.to_string()),
        ],
        Refusal::ProjectNotFound { project } | Refusal::ProjectInUse { project, .. } => {
            vec![("project", project.to_string())]
        }
        Refusal::NotAMember { project, user } => {
            vec![("project", project.to_string()), ("user", user.to_string())]
        }
        Refusal::ClassNotFound { class } | Refusal::ClassInUse { class, .. } => {
            vec![("class", class.to_string())]
        }
        Refusal::QuotaExceeded(hit) => quota(hit),
        Refusal::DependencyNotFound { session } => vec![("session", session.to_string())],
        Refusal::DependencyFailed { session, outcome } => {
            vec![("session", session.to_string()), ("outcome", outcome.to_string())]
        }
        Refusal::GangNeverFits { size, most } => {
            vec![("members", size.to_string()), ("most", most.to_string())]
        }
        Refusal::MountNotAllowed { path } => vec![("path", path.clone())],
        Refusal::Spec(_) | Refusal::NeverFits(_) | Refusal::NoImage | Refusal::NoCommand => {
            Vec::new()
        }
    }
}

/// A change with which what was asked for would start now, for programs.
fn alternative(change: &WouldFit) -> v1::Alternative {
    let (code, flags, nodes) = parts(change);
    let flags = flags.into_iter().map(|(flag, value)| (flag.to_owned(), value));
    v1::Alternative {
        code: code.to_owned(),
        text: change.to_string(),
        flags: flags.collect(),
        nodes: nodes.into_iter().map(ToString::to_string).collect(),
    }
}

type Parts<'a> = (&'static str, Vec<(&'static str, String)>, Vec<&'a NodeName>);

fn parts(change: &WouldFit) -> Parts<'_> {
    let one = |code, flag, value: String, node| (code, vec![(flag, value)], vec![node]);
    match change {
        WouldFit::Hint(hint) => hint_parts(hint),
        WouldFit::Cpu { cpu, node } => one("LESS_CPU", "--cpu", cpu.to_string(), node),
        WouldFit::Memory { memory, node } => one("LESS_MEMORY", "--memory", written(memory), node),
        WouldFit::GpuCompute { compute, node } => {
            one("LESS_GPU_COMPUTE", "--gpu-compute", written(compute), node)
        }
        WouldFit::NodeLabels { without, node } => {
            let labels = without.iter().map(|(key, value)| format!("{key}={value}"));
            let labels = labels.collect::<Vec<_>>().join(",");
            one("WITHOUT_NODE_LABEL", "--node-label", labels, node)
        }
        WouldFit::Members { members, nodes } => {
            ("FEWER_MEMBERS", vec![("--size", members.to_string())], nodes.iter().collect())
        }
        WouldFit::MemberFgpu { amount, nodes } => {
            ("LESS_FGPU", vec![("--fgpu", amount.to_string())], nodes.iter().collect())
        }
        WouldFit::FailedNodes { nodes } => {
            ("WITH_FAILED_NODES", Vec::new(), nodes.iter().collect())
        }
    }
}

fn hint_parts(hint: &Hint) -> Parts<'_> {
    let one = |code, flag, value: String, node| (code, vec![(flag, value)], vec![node]);
    match hint {
        Hint::Split { devices, node } => {
            let flags = vec![("--devices", devices.to_string()), ("--split", "even".to_owned())];
            ("SPLIT", flags, vec![node])
        }
        Hint::Fgpu { amount, node } => one("LESS_FGPU", "--fgpu", amount.to_string(), node),
        Hint::Memory { memory, node } => {
            one("LESS_GPU_MEMORY", "--gpu-memory", written(memory), node)
        }
        Hint::Gpus { gpus, node } => one("FEWER_GPUS", "--gpus", gpus.to_string(), node),
        Hint::Mig { profile, count, node } => {
            let asked = match count {
                1 => profile.clone(),
                count => format!("{profile}:{count}"),
            };
            one("MIG", "--mig", asked, node)
        }
        Hint::AnyModel { node, .. } => one("WITHOUT_GPU_MODEL", "--gpu-model", String::new(), node),
        Hint::AnyNode { node } => one("WITHOUT_NODE", "--node", String::new(), node),
        Hint::Shared { node } => one("SHARED", "--isolation", "shared".to_owned(), node),
    }
}

/// An amount as it is written on the command line.
fn written(amount: &impl std::fmt::Display) -> String {
    amount.to_string().replace(' ', "")
}

fn quota(hit: &QuotaHit) -> Vec<(&'static str, String)> {
    let (project, user) = match &hit.scope {
        QuotaScope::Project(project) => (project, None),
        QuotaScope::User(project, user) => (project, Some(("user", user.to_string()))),
    };
    let mut ids = vec![
        ("project", project.to_string()),
        ("quota", hit.kind.to_owned()),
        ("limit", hit.limit.clone()),
        ("used", hit.used.clone()),
        ("asked", hit.asked.clone()),
    ];
    ids.extend(user);
    ids
}

impl From<&Explanation> for v1::ExplainSessionResponse {
    fn from(explanation: &Explanation) -> Self {
        let position = explanation.queue_position.unwrap_or(0);
        let mut wire = Self {
            summary: explanation.summary.clone(),
            queue_position: u32::try_from(position).unwrap_or(u32::MAX),
            ahead: explanation.ahead.iter().map(ToString::to_string).collect(),
            grant: explanation.grant.as_ref().map(Into::into),
            would_fit: explanation.would_fit.iter().map(ToString::to_string).collect(),
            attempts: explanation.attempts.iter().map(Into::into).collect(),
            members: explanation.members,
            starts_now: u32::try_from(explanation.starts.len()).unwrap_or(u32::MAX),
            places: places(&explanation.starts),
            alternatives: explanation.would_fit.iter().map(alternative).collect(),
            reservation: explanation.reservation.as_ref().map(Into::into),
            ..Self::default()
        };
        if let Some(refused) = &explanation.refused {
            fill_refused(&mut wire, refused);
        }
        wire.holds.extend(explanation.hold.as_ref().map(|hold| match hold {
            Hold::Until { at } => hold_until(*at),
            Hold::After { sessions } => hold_after(sessions),
            Hold::Array { group, at_once } => hold_array(group, *at_once),
            Hold::Gang { waiting, size } => hold_gang(*waiting, *size),
        }));
        wire.holds.extend(explanation.quota.as_ref().map(hold_quota));
        wire.holds.extend(explanation.kept.as_ref().map(hold_reserved));
        wire
    }
}

impl From<&Reservation> for v1::Reservation {
    fn from(reservation: &Reservation) -> Self {
        let nodes: BTreeSet<&NodeName> =
            reservation.grants.iter().map(|grant| &grant.node).collect();
        Self {
            at_ms: reservation.at.map_or(0, |at| at.0),
            nodes: nodes.into_iter().map(ToString::to_string).collect(),
            binding: reservation.binding,
        }
    }
}

/// How many go to each node.
fn places(starts: &[Grant]) -> Vec<v1::NodeMembers> {
    let mut counts: BTreeMap<&NodeName, u32> = BTreeMap::new();
    for grant in starts {
        let members = counts.entry(&grant.node).or_default();
        *members = members.saturating_add(1);
    }
    let place =
        |(node, members): (&NodeName, u32)| v1::NodeMembers { node: node.to_string(), members };
    counts.into_iter().map(place).collect()
}

fn fill_refused(wire: &mut v1::ExplainSessionResponse, refused: &NoPlacement) {
    wire.nodes = refused.reasons.iter().take(NAMED_NODES).map(node_reason).collect();
    wire.closest = refused.closest.as_ref().map(node_reason);
    let count = |(code, nodes): (&&'static str, &usize)| v1::ReasonCount {
        code: (*code).to_owned(),
        nodes: u32::try_from(*nodes).unwrap_or(u32::MAX),
        example: refused
            .reasons
            .iter()
            .find(|(_, reason)| reason.code() == *code)
            .map(|(_, reason)| reason.to_string())
            .unwrap_or_default(),
    };
    wire.counts = refused.summary.iter().map(count).collect();
}

fn node_reason((node, reason): &(NodeName, Reason)) -> v1::NodeReason {
    v1::NodeReason {
        node: node.to_string(),
        code: reason.code().to_owned(),
        text: reason.to_string(),
    }
}

/// Kept waiting until a time.
fn hold_until(at: UnixMillis) -> v1::Hold {
    hold("START_AT", format!("its time has not come: {at}"), [("start_at_ms", at.0.to_string())])
}

/// Kept waiting by sessions it is to follow.
fn hold_after(sessions: &[SessionId]) -> v1::Hold {
    let names: Vec<String> = sessions.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    hold("DEPENDENCY", format!("it follows {names}, not ended yet"), [("sessions", names)])
}

/// Kept waiting by other members of its array.
fn hold_array(group: &SessionId, at_once: u32) -> v1::Hold {
    let text = format!("{at_once} members of array {group} hold a place, as many as may at once");
    hold("ARRAY_LIMIT", text, [("group", group.to_string()), ("at_once", at_once.to_string())])
}

/// Kept waiting until all members of its gang wait.
fn hold_gang(waiting: usize, size: u32) -> v1::Hold {
    let text = format!("{waiting} of the {size} members of its gang wait; all start together");
    hold("GANG", text, [("waiting", waiting.to_string()), ("size", size.to_string())])
}

/// Kept waiting by a quota.
fn hold_quota(hit: &QuotaHit) -> v1::Hold {
    hold("QUOTA_EXCEEDED", hit.to_string(), quota(hit))
}

/// Kept waiting by room that is kept for another.
fn hold_reserved(delay: &Delay) -> v1::Hold {
    let (Delay::Promised { head, node, .. } | Delay::Closed { head, node }) = delay;
    let ids = [("session", head.to_string()), ("node", node.to_string())];
    hold("RESERVED", delay.to_string(), ids)
}

fn hold(
    code: &str,
    text: String,
    metadata: impl IntoIterator<Item = (&'static str, String)>,
) -> v1::Hold {
    let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    v1::Hold { code: code.to_owned(), text, metadata }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_domain::ids::{ClassName, ProjectName, UserName};
    use fgpu_domain::placement::NeverFits;
    use fgpu_domain::session::{Outcome, SpecError};
    use fgpu_domain::slice::SliceError;

    #[test]
    fn what_holds_a_session_says_its_numbers() {
        let id: SessionId = "abcdefgh".parse().unwrap();
        let hit = QuotaHit {
            scope: QuotaScope::Project("research".parse().unwrap()),
            kind: "fgpu",
            limit: "8".into(),
            used: "6".into(),
            asked: "3".into(),
        };
        let holds = [
            hold_until(UnixMillis(5)),
            hold_after(std::slice::from_ref(&id)),
            hold_array(&id, 2),
            hold_gang(3, 8),
            hold_quota(&hit),
            hold_reserved(&Delay::Closed { head: id.clone(), node: "a1".parse().unwrap() }),
        ];
        let codes: Vec<&str> = holds.iter().map(|hold| hold.code.as_str()).collect();
        assert_eq!(
            codes,
            ["START_AT", "DEPENDENCY", "ARRAY_LIMIT", "GANG", "QUOTA_EXCEEDED", "RESERVED"]
        );
        assert_eq!(holds[1].metadata["sessions"], "abcdefgh");
        assert_eq!(holds[2].metadata["at_once"], "2");
        assert_eq!(holds[4].text, hit.to_string());
        assert_eq!(holds[4].metadata["project"], "research");
        assert_eq!(holds[4].metadata["limit"], "8");
    }

    #[test]
    fn every_refusal_has_a_code_of_the_table() {
        let node: NodeName = "a1".parse().unwrap();
        let session: fgpu_domain::ids::SessionId = "abcdefgh".parse().unwrap();
        let user: UserName = "ann".parse().unwrap();
        let device: fgpu_domain::ids::DeviceUuid = "GPU-1".parse().unwrap();
        let refusals = [
            Refusal::Spec(SpecError::Slice(SliceError::Zero { what: "--fgpu" })),
            Refusal::NeverFits(NeverFits::NoNodes),
            Refusal::GangNeverFits { size: 8, most: 4 },
            Refusal::PlanStale { session: session.clone(), why: "x".into() },
            Refusal::NameInUse { name: "n".parse().unwrap(), session: session.clone() },
            Refusal::RequestIdReused {
                request: "abcdefgh".parse().unwrap(),
                session: session.clone(),
            },
            Refusal::MountNotAllowed { path: "/x".into() },
            Refusal::NoImage,
            Refusal::NoCommand,
            Refusal::SessionNotFound { session: "x".into() },
            Refusal::AmbiguousSession { session: "x".into(), matches: "y".into(), count: 2 },
            Refusal::NodeNotFound { node: node.clone() },
            Refusal::NodeCordoned { node: node.clone(), state: "cordoned" },
            Refusal::NodeInUse { node: node.clone(), why: "x".into() },
            Refusal::NodeNameTaken { node: node.clone() },
            Refusal::DeviceNotFound { device: device.clone() },
            Refusal::DeviceTaken { device, node: node.clone(), other: node },
            Refusal::ProjectNotFound { project: ProjectName::default() },
            Refusal::NotAMember { project: ProjectName::default(), user: user.clone() },
            Refusal::ProjectInUse { project: ProjectName::default(), sessions: 1 },
            Refusal::ClassNotFound { class: ClassName::default() },
            Refusal::ClassInUse { class: ClassName::default(), sessions: 1 },
            Refusal::QuotaExceeded(Box::new(QuotaHit {
                scope: QuotaScope::User(ProjectName::default(), user),
                kind: "fgpu",
                limit: "1".into(),
                used: "1".into(),
                asked: "1".into(),
            })),
            Refusal::DependencyNotFound { session: session.clone() },
            Refusal::DependencyFailed { session: session.clone(), outcome: Outcome::Failed },
            Refusal::WrongPhase { session, phase: "running", rule: "x" },
        ];
        for refusal in refusals {
            let code = refusal.code();
            assert_eq!(CallError::from(refusal).code.as_str(), code);
        }
    }
}

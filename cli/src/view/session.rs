//! Sessions, grants and explanations.

use fgpu_domain::ids::{DEFAULT_CLASS, DEFAULT_PROJECT};
use fgpu_wire::v1::{self, gpu_request::Amount};
use serde::Serialize;
use std::collections::BTreeMap;

use super::word;

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SessionView {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) owner: String,
    pub(crate) project: String,
    pub(crate) group: Option<GroupView>,
    pub(crate) phase: Option<String>,
    pub(crate) outcome: Option<String>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) reason_code: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) pending_code: Option<String>,
    pub(crate) pending_reason: Option<String>,
    pub(crate) created_at_ms: u64,
    pub(crate) phase_since_ms: u64,
    pub(crate) placed_at_ms: Option<u64>,
    pub(crate) started_at_ms: Option<u64>,
    pub(crate) generation: u64,
    pub(crate) grant: Option<GrantView>,
    pub(crate) ports: Vec<PortView>,
    pub(crate) pull_done_bytes: u64,
    pub(crate) pull_total_bytes: u64,
    pub(crate) attempts: Vec<AttemptView>,
    pub(crate) stranded: Vec<GrantView>,
    pub(crate) spec: SpecView,
}

/// What a session is a member of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct GroupView {
    pub(crate) id: String,
    pub(crate) index: u32,
    pub(crate) size: u32,
    pub(crate) kind: Option<String>,
    pub(crate) at_once: Option<u32>,
}

/// A session that must have ended first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DependencyView {
    pub(crate) session: String,
    pub(crate) condition: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SpecView {
    pub(crate) kind: Option<String>,
    pub(crate) image: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) mounts: Vec<MountView>,
    pub(crate) publish: Vec<u32>,
    pub(crate) tty: bool,
    pub(crate) gpu: Option<GpuView>,
    pub(crate) cpu_milli: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) shm_bytes: u64,
    pub(crate) compute_policy: Option<String>,
    pub(crate) isolation: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) node_labels: BTreeMap<String, String>,
    pub(crate) priority: i32,
    pub(crate) time_limit_ms: u64,
    pub(crate) stop_grace_ms: u64,
    pub(crate) on_disconnect: Option<String>,
    pub(crate) on_lost: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) class: String,
    pub(crate) after: Vec<DependencyView>,
    pub(crate) start_at_ms: Option<u64>,
    pub(crate) pending_timeout_ms: u64,
    pub(crate) movable: bool,
    pub(crate) arrangement: Option<String>,
    pub(crate) spread_over: Option<String>,
}

/// How much GPU was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct GpuView {
    pub(crate) fgpu_milli: Option<u64>,
    pub(crate) whole_devices: Option<u32>,
    pub(crate) mig_profile: Option<String>,
    pub(crate) mig_instances: Option<u32>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) compute_milli: Option<u32>,
    pub(crate) compute_shared: bool,
    pub(crate) devices: Option<u32>,
    pub(crate) split: Option<String>,
    pub(crate) models: Vec<String>,
}

/// A host folder in the container.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MountView {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// A share of one device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SliceView {
    pub(crate) device_uuid: String,
    pub(crate) memory_bytes: u64,
    pub(crate) compute_milli: u32,
    pub(crate) fgpu_milli: u64,
}

/// What a session holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct GrantView {
    pub(crate) node: String,
    pub(crate) isolation: Option<String>,
    pub(crate) slices: Vec<SliceView>,
}

/// Where a container port is reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PortView {
    pub(crate) container_port: u32,
    pub(crate) host: String,
    pub(crate) host_port: u32,
}

/// A placement that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AttemptView {
    pub(crate) generation: u64,
    pub(crate) at_ms: u64,
    pub(crate) reason: String,
    pub(crate) grant: Option<GrantView>,
    /// Whether the node is avoided for it while another one fits.
    pub(crate) node_fault: bool,
}

/// Why a session waits, or where it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ExplainView {
    pub(crate) summary: String,
    pub(crate) queue_position: Option<u32>,
    pub(crate) ahead: Vec<String>,
    pub(crate) grant: Option<GrantView>,
    pub(crate) closest: Option<ReasonView>,
    pub(crate) nodes: Vec<ReasonView>,
    pub(crate) counts: Vec<CountView>,
    pub(crate) would_fit: Vec<String>,
    pub(crate) alternatives: Vec<AlternativeView>,
    pub(crate) members: u32,
    pub(crate) starts_now: u32,
    pub(crate) places: Vec<NodeMembersView>,
    pub(crate) reservation: Option<ReservationView>,
    pub(crate) attempts: Vec<AttemptView>,
    pub(crate) holds: Vec<HoldView>,
}

/// A change with which what was asked for would start now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AlternativeView {
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) flags: BTreeMap<String, String>,
    pub(crate) nodes: Vec<String>,
}

/// Members of an array or gang on one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodeMembersView {
    pub(crate) node: String,
    pub(crate) members: u32,
}

/// Room that is kept for a session which found none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ReservationView {
    /// Absent: nobody knows.
    pub(crate) at_ms: Option<u64>,
    pub(crate) nodes: Vec<String>,
    pub(crate) binding: bool,
}

/// What else keeps a session waiting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HoldView {
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// What is missing on a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ReasonView {
    pub(crate) node: String,
    pub(crate) code: String,
    pub(crate) text: String,
}

/// How many nodes have one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CountView {
    pub(crate) code: String,
    pub(crate) nodes: u32,
    pub(crate) example: String,
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The project or class meant where none is named.
fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text.to_owned() }
}

impl From<v1::Session> for SessionView {
    fn from(session: v1::Session) -> Self {
        let ended = session.phase() == v1::Phase::Ended;
        Self {
            phase: word(session.phase().as_str_name(), "PHASE_"),
            outcome: word(session.outcome().as_str_name(), "OUTCOME_").filter(|_| ended),
            id: session.id,
            name: session.spec.as_ref().and_then(|spec| some(spec.name.clone())),
            owner: session.owner,
            project: session.spec.as_ref().map_or_else(
                || DEFAULT_PROJECT.to_owned(),
                |spec| or(&spec.project, DEFAULT_PROJECT),
            ),
            group: session.group.map(Into::into),
            placed_at_ms: Some(session.placed_at_ms).filter(|at| *at > 0),
            exit_code: session.exit_code,
            reason_code: some(session.reason_code),
            reason: some(session.reason),
            pending_code: some(session.pending_code),
            pending_reason: some(session.pending_reason),
            created_at_ms: session.created_at_ms,
            phase_since_ms: session.phase_since_ms,
            started_at_ms: Some(session.started_at_ms).filter(|at| *at > 0),
            generation: session.generation,
            grant: session.grant.map(Into::into),
            ports: session.ports.into_iter().map(Into::into).collect(),
            pull_done_bytes: session.pull_done_bytes,
            pull_total_bytes: session.pull_total_bytes,
            attempts: session.attempts.into_iter().map(Into::into).collect(),
            stranded: session.stranded.into_iter().map(Into::into).collect(),
            spec: session.spec.unwrap_or_default().into(),
        }
    }
}

impl From<v1::Group> for GroupView {
    fn from(group: v1::Group) -> Self {
        Self {
            kind: word(group.kind().as_str_name(), "GROUP_KIND_"),
            id: group.id,
            index: group.index,
            size: group.size,
            at_once: Some(group.at_once).filter(|count| *count > 0),
        }
    }
}

impl GroupView {
    /// The member, as it may be named: `id/index`.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.id, self.index)
    }
}

impl From<v1::Dependency> for DependencyView {
    fn from(after: v1::Dependency) -> Self {
        let condition = word(after.condition().as_str_name(), "DEPENDENCY_CONDITION_");
        Self { session: after.session, condition }
    }
}

impl From<v1::SessionSpec> for SpecView {
    fn from(spec: v1::SessionSpec) -> Self {
        let mount = |mount: v1::Mount| MountView {
            source: mount.source,
            target: mount.target,
            read_only: mount.read_only,
        };
        Self {
            kind: word(spec.kind().as_str_name(), "SESSION_KIND_"),
            compute_policy: word(spec.compute_policy().as_str_name(), "COMPUTE_POLICY_"),
            isolation: word(spec.isolation().as_str_name(), "ISOLATION_"),
            on_disconnect: word(spec.on_disconnect().as_str_name(), "ON_DISCONNECT_"),
            on_lost: word(spec.on_lost().as_str_name(), "ON_LOST_"),
            arrangement: word(spec.arrangement().as_str_name(), "ARRANGEMENT_"),
            image: spec.image,
            entrypoint: spec.entrypoint,
            command: spec.command,
            env: spec.env,
            workdir: some(spec.workdir),
            user: some(spec.user),
            mounts: spec.mounts.into_iter().map(mount).collect(),
            publish: spec.publish,
            tty: spec.tty,
            gpu: spec.gpu.map(Into::into),
            cpu_milli: spec.cpu_milli,
            memory_bytes: spec.memory_bytes,
            shm_bytes: spec.shm_bytes,
            node: some(spec.node),
            node_labels: spec.node_labels,
            priority: spec.priority,
            time_limit_ms: spec.time_limit_ms,
            stop_grace_ms: spec.stop_grace_ms,
            labels: spec.labels,
            class: or(&spec.class, DEFAULT_CLASS),
            after: spec.after.into_iter().map(Into::into).collect(),
            start_at_ms: Some(spec.start_at_ms).filter(|at| *at > 0),
            pending_timeout_ms: spec.pending_timeout_ms,
            movable: spec.movable,
            spread_over: some(spec.spread_over),
        }
    }
}

impl From<v1::GpuRequest> for GpuView {
    fn from(request: v1::GpuRequest) -> Self {
        let mut view = Self {
            devices: Some(request.devices).filter(|devices| *devices > 0),
            split: word(request.split().as_str_name(), "SPLIT_"),
            models: request.models,
            ..Self::default()
        };
        match request.amount {
            Some(Amount::FgpuMilli(milli)) => view.fgpu_milli = Some(milli),
            Some(Amount::WholeDevices(count)) => view.whole_devices = Some(count),
            Some(Amount::Mig(instances)) => {
                view.mig_profile = Some(instances.profile);
                view.mig_instances = Some(instances.count.max(1));
            }
            Some(Amount::Direct(direct)) => {
                view.memory_bytes = Some(direct.memory_bytes).filter(|bytes| *bytes > 0);
                view.compute_milli = Some(direct.compute_milli).filter(|milli| *milli > 0);
                view.compute_shared = direct.compute_shared;
            }
            None => {}
        }
        view
    }
}

impl GpuView {
    /// In a few words: `10 fGPU on 2 devices`.
    pub(crate) fn summary(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.fgpu_milli.map(super::fgpu));
        parts.extend(self.whole_devices.map(|count| format!("{count} whole")));
        parts.extend(self.mig_profile.as_ref().map(|profile| match self.mig_instances {
            Some(count) if count > 1 => format!("{count} × {profile}"),
            _ => profile.clone(),
        }));
        parts.extend(self.memory_bytes.map(super::gib));
        parts.extend(self.compute_milli.map(super::percent));
        parts.extend(self.compute_shared.then(|| "compute shared".to_owned()));
        parts.extend(self.devices.map(|count| format!("on {count} devices")));
        parts.join(" ")
    }
}

impl From<v1::Slice> for SliceView {
    fn from(slice: v1::Slice) -> Self {
        Self {
            device_uuid: slice.device_uuid,
            memory_bytes: slice.memory_bytes,
            compute_milli: slice.compute_milli,
            fgpu_milli: slice.fgpu_milli,
        }
    }
}

impl From<v1::Grant> for GrantView {
    fn from(grant: v1::Grant) -> Self {
        Self {
            isolation: word(grant.isolation().as_str_name(), "ISOLATION_"),
            node: grant.node,
            slices: grant.slices.into_iter().map(Into::into).collect(),
        }
    }
}

impl GrantView {
    /// All memory of the slices, bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.slices.iter().map(|slice| slice.memory_bytes).fold(0, u64::saturating_add)
    }

    /// All fGPU of the slices, thousandths.
    pub(crate) fn fgpu_milli(&self) -> u64 {
        self.slices.iter().map(|slice| slice.fgpu_milli).fold(0, u64::saturating_add)
    }

    /// The compute share of each device: `30 %`, or `2 x 50 %`, or all of them one by one.
    pub(crate) fn compute(&self) -> String {
        let shares: Vec<u32> = self.slices.iter().map(|slice| slice.compute_milli).collect();
        let text = |share: u32| match share {
            0 => "shared".to_owned(),
            share => super::percent(share),
        };
        match shares[..] {
            [] => String::new(),
            [only] => text(only),
            [first, ..] if shares.iter().all(|share| *share == first) => {
                format!("{} x {}", shares.len(), text(first))
            }
            _ => shares.into_iter().map(text).collect::<Vec<_>>().join(" + "),
        }
    }
}

impl From<v1::PublishedPort> for PortView {
    fn from(port: v1::PublishedPort) -> Self {
        Self { container_port: port.container_port, host: port.host, host_port: port.host_port }
    }
}

impl From<v1::Attempt> for AttemptView {
    fn from(attempt: v1::Attempt) -> Self {
        Self {
            generation: attempt.generation,
            at_ms: attempt.at_ms,
            reason: attempt.reason,
            grant: attempt.grant.map(Into::into),
            node_fault: attempt.node_fault,
        }
    }
}

impl AttemptView {
    /// Where it was, why it ended, and what follows from that.
    pub(crate) fn line(&self) -> String {
        let node = self.grant.as_ref().map_or("-", |grant| grant.node.as_str());
        let avoided = if self.node_fault { "; avoided while another node fits" } else { "" };
        format!("on {node}: {}{avoided}", self.reason)
    }
}

impl From<v1::NodeReason> for ReasonView {
    fn from(reason: v1::NodeReason) -> Self {
        Self { node: reason.node, code: reason.code, text: reason.text }
    }
}

impl From<v1::ExplainSessionResponse> for ExplainView {
    fn from(answer: v1::ExplainSessionResponse) -> Self {
        let count = |count: v1::ReasonCount| CountView {
            code: count.code,
            nodes: count.nodes,
            example: count.example,
        };
        let alternative = |other: v1::Alternative| AlternativeView {
            code: other.code,
            text: other.text,
            flags: other.flags,
            nodes: other.nodes,
        };
        let place =
            |place: v1::NodeMembers| NodeMembersView { node: place.node, members: place.members };
        let reservation = |promise: v1::Reservation| ReservationView {
            at_ms: Some(promise.at_ms).filter(|at| *at > 0),
            nodes: promise.nodes,
            binding: promise.binding,
        };
        let hold =
            |hold: v1::Hold| HoldView { code: hold.code, text: hold.text, metadata: hold.metadata };
        Self {
            summary: answer.summary,
            queue_position: Some(answer.queue_position).filter(|position| *position > 0),
            ahead: answer.ahead,
            grant: answer.grant.map(Into::into),
            closest: answer.closest.map(Into::into),
            nodes: answer.nodes.into_iter().map(Into::into).collect(),
            counts: answer.counts.into_iter().map(count).collect(),
            would_fit: answer.would_fit,
            alternatives: answer.alternatives.into_iter().map(alternative).collect(),
            members: answer.members,
            starts_now: answer.starts_now,
            places: answer.places.into_iter().map(place).collect(),
            reservation: answer.reservation.map(reservation),
            attempts: answer.attempts.into_iter().map(Into::into).collect(),
            holds: answer.holds.into_iter().map(hold).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(shares: &[u32]) -> GrantView {
        let slice = |share: &u32| SliceView {
            device_uuid: "GPU-1".into(),
            memory_bytes: 1 << 30,
            compute_milli: *share,
            fgpu_milli: 1500,
        };
        GrantView { node: "a1".into(), isolation: None, slices: shares.iter().map(slice).collect() }
    }

    #[test]
    fn equal_shares_are_said_once() {
        assert_eq!(grant(&[300]).compute(), "30 %");
        assert_eq!(grant(&[500, 500]).compute(), "2 x 50 %");
        assert_eq!(grant(&[1000, 500]).compute(), "100 % + 50 %");
        assert_eq!(grant(&[0]).compute(), "shared");
        assert_eq!(grant(&[500, 500]).fgpu_milli(), 3000);
    }

    #[test]
    fn field_names_of_a_session_are_a_promise() {
        let json = serde_json::to_value(SessionView::from(v1::Session {
            id: "s1".into(),
            phase: v1::Phase::Running.into(),
            spec: Some(v1::SessionSpec::default()),
            ..v1::Session::default()
        }))
        .unwrap();

        assert_eq!(json["phase"], "running");
        assert_eq!(json["outcome"], serde_json::Value::Null);
        assert_eq!(json["project"], "default");
        assert_eq!(json["spec"]["class"], "normal");
        for name in
            ["id", "name", "group", "owner", "exit_code", "reason_code", "grant", "spec", "ports"]
        {
            assert!(json.get(name).is_some(), "{name}");
        }
        for name in ["gpu", "cpu_milli", "memory_bytes", "time_limit_ms", "compute_policy"] {
            assert!(json["spec"].get(name).is_some(), "spec.{name}");
        }
    }
}

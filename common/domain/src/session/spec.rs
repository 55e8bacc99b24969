//! What a person asks for when creating a session.

use super::Members;
use crate::ids::{ClassName, NodeName, ProjectName, SessionId, SessionName};
use crate::slice::{GpuRequest, Isolation, SliceError, UnitPolicy};
use crate::time::UnixMillis;
use crate::units::{CpuMilli, MIB, MemoryBytes};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Priorities a session may have; higher goes first.
pub const PRIORITY_RANGE: RangeInclusive<i32> = -1000..=1000;

/// Longest environment, labels and command together, in bytes: a session must fit one store write.
const MAX_TEXT_BYTES: usize = 256 * 1024;
/// The same over all members of a group: what else a member's record holds comes on top.
const MAX_GROUP_BYTES: usize = 768 * 1024;

/// Sessions one session may wait for.
pub const MAX_DEPENDENCIES: usize = 64;
/// The longest name of a node label.
const MAX_LABEL_KEY: usize = 63;

/// What was asked for; it never changes once the session exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// A name of the person's choice, unique among sessions that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SessionName>,
    /// What the session is for.
    pub kind: SessionKind,
    /// Container image; the process runtime has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Replaces the image's entry point when not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Command and arguments; empty means the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory inside the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// User inside the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Host folders to mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Container ports to publish on ephemeral host ports of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<u16>,
    /// Whether the command gets a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// How much of a node it takes.
    pub resources: Resources,
    /// What the compute share means while others are idle.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compute_policy: ComputePolicy,
    /// The weakest isolation accepted; absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Only on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Only on nodes with these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,
    /// Place in the queue, see [`PRIORITY_RANGE`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Stopped after running this long, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_ms: Option<u64>,
    /// From the polite signal to the hard one when stopping, milliseconds.
    pub stop_grace_ms: u64,
    /// What the agent does when it is cut off from the manager.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_disconnect: OnDisconnect,
    /// What the manager does when the node is lost.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_lost: OnLost,
    /// The person's own labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What its use is counted for; absent: the project `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// Its priority class; absent: `normal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
    /// Sessions that must have ended before it may start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Dependency>,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<UnixMillis>,
    /// Given up after waiting this long for a place, milliseconds; counted from its create or
    /// its start time, whichever is later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_timeout_ms: Option<u64>,
    /// Whether it may be stopped and started elsewhere to free whole devices.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub movable: bool,
    /// How the members of a gang lie; absent: where the policy puts each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrangement: Option<Arrangement>,
}

/// How the members of a gang lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrangement {
    /// On the fewest nodes, close to each other.
    Pack,
    /// As evenly over the nodes as there is room.
    Spread,
    /// As evenly over the values of this label of their nodes as there is room.
    SpreadOver(String),
}

/// A session that must have ended first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Which; the first of an array or a gang stands for all of its members.
    pub session: SessionId,
    /// How it must have ended.
    #[serde(default)]
    pub condition: Condition,
}

/// How a dependency must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Completed; if it ends otherwise, what waits for it ends too.
    #[default]
    Ok,
    /// Ended, however.
    Any,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// A command that runs to its end.
    #[default]
    Batch,
    /// Held for a person to work in.
    Interactive,
}

/// How much of a node a session takes. CPU and memory are reserved and limited alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// GPU, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuRequest>,
    /// CPU.
    pub cpu: CpuMilli,
    /// Host memory; there is no swap on top.
    pub memory: MemoryBytes,
    /// Size of `/dev/shm`; part of the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm: Option<MemoryBytes>,
}

/// A host folder mounted into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the node; must lie under one of the administrator's `allowed_mounts`.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// What a compute share means while others are idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputePolicy {
    /// Never more than the share.
    #[default]
    Hard,
    /// Idle time of others may be used, given back within one period.
    Burst,
    /// Only the proportion among those that want compute at the same time.
    Weight,
}

/// What an agent does with a session when it has not heard from the manager for the fence time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// It keeps running.
    #[default]
    Keep,
    /// It is stopped.
    Stop,
}

/// What the manager does with a session whose node is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// Wait for the node to come back.
    #[default]
    Wait,
    /// Place it anew on another node.
    Replace,
    /// End it as failed.
    Fail,
}

/// Why a specification is refused whatever the cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The GPU part.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// A field with a value outside its range.
    #[error("{field} {value} is not allowed: {rule}")]
    Field {
        /// The flag.
        field: &'static str,
        /// The value given.
        value: String,
        /// The rule it breaks, and what to do.
        rule: String,
    },
}

impl SpecError {
    /// The flag at fault.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Field { field, .. } => field,
            Self::Slice(SliceError::Zero { what }) => what,
            Self::Slice(SliceError::NoSuchModel { .. }) => "--gpu-model",
            Self::Slice(
                SliceError::NoSuchProfile { .. }
                | SliceError::PartOfMig { .. }
                | SliceError::MoreInstancesThanAnyNode { .. },
            ) => "--mig",
            Self::Slice(SliceError::WholeCount { .. } | SliceError::TooFewQuanta { .. }) => {
                "--devices"
            }
            Self::Slice(SliceError::Quantum { .. } | SliceError::MoreThanAnyNode { .. }) => {
                "--fgpu"
            }
        }
    }
}

impl SessionSpec {
    /// A batch session that runs `command` with `resources` and nothing else said.
    #[must_use]
    pub fn new(command: Vec<String>, resources: Resources) -> Self {
        Self {
            name: None,
            kind: SessionKind::Batch,
            image: String::new(),
            entrypoint: Vec::new(),
            command,
            env: BTreeMap::new(),
            workdir: None,
            user: None,
            mounts: Vec::new(),
            publish: Vec::new(),
            tty: false,
            resources,
            compute_policy: ComputePolicy::default(),
            isolation: None,
            node: None,
            node_labels: BTreeMap::new(),
            priority: 0,
            time_limit_ms: None,
            stop_grace_ms: 10_000,
            on_disconnect: OnDisconnect::default(),
            on_lost: OnLost::default(),
            labels: BTreeMap::new(),
            project: None,
            class: None,
            after: Vec::new(),
            start_at: None,
            pending_timeout_ms: None,
            movable: false,
            arrangement: None,
        }
    }

    /// The project its use is counted for.
    #[must_use]
    pub fn project(&self) -> ProjectName {
        self.project.clone().unwrap_or_default()
    }

    /// The name of its priority class.
    #[must_use]
    pub fn class(&self) -> ClassName {
        self.class.clone().unwrap_or_default()
    }

    /// Checks everything that does not depend on the state of the cluster.
    ///
    /// # Errors
    /// The first fault, with flag, value and rule.
    pub fn check(&self, units: &UnitPolicy) -> Result<(), SpecError> {
        if let Some(gpu) = &self.resources.gpu {
            units.check(gpu)?;
            if gpu.mig.is_some() && self.isolation == Some(Isolation::Whole) {
                let rule = "a MIG instance is a part of a card: leave it out, or ask for `--gpus`";
                return Err(field("--isolation", Isolation::Whole, rule));
            }
        }
        self.check_amounts()?;
        self.check_texts()?;
        self.check_mounts()?;
        self.check_waiting()?;
        if self.on_disconnect == OnDisconnect::Keep && self.on_lost != OnLost::Wait {
            return Err(field(
                "--on-lost",
                "replace or fail",
                "a session that keeps running when cut off (`--on-disconnect keep`) can only be \
                 waited for: add `--on-disconnect stop`, or a slice could be given twice",
            ));
        }
        Ok(())
    }

    fn check_amounts(&self) -> Result<(), SpecError> {
        const MIN_MEMORY: MemoryBytes = MemoryBytes(6 * MIB);
        let Resources { cpu, memory, shm, .. } = &self.resources;
        if cpu.0 < 10 {
            return Err(field("--cpu", cpu, "ask for at least 0.01 core"));
        }
        if *memory < MIN_MEMORY {
            return Err(field("--memory", memory, "no container starts below 6MiB"));
        }
        if let Some(shm) = shm.filter(|shm| shm > memory) {
            let rule = format!("shared memory counts as memory, which is {memory}");
            return Err(field("--shm", shm, &rule));
        }
        if !PRIORITY_RANGE.contains(&self.priority) {
            let rule = format!("from {} to {}", PRIORITY_RANGE.start(), PRIORITY_RANGE.end());
            return Err(field("--priority", self.priority, &rule));
        }
        if self.time_limit_ms.is_some_and(|limit| limit == 0) {
            return Err(field("--time-limit", "0", "leave it out for no limit"));
        }
        match self.publish.iter().find(|port| **port == 0) {
            Some(port) => Err(field("--publish", port, "a port from 1 to 65535")),
            None => Ok(()),
        }
    }

    fn check_waiting(&self) -> Result<(), SpecError> {
        if self.after.len() > MAX_DEPENDENCIES {
            let rule = format!(
                "at most {MAX_DEPENDENCIES} sessions; the first of an array stands for all of it"
            );
            return Err(field("--after", format!("{} sessions", self.after.len()), &rule));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.after.iter().find(|after| !seen.insert(&after.session)) {
            return Err(field("--after", &twice.session, "name each session once"));
        }
        if self.pending_timeout_ms == Some(0) {
            return Err(field("--pending-timeout", "0", "leave it out to wait without end"));
        }
        Ok(())
    }

    /// Checks that only the members of a gang are to lie together or apart.
    pub(crate) fn check_arrangement(&self, members: Members) -> Result<(), SpecError> {
        let flag = match &self.arrangement {
            None => return Ok(()),
            Some(Arrangement::Pack) => "--pack",
            Some(Arrangement::Spread | Arrangement::SpreadOver(_)) => "--spread",
        };
        if let Some(Arrangement::SpreadOver(label)) = &self.arrangement
            && (label.is_empty() || label.len() > MAX_LABEL_KEY)
        {
            let rule = format!("the name of a node label, at most {MAX_LABEL_KEY} bytes");
            return Err(field(flag, label, &rule));
        }
        match members {
            Members::Gang(_) => Ok(()),
            Members::One | Members::Array(_) => {
                Err(field(flag, members.count(), "only the members of a gang: add `--size`"))
            }
        }
    }

    /// Checks that so many copies fit one write of the store.
    pub(crate) fn check_copies(&self, members: Members) -> Result<(), SpecError> {
        let copies = usize::try_from(members.count()).unwrap_or(usize::MAX);
        let mounts = self.mounts.iter().map(|mount| mount.source.len() + mount.target.len());
        let bytes = self.text_bytes() + mounts.sum::<usize>();
        if copies > 1 && bytes.saturating_mul(copies) > MAX_GROUP_BYTES {
            let rule = format!(
                "command, environment and labels of all members together: {MAX_GROUP_BYTES} bytes"
            );
            return Err(field("--env", format!("{copies} times {bytes} bytes"), &rule));
        }
        Ok(())
    }

    fn text_bytes(&self) -> usize {
        let maps = [&self.env, &self.labels, &self.node_labels];
        let in_maps: usize =
            maps.iter().flat_map(|map| map.iter()).map(|(k, v)| k.len() + v.len()).sum();
        let in_lists: usize = self.command.iter().chain(&self.entrypoint).map(String::len).sum();
        in_maps + in_lists
    }

    fn check_texts(&self) -> Result<(), SpecError> {
        for name in self.env.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(field("--env", name, "a name is not empty and has no `=`"));
            }
        }
        let bytes = self.text_bytes();
        if bytes > MAX_TEXT_BYTES {
            let rule = format!("command, environment and labels together: {MAX_TEXT_BYTES} bytes");
            return Err(field("--env", format!("{bytes} bytes"), &rule));
        }
        Ok(())
    }

    fn check_mounts(&self) -> Result<(), SpecError> {
        for mount in &self.mounts {
            for path in [&mount.source, &mount.target] {
                let climbs = path.split('/').any(|part| part == "..");
                if !path.starts_with('/') || climbs {
                    return Err(field("--volume", path, "absolute paths without `..`"));
                }
            }
        }
        Ok(())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(crate) fn field(field: &'static str, value: impl ToString, rule: &str) -> SpecError {
    SpecError::Field { field, value: value.to_string(), rule: rule.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slice::GpuAmount;
    use crate::units::Fgpu;

    fn spec() -> SessionSpec {
        let resources = Resources {
            gpu: Some(GpuRequest::new(GpuAmount::Fgpu(Fgpu::whole(1)))),
            cpu: CpuMilli::cores(1),
            memory: MemoryBytes::gib(1),
            shm: None,
        };
        SessionSpec::new(vec!["true".to_owned()], resources)
    }

    fn refused(change: impl FnOnce(&mut SessionSpec)) -> SpecError {
        let mut spec = spec();
        change(&mut spec);
        spec.check(&UnitPolicy::default()).unwrap_err()
    }

    #[test]
    fn a_plain_specification_is_accepted() {
        assert_eq!(spec().check(&UnitPolicy::default()), Ok(()));
    }

    #[test]
    fn each_bad_field_is_named_by_its_flag() {
        assert_eq!(refused(|s| s.priority = 2000).field(), "--priority");
        assert_eq!(refused(|s| s.resources.cpu = CpuMilli(0)).field(), "--cpu");
        assert_eq!(refused(|s| s.resources.memory = MemoryBytes(1)).field(), "--memory");
        assert_eq!(refused(|s| s.resources.shm = Some(MemoryBytes::gib(2))).field(), "--shm");
        assert_eq!(refused(|s| s.publish = vec![0]).field(), "--publish");
        assert_eq!(refused(|s| s.time_limit_ms = Some(0)).field(), "--time-limit");
        assert_eq!(refused(|s| s.pending_timeout_ms = Some(0)).field(), "--pending-timeout");
        let after = |n: usize| {
            let session = format!("abcdefg{n}").parse().unwrap();
            Dependency { session, condition: Condition::Ok }
        };
        assert_eq!(refused(|s| s.after = vec![after(1), after(1)]).field(), "--after");
        let many: Vec<Dependency> = (0..=MAX_DEPENDENCIES).map(after).collect();
        assert_eq!(refused(|s| s.after = many).field(), "--after");
        let climbing = Mount { source: "/a/../b".into(), target: "/t".into(), read_only: true };
        assert_eq!(refused(|s| s.mounts = vec![climbing]).field(), "--volume");
    }

    #[test]
    fn a_session_that_keeps_running_when_cut_off_is_never_replaced() {
        let replaced = refused(|s| s.on_lost = OnLost::Replace);
        assert!(replaced.to_string().contains("--on-disconnect stop"), "{replaced}");

        let mut fenced = spec();
        fenced.on_disconnect = OnDisconnect::Stop;
        fenced.on_lost = OnLost::Replace;
        assert_eq!(fenced.check(&UnitPolicy::default()), Ok(()));
    }
}

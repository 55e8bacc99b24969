//! Projects, quotas, what they hold, and priority classes.

use fgpu_domain::units::{CpuMilli, Fgpu};
use fgpu_wire::v1;
use serde::Serialize;
use std::collections::BTreeMap;

use super::word;

/// A project.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ProjectView {
    pub(crate) name: String,
    pub(crate) weight: u32,
    pub(crate) members: Vec<String>,
    pub(crate) quota: QuotaView,
    pub(crate) user_quota: QuotaView,
    pub(crate) users: BTreeMap<String, QuotaView>,
    pub(crate) created_at_ms: Option<u64>,
}

/// What may be held at most; what is absent is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct QuotaView {
    pub(crate) fgpu_milli: Option<u64>,
    pub(crate) cpu_milli: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) sessions: Option<u64>,
    pub(crate) pending: Option<u64>,
}

/// What is held, and how many wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct HeldView {
    pub(crate) fgpu_milli: u64,
    pub(crate) cpu_milli: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) sessions: u64,
    pub(crate) pending: u64,
}

/// What a project holds beside what it may.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UsageView {
    pub(crate) project: String,
    pub(crate) weight: u32,
    pub(crate) share_millionths: u64,
    pub(crate) held: HeldView,
    pub(crate) lately: HeldView,
    pub(crate) quota: QuotaView,
    pub(crate) users: Vec<UserUsageView>,
}

/// What a user holds in a project beside what they may.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UserUsageView {
    pub(crate) user: String,
    pub(crate) held: HeldView,
    pub(crate) quota: QuotaView,
}

/// One limit beside what is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuotaRow {
    /// `fgpu`, `cpu`, `memory`, `sessions` or `pending`.
    pub(crate) kind: &'static str,
    pub(crate) used: String,
    /// Empty: not limited.
    pub(crate) limit: String,
    pub(crate) percent: String,
}

impl QuotaRow {
    /// Whether there is anything to say: a limit, or something that is held.
    pub(crate) fn says_something(&self) -> bool {
        !self.limit.is_empty() || !self.used.starts_with("0 ") && self.used != "0"
    }
}

/// A priority class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ClassView {
    pub(crate) name: String,
    pub(crate) priority: i32,
    pub(crate) may_preempt: bool,
    pub(crate) preemptible: bool,
    pub(crate) min_run_ms: u64,
    pub(crate) grace_ms: Option<u64>,
    pub(crate) on_preempt: Option<String>,
    pub(crate) built_in: bool,
}

impl From<v1::Project> for ProjectView {
    fn from(project: v1::Project) -> Self {
        Self {
            name: project.name,
            weight: project.weight,
            members: project.members,
            quota: project.quota.into(),
            user_quota: project.user_quota.into(),
            users: project.users.into_iter().map(|(user, q)| (user, Some(q).into())).collect(),
            created_at_ms: Some(project.created_at_ms).filter(|at| *at > 0),
        }
    }
}

impl From<Option<v1::Quota>> for QuotaView {
    fn from(quota: Option<v1::Quota>) -> Self {
        let quota = quota.unwrap_or_default();
        Self {
            fgpu_milli: quota.fgpu_milli,
            cpu_milli: quota.cpu_milli,
            memory_bytes: quota.memory_bytes,
            sessions: quota.sessions,
            pending: quota.pending,
        }
    }
}

impl From<Option<v1::Held>> for HeldView {
    fn from(held: Option<v1::Held>) -> Self {
        let held = held.unwrap_or_default();
        Self {
            fgpu_milli: held.fgpu_milli,
            cpu_milli: held.cpu_milli,
            memory_bytes: held.memory_bytes,
            sessions: held.sessions,
            pending: held.pending,
        }
    }
}

impl From<v1::ProjectUsage> for UsageView {
    fn from(usage: v1::ProjectUsage) -> Self {
        let user = |user: v1::UserUsage| UserUsageView {
            user: user.user,
            held: user.held.into(),
            quota: user.quota.into(),
        };
        Self {
            project: usage.project,
            weight: usage.weight,
            share_millionths: usage.share_millionths,
            held: usage.held.into(),
            lately: usage.lately.into(),
            quota: usage.quota.into(),
            users: usage.users.into_iter().map(user).collect(),
        }
    }
}

impl QuotaView {
    /// Every limit beside what is held.
    pub(crate) fn rows(&self, held: &HeldView) -> [QuotaRow; 5] {
        let fgpu = |milli: u64| Fgpu(milli).to_string();
        let cpu = |milli: u64| CpuMilli(milli).to_string();
        let count = |count: u64| count.to_string();
        [
            row("fgpu", held.fgpu_milli, self.fgpu_milli, fgpu),
            row("cpu", held.cpu_milli, self.cpu_milli, cpu),
            row("memory", held.memory_bytes, self.memory_bytes, super::gib),
            row("sessions", held.sessions, self.sessions, count),
            row("pending", held.pending, self.pending, count),
        ]
    }

    /// The limits in one line: `fgpu 40, sessions 20`; empty where there is none.
    pub(crate) fn summary(&self) -> String {
        let rows = self.rows(&HeldView::default()).into_iter();
        let limits = rows.filter(|row| !row.limit.is_empty());
        limits.map(|row| format!("{} {}", row.kind, row.limit)).collect::<Vec<_>>().join(", ")
    }
}

fn row(
    kind: &'static str,
    used: u64,
    limit: Option<u64>,
    show: impl Fn(u64) -> String,
) -> QuotaRow {
    let percent = |limit: u64| match limit {
        0 => String::new(),
        limit => format!("{} %", u128::from(used) * 100 / u128::from(limit)),
    };
    QuotaRow {
        kind,
        used: show(used),
        limit: limit.map(&show).unwrap_or_default(),
        percent: limit.map(percent).unwrap_or_default(),
    }
}

impl From<v1::PriorityClass> for ClassView {
    fn from(class: v1::PriorityClass) -> Self {
        Self {
            on_preempt: word(class.on_preempt().as_str_name(), "ON_PREEMPT_"),
            name: class.name,
            priority: class.priority,
            may_preempt: class.may_preempt,
            preemptible: class.preemptible,
            min_run_ms: class.min_run_ms,
            grace_ms: class.grace_ms,
            built_in: class.built_in,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_shown_beside_what_is_used() {
        let quota = QuotaView {
            fgpu_milli: Some(40_000),
            memory_bytes: Some(512 << 30),
            sessions: Some(0),
            ..QuotaView::default()
        };
        let held = HeldView { fgpu_milli: 10_500, cpu_milli: 2_500, ..HeldView::default() };
        let rows = quota.rows(&held);
        let texts = |row: &QuotaRow| (row.used.clone(), row.limit.clone(), row.percent.clone());
        let all: Vec<_> = rows.iter().map(texts).collect();
        let row = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(all[0], row("10.5", "40", "26 %"));
        assert_eq!(all[1], row("2.5", "", ""));
        assert_eq!(all[2], row("0 B", "512 GiB", "0 %"));
        assert_eq!(all[3], row("0", "0", ""));
        assert_eq!(quota.summary(), "fgpu 40, memory 512 GiB, sessions 0");
    }

    #[test]
    fn field_names_of_projects_and_classes_are_a_promise() {
        let project = serde_json::to_value(ProjectView::from(v1::Project::default())).unwrap();
        for name in ["name", "weight", "members", "quota", "user_quota", "users", "created_at_ms"] {
            assert!(project.get(name).is_some(), "{name}");
        }
        for name in ["fgpu_milli", "cpu_milli", "memory_bytes", "sessions", "pending"] {
            assert!(project["quota"].get(name).is_some(), "quota.{name}");
        }
        let usage = serde_json::to_value(UsageView::from(v1::ProjectUsage::default())).unwrap();
        for name in ["project", "share_millionths", "held", "lately", "quota", "users"] {
            assert!(usage.get(name).is_some(), "{name}");
        }
        let class = serde_json::to_value(ClassView::from(v1::PriorityClass::default())).unwrap();
        for name in ["name", "priority", "may_preempt", "preemptible", "on_preempt", "built_in"] {
            assert!(class.get(name).is_some(), "{name}");
        }
    }
}

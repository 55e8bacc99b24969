//! Projects and their quotas: whose use is counted together, and how much it may be.

use crate::ids::{ProjectName, UserName};
use crate::session::{SpecError, field};
use crate::time::UnixMillis;
use crate::units::{CpuMilli, Fgpu, MemoryBytes};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

/// Weights a project may have.
pub const WEIGHT_RANGE: RangeInclusive<u32> = 1..=10_000;
/// The weight of a project that names none.
pub const DEFAULT_WEIGHT: u32 = 100;
/// Members, and users with a quota of their own: a project must fit one store write.
const MAX_USERS: usize = 5_000;

/// A project as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Its name.
    pub name: ProjectName,
    /// Its part of the cluster when several wait, in proportion to the others' weights.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// What all of it may use.
    #[serde(default)]
    pub quota: Quota,
    /// What each user may use in it.
    #[serde(default)]
    pub user_quota: Quota,
    /// Users with a quota of their own, instead of `user_quota`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<UserName, Quota>,
    /// Who may create sessions in it; empty: everybody.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub members: BTreeSet<UserName>,
    /// When it was made.
    #[serde(default)]
    pub created_at: UnixMillis,
}

/// What may be used at most; what is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quota {
    /// fGPU held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fgpu: Option<Fgpu>,
    /// CPU held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuMilli>,
    /// Host memory held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBytes>,
    /// Sessions that hold a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Sessions that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
}

/// What is held, and how many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// fGPU, with what a silent node may still run.
    pub fgpu: Fgpu,
    /// CPU.
    pub cpu: CpuMilli,
    /// Host memory.
    pub memory: MemoryBytes,
    /// Sessions that hold a place.
    pub sessions: u64,
    /// Sessions that wait.
    pub pending: u64,
}

/// Whose quota it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuotaScope {
    /// All of a project.
    Project(ProjectName),
    /// One user in a project.
    User(ProjectName, UserName),
}

/// A quota that is in the way, with its numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {kind} quota of {scope} is {limit}: {used} in use, {asked} asked for")]
pub struct QuotaHit {
    /// Whose.
    pub scope: QuotaScope,
    /// Of what: `fgpu`, `cpu`, `memory`, `sessions` or `pending`.
    pub kind: &'static str,
    /// At most.
    pub limit: String,
    /// In use now.
    pub used: String,
    /// Asked for on top.
    pub asked: String,
}

fn default_weight() -> u32 {
    DEFAULT_WEIGHT
}

impl Project {
    /// A project without limits, of the usual weight, open to everybody.
    #[must_use]
    pub fn new(name: ProjectName) -> Self {
        Self {
            name,
            weight: DEFAULT_WEIGHT,
            quota: Quota::default(),
            user_quota: Quota::default(),
            users: BTreeMap::new(),
            members: BTreeSet::new(),
            created_at: UnixMillis(0),
        }
    }

    /// The quota of one user in it.
    #[must_use]
    pub fn quota_of(&self, user: &UserName) -> &Quota {
        self.users.get(user).unwrap_or(&self.user_quota)
    }

    /// Whether `user` may create sessions in it.
    #[must_use]
    pub fn admits(&self, user: &UserName) -> bool {
        self.members.is_empty() || self.members.contains(user)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The first fault, with flag, value and rule.
    pub fn check(&self) -> Result<(), SpecError> {
        if !WEIGHT_RANGE.contains(&self.weight) {
            let rule = format!("from {} to {}", WEIGHT_RANGE.start(), WEIGHT_RANGE.end());
            return Err(field("--weight", self.weight, &rule));
        }
        for (flag, count) in [("--member", self.members.len()), ("--user", self.users.len())] {
            if count > MAX_USERS {
                return Err(field(flag, count, &format!("at most {MAX_USERS} users")));
            }
        }
        Ok(())
    }
}

impl Quota {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// The first limit that `asked` on top of `used` would break; one of which nothing is asked is
    /// never broken.
    #[must_use]
    pub fn hit(&self, used: &Held, asked: &Held, scope: &QuotaScope) -> Option<QuotaHit> {
        let over =
            |limit: u64, used: u64, asked: u64| asked > 0 && used.saturating_add(asked) > limit;
        let hit = |kind, limit: String, used: String, asked: String| {
            Some(QuotaHit { scope: scope.clone(), kind, limit, used, asked })
        };
        let text = |amount: u64| amount.to_string();
        if let Some(limit) = self.fgpu.filter(|limit| over(limit.0, used.fgpu.0, asked.fgpu.0)) {
            return hit("fgpu", limit.to_string(), used.fgpu.to_string(), asked.fgpu.to_string());
        }
        if let Some(limit) = self.cpu.filter(|limit| over(limit.0, used.cpu.0, asked.cpu.0)) {
            return hit("cpu", limit.to_string(), used.cpu.to_string(), asked.cpu.to_string());
        }
        if let Some(limit) = self.memory.filter(|l| over(l.0, used.memory.0, asked.memory.0)) {
            let (used, asked) = (used.memory.to_string(), asked.memory.to_string());
            return hit("memory", limit.to_string(), used, asked);
        }
        if let Some(limit) = self.sessions.filter(|l| over(*l, used.sessions, asked.sessions)) {
            return hit("sessions", text(limit), text(used.sessions), text(asked.sessions));
        }
        let limit = self.pending.filter(|l| over(*l, used.pending, asked.pending))?;
        hit("pending", text(limit), text(used.pending), text(asked.pending))
    }
}

impl Held {
    /// With `other` on top.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            fgpu: self.fgpu.saturating_add(other.fgpu),
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            sessions: self.sessions.saturating_add(other.sessions),
            pending: self.pending.saturating_add(other.pending),
        }
    }

    /// Without `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            fgpu: self.fgpu.saturating_sub(other.fgpu),
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
            sessions: self.sessions.saturating_sub(other.sessions),
            pending: self.pending.saturating_sub(other.pending),
        }
    }

    /// `count` times as much.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self {
            fgpu: Fgpu(self.fgpu.0.saturating_mul(count)),
            cpu: CpuMilli(self.cpu.0.saturating_mul(count)),
            memory: MemoryBytes(self.memory.0.saturating_mul(count)),
            sessions: self.sessions.saturating_mul(count),
            pending: self.pending.saturating_mul(count),
        }
    }
}

impl fmt::Display for QuotaScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project(project) => write!(f, "project {project}"),
            Self::User(project, user) => write!(f, "user {user} in project {project}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_names_the_first_limit_broken_with_its_numbers() {
        let quota = Quota { fgpu: Some(Fgpu::whole(8)), sessions: Some(2), ..Quota::default() };
        let scope = QuotaScope::Project(ProjectName::default());
        let held = |fgpu, sessions| Held { fgpu: Fgpu::whole(fgpu), sessions, ..Held::default() };

        assert_eq!(quota.hit(&held(6, 1), &held(2, 1), &scope), None);
        let hit = quota.hit(&held(6, 1), &held(3, 1), &scope).unwrap();
        assert_eq!(
            hit.to_string(),
            "the fgpu quota of project default is 8: 6 in use, 3 asked for"
        );
        let hit = quota.hit(&held(0, 2), &held(0, 1), &scope).unwrap();
        assert_eq!(hit.kind, "sessions");
        assert_eq!(quota.hit(&held(9, 2), &held(0, 0), &scope), None, "nothing asked");
    }

    #[test]
    fn a_bad_weight_is_refused_by_its_flag() {
        let project = Project { weight: 0, ..Project::new(ProjectName::default()) };
        assert_eq!(project.check().unwrap_err().field(), "--weight");
    }

    #[test]
    fn a_project_without_members_is_open_and_reads_back() {
        let ann: UserName = "ann".parse().unwrap();
        let mut project = Project::new(ProjectName::default());
        assert!(project.admits(&ann));
        project.members.insert("bob".parse().unwrap());
        assert!(!project.admits(&ann));

        let text = serde_json::to_string(&project).unwrap();
        assert_eq!(serde_json::from_str::<Project>(&text).unwrap(), project);
        let least: Project = serde_json::from_str(r#"{"name":"a"}"#).unwrap();
        assert_eq!(least, Project::new("a".parse().unwrap()));
    }
}

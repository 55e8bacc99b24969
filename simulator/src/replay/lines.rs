//! The lines of a replay, as they are read and written.

use serde::{Deserialize, Serialize};

/// A whole GPU.
pub(crate) const GPU_MILLI: u64 = 1000;

/// The first line. Fields that only describe the replay are not kept.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Header {
    pub(crate) version: u64,
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) nodes: Option<u64>,
    pub(crate) pods: Option<u64>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeLine {
    pub(crate) name: String,
    pub(crate) cpu_milli: u64,
    pub(crate) memory_mib: u64,
    #[serde(default)]
    pub(crate) num_gpu: u32,
    pub(crate) gpu_model: Option<String>,
}

/// Whose use is counted together; from version 2 on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProjectLine {
    pub(crate) name: String,
    /// Its part when several wait, in proportion to the others' weights.
    #[serde(default = "usual_weight")]
    pub(crate) weight: u32,
    /// What all of it may use.
    #[serde(default, skip_serializing_if = "QuotaPart::is_unlimited")]
    pub(crate) quota: QuotaPart,
    /// What each user may use in it.
    #[serde(default, skip_serializing_if = "QuotaPart::is_unlimited")]
    pub(crate) user_quota: QuotaPart,
}

/// What may be used at most; what is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuotaPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gpu_milli: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_milli: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_mib: Option<u64>,
    /// That hold a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sessions: Option<u64>,
    /// That wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<u64>,
}

/// A kind of pod the cluster usually sees, and how often it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClassLine {
    pub(crate) cpu_milli: u64,
    pub(crate) num_gpu: u32,
    /// Of each GPU.
    #[serde(default)]
    pub(crate) gpu_milli: u64,
    #[serde(default)]
    pub(crate) gpu_spec: Vec<String>,
    pub(crate) weight: u64,
}

/// A pod that arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodLine {
    pub(crate) name: String,
    pub(crate) cpu_milli: u64,
    pub(crate) memory_mib: u64,
    #[serde(default)]
    pub(crate) num_gpu: u32,
    /// Of each GPU.
    #[serde(default)]
    pub(crate) gpu_milli: u64,
    #[serde(default)]
    pub(crate) gpu_spec: Vec<String>,
}

/// A pod of version 2: it comes at a time, may wait, and ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct JobLine {
    #[serde(flatten)]
    pub(crate) pod: PodLine,
    pub(crate) arrival_ms: u64,
    /// How long it runs; absent: to the end of the simulation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) duration_ms: Option<u64>,
    /// Stopped after running this long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) time_limit_ms: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) priority: i32,
    /// Its priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// How many such pods it is, all placed or none.
    #[serde(skip_serializing_if = "is_one")]
    pub(crate) size: u32,
}

impl Header {
    /// Whether pods come at a time, may wait, and end.
    pub(crate) fn has_time(&self) -> bool {
        self.version > 1
    }
}

impl PodLine {
    /// GPU asked for over all devices, thousandths of a GPU.
    pub(crate) fn gpu_demand(&self) -> u64 {
        u64::from(self.num_gpu) * self.gpu_milli
    }
}

impl JobLine {
    /// GPU asked for by all of it, thousandths of a GPU.
    pub(crate) fn gpu_demand(&self) -> u64 {
        self.pod.gpu_demand() * u64::from(self.size)
    }

    /// How long it will hold what it gets, if that is known.
    pub(crate) fn held_ms(&self) -> Option<u64> {
        self.duration_ms.into_iter().chain(self.time_limit_ms).min()
    }
}

impl QuotaPart {
    pub(crate) fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

fn usual_weight() -> u32 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(value: &i32) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_one(value: &u32) -> bool {
    *value == 1
}

//! What projects used lately: the history that fair share weighs.

use crate::ids::{ProjectName, UserName};
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A project's history as the store keeps it: everything used up to one point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Whose.
    pub project: ProjectName,
    /// Up to when.
    pub at: UnixMillis,
    /// What the amounts are weighed by; another one is another scale.
    pub epoch: u64,
    /// All of the project.
    pub total: Amounts,
    /// By user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<UserName, Amounts>,
}

/// Amounts over time, each moment weighed by how recent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amounts {
    /// fGPU.
    pub fgpu: i128,
    /// CPU.
    pub cpu: i128,
    /// Host memory.
    pub memory: i128,
}

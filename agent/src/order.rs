//! What the manager wants of this node, as the agent takes it.

use fgpu_domain::reconcile::{PlacementId, Want};
use fgpu_domain::session::SessionSpec;
use fgpu_domain::slice::Grant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All that is needed to start a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What was asked for.
    pub spec: SessionSpec,
    /// What it was granted.
    pub grant: Grant,
    /// The user it belongs to.
    pub owner: String,
    /// Variables that say what array or gang it is a member of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub group_environment: BTreeMap<String, String>,
}

/// One placement the manager wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// To run, or to stop.
    pub want: Want,
    /// What to start; a text says why it was not understood.
    pub order: Result<Order, String>,
}

/// Everything the manager wants on the node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DesiredState {
    /// The term of the manager that says so.
    pub epoch: i64,
    /// Grows with every change within an epoch.
    pub generation: u64,
    /// The placements; what is not here shall not be there.
    pub placements: BTreeMap<PlacementId, Desired>,
}

impl DesiredState {
    /// Whether `self` comes from before `other`: such a state is refused.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        (self.epoch, self.generation) < (other.epoch, other.generation)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use fgpu_domain::ids::{DeviceUuid, NodeName};
    use fgpu_domain::session::Resources;
    use fgpu_domain::slice::{Isolation, Slice};
    use fgpu_domain::units::{ComputeMilli, CpuMilli, Fgpu, MemoryBytes};

    /// Half of each of `devices`, for a shell that prints.
    pub(crate) fn order(devices: &[&str]) -> Order {
        let resources = Resources {
            gpu: None,
            cpu: CpuMilli::cores(1),
            memory: MemoryBytes::gib(1),
            shm: None,
        };
        let slices = devices.iter().map(|uuid| Slice {
            device: DeviceUuid::new(*uuid).unwrap(),
            memory: MemoryBytes::gib(40),
            compute: ComputeMilli(500),
            fgpu: Fgpu::whole(5),
        });
        let grant = Grant {
            node: NodeName::new("a1").unwrap(),
            slices: slices.collect(),
            isolation: Isolation::Shared,
        };
        let spec = SessionSpec::new(vec!["sh".to_owned()], resources);
        Order { spec, grant, owner: "ann".to_owned(), group_environment: BTreeMap::new() }
    }

    #[test]
    fn a_state_is_older_by_epoch_first_and_generation_second() {
        let at = |epoch, generation| DesiredState { epoch, generation, ..DesiredState::default() };
        assert!(at(1, 9).is_older_than(&at(2, 1)));
        assert!(at(2, 1).is_older_than(&at(2, 2)));
        assert!(!at(2, 2).is_older_than(&at(2, 2)), "a repeat is taken");
        assert!(!at(3, 1).is_older_than(&at(2, 9)));
    }
}

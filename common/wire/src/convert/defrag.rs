//! Plans of moves.

use crate::v1;
use fgpu_domain::cluster::{MoveCost, MovePlan, PlannedMove, PlannedStep};
use fgpu_domain::plans::defrag::{Fragmentation, Freed};

impl From<&MovePlan> for v1::DefragPlan {
    fn from(plan: &MovePlan) -> Self {
        Self {
            id: String::new(),
            made_at_ms: plan.made_at.0,
            steps: plan.steps.iter().map(Into::into).collect(),
            before: Some((&plan.before).into()),
            after: Some((&plan.after).into()),
            cost: Some((&plan.cost).into()),
            movable: count(plan.movable),
        }
    }
}

impl From<&PlannedStep> for v1::DefragStep {
    fn from(step: &PlannedStep) -> Self {
        let (node, device) = match &step.frees {
            Freed::Device { node, device } => (node, device.to_string()),
            Freed::Node { node } => (node, String::new()),
        };
        Self {
            moves: step.moves.iter().map(Into::into).collect(),
            frees_node: node.to_string(),
            frees_device: device,
        }
    }
}

impl From<&PlannedMove> for v1::SessionMove {
    /// Without whose session it is: the plan does not know.
    fn from(planned: &PlannedMove) -> Self {
        Self {
            session_id: planned.session.to_string(),
            session_name: String::new(),
            owner: String::new(),
            generation: planned.generation,
            from: Some((&planned.from).into()),
            to: Some((&planned.to).into()),
            ran_ms: planned.ran_ms,
        }
    }
}

impl From<&Fragmentation> for v1::Fragmentation {
    fn from(measured: &Fragmentation) -> Self {
        Self {
            free_devices: count(measured.free_devices),
            free_nodes: count(measured.free_nodes),
            largest_fgpu_milli: measured.largest_fgpu.0,
            largest_gpus: count(measured.largest_gpus),
            scattered_milli: u32::try_from(measured.scattered_milli).unwrap_or(u32::MAX),
        }
    }
}

impl From<&MoveCost> for v1::DefragCost {
    fn from(cost: &MoveCost) -> Self {
        Self {
            restarts: count(cost.restarts),
            ran_ms: cost.ran_ms,
            gpu_memory_bytes: cost.gpu_memory.0,
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

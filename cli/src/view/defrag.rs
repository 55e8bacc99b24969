//! Plans of moves.

use fgpu_wire::v1;
use serde::Serialize;

use super::GrantView;

/// A plan of moves, with what it gains and costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DefragPlanView {
    pub(crate) id: String,
    pub(crate) made_at_ms: u64,
    pub(crate) steps: Vec<DefragStepView>,
    pub(crate) before: FragmentationView,
    pub(crate) after: FragmentationView,
    pub(crate) cost: DefragCostView,
    pub(crate) movable: u32,
}

/// Moves that free one thing together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DefragStepView {
    pub(crate) moves: Vec<MoveView>,
    pub(crate) frees_node: String,
    /// Absent: all of the node.
    pub(crate) frees_device: Option<String>,
}

/// One session goes to another place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MoveView {
    pub(crate) session_id: String,
    pub(crate) session_name: Option<String>,
    pub(crate) owner: String,
    pub(crate) generation: u64,
    pub(crate) from: Option<GrantView>,
    pub(crate) to: Option<GrantView>,
    pub(crate) ran_ms: u64,
}

/// How scattered what is free is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct FragmentationView {
    pub(crate) free_devices: u32,
    pub(crate) free_nodes: u32,
    pub(crate) largest_fgpu_milli: u64,
    pub(crate) largest_gpus: u32,
    pub(crate) scattered_milli: u32,
}

/// What moves cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct DefragCostView {
    pub(crate) restarts: u32,
    pub(crate) ran_ms: u64,
    pub(crate) gpu_memory_bytes: u64,
}

/// What became of one move.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MoveEndedView {
    pub(crate) session_id: String,
    pub(crate) moved: bool,
    pub(crate) node: Option<String>,
    pub(crate) note: Option<String>,
}

/// What became of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DefragDoneView {
    pub(crate) plan: DefragPlanView,
    pub(crate) moves: Vec<MoveEndedView>,
    pub(crate) moved: u32,
    pub(crate) left: u32,
    pub(crate) stopped: Option<String>,
    pub(crate) now: FragmentationView,
}

impl From<v1::DefragPlan> for DefragPlanView {
    fn from(plan: v1::DefragPlan) -> Self {
        Self {
            id: plan.id,
            made_at_ms: plan.made_at_ms,
            steps: plan.steps.into_iter().map(Into::into).collect(),
            before: plan.before.map(Into::into).unwrap_or_default(),
            after: plan.after.map(Into::into).unwrap_or_default(),
            cost: plan.cost.map(Into::into).unwrap_or_default(),
            movable: plan.movable,
        }
    }
}

impl DefragPlanView {
    /// How many sessions move.
    pub(crate) fn moves(&self) -> usize {
        self.steps.iter().map(|step| step.moves.len()).sum()
    }
}

impl From<v1::DefragStep> for DefragStepView {
    fn from(step: v1::DefragStep) -> Self {
        Self {
            moves: step.moves.into_iter().map(Into::into).collect(),
            frees_node: step.frees_node,
            frees_device: text(step.frees_device),
        }
    }
}

impl From<v1::SessionMove> for MoveView {
    fn from(planned: v1::SessionMove) -> Self {
        Self {
            session_id: planned.session_id,
            session_name: text(planned.session_name),
            owner: planned.owner,
            generation: planned.generation,
            from: planned.from.map(Into::into),
            to: planned.to.map(Into::into),
            ran_ms: planned.ran_ms,
        }
    }
}

impl MoveView {
    /// What to call the session: its name where it has one.
    pub(crate) fn label(&self) -> &str {
        self.session_name.as_deref().unwrap_or(&self.session_id)
    }
}

impl From<v1::Fragmentation> for FragmentationView {
    fn from(measured: v1::Fragmentation) -> Self {
        Self {
            free_devices: measured.free_devices,
            free_nodes: measured.free_nodes,
            largest_fgpu_milli: measured.largest_fgpu_milli,
            largest_gpus: measured.largest_gpus,
            scattered_milli: measured.scattered_milli,
        }
    }
}

impl From<v1::DefragCost> for DefragCostView {
    fn from(cost: v1::DefragCost) -> Self {
        Self {
            restarts: cost.restarts,
            ran_ms: cost.ran_ms,
            gpu_memory_bytes: cost.gpu_memory_bytes,
        }
    }
}

impl From<v1::MoveEnded> for MoveEndedView {
    fn from(ended: v1::MoveEnded) -> Self {
        Self {
            session_id: ended.session_id,
            moved: ended.moved,
            node: text(ended.node),
            note: text(ended.note),
        }
    }
}

/// `None` for the wire's empty text.
fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

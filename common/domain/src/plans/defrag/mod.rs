//! Defragmentation: moves of running sessions that free whole devices and nodes.
//!
//! Slices that come and go leave rests that no whole-device request can use. Sessions that allow
//! it can be moved together, as live migration does for virtual machines (Clark et al. 2005) and
//! Gandiva for GPU jobs (Xiao et al. 2018); each move costs, so nothing is moved that frees
//! nothing. The plan is greedy: the device, then the node, with the least to move is emptied
//! first, into what is in use already; where one session is in the way of another, one exchange is
//! tried. The work is bounded by [`DefragLimits`].
//!
//! What holds: a plan is a row of steps, each of which frees a device or a node and makes nothing
//! measured by [`Fragmentation`] worse, so it may be cut off after any step. Moves are carried out
//! in order; the target of each is free while the session still holds its old place. No session
//! moves twice. Gain and cost are known before anything moves.

mod measure;
mod search;

#[cfg(test)]
mod tests;

pub use measure::{Fragmentation, fragmentation};

use crate::ids::{DeviceUuid, NodeName, SessionId};
use crate::placement::{Allocation, Request, View};
use crate::slice::Grant;
use crate::units::MemoryBytes;
use search::Search;

/// A running session that may be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovableSession {
    /// Which one.
    pub id: SessionId,
    /// Where it is.
    pub node: NodeName,
    /// What it asked; it must be met at its new place as well.
    pub request: Request,
    /// What it holds.
    pub allocation: Allocation,
    /// Whether moving it means to start it anew, as opposed to one service replica taking over
    /// from another.
    pub restarts: bool,
}

/// How much may be done at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefragLimits {
    /// Moves in the plan.
    pub moves: usize,
    /// Searches for a new place while planning.
    pub tries: usize,
}

impl Default for DefragLimits {
    fn default() -> Self {
        Self { moves: 200, tries: 5_000 }
    }
}

/// One session goes to another place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which one.
    pub session: SessionId,
    /// Where it was.
    pub from: NodeName,
    /// What it gives back there, once it runs at its new place.
    pub gives_back: Allocation,
    /// Its new place.
    pub to: Grant,
    /// What it takes there.
    pub takes: Allocation,
}

/// Moves that free something together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefragStep {
    /// In the order they must be carried out.
    pub moves: Vec<Move>,
    /// What is free afterwards.
    pub frees: Freed,
}

/// What a step frees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freed {
    /// One device.
    Device {
        /// Its node.
        node: NodeName,
        /// The device.
        device: DeviceUuid,
    },
    /// All of a node.
    Node {
        /// The node.
        node: NodeName,
    },
}

/// What the moves cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DefragCost {
    /// Sessions moved.
    pub sessions: usize,
    /// Those of them that start anew.
    pub restarts: usize,
    /// GPU memory they hold, bytes.
    pub gpu_memory: MemoryBytes,
}

/// A plan of moves, with what it gains and costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefragPlan {
    /// Each frees a device or a node; empty where nothing can be gained.
    pub steps: Vec<DefragStep>,
    /// The cluster now.
    pub before: Fragmentation,
    /// The cluster once all has moved.
    pub after: Fragmentation,
    /// What it costs.
    pub cost: DefragCost,
}

/// Plans moves of `movable` sessions that free whole devices and nodes. Nothing is changed.
#[must_use]
pub fn plan_defrag(view: &View, movable: &[MovableSession], limits: DefragLimits) -> DefragPlan {
    let before = fragmentation(view);
    let mut search = Search::new(view, movable, limits, before);
    search.free_devices();
    search.free_nodes();
    let (steps, after) = search.finish();
    let mut cost = DefragCost::default();
    for moved in steps.iter().flat_map(|step| &step.moves) {
        let restarts =
            movable.iter().any(|session| session.id == moved.session && session.restarts);
        cost.sessions += 1;
        cost.restarts += usize::from(restarts);
        cost.gpu_memory = cost.gpu_memory.saturating_add(gpu_memory(&moved.gives_back));
    }
    DefragPlan { steps, before, after, cost }
}

fn gpu_memory(allocation: &Allocation) -> MemoryBytes {
    allocation.slices.iter().map(|slice| slice.memory).sum()
}

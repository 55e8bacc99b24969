//! Placement: which node and which devices a request gets, or why it gets none.
//!
//! The steps have their known names. *Filter* passes over nodes that cannot take the request,
//! *score* ranks the rest by a [`Policy`], *reserve* chooses the devices and writes the grant; the
//! caller then binds it with [`View::allocate`]. Start at [`Placer::place`].
//!
//! What holds: the answer depends on the arguments alone (and, for [`Policy::Random`], on the
//! seed); ties go to the node inserted first; nothing is granted beyond a device, the CPU or the
//! memory of a node; what one empty allowed device could hold is never split unasked.
//!
//! A [`View`] is kept live by its owner and changed by deltas. It keeps what the search needs
//! beside each node (totals, largest rests), groups nodes of equal hardware, so that a request is
//! divided into parts once per kind of node, and nodes in equal state, so that a state is scored
//! once. The [`Placer`] keeps a ranking of the states for every kind of request it sees often and
//! brings it up to date by what changed: a decision costs what changed since the last one of its
//! kind, not the size of the cluster.

mod alike;
mod bounds;
mod entry;
mod explain;
mod fgd;
mod filter;
mod fit;
mod fragmentation;
mod hint;
mod images;
mod instances;
mod kind;
mod layout;
mod measure;
mod mix;
mod model;
mod node;
mod policy;
mod prices;
mod random;
mod ranking;
mod reach;
mod reason;
mod reserve;
mod scarcity;
mod score;
mod search;
mod shape;
mod state;
mod unmet;
mod view;
mod worth;

pub(crate) use alike::{ByState, LabelsOf};
pub use bounds::ViewError;
pub use explain::NoPlacement;
pub use hint::Hint;
pub use images::{Held as HeldImages, MOST_IMAGES};
pub(crate) use layout::feasible_elsewhere;
pub use layout::{NeverFits, feasible_when_empty};
pub use node::{Allocation, DeviceBlock, DeviceView, NodeState, NodeView};
pub use policy::{Policy, PolicyError};
pub use reason::Reason;
pub use search::{Placement, Placer};
pub(crate) use unmet::Unmet;
pub use view::View;

use crate::ids::NodeName;
use crate::slice::{GpuRequest, Isolation};
use crate::units::{CpuMilli, MemoryBytes};
use std::collections::{BTreeMap, BTreeSet};

/// What a session asks of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Request {
    /// CPU, thousandths of a core.
    pub cpu: CpuMilli,
    /// Host memory in bytes.
    pub memory: MemoryBytes,
    /// GPU; `None` for a session without.
    pub gpu: Option<GpuRequest>,
    /// Only this node.
    pub node: Option<NodeName>,
    /// Labels the node must carry with exactly these values.
    pub labels: BTreeMap<String, String>,
    /// The weakest isolation accepted; `None`: anything but [`Isolation::Shared`], and that too
    /// on nodes that allow it.
    pub isolation: Option<Isolation>,
    /// Nodes not to use, such as those that cannot run it.
    pub avoid: BTreeSet<NodeName>,
    /// Nodes to use only where no other has room, such as those where the session failed before.
    pub shun: BTreeSet<NodeName>,
    /// Full name of the image it runs: of nodes in equal state one that holds it is taken.
    pub image: Option<String>,
}

impl Request {
    /// Whether it asks for MIG instances instead of devices.
    fn takes_instances(&self) -> bool {
        self.gpu.as_ref().is_some_and(|gpu| gpu.mig.is_some())
    }

    /// Whether it says anything about single nodes.
    fn names_nodes(&self) -> bool {
        self.node.is_some()
            || self.image.is_some()
            || !self.avoid.is_empty()
            || !self.shun.is_empty()
    }

    /// The same without what it says about single nodes.
    fn of_any_node(&self) -> Self {
        Self {
            node: None,
            avoid: BTreeSet::new(),
            shun: BTreeSet::new(),
            image: None,
            gpu: self.gpu.clone(),
            labels: self.labels.clone(),
            ..*self
        }
    }

    /// The same with the nodes it shuns among those it avoids; `None` where it shuns none.
    fn without_shunned(&self) -> Option<Self> {
        if self.shun.is_empty() {
            return None;
        }
        let mut strict = self.clone();
        strict.avoid.append(&mut strict.shun);
        Some(strict)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_explain;
#[cfg(test)]
mod tests_history;
#[cfg(test)]
mod tests_mig;
#[cfg(test)]
mod tests_unmet;

//! What the agent knows of its placements, in one file that survives it.
//!
//! [`Ledger`] is the content; [`load`] reads it and [`LedgerWriter`] keeps the file up to date from
//! a task of its own. The file is written whole, beside the old one, and moved over it: a crash
//! leaves one or the other. Containers carry labels that tell the same, so a ledger that cannot be
//! read costs nothing but the ends the manager has not taken yet.

mod file;
mod writer;

pub use file::{LedgerError, Loaded, load};
pub(crate) use file::{has_live_placements, write_atomically};
pub use writer::{LedgerWriter, Written};

use crate::ends::End;
use fgpu_domain::ids::{ClusterId, SessionId};
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::session::{OnDisconnect, PublishedPort, SessionSpec};
use fgpu_domain::slice::Grant;
use fgpu_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// The format written now. A file of a newer one is refused.
pub const VERSION: u32 = 1;
/// Name of the file in the state folder.
pub const FILE_NAME: &str = "ledger.json";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Format, see [`VERSION`].
    pub version: u32,
    /// Made once: tells this agent from another under the same node name.
    pub agent_id: String,
    /// The cluster it belongs to; `None` before it was ever accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// Epoch of the last desired state taken.
    #[serde(default)]
    pub epoch: i64,
    /// Generation of the last desired state taken.
    #[serde(default)]
    pub generation: u64,
    /// How long the agent may be cut off before it acts, as the manager said last.
    #[serde(default)]
    pub fence_ms: u64,
    /// The placements, in order.
    #[serde(default)]
    pub placements: Vec<Entry>,
}

/// One placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The session.
    pub session: SessionId,
    /// Which placement of it.
    pub generation: u64,
    /// What was asked for; `None` where only the labels of its container told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SessionSpec>,
    /// What it holds; `None` where nothing readable told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// The user it belongs to.
    #[serde(default)]
    pub owner: String,
    /// What the agent does with it when it is cut off.
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
    /// Its container, once it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// Its end, until the manager has taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// A container that started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its id at the engine.
    pub container: String,
    /// When it started.
    pub at: UnixMillis,
    /// Where its ports can be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
}

impl Ledger {
    /// The ledger of an agent that has never been accepted by a manager.
    #[must_use]
    pub fn new(agent_id: String) -> Self {
        Self {
            version: VERSION,
            agent_id,
            cluster: None,
            epoch: 0,
            generation: 0,
            fence_ms: 0,
            placements: Vec::new(),
        }
    }
}

impl Entry {
    /// Which placement it is about.
    #[must_use]
    pub fn id(&self) -> PlacementId {
        PlacementId { session: self.session.clone(), generation: self.generation }
    }
}

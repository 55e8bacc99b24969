//! What the supervisor tells everybody else: one immutable picture after every change.

use crate::ends::End;
use crate::ledger::Running;
use fgpu_domain::ids::{ClusterId, SessionId};
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::session::Progress;
use fgpu_domain::slice::Grant;
use std::collections::BTreeMap;

/// The node at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// The cluster, once a manager has accepted this agent.
    pub cluster: Option<ClusterId>,
    /// Epoch of the last desired state taken.
    pub epoch: i64,
    /// Generation of the last desired state taken.
    pub generation: u64,
    /// What is wrong with the node; empty when nothing is.
    pub condition: String,
    /// Whether the container engine has answered, or failed to, since the agent started.
    pub observed: bool,
    /// Whether this names everything the node has. Not so while the ledger was lost and the engine
    /// has not told its containers yet.
    pub complete: bool,
    /// How every placement stands.
    pub placements: BTreeMap<PlacementId, Standing>,
}

/// How one placement stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Its state.
    pub state: StandingState,
    /// What it holds, where that is known.
    pub grant: Option<Grant>,
    /// Its container, while there is one.
    pub container: Option<String>,
    /// Differs when the same report has to be sent once more.
    pub resend: u64,
}

/// The state of a placement as it is reported.
#[derive(Debug, Clone, PartialEq)]
pub enum StandingState {
    /// Being made.
    Preparing(Progress),
    /// It runs, or its end is not complete yet.
    Running(Running),
    /// Nothing of it runs any more.
    Gone(End),
}

impl Snapshot {
    /// The newest placement of a session, running ones first.
    #[must_use]
    pub fn newest(&self, session: &SessionId) -> Option<(&PlacementId, &Standing)> {
        let of_session = || self.placements.iter().filter(|(id, _)| id.session == *session);
        let runs = |standing: &Standing| matches!(standing.state, StandingState::Running(_));
        of_session().rfind(|(_, standing)| runs(standing)).or_else(|| of_session().next_back())
    }
}

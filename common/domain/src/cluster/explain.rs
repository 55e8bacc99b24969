//! Why a session waits, or where it is.

use super::{Cluster, Refusal};
use crate::ids::{SessionId, UserName};
use crate::placement::NoPlacement;
use crate::session::{Attempt, Members, Phase, Session, SessionSpec};
use crate::slice::Grant;

/// How many sessions ahead are named.
const NAMED_AHEAD: usize = 10;

/// Why a session waits, or where it is or would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// In one sentence.
    pub summary: String,
    /// Place in the queue from 1; `None` when it does not wait.
    pub queue_position: Option<usize>,
    /// Sessions ahead of it, nearest the head first.
    pub ahead: Vec<SessionId>,
    /// Where it is, or would go now.
    pub grant: Option<Grant>,
    /// Why no node takes it now.
    pub refused: Option<Box<NoPlacement>>,
    /// Earlier placements.
    pub attempts: Vec<Attempt>,
}

impl Cluster {
    /// Why session `id` waits, or where it is.
    ///
    /// # Errors
    /// [`Refusal::SessionNotFound`].
    pub fn explain(&self, id: &SessionId) -> Result<Explanation, Refusal> {
        let session = self.get(id)?;
        let mut explanation = match &session.phase {
            Phase::Pending { .. } => {
                let ahead: Vec<SessionId> = self
                    .index
                    .queue
                    .iter()
                    .map(|(_, _, other)| other.clone())
                    .take_while(|other| other != id)
                    .collect();
                self.explain_waiting(&session.spec, ahead)
            }
            phase => Explanation {
                summary: placed_summary(session),
                queue_position: None,
                ahead: Vec::new(),
                grant: phase.grant().cloned(),
                refused: None,
                attempts: Vec::new(),
            },
        };
        explanation.attempts.clone_from(&session.attempts);
        Ok(explanation)
    }

    /// What a create of `spec` by `owner` would do now.
    ///
    /// # Errors
    /// The [`Refusal`] the create would get.
    pub fn dry_run(&self, spec: &SessionSpec, owner: &UserName) -> Result<Explanation, Refusal> {
        self.check_create(spec, owner, Members::One)?;
        let turn = |session: &Session| session.spec.priority >= spec.priority;
        let queue = self.index.queue.iter();
        let ahead = queue
            .filter(|(_, _, id)| self.sessions.get(id).is_some_and(|session| turn(session)))
            .map(|(_, _, id)| id.clone())
            .collect();
        Ok(self.explain_waiting(spec, ahead))
    }

    fn explain_waiting(&self, spec: &SessionSpec, ahead: Vec<SessionId>) -> Explanation {
        let mut placer = self.placer.clone();
        let answer = placer.place(&self.request(spec), &self.view);
        let position = ahead.len() + 1;
        let (grant, refused) = match answer {
            Ok(placement) => (Some(placement.grant), None),
            Err(refused) => (None, Some(refused)),
        };
        let summary = match (&grant, &refused) {
            (Some(grant), _) => format!("would start now on node {}", grant.node),
            (None, Some(refused)) => format!("place {position} in the queue: {refused}"),
            (None, None) => String::new(),
        };
        Explanation {
            summary,
            queue_position: Some(position),
            ahead: ahead.into_iter().take(NAMED_AHEAD).collect(),
            grant,
            refused,
            attempts: Vec::new(),
        }
    }
}

fn placed_summary(session: &Session) -> String {
    match &session.phase {
        Phase::Ended(ended) if ended.message.is_empty() => ended.outcome.to_string(),
        Phase::Ended(ended) => format!("{}: {}", ended.outcome, ended.message),
        phase => match phase.grant() {
            Some(grant) => format!("{} on node {}", phase.name(), grant.node),
            None => phase.name().to_owned(),
        },
    }
}

//! What is applied in memory and not yet told: units, gathered into batches.

use super::Command;
use super::desired::Edits;
use super::plan::{Chunk, Limits, Operation, plan};
use super::{EngineError, Reply, SessionChange, Snapshot};
use crate::records::{RecordError, encode, keys};
use fgpu_domain::cluster::{Applied, Changes, Input, Record, Refusal};
use fgpu_domain::ids::{NodeName, SessionId};
use fgpu_domain::session::{Phase, ReportState, Session};
use serde::Serialize;
use std::sync::Arc;

/// Records after which no more is taken into a batch: most batches are then one transaction, and a full
/// one. Measured beside 56 and 112, which cost more CPU a placement.
const ENOUGH_RECORDS: usize = 100;

/// What one input, or placing, changed.
pub(super) struct Unit {
    pub(super) changes: Changes,
    /// What of it must be written: all but the progress of starting.
    operations: Result<Vec<Operation>, RecordError>,
    pub(super) answer: Option<(Reply, Result<Applied, Refusal>)>,
    /// What an agent said is gone: what follows from it is no news to that agent.
    gone: Option<Gone>,
    /// The input, while what it was applied to is not durable: it may have to be applied anew.
    input: Option<Input>,
}

/// Placements that an agent has reported as gone.
pub(super) struct Gone {
    node: NodeName,
    placements: Vec<(SessionId, u64)>,
}

/// Units that are written together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) units: Vec<Unit>,
    records: usize,
    /// Whether what waits was placed since the last unit.
    pub(super) placed: bool,
}

/// What a batch looks like from outside once it is durable.
pub(super) struct Seen {
    /// `None`: readers see no difference.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) desired: Edits,
}

impl Unit {
    pub(super) fn new(changes: Changes, answer: Option<(Reply, Result<Applied, Refusal>)>) -> Self {
        let operations = operations(&changes);
        Self { changes, operations, answer, gone: None, input: None }
    }

    /// With what the agent said that it came from.
    pub(super) fn with_gone(mut self, gone: Option<Gone>) -> Self {
        self.gone = gone;
        self
    }

    /// Whether it came from `node` having said that this placement is gone.
    pub(super) fn said_gone(&self, node: &NodeName, session: &SessionId, generation: u64) -> bool {
        self.gone.as_ref().is_some_and(|gone| {
            let same =
                |placement: &(SessionId, u64)| (&placement.0, placement.1) == (session, generation);
            gone.node == *node && gone.placements.iter().any(same)
        })
    }

    /// With the input it came from.
    pub(super) fn with_input(mut self, input: Option<Input>) -> Self {
        self.input = input;
        self
    }

    pub(super) fn writes(&self) -> bool {
        !matches!(&self.operations, Ok(list) if list.is_empty())
    }

    /// What watchers are told of it.
    pub(super) fn news(&self) -> impl Iterator<Item = SessionChange> {
        self.changes.sessions().filter_map(|(before, after)| match after {
            Some(session) => Some(SessionChange::Changed(Arc::clone(session))),
            None => before.cloned().map(SessionChange::Removed),
        })
    }

    /// Its changes, to be undone, and what must be asked again then.
    pub(super) fn undo(self) -> (Changes, Option<Command>) {
        let again = self.input.zip(self.answer);
        let again = again.map(|(input, (reply, _))| Command::Apply { input, reply });
        (self.changes, again)
    }
}

impl Gone {
    /// What `input` says is gone, if anything.
    pub(super) fn said_by(input: &Input) -> Option<Self> {
        let Input::Reports { node, reports, .. } = input else { return None };
        let gone = reports.iter().filter(|report| matches!(report.state, ReportState::Gone { .. }));
        let placements: Vec<_> = gone.map(|r| (r.session.clone(), r.generation)).collect();
        (!placements.is_empty()).then(|| Self { node: node.clone(), placements })
    }
}

impl Batch {
    pub(super) fn push(&mut self, unit: Unit) {
        self.records += unit.operations.as_ref().map_or(1, Vec::len);
        self.placed = false;
        self.units.push(unit);
    }

    /// Whether `limit` inputs, or enough for a transaction, are in it.
    pub(super) fn is_full(&self, limit: usize) -> bool {
        self.units.len() >= limit || self.records >= ENOUGH_RECORDS
    }

    /// The transactions that write it.
    pub(super) fn plan(&mut self) -> Result<Vec<Chunk>, EngineError> {
        let take = |unit: &mut Unit| std::mem::replace(&mut unit.operations, Ok(Vec::new()));
        let operations = self.units.iter_mut().map(take).collect::<Result<Vec<_>, _>>();
        let refused = |error: RecordError| EngineError::StoreRefused(error.to_string());
        Ok(plan(operations.map_err(refused)?, Limits::default()))
    }
}

/// What of `changes` must be written.
fn operations(changes: &Changes) -> Result<Vec<Operation>, RecordError> {
    let mut operations = Vec::with_capacity(changes.puts.len() + changes.deletes.len());
    for record in &changes.puts {
        let operation = match record {
            Record::Session(session) if is_progress(changes.before(&session.id), session) => {
                continue;
            }
            Record::Session(session) => put(keys::session(&session.id), &**session),
            Record::Node(node) => put(keys::node(&node.name), &**node),
            Record::Project(project) => put(keys::project(&project.name), &**project),
            Record::Class(class) => put(keys::class(&class.name), &**class),
            Record::Usage(usage) => put(keys::usage(&usage.project), &**usage),
        };
        operations.push(operation?);
    }
    operations.extend(changes.deletes.iter().map(|key| (keys::of(key), None)));
    Ok(operations)
}

fn put(key: String, record: &impl Serialize) -> Result<Operation, RecordError> {
    let value = encode(&key, record)?;
    Ok((key, Some(value)))
}

/// Whether nothing differs but how far starting has come: shown, but not worth a write. Who reads the
/// records anew hears it from the agent.
fn is_progress(before: Option<&Arc<Session>>, after: &Session) -> bool {
    let Some(before) = before else { return false };
    let placed = matches!(before.phase, Phase::Scheduled { .. } | Phase::Starting { .. });
    placed
        && matches!(after.phase, Phase::Starting { .. })
        && before.generation == after.generation
        && before.stop_grace_ms == after.stop_grace_ms
        && before.stranded == after.stranded
        && before.attempts.len() == after.attempts.len()
}

//! Nodes on which sessions do not come to start: they take nothing new for a while, so that one
//! slow or broken node does not draw in the queue.
//!
//! Counted is a start that failed by a fault of the node or took too long, of a session that had
//! not failed anywhere before: one that fails everywhere says nothing about a node. After
//! [`TOLERATED`] of them in a row the node is held off, each time twice as long; one session that
//! runs there clears it. Nothing of this is stored: another manager finds out for itself.

use super::{Cluster, index};
use crate::ids::NodeName;
use crate::session::{Event, Phase, Session, is_of_node};
use crate::time::UnixMillis;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// Failures in a row after which a node is held off.
const TOLERATED: u32 = 2;
/// The first hold-off, and the longest, milliseconds.
const FIRST_MS: u64 = 30_000;
const LONGEST_MS: u64 = 15 * 60_000;

/// Starts that failed on a node, none having come to run since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// How many in a row.
    pub failures: u32,
    /// What became of the last one.
    pub reason: String,
    /// Until when the node takes nothing new, while it does not.
    pub held_until: Option<UnixMillis>,
}

/// All nodes in trouble.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    by_node: HashMap<NodeName, Trouble>,
    held: BTreeSet<(UnixMillis, NodeName)>,
}

impl Trouble {
    fn after(before: Option<&Self>, reason: String, now: UnixMillis) -> Self {
        let failures = before.map_or(0, |trouble| trouble.failures).saturating_add(1);
        let held_until = failures.checked_sub(TOLERATED).map(|beyond| {
            let doubled = 1_u64.checked_shl(beyond).unwrap_or(u64::MAX);
            now.plus(FIRST_MS.saturating_mul(doubled).min(LONGEST_MS))
        });
        Self { failures, reason, held_until }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failures, reason, held_until } = self;
        let starts = if *failures == 1 { "start" } else { "starts" };
        match held_until {
            Some(until) => {
                write!(f, "held off until {until}: {failures} {starts} failed in a row, ")?;
            }
            None => write!(f, "{failures} {starts} failed in a row, ")?,
        }
        write!(f, "the last: {reason}")
    }
}

impl Troubles {
    pub(super) fn replace(&mut self, node: &NodeName, new: Option<Trouble>) -> Option<Trouble> {
        let until = new.as_ref().and_then(|trouble| trouble.held_until);
        let old = match new {
            Some(trouble) => self.by_node.insert(node.clone(), trouble),
            None => self.by_node.remove(node),
        };
        if let Some(until) = old.as_ref().and_then(|trouble| trouble.held_until) {
            self.held.remove(&(until, node.clone()));
        }
        self.held.extend(until.map(|until| (until, node.clone())));
        old
    }

    pub(super) fn is_held(&self, node: &NodeName) -> bool {
        self.by_node.get(node).is_some_and(|trouble| trouble.held_until.is_some())
    }

    /// When the next node may be tried again.
    pub(super) fn next(&self) -> Option<UnixMillis> {
        self.held.first().map(|(until, _)| *until)
    }
}

impl Cluster {
    /// What is known against a node, if sessions did not come to start there lately.
    #[must_use]
    pub fn trouble(&self, node: &NodeName) -> Option<&Trouble> {
        self.index.troubles.by_node.get(node)
    }

    /// All nodes on which sessions did not come to start lately, in no order.
    pub fn troubles(&self) -> impl Iterator<Item = (&NodeName, &Trouble)> {
        self.index.troubles.by_node.iter()
    }

    /// Counts what `event` says of the node `session` was to start on.
    pub(super) fn learn_of_start(&mut self, session: &Session, event: &Event, now: UnixMillis) {
        let starts = matches!(
            session.phase,
            Phase::Scheduled { .. }
                | Phase::Starting { .. }
                | Phase::Lost { started: None, stopping: None, .. }
        );
        match event {
            _ if !starts => {}
            Event::Started { .. } => self.clear_trouble(session),
            Event::Gone { code, message, .. } if is_of_node(code) => {
                self.note_trouble(session, message.clone(), now);
            }
            Event::Gone { .. }
            | Event::Placed(_)
            | Event::Preparing(_)
            | Event::Stop(_)
            | Event::NodeLost
            | Event::Requeued
            | Event::Abandoned { .. } => {}
        }
    }

    /// Counts a start that failed against its node.
    pub(super) fn note_trouble(&mut self, session: &Session, reason: String, now: UnixMillis) {
        let failed_before = session.failed_on().next().is_some();
        let Some(grant) = session.phase.grant().filter(|_| !failed_before) else { return };
        let reason = format!("session {}: {reason}", session.id);
        let trouble = Trouble::after(self.trouble(&grant.node), reason, now);
        self.put_trouble(&grant.node, Some(trouble));
    }

    fn clear_trouble(&mut self, session: &Session) {
        if let Some(grant) = session.phase.grant() {
            self.forget_trouble(&grant.node);
        }
    }

    /// Lets a node start anew.
    pub(super) fn forget_trouble(&mut self, node: &NodeName) {
        if self.trouble(node).is_some() {
            self.put_trouble(node, None);
        }
    }

    /// Lets nodes in again whose time is over. The next failure there holds them off for longer.
    pub(super) fn end_hold_offs(&mut self, now: UnixMillis) {
        while let Some((_, node)) =
            self.index.troubles.held.first().filter(|(until, _)| *until <= now).cloned()
        {
            let trouble = self.trouble(&node).cloned();
            self.put_trouble(&node, trouble.map(|known| Trouble { held_until: None, ..known }));
        }
    }

    fn put_trouble(&mut self, node: &NodeName, trouble: Option<Trouble>) {
        let old = self.replace_trouble(node, trouble);
        self.journal_step(index::Undo::Trouble(node.clone(), old));
    }
}

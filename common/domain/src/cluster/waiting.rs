//! What waits, and for what: time, other sessions, its turn.
//!
//! Derived from the sessions. A *unit* is a session, or a gang as a whole, by the id of its first
//! member. Whenever something a unit waits for may have changed it is judged again
//! ([`Cluster::settle`]): it is *held*, or *ready* and then in the [`Queue`], or it ends because what
//! it was to follow has failed.

use super::Cluster;
use super::arrays::Array;
use super::judge::{Hold, Verdict};
use super::starving::{ByAge, placed_by_age};
use crate::ids::{NodeName, ProjectName, SessionId};
use crate::queue::{Kind, Place, Queue};
use crate::session::{Event, GroupKind, Phase, Session, StopReason};
use crate::time::UnixMillis;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;

/// How a unit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// To be judged.
    Unjudged,
    Held(Hold),
    /// In the queue, and since when it waits.
    Ready(Place, UnixMillis),
}

/// A unit that waits.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its age.
    pub sequence: u64,
    /// How many of its sessions wait.
    pub members: u32,
    /// The array of which only some members may hold a place at once.
    pub array: Option<SessionId>,
    pub standing: Standing,
}

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub queue: Queue,
    pub units: HashMap<SessionId, Unit>,
    sessions: usize,
    /// What is in the queue.
    pub by_age: ByAge,
    /// What holds a place that it got by age, and since when.
    pub placed_by_age: BTreeSet<(UnixMillis, SessionId)>,
    pub unjudged: BTreeSet<(u64, SessionId)>,
    /// Units held until a time.
    pub timed: BTreeSet<(UnixMillis, u64, SessionId)>,
    /// By what a session is to follow: the sessions to follow it.
    followers: HashMap<SessionId, BTreeSet<SessionId>>,
    pub arrays: HashMap<SessionId, Array>,
    /// Units that have left their place in the queue, if only to be judged again, since promises were
    /// last held against what waits.
    pub left: Vec<SessionId>,
    /// Nodes that may have room since the last time.
    changed_nodes: BTreeSet<NodeName>,
    hardware_changed: bool,
    /// Searches for a place made so far.
    pub searches: u64,
}

pub(super) fn waits(session: &Session) -> bool {
    matches!(session.phase, Phase::Pending { .. })
}

pub(super) fn has_ended(session: &Session) -> bool {
    matches!(session.phase, Phase::Ended(_))
}

/// The unit a session belongs to.
pub(super) fn unit_of(session: &Session) -> &SessionId {
    match &session.group {
        Some(group) if group.is_gang() => &group.id,
        Some(_) | None => &session.id,
    }
}

pub(super) fn limited_array(session: &Session) -> Option<(&SessionId, NonZeroU32)> {
    let group = session.group.as_ref()?;
    match group.kind {
        GroupKind::Array { at_once } => at_once.map(|at_once| (&group.id, at_once)),
        GroupKind::Gang => None,
    }
}

impl Waiting {
    /// How many sessions wait.
    pub(super) fn sessions(&self) -> usize {
        self.sessions
    }

    /// When a unit held until a time is to be looked at next.
    pub(super) fn next_time(&self) -> Option<UnixMillis> {
        self.timed.first().map(|(at, ..)| *at)
    }

    /// Where a unit waits that nothing but room or a quota keeps.
    pub(super) fn place_of(&self, unit: &SessionId) -> Option<&Place> {
        match &self.units.get(unit)?.standing {
            Standing::Ready(place, _) => Some(place),
            Standing::Unjudged | Standing::Held(_) => None,
        }
    }

    pub(super) fn node_changed(&mut self, name: &NodeName) {
        self.changed_nodes.insert(name.clone());
    }

    pub(super) fn hardware_changed(&mut self) {
        self.hardware_changed = true;
    }

    fn stand(&mut self, id: &SessionId, standing: Standing) {
        let Some(unit) = self.units.get_mut(id) else { return };
        let ready = matches!(standing, Standing::Ready(..));
        if let Some(array) = unit.array.as_ref().and_then(|group| self.arrays.get_mut(group)) {
            array.stands(unit.sequence, Some(ready));
        }
        unit.standing = standing;
    }

    /// Has a unit judged again.
    fn again(&mut self, unit: &SessionId) {
        if let Some(Unit { sequence, array, members, .. }) = self.withdraw(unit) {
            self.enter(unit.clone(), sequence, array, members);
        }
    }

    /// Lets a unit wait to be judged.
    fn enter(&mut self, id: SessionId, sequence: u64, array: Option<SessionId>, members: u32) {
        self.unjudged.insert((sequence, id.clone()));
        self.units.insert(id, Unit { sequence, members, array, standing: Standing::Unjudged });
    }

    fn follow_dependencies(&mut self, session: &Session, waiting: bool) {
        for after in &session.spec.after {
            let followers = self.followers.entry(after.session.clone()).or_default();
            if waiting {
                followers.insert(session.id.clone());
            } else {
                followers.remove(&session.id);
                if followers.is_empty() {
                    self.followers.remove(&after.session);
                }
            }
        }
    }

    /// Forgets a unit and how it stands.
    fn withdraw(&mut self, id: &SessionId) -> Option<Unit> {
        let unit = self.units.remove(id)?;
        match &unit.standing {
            Standing::Unjudged => {
                self.unjudged.remove(&(unit.sequence, id.clone()));
            }
            Standing::Held(Hold::Until { at }) => {
                self.timed.remove(&(*at, unit.sequence, id.clone()));
            }
            Standing::Held(Hold::After { .. } | Hold::Gang { .. } | Hold::Array { .. }) => {}
            Standing::Ready(place, since) => {
                self.by_age.remove(place, *since);
                self.queue.leave(place);
                self.left.push(id.clone());
            }
        }
        if let Some(array) = unit.array.as_ref().and_then(|group| self.arrays.get_mut(group)) {
            array.stands(unit.sequence, None);
        }
        Some(unit)
    }

    /// Has what waits for `session` or its group judged again.
    fn followers_again(&mut self, session: &Session, unit: impl Fn(&SessionId) -> SessionId) {
        let group = session.group.as_ref().map(|group| &group.id);
        let targets = [Some(&session.id), group.filter(|group| **group != session.id)];
        let followers = targets.into_iter().flatten().filter_map(|id| self.followers.get(id));
        let units: BTreeSet<SessionId> = followers.flatten().map(unit).collect();
        for unit in &units {
            self.again(unit);
        }
    }

    /// Takes note that a member of an array got a place, or gave it back.
    fn array_changed(&mut self, session: &Session, old: bool, new: bool) {
        if let Some((group, at_once)) = limited_array(session).filter(|_| old != new) {
            self.arrays.entry(group.clone()).or_insert_with(|| Array::new(at_once)).placed(new);
            self.fix_array(group);
        }
    }

    fn follow_age(&mut self, old: Option<&Session>, new: Option<&Session>) {
        if let Some(was) = old.and_then(placed_by_age) {
            self.placed_by_age.remove(&was);
        }
        self.placed_by_age.extend(new.and_then(placed_by_age));
    }

    /// Has the members of an array judged again that stand otherwise than their turn says.
    fn fix_array(&mut self, group: &SessionId) {
        let Some(array) = self.arrays.get(group) else { return };
        for unit in array.out_of_turn() {
            self.again(&unit);
        }
        if self.arrays.get(group).is_some_and(Array::is_empty) {
            self.arrays.remove(group);
        }
    }
}

impl Cluster {
    /// Keeps in step what waits with the change of one session from `old` to `new`.
    pub(super) fn follow(&mut self, old: Option<&Session>, new: Option<&Session>) {
        let Some(session) = new.or(old) else { return };
        let (waited, waiting) = (old.is_some_and(waits), new.is_some_and(waits));
        if waited || waiting {
            self.follow_waiting(session, waited, waiting);
        }
        if old.is_some_and(has_ended) != new.is_some_and(has_ended) {
            let sessions = &self.sessions;
            let unit = |id: &SessionId| {
                sessions.get(id).map_or_else(|| id.clone(), |session| unit_of(session).clone())
            };
            self.index.waiting.followers_again(session, unit);
        }
        self.index.waiting.follow_age(old, new);
        let placed = |session: &Session| session.phase.grant().is_some();
        let (was, is) = (old.is_some_and(placed), new.is_some_and(placed));
        self.index.waiting.array_changed(session, was, is);
        let given_back = old.into_iter().flat_map(Session::takes).filter(|(generation, _)| {
            new.is_none_or(|new| new.takes().all(|(kept, _)| kept != *generation))
        });
        for (_, grant) in given_back {
            self.index.waiting.node_changed(&grant.node);
            self.index.promises.changed();
            self.index.unsettled = true;
        }
        let holds = |session: &Session| session.held().next().is_some();
        if old.is_some_and(holds) && old.map(super::counted) != new.map(super::counted) {
            self.quota_changed(&session.spec.project());
        }
    }

    pub(super) fn quota_changed(&mut self, project: &ProjectName) {
        self.index.unsettled |= self.index.waiting.queue.quota_changed(project);
        self.index.promises.quota_changed();
    }

    fn follow_waiting(&mut self, session: &Session, waited: bool, waiting: bool) {
        let unit = unit_of(session).clone();
        let sequence = self.unit_sequence(session);
        let waits = &mut self.index.waiting;
        waits.sessions = waits.sessions + usize::from(waiting) - usize::from(waited);
        waits.follow_dependencies(session, waiting);
        let before = waits.withdraw(&unit).map_or(0, |unit| unit.members);
        let members = before + u32::from(waiting) - u32::from(waited);
        let array = limited_array(session);
        if members > 0 {
            let array = array.map(|(group, _)| group.clone());
            waits.enter(unit.clone(), sequence, array, members);
        }
        if let Some((group, at_once)) = array {
            let array = waits.arrays.entry(group.clone()).or_insert_with(|| Array::new(at_once));
            array.waits(sequence, unit, waiting);
            waits.fix_array(group);
        }
    }

    /// The age of the unit a session belongs to: that of its first member.
    pub(super) fn unit_sequence(&self, session: &Session) -> u64 {
        self.sessions.get(unit_of(session)).map_or(session.sequence, |first| first.sequence)
    }

    /// The members of a unit that wait, in the order of their index.
    pub(super) fn waiting_members(&self, unit: &SessionId) -> Vec<Arc<Session>> {
        let Some(first) = self.sessions.get(unit) else { return Vec::new() };
        let members = match &first.group {
            Some(group) if group.is_gang() => self.group_of(first),
            Some(_) | None => vec![first.clone()],
        };
        members.into_iter().filter(|member| waits(member)).collect()
    }

    /// Judges everything that waits and may stand otherwise than before.
    pub(super) fn settle(&mut self, now: UnixMillis) {
        let waiting = &mut self.index.waiting;
        while let Some((_, _, unit)) = waiting.timed.first().filter(|(at, ..)| *at <= now).cloned()
        {
            waiting.again(&unit);
        }
        while let Some((sequence, unit)) = self.index.waiting.unjudged.pop_first() {
            let members = self.waiting_members(&unit);
            let Some(first) = members.first() else {
                self.index.waiting.units.remove(&unit);
                continue;
            };
            match self.judge(first, &members, now) {
                Verdict::Held(hold) => self.keep_out(unit, sequence, hold),
                Verdict::Ready { priority, members } => {
                    self.make_ready(unit, sequence, first, priority, members);
                }
                Verdict::Ends(reason, message) => {
                    // What is ended is withdrawn by the change of its record.
                    for member in &members {
                        self.end_waiting(member, reason, &message, now);
                    }
                }
            }
        }
    }

    fn keep_out(&mut self, unit: SessionId, sequence: u64, hold: Hold) {
        let waiting = &mut self.index.waiting;
        match &hold {
            Hold::Until { at } => {
                waiting.timed.insert((*at, sequence, unit.clone()));
            }
            Hold::After { .. } | Hold::Gang { .. } | Hold::Array { .. } => {}
        }
        waiting.stand(&unit, Standing::Held(hold));
    }

    fn make_ready(
        &mut self,
        unit: SessionId,
        sequence: u64,
        first: &Session,
        priority: i32,
        members: u32,
    ) {
        let key = Kind::of(&first.spec, members);
        let waiting = &mut self.index.waiting;
        let kind = waiting.queue.kind(key);
        let (project, user) = (first.spec.project(), first.owner.clone());
        if waiting.queue.is_closed(kind) {
            self.index.promises.found_no_room();
        }
        let place = Place { priority, project, user, kind, sequence };
        let since = Self::waits_since(first);
        waiting.queue.enter(unit.clone(), &place);
        waiting.by_age.insert(unit.clone(), &place, since);
        waiting.stand(&unit, Standing::Ready(place, since));
        self.index.unsettled = true;
    }

    fn end_waiting(
        &mut self,
        session: &Session,
        reason: StopReason,
        message: &str,
        now: UnixMillis,
    ) {
        if let Ok(Phase::Ended(mut ended)) = session.phase.after(Event::Stop(reason), now) {
            message.clone_into(&mut ended.message);
            self.put_session(Session { phase: Phase::Ended(ended), ..session.clone() });
        }
    }

    /// Opens what may have room or quota now; tells whether anything may start.
    pub(super) fn open_what_changed(&mut self) {
        let outdated = self.index.waiting.queue.is_outdated(&self.view);
        if std::mem::take(&mut self.index.waiting.hardware_changed) || outdated {
            self.index.waiting.queue.hardware_changed();
            self.index.waiting.queue.quotas_changed();
            self.index.waiting.changed_nodes.clear();
            return;
        }
        for name in std::mem::take(&mut self.index.waiting.changed_nodes) {
            self.index.waiting.queue.node_changed(&self.view, &name);
        }
    }

    /// Has every waiting session for which `such` holds judged again.
    pub(super) fn judge_again(&mut self, such: impl Fn(&Session) -> bool) {
        let units: BTreeSet<SessionId> = self
            .sessions
            .values()
            .filter(|session| waits(session) && such(session))
            .map(|session| unit_of(session).clone())
            .collect();
        for unit in &units {
            self.index.waiting.again(unit);
        }
        self.index.unsettled |= !units.is_empty();
    }
}

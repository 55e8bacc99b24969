//! What waits, and for what: time, other sessions, its turn.
//!
//! Derived from the sessions. A *unit* is a session, or a gang as a whole, by the id of its first
//! member. Whenever something a unit waits for may have changed it is judged again
//! ([`Cluster::settle`]): it is *held*, or *ready* and then in the [`Queue`], or it ends because what
//! it was to follow has failed.

use super::Cluster;
use crate::ids::{NodeName, ProjectName, SessionId};
use crate::queue::{Kind, Place, Queue};
use crate::session::{
    Condition, Event, GroupKind, Members, Outcome, Phase, Session, SessionSpec, StopReason,
};
use crate::slice::{GpuAmount, GpuRequest, Part};
use crate::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

/// Why a waiting session is not even tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Its time has not come.
    Until {
        /// When it comes.
        at: UnixMillis,
    },
    /// Sessions it is to follow have not ended.
    After {
        /// Which.
        sessions: Vec<SessionId>,
    },
    /// As many members of its array hold a place as may at once.
    Array {
        /// The array, by its first member.
        group: SessionId,
        /// How many may.
        at_once: u32,
    },
    /// Not all members of its gang are back in the queue.
    Gang {
        /// How many are.
        waiting: usize,
        /// How many there must be.
        size: u32,
    },
}

/// How a unit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// To be judged.
    Unjudged,
    Held(Hold),
    Ready(Place),
}

/// A unit that waits.
#[derive(Debug)]
struct Unit {
    /// Its age.
    sequence: u64,
    /// The array of which only some members may hold a place at once.
    array: Option<SessionId>,
    standing: Standing,
}

/// What a judgement comes to.
enum Verdict {
    Held(Hold),
    Ready {
        priority: i32,
        members: u32,
    },
    /// It can never start; with the reason and a word on it.
    Ends(StopReason, String),
}

/// Members of an array of which only some may hold a place at once.
#[derive(Debug, Default)]
struct Array {
    /// Those that hold one.
    holding: u32,
    /// Those in the queue.
    ready: BTreeSet<SessionId>,
    /// Those that wait for the others, oldest first.
    held: BTreeMap<u64, SessionId>,
}

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub queue: Queue,
    units: HashMap<SessionId, Unit>,
    sessions: usize,
    unjudged: BTreeSet<(u64, SessionId)>,
    /// Units held until a time.
    timed: BTreeSet<(UnixMillis, u64, SessionId)>,
    /// By what a session is to follow: the sessions to follow it.
    followers: HashMap<SessionId, BTreeSet<SessionId>>,
    arrays: HashMap<SessionId, Array>,
    /// Nodes that may have room since the last time.
    changed_nodes: BTreeSet<NodeName>,
    hardware_changed: bool,
    /// Searches for a place made so far.
    pub searches: u64,
}

fn waits(session: &Session) -> bool {
    matches!(session.phase, Phase::Pending { .. })
}

fn has_ended(session: &Session) -> bool {
    matches!(session.phase, Phase::Ended(_))
}

/// The unit a session belongs to.
pub(super) fn unit_of(session: &Session) -> &SessionId {
    match &session.group {
        Some(group) if group.is_gang() => &group.id,
        Some(_) | None => &session.id,
    }
}

fn limited_array(session: &Session) -> Option<(&SessionId, NonZeroU32)> {
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

    pub(super) fn node_changed(&mut self, name: &NodeName) {
        self.changed_nodes.insert(name.clone());
    }

    pub(super) fn hardware_changed(&mut self) {
        self.hardware_changed = true;
    }

    fn stand(&mut self, unit: &SessionId, standing: Standing) {
        if let Some(unit) = self.units.get_mut(unit) {
            unit.standing = standing;
        }
    }

    /// Has a unit judged again.
    fn again(&mut self, unit: &SessionId) {
        if let Some(Unit { sequence, array, .. }) = self.withdraw(unit) {
            self.enter(unit.clone(), sequence, array);
        }
    }

    /// Lets a unit wait to be judged.
    fn enter(&mut self, unit: SessionId, sequence: u64, array: Option<SessionId>) {
        self.unjudged.insert((sequence, unit.clone()));
        self.units.insert(unit, Unit { sequence, array, standing: Standing::Unjudged });
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
            Standing::Held(Hold::Array { group, .. }) => {
                if let Some(array) = self.arrays.get_mut(group) {
                    array.held.remove(&unit.sequence);
                }
            }
            Standing::Held(Hold::After { .. } | Hold::Gang { .. }) => {}
            Standing::Ready(place) => self.queue.leave(place),
        }
        if let Some(group) = &unit.array {
            let array = self.arrays.entry(group.clone()).or_default();
            if array.ready.remove(id) {
                self.next_of_array(group);
            }
        }
        Some(unit)
    }

    /// Has the oldest held member of an array judged again.
    fn next_of_array(&mut self, group: &SessionId) {
        let array = self.arrays.get(group);
        if let Some(next) = array.and_then(|array| array.held.values().next().cloned()) {
            self.again(&next);
        }
        if self.arrays.get(group).is_some_and(Array::is_empty) {
            self.arrays.remove(group);
        }
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

    fn array_changed(&mut self, session: &Session, old: bool, new: bool) {
        let Some((group, _)) = limited_array(session).filter(|_| old != new) else { return };
        let array = self.arrays.entry(group.clone()).or_default();
        if new {
            array.holding += 1;
            return;
        }
        array.holding = array.holding.saturating_sub(1);
        self.next_of_array(group);
    }
}

impl Array {
    fn is_empty(&self) -> bool {
        self.holding == 0 && self.ready.is_empty() && self.held.is_empty()
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
        let holds = |session: &Session| session.held().next().is_some();
        self.index.waiting.array_changed(session, old.is_some_and(holds), new.is_some_and(holds));
        let given_back = old.into_iter().flat_map(Session::held).filter(|(generation, _)| {
            new.is_none_or(|new| new.held().all(|(kept, _)| kept != *generation))
        });
        for (_, grant) in given_back {
            self.index.waiting.node_changed(&grant.node);
            self.index.unsettled = true;
        }
        if old.is_some_and(holds) && old.map(super::counted) != new.map(super::counted) {
            self.quota_changed(&session.spec.project());
        }
    }

    pub(super) fn quota_changed(&mut self, project: &ProjectName) {
        self.index.unsettled |= self.index.waiting.queue.quota_changed(project);
    }

    fn follow_waiting(&mut self, session: &Session, waited: bool, waiting: bool) {
        let unit = unit_of(session).clone();
        let members = self.waiting_members(&unit);
        let array = limited_array(session).map(|(group, _)| group.clone());
        let waits = &mut self.index.waiting;
        waits.sessions = waits.sessions + usize::from(waiting) - usize::from(waited);
        for after in &session.spec.after {
            let followers = waits.followers.entry(after.session.clone()).or_default();
            if waiting {
                followers.insert(session.id.clone());
            } else {
                followers.remove(&session.id);
                if followers.is_empty() {
                    waits.followers.remove(&after.session);
                }
            }
        }
        waits.withdraw(&unit);
        if let Some(first) = members.first() {
            waits.enter(unit, first.sequence, array);
        }
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
                Verdict::Held(hold) => self.hold(unit, sequence, hold),
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

    fn hold(&mut self, unit: SessionId, sequence: u64, hold: Hold) {
        let waiting = &mut self.index.waiting;
        match &hold {
            Hold::Until { at } => {
                waiting.timed.insert((*at, sequence, unit.clone()));
            }
            Hold::Array { group, .. } => {
                let array = waiting.arrays.entry(group.clone()).or_default();
                array.held.insert(sequence, unit.clone());
            }
            Hold::After { .. } | Hold::Gang { .. } => {}
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
        let request = self.request(&first.spec);
        let waiting = &mut self.index.waiting;
        let kind = waiting.queue.kind(key, || request);
        let (project, user) = (first.spec.project(), first.owner.clone());
        let place = Place { priority, project, user, kind, sequence };
        waiting.queue.enter(unit.clone(), &place);
        if let Some((group, _)) = limited_array(first) {
            waiting.arrays.entry(group.clone()).or_default().ready.insert(unit.clone());
        }
        waiting.stand(&unit, Standing::Ready(place));
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

    /// How a unit with these waiting members stands.
    fn judge(&self, first: &Arc<Session>, members: &[Arc<Session>], now: UnixMillis) -> Verdict {
        let size = first.group.as_ref().filter(|group| group.is_gang()).map(|group| group.size);
        if let Some(size) = size {
            let all = self.group_of(first);
            let whole = u32::try_from(all.len()).is_ok_and(|there| there == size);
            if !whole || all.iter().any(|member| has_ended(member)) {
                return Verdict::Ends(StopReason::GangEnded, StopReason::GangEnded.to_string());
            }
            if members.len() < all.len() {
                return Verdict::Held(Hold::Gang { waiting: members.len(), size });
            }
        }
        match self.dependencies(&first.spec) {
            Dependencies::Met => {}
            Dependencies::Open(sessions) => return Verdict::Held(Hold::After { sessions }),
            Dependencies::Failed(session, outcome) => {
                let message = format!("session {session}, which was to complete first: {outcome}");
                return Verdict::Ends(StopReason::DependencyFailed, message);
            }
        }
        if let Some(at) = first.spec.start_at.filter(|at| *at > now) {
            return Verdict::Held(Hold::Until { at });
        }
        if let Some((group, at_once)) = limited_array(first)
            && let Some(array) = self.index.waiting.arrays.get(group)
        {
            let others = array.ready.iter().filter(|ready| **ready != first.id).count();
            let taken = usize::try_from(array.holding).unwrap_or(usize::MAX).saturating_add(others);
            let at_once = at_once.get();
            if usize::try_from(at_once).is_ok_and(|limit| taken >= limit) {
                return Verdict::Held(Hold::Array { group: group.clone(), at_once });
            }
        }
        let priority = self.effective_priority(&first.spec);
        Verdict::Ready { priority, members: size.unwrap_or(1) }
    }

    /// Its own priority and that of its class.
    pub(super) fn effective_priority(&self, spec: &SessionSpec) -> i32 {
        let class = self.class(&spec.class()).map_or(0, |class| class.priority);
        class.saturating_add(spec.priority)
    }

    /// How what a session is to follow stands. A session that is not there any more had ended as
    /// it should: one that had not would have ended its followers.
    fn dependencies(&self, spec: &SessionSpec) -> Dependencies {
        let mut open = Vec::new();
        for after in &spec.after {
            for session in self.followed(&after.session) {
                match &session.phase {
                    Phase::Ended(ended) => {
                        let ok = ended.outcome == Outcome::Completed;
                        if after.condition == Condition::Ok && !ok {
                            return Dependencies::Failed(session.id.clone(), ended.outcome);
                        }
                    }
                    _ => open.push(session.id.clone()),
                }
            }
        }
        if open.is_empty() { Dependencies::Met } else { Dependencies::Open(open) }
    }

    /// The sessions meant by one to follow: all members for the first of a group.
    fn followed(&self, id: &SessionId) -> Vec<Arc<Session>> {
        let Some(session) = self.sessions.get(id) else { return Vec::new() };
        match &session.group {
            Some(group) if group.id == *id => self.group_of(session),
            Some(_) | None => vec![session.clone()],
        }
    }

    /// Refuses a create that is to follow what is not there, not the caller's, or failed already.
    pub(super) fn check_after(
        &self,
        spec: &SessionSpec,
        owner: &crate::ids::UserName,
    ) -> Result<(), super::Refusal> {
        let project = spec.project();
        for after in &spec.after {
            let known = self.sessions.get(&after.session);
            let visible = |s: &&Arc<Session>| s.owner == *owner || s.spec.project() == project;
            if known.filter(visible).is_none() {
                let session = after.session.clone();
                return Err(super::Refusal::DependencyNotFound { session });
            }
        }
        match self.dependencies(spec) {
            Dependencies::Failed(session, outcome) => {
                Err(super::Refusal::DependencyFailed { session, outcome })
            }
            Dependencies::Met | Dependencies::Open(_) => Ok(()),
        }
    }

    /// Why a waiting session is not even tried; `None` if it is.
    pub(super) fn hold_of(&self, session: &Arc<Session>) -> Option<Hold> {
        let members = self.waiting_members(unit_of(session));
        match self.judge(members.first()?, &members, self.now) {
            Verdict::Held(hold) => Some(hold),
            Verdict::Ready { .. } | Verdict::Ends(..) => None,
        }
    }

    /// What a create of `spec` would be held for.
    pub(super) fn hold_of_new(&self, spec: &SessionSpec) -> Option<Hold> {
        match self.dependencies(spec) {
            Dependencies::Open(sessions) => return Some(Hold::After { sessions }),
            Dependencies::Met | Dependencies::Failed(..) => {}
        }
        spec.start_at.filter(|at| *at > self.now).map(|at| Hold::Until { at })
    }

    /// Opens what may have room or quota now; tells whether anything may start.
    pub(super) fn open_what_changed(&mut self) {
        if std::mem::take(&mut self.index.waiting.hardware_changed) {
            self.index.waiting.queue.hardware_changed();
            self.index.waiting.queue.quotas_changed();
            self.index.waiting.changed_nodes.clear();
            return;
        }
        for name in std::mem::take(&mut self.index.waiting.changed_nodes) {
            if let Some(node) = self.view.get(&name) {
                self.index.waiting.queue.node_changed(node);
            }
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

    /// The least memory the largest part of a request needs on one device, bytes.
    pub(super) fn least_part(&self, gpu: Option<&GpuRequest>) -> u64 {
        let Some(gpu) = gpu else { return 0 };
        let units = &self.settings.units;
        let devices = self.index.accounts.capacity.devices.keys();
        let allowed = devices.filter(|(model, _)| gpu.allows_model(model));
        let parts = allowed.map(|(model, memory)| {
            let device = units.units_of(model, *memory);
            match gpu.amount {
                GpuAmount::Whole(_) => memory.0,
                GpuAmount::Fgpu(amount)
                    if gpu.devices.is_none()
                        && gpu.split.is_none()
                        && amount <= device.capacity =>
                {
                    device.demand(Part::Fgpu(amount)).memory.0
                }
                GpuAmount::Fgpu(_) | GpuAmount::Direct { .. } => 0,
            }
        });
        parts.min().unwrap_or(0)
    }

    /// A unit that does not stand as the records say it should, if there is one.
    pub(crate) fn misplaced_unit(&self) -> Option<SessionId> {
        let waiting = &self.index.waiting;
        let sessions = self.sessions.values().filter(|session| waits(session));
        let expected: BTreeSet<&SessionId> = sessions.map(|session| unit_of(session)).collect();
        let missing = expected.iter().find(|unit| !waiting.units.contains_key(**unit));
        let surplus = waiting.units.keys().find(|unit| !expected.contains(unit));
        let queued: HashMap<&SessionId, Place> = waiting.queue.units().collect();
        let ready = |unit: &&Unit| matches!(unit.standing, Standing::Ready(_));
        if queued.len() != waiting.units.values().filter(ready).count() {
            return queued.keys().next().map(|unit| (*unit).clone());
        }
        let wrong = || {
            let mut units = waiting.units.iter();
            units.find(|(id, unit)| !self.stands_right(id, unit, queued.get(id))).map(|(id, _)| id)
        };
        missing.copied().or(surplus).or_else(wrong).cloned()
    }

    /// Whether a unit stands as it would if it were judged now. That time has passed since is no
    /// fault: the next [`Cluster::settle`] sees it.
    fn stands_right(&self, id: &SessionId, unit: &Unit, queued: Option<&Place>) -> bool {
        let members = self.waiting_members(id);
        let Some(first) = members.first().filter(|first| first.sequence == unit.sequence) else {
            return false;
        };
        let waiting = &self.index.waiting;
        match (&unit.standing, self.judge(first, &members, self.now)) {
            (Standing::Unjudged, _) => {
                queued.is_none() && waiting.unjudged.contains(&(unit.sequence, id.clone()))
            }
            (Standing::Ready(place), Verdict::Ready { priority, .. }) => {
                queued == Some(place)
                    && place.priority == priority
                    && place.project == first.spec.project()
                    && place.user == first.owner
            }
            (Standing::Held(Hold::Until { at }), verdict) => {
                let timed = waiting.timed.contains(&(*at, unit.sequence, id.clone()));
                queued.is_none()
                    && timed
                    && (*at <= self.now || matches!(verdict, Verdict::Held(_)))
            }
            (Standing::Held(Hold::After { .. }), Verdict::Held(Hold::After { .. })) => {
                queued.is_none()
            }
            (Standing::Held(hold), Verdict::Held(now)) => queued.is_none() && *hold == now,
            (Standing::Held(_) | Standing::Ready(_), _) => false,
        }
    }
}

/// How what a session is to follow stands.
enum Dependencies {
    Met,
    Open(Vec<SessionId>),
    Failed(SessionId, Outcome),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until { at } => write!(f, "not before its start time, {at} ms since 1970"),
            Self::After { sessions } => {
                let first: Vec<&str> = sessions.iter().take(3).map(SessionId::as_str).collect();
                write!(f, "waits for {} to end: {}", count(sessions.len()), first.join(", "))?;
                if sessions.len() > first.len() { f.write_str("…") } else { Ok(()) }
            }
            Self::Array { group, at_once } => {
                write!(f, "{at_once} members of array {group} hold a place, as many as may at once")
            }
            Self::Gang { waiting, size } => {
                write!(f, "only {waiting} of {size} members of its gang are back in the queue")
            }
        }
    }
}

fn count(sessions: usize) -> String {
    if sessions == 1 { "1 session".to_owned() } else { format!("{sessions} sessions") }
}

impl Members {
    /// Members that are placed together.
    pub(super) fn at_once(self) -> u32 {
        match self {
            Self::Gang(size) => size.get(),
            Self::One | Self::Array(_) => 1,
        }
    }
}

//! Room that is kept for the first of the queue that find none.
//!
//! The first units in the order of the queue that cannot start (*heads*) are promised a time and a
//! place ([`Backfill`]); what comes behind them starts only where it delays none of them. A promise
//! follows from the records and the time alone, so it is not recorded: a cluster restored from its
//! records makes the same ones before it places anything.
//!
//! Planning looks at every node, so it is done when something it rests on has changed and at most
//! as often as [`Cluster::plan_pause_ms`] says. In between, promises are kept up to date by what
//! starts ([`Backfill::took`]). A kind of request refused for the sake of a head is closed like one
//! without room, and opened when promises change.

use super::Cluster;
use super::rivals::{Blocked, Tenant};
use crate::ids::{NodeName, SessionId};
use crate::placement::{Allocation, Request};
use crate::plans::RunningSession;
use crate::plans::reservation::{Backfill, Candidate, Delay, Head, Reservation, Victim};
use crate::queue::{Candidate as Queued, Place};
use crate::session::{Session, SessionSpec};
use crate::slice::Grant;
use crate::time::UnixMillis;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Units tried before anything is placed, to know the heads of a restored cluster.
pub(super) const MOST_PROBED: usize = 256;
/// Nodes kept for heads a candidate is tried beside one by one, before all of them are avoided.
const MOST_NODES_TRIED: usize = 4;
/// Milliseconds between two plans for each node there is.
const PAUSE_MS_PER_NODE: u64 = 2;
/// Rounds of planning and placing at one time; what is left is done at the next.
pub(super) const MOST_ROUNDS: usize = 16;

/// What heads are promised, and whether that still stands. A copy is cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct Promises {
    plan: Arc<Backfill>,
    /// The heads that were planned for.
    heads: Arc<[Named]>,
    planned_at: Option<UnixMillis>,
    /// Nodes or sessions have changed since.
    changed: bool,
    /// There may be other heads.
    other_heads: bool,
    /// When time alone makes another plan.
    next: Option<UnixMillis>,
    /// When the next unit has waited so long that it may be a head for that.
    starves: Option<UnixMillis>,
    /// Whether what is refused may be allowed now.
    reopen: bool,
    /// Nothing may be placed before it is known who the heads are.
    unknown: bool,
}

/// What makes a head the same as before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    unit: SessionId,
    priority: i32,
    by_age: bool,
}

impl Promises {
    /// Those of a cluster restored from its records.
    pub(super) fn unknown() -> Self {
        Self { unknown: true, changed: true, ..Self::default() }
    }

    /// The heads that were planned for.
    pub(super) fn units(&self) -> impl Iterator<Item = &SessionId> {
        self.heads.iter().map(|head| &head.unit)
    }

    /// Nodes have changed, or something was given back.
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    /// A unit found no room, or waits behind others that found none.
    pub(super) fn found_no_room(&mut self) {
        self.other_heads = true;
    }

    /// A unit met a quota.
    pub(super) fn met_quota(&mut self, unit: &SessionId) {
        self.other_heads |= self.is_head(unit);
    }

    fn is_head(&self, unit: &SessionId) -> bool {
        self.heads.iter().any(|head| head.unit == *unit)
    }

    /// What heads may hold under their quotas has changed.
    pub(super) fn quota_changed(&mut self) {
        self.other_heads = true;
    }

    fn wanted(&self, now: UnixMillis) -> bool {
        self.changed || self.other_heads || self.next_by_time().is_some_and(|at| at <= now)
    }

    /// When time alone makes other promises.
    fn next_by_time(&self) -> Option<UnixMillis> {
        self.next.into_iter().chain(self.starves).min()
    }

    /// What a unit is promised.
    pub(super) fn of(&self, unit: &SessionId) -> Option<&Reservation> {
        self.plan.reservations().find(|reservation| reservation.head == *unit)
    }

    /// Whether room is kept for a unit for its age.
    pub(super) fn is_by_age(&self, unit: &SessionId) -> bool {
        self.of(unit).is_some_and(|reservation| reservation.by_age)
    }

    fn due(&self, now: UnixMillis, pause_ms: u64) -> bool {
        self.wanted(now) && self.planned_at.is_none_or(|at| at.plus(pause_ms) <= now)
    }

    /// When planning is due next.
    pub(super) fn next_time(&self, pause_ms: u64) -> Option<UnixMillis> {
        let earliest = self.planned_at.map(|at| at.plus(pause_ms)).unwrap_or_default();
        let at =
            if self.changed || self.other_heads { Some(earliest) } else { self.next_by_time() };
        at.map(|at| at.max(earliest))
    }
}

impl Cluster {
    /// Least time between two plans: what they cost grows with the cluster, and shall be a small
    /// part of the time whatever its size.
    fn plan_pause_ms(&self) -> u64 {
        let nodes = u64::try_from(self.nodes.len()).unwrap_or(u64::MAX);
        match self.settings.plan_pause_ms {
            0 => 0,
            pause => pause.max(nodes.saturating_mul(PAUSE_MS_PER_NODE)),
        }
    }

    /// When planning is due next; `None` while nobody finds no room.
    pub(super) fn next_plan(&self) -> Option<UnixMillis> {
        let blocked = self.index.waiting.queue.has_closed();
        blocked.then(|| self.index.promises.next_time(self.plan_pause_ms())).flatten()
    }

    /// Makes the promises of a restored cluster, before it places anything.
    pub(super) fn know_heads(&mut self) {
        if !std::mem::take(&mut self.index.promises.unknown) || self.settings.reservations == 0 {
            return;
        }
        for _ in 0..MOST_ROUNDS {
            self.open_what_changed();
            self.probe();
            self.probe_starving();
            if !self.index.promises.wanted(self.now) {
                break;
            }
            self.plan_heads();
            if std::mem::take(&mut self.index.promises.reopen) {
                self.index.waiting.queue.open_refused();
            }
        }
    }

    /// Plans anew if that is due; tells whether anything may start that was refused before.
    pub(super) fn plan_when_due(&mut self) -> bool {
        self.drop_promises();
        if self.settings.reservations > 0 && self.index.promises.due(self.now, self.plan_pause_ms())
        {
            self.plan_heads();
        }
        let reopen = std::mem::take(&mut self.index.promises.reopen);
        if reopen {
            self.index.waiting.queue.open_refused();
        }
        reopen
    }

    /// Forgets what was promised to units that do not wait any more.
    fn drop_promises(&mut self) {
        let Self { index, .. } = self;
        let any_left = index.promises.units().any(|unit| index.waiting.left.contains(unit));
        index.waiting.left.clear();
        let (waiting, promises) = (&index.waiting, &mut index.promises);
        if !promises.plan.is_empty()
            && any_left
            && !promises.heads.iter().all(|head| waiting.place_of(&head.unit).is_some())
        {
            let dropped =
                Arc::make_mut(&mut promises.plan).retain(|head| waiting.place_of(head).is_some());
            promises.reopen |= dropped;
            promises.changed |= dropped;
        }
    }

    fn plan_heads(&mut self) {
        let (blocked, starves) = self.heads();
        let heads: Arc<[Named]> = blocked.iter().map(Head::named).collect();
        let now = self.now;
        let promises = &mut self.index.promises;
        let same = !promises.changed && heads == promises.heads;
        promises.other_heads = false;
        promises.starves = starves;
        if same && promises.next.is_none_or(|at| at > now) {
            return;
        }
        promises.changed = false;
        promises.next = None;
        promises.heads = heads;
        if blocked.is_empty() {
            promises.reopen |= !std::mem::take(&mut promises.plan).is_empty();
        } else {
            promises.planned_at = Some(now);
            self.promise(&blocked);
        }
    }

    /// The first units that cannot start, those of a priority that starve before them, and when
    /// more starve. One that is a head already still is: where its kind was opened since, it has not
    /// been tried again, and may still find no room.
    fn heads(&self) -> (Vec<Head>, Option<UnixMillis>) {
        let known = &self.index.promises;
        if !self.index.waiting.queue.has_closed() && known.heads.is_empty() {
            return (Vec::new(), None);
        }
        let is_head = |unit: &SessionId| known.is_head(unit);
        let starving = self.starving(is_head);
        let rooms = self.settings.reservations;
        // One of the rooms goes by age, the others by share.
        let by_share = if starving.is_empty() { rooms } else { rooms.saturating_sub(1).max(1) };
        let first = self.blocked_or(by_share, is_head);
        let mut heads: Vec<Head> = starving.iter().map(|unit| unit.head(true)).collect();
        heads.extend(first.iter().map(|unit| unit.head(false)));
        heads.sort_by_key(|head| Reverse(head.priority));
        (heads, self.next_to_starve())
    }

    fn promise(&mut self, heads: &[Head]) {
        let (now, patience_ms) = (self.now, self.settings.reservation_patience_ms);
        let tenants = self.tenants(now);
        let highest = heads.iter().filter_map(|head| head.takes).max();
        let yields = highest.and_then(|highest| first_to_yield(&tenants, highest));
        let running: Vec<RunningSession> = tenants.into_iter().map(Tenant::into_running).collect();
        let plan = Backfill::plan(heads, &self.view, &running, now, patience_ms);
        for Victim { session, head } in plan.victims() {
            // What may not be stopped is not among them.
            let _ = self.preempt(session, head, now);
        }
        let patience = heads.iter().map(|head| head.waiting_since.plus(patience_ms));
        let promises = &mut self.index.promises;
        promises.next = patience.chain(yields).filter(|at| *at > now).min();
        promises.plan = Arc::new(plan);
        promises.reopen = true;
    }

    /// The heads of a priority that others leave room and that may be tried: they go first, as what
    /// is refused for their sake may ask for the same.
    pub(super) fn open_heads(&self, priority: i32) -> Vec<Queued> {
        let waiting = &self.index.waiting;
        let reservations = self.index.promises.plan.reservations();
        let heads = reservations.filter(|promise| promise.binding).map(|promise| &promise.head);
        let open = heads.filter_map(|head| {
            let place = waiting.place_of(head).filter(|place| place.priority == priority)?;
            let open = waiting.queue.is_open(place);
            open.then(|| Queued { unit: head.clone(), place: place.clone() })
        });
        open.collect()
    }

    /// A place beside the heads for a unit that fits at `grants`: there, or where it delays none;
    /// `None` where it would delay one.
    pub(super) fn beside_heads(
        &mut self,
        unit: &SessionId,
        place: &Place,
        first: &Session,
        request: &Request,
        grants: Vec<Grant>,
    ) -> Option<Vec<Grant>> {
        if !self.index.promises.plan.binds() {
            return Some(grants);
        }
        let plan = self.index.promises.plan.clone();
        let ends_at = self.ends_at(&first.spec);
        let candidate = Candidate { session: unit, priority: place.priority, ends_at };
        let count = grants.len();
        let (mut grants, mut request) = (grants, request.clone());
        for tried in 1.. {
            let Err(delay) = plan.allows(&candidate, &allocations(&request, &grants)) else {
                return Some(grants);
            };
            request.avoid.insert(delay.node().clone());
            if tried >= MOST_NODES_TRIED {
                request.avoid.extend(plan.kept_from(&candidate).cloned());
            }
            self.index.waiting.searches += 1;
            grants = self.places_for(&first.spec, &request, count)?;
        }
        None
    }

    /// Whose room something placed now would take, if anyone's.
    pub(super) fn delays(
        &self,
        unit: &SessionId,
        spec: &SessionSpec,
        grants: &[Grant],
    ) -> Option<Delay> {
        let candidate = self.candidate(unit, spec);
        let taken = allocations(&self.request(spec), grants);
        self.index.promises.plan.allows(&candidate, &taken).err()
    }

    /// The nodes on which room is kept from something that would be placed now.
    pub(super) fn kept_from(&self, unit: &SessionId, spec: &SessionSpec) -> BTreeSet<NodeName> {
        self.index.promises.plan.kept_from(&self.candidate(unit, spec)).cloned().collect()
    }

    fn candidate<'a>(&self, unit: &'a SessionId, spec: &SessionSpec) -> Candidate<'a> {
        let (priority, ends_at) = (self.effective_priority(spec), self.ends_at(spec));
        Candidate { session: unit, priority, ends_at }
    }

    /// Takes note that a unit has started.
    pub(super) fn started_beside_heads(
        &mut self,
        unit: &SessionId,
        place: &Place,
        first: &Session,
        grants: &[Grant],
    ) {
        if self.index.promises.plan.is_empty() {
            return;
        }
        self.index.promises.quota_changed();
        let nodes = || grants.iter().map(|grant| &grant.node);
        if !self.index.promises.plan.concerns(unit, nodes) {
            return;
        }
        let request = self.request(&first.spec);
        let ends_at = self.ends_at(&first.spec);
        let candidate = Candidate { session: unit, priority: place.priority, ends_at };
        let promises = &mut self.index.promises;
        let plan = Arc::make_mut(&mut promises.plan);
        let was_head = plan.retain(|head| head != unit);
        let kept = plan.took(&candidate, &allocations(&request, grants));
        promises.reopen |= was_head;
        promises.changed |= was_head || !kept;
    }

    /// When a session placed now will have ended at the latest.
    fn ends_at(&self, spec: &SessionSpec) -> Option<UnixMillis> {
        let limit = spec.time_limit_ms?;
        let started = self.now.plus(self.settings.start_timeout_ms);
        Some(started.plus(limit).plus(spec.stop_grace_ms))
    }
}

impl Head {
    fn named(&self) -> Named {
        let (unit, priority, by_age) = (self.session.clone(), self.priority, self.by_age);
        Named { unit, priority, by_age }
    }
}

impl Blocked {
    fn head(&self, by_age: bool) -> Head {
        Head {
            by_age,
            session: self.unit.clone(),
            gang: self.gang.clone(),
            waiting_since: self.waiting_since,
            priority: self.priority,
            takes: self.may_preempt.then_some(self.class_priority),
        }
    }
}

impl Tenant {
    fn into_running(self) -> RunningSession {
        RunningSession {
            id: self.id,
            held: self.held,
            priority: self.class_priority,
            started_at: self.started_at,
            ends_at: self.ends_at,
            preemptible: self.preemptible,
            min_run_over: self.min_run_over,
            grace_ms: self.grace_ms,
            stopping: self.stopping,
        }
    }
}

/// When the first of those that may lose their place to this priority has run for its minimum.
fn first_to_yield(tenants: &[Tenant], priority: i32) -> Option<UnixMillis> {
    let lower = tenants.iter().filter(|tenant| tenant.class_priority < priority);
    let young = lower.filter(|tenant| tenant.preemptible && !tenant.min_run_over);
    young.map(|tenant| tenant.min_run_until).min()
}

fn allocations(request: &Request, grants: &[Grant]) -> Vec<(NodeName, Allocation)> {
    let taken = |grant: &Grant| (grant.node.clone(), Allocation::of(request, grant));
    grants.iter().map(taken).collect()
}

//! Units that have waited so long that their age counts more than the share of their project.
//!
//! Fair share puts a project that has much behind all others for as long as others wait, and what
//! it asks for would then never be among the first that room is kept for. So one of the rooms kept
//! goes to the unit that has waited longest of those that find none, once that is more than
//! [`STARVES_AFTER`] times the patience, and it comes before all others of its priority; the other
//! rooms go by fair share as ever. While what got its place that way holds it, but for no longer
//! than that again, nobody else does: else, where all have waited for long, whatever is given back
//! would go by age. Who that is follows from the records, the time and who found no room. What has
//! waited for less is never looked at, however much it is.

use super::Cluster;
use super::rivals::Blocked;
use crate::ids::SessionId;
use crate::queue::{Candidate, Place};
use crate::session::{Phase, Session};
use crate::time::UnixMillis;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// After how many times the patience of a head: a day where that is ten minutes.
pub(super) const STARVES_AFTER: u64 = 144;
/// Starving units that are offered the room: the first of them that some place can be cleared for
/// gets it, so that one that waits for hardware which is away is not in the way of the next.
const MOST_OFFERED: usize = 4;

/// What is in the queue, by priority, and then by how long it has waited.
#[derive(Debug, Default)]
pub(super) struct ByAge(BTreeMap<Reverse<i32>, BTreeMap<(UnixMillis, u64), SessionId>>);

impl ByAge {
    pub(super) fn insert(&mut self, unit: SessionId, place: &Place, since: UnixMillis) {
        let Self(levels) = self;
        let level = levels.entry(Reverse(place.priority)).or_default();
        level.insert((since, place.sequence), unit);
    }

    pub(super) fn remove(&mut self, place: &Place, since: UnixMillis) {
        let (Self(levels), priority) = (self, Reverse(place.priority));
        if let Some(level) = levels.get_mut(&priority) {
            level.remove(&(since, place.sequence));
            if level.is_empty() {
                levels.remove(&priority);
            }
        }
    }

    /// The unit that waits at a place since then.
    pub(super) fn get(&self, place: &Place, since: UnixMillis) -> Option<&SessionId> {
        self.0.get(&Reverse(place.priority))?.get(&(since, place.sequence))
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Those that wait since `latest` or longer: of the highest priority first, in it the oldest.
    fn since(&self, latest: UnixMillis) -> impl Iterator<Item = &SessionId> {
        let levels = self.0.values();
        levels.flat_map(move |level| level.range(..=(latest, u64::MAX)).map(|(_, unit)| unit))
    }

    /// Since when the oldest waits that has waited for less than since `latest`, over all
    /// priorities.
    fn next_after(&self, latest: Option<UnixMillis>) -> Option<UnixMillis> {
        let after = latest.map_or(0, |latest| latest.0.saturating_add(1));
        let first = |level: &BTreeMap<(UnixMillis, u64), SessionId>| {
            level.range((UnixMillis(after), 0)..).next().map(|((since, _), _)| *since)
        };
        self.0.values().filter_map(first).min()
    }
}

/// When a session got the place by age that it holds, if it does.
pub(super) fn placed_by_age(session: &Session) -> Option<(UnixMillis, SessionId)> {
    let placed = session.by_age && session.phase.grant().is_some();
    placed.then(|| (session.placed_at.unwrap_or(session.created_at), session.id.clone()))
}

impl Cluster {
    /// Since when a session waits: its create or its return to the queue, or its start time.
    pub(super) fn waits_since(session: &Session) -> UnixMillis {
        let since = match &session.phase {
            Phase::Pending { since } => *since,
            _ => session.created_at,
        };
        session.spec.start_at.map_or(since, |at| at.max(since))
    }

    fn starves_after(&self) -> u64 {
        self.settings.reservation_patience_ms.saturating_mul(STARVES_AFTER)
    }

    /// What waits since then or longer starves.
    fn starves_since(&self) -> Option<UnixMillis> {
        self.now.0.checked_sub(self.starves_after()).map(UnixMillis)
    }

    /// Until when nobody else gets a place by age, at the latest, as one that did holds it.
    fn taken_by_age_until(&self) -> Option<UnixMillis> {
        let last = self.index.waiting.placed_by_age.last();
        let until = last.map(|(placed_at, _)| placed_at.plus(self.starves_after()));
        until.filter(|until| *until > self.now)
    }

    /// The units that have starved longest of those that found no room, or for which `also` holds;
    /// none while another has got a place by age.
    pub(super) fn starving(&self, also: impl Fn(&SessionId) -> bool) -> Vec<Blocked> {
        if self.taken_by_age_until().is_some() {
            return Vec::new();
        }
        let waiting = &self.index.waiting;
        let blocked = |unit: &SessionId| {
            let (place, session) = (waiting.place_of(unit)?, self.sessions.get(unit)?);
            let no_room = waiting.queue.found_no_room(place) || also(unit);
            (no_room && !self.is_over_quota(place, session)).then(|| self.blocked_unit(session))
        };
        let since = self.starves_since().into_iter();
        let units = since.flat_map(|latest| waiting.by_age.since(latest));
        units.filter_map(blocked).take(MOST_OFFERED).collect()
    }

    /// When time alone lets another unit have a place by age.
    pub(super) fn next_to_starve(&self) -> Option<UnixMillis> {
        if let Some(until) = self.taken_by_age_until() {
            return Some(until);
        }
        let next = self.index.waiting.by_age.next_after(self.starves_since());
        next.map(|since| since.plus(self.starves_after()))
    }

    /// Those that starve and may be tried, `most` at most.
    pub(super) fn open_starving(&self, most: usize) -> Vec<Candidate> {
        let waiting = &self.index.waiting;
        let since = self.starves_since().into_iter();
        let units = since.flat_map(|latest| waiting.by_age.since(latest));
        let open = units.filter_map(|unit| {
            let place = waiting.place_of(unit).filter(|place| waiting.queue.is_open(place))?;
            Some(Candidate { unit: unit.clone(), place: place.clone() })
        });
        open.take(most).collect()
    }
}

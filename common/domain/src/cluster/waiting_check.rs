//! Whether what waits stands as the records say; see [`crate::check`].

use super::Cluster;
use super::judge::{Hold, Verdict};
use super::starving::placed_by_age;
use super::waiting::{Standing, Unit, unit_of, waits};
use crate::ids::SessionId;
use crate::queue::Place;
use std::collections::{BTreeSet, HashMap};

impl Cluster {
    /// A unit that does not stand as the records say it should, if there is one.
    pub(crate) fn misplaced_unit(&self) -> Option<SessionId> {
        let waiting = &self.index.waiting;
        let sessions = self.sessions.values().filter(|session| waits(session));
        let expected: BTreeSet<&SessionId> = sessions.map(|session| unit_of(session)).collect();
        let missing = expected.iter().find(|unit| !waiting.units.contains_key(**unit));
        let surplus = waiting.units.keys().find(|unit| !expected.contains(unit));
        let queued: HashMap<&SessionId, Place> = waiting.queue.units().collect();
        let ready = |unit: &&Unit| matches!(unit.standing, Standing::Ready(..));
        let by_age: BTreeSet<_> =
            self.sessions.values().filter_map(|it| placed_by_age(it)).collect();
        if let Some((_, id)) = by_age.symmetric_difference(&waiting.placed_by_age).next() {
            return Some(id.clone());
        }
        let count = waiting.units.values().filter(ready).count();
        if queued.len() != count || waiting.by_age.len() != count {
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
        let Some(first) = members.first() else { return false };
        let right = u32::try_from(members.len()).is_ok_and(|there| there == unit.members)
            && self.unit_sequence(first) == unit.sequence;
        let waiting = &self.index.waiting;
        if !right || unit.standing == Standing::Unjudged {
            let unjudged = waiting.unjudged.contains(&(unit.sequence, id.clone()));
            return right && queued.is_none() && unjudged;
        }
        match (&unit.standing, self.judge(first, &members, self.now)) {
            (Standing::Ready(place, since), Verdict::Ready { priority, .. }) => {
                queued == Some(place)
                    && waiting.by_age.get(place, *since) == Some(id)
                    && *since == Self::waits_since(first)
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
            (Standing::Held(_) | Standing::Ready(..) | Standing::Unjudged, _) => false,
        }
    }
}

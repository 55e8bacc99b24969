//! Seats the members of a gang on the nodes of one scope.

mod order;

use super::scope::Site;
use super::topology::Level;
use super::{Class, GangRequest, Ground, Spread};
use crate::plans::capacity::sum;
use crate::plans::trial::{Trial, as_u32, as_usize};
use crate::slice::Grant;
use order::{Fullest, Queue};
use std::cmp::Reverse;

/// A seating in the making.
pub(super) struct Seating<'a> {
    gang: &'a GangRequest,
    ground: &'a Ground<'a>,
    seats: Vec<Seat<'a>>,
    seated: Vec<Seated>,
}

/// A member that has a seat.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) member: usize,
    pub(super) grant: Grant,
    /// Position of its node.
    pub(super) node: usize,
}

/// A node with the members seated on it.
struct Seat<'a> {
    site: &'a Site,
    /// Made when the first member comes.
    trial: Option<Box<Trial>>,
    members: u32,
    /// How many more of the class at hand may have room.
    room: u32,
}

impl<'a> Seating<'a> {
    pub(super) fn new(gang: &'a GangRequest, scope: &[&'a Site], ground: &'a Ground<'a>) -> Self {
        let seat = |site: &&'a Site| Seat { site, trial: None, members: 0, room: 0 };
        let seats = scope.iter().map(seat).collect();
        Self { gang, ground, seats, seated: Vec::new() }
    }

    /// Seats class after class, and stops at the first that has no room. So many levels, `closer`,
    /// divide the scope.
    pub(super) fn seat_all(&mut self, classes: &[(usize, &Class)], closer: usize) {
        for (at, class) in classes {
            for seat in &mut self.seats {
                seat.room = seat.site.caps[*at];
            }
            let before = self.seated.len();
            match &self.gang.spread {
                Spread::Pack => self.pack_fast_first(class, closer),
                Spread::Nodes => self.spread_over_nodes(class),
                Spread::Label(_) => self.spread_over_parts(class),
            }
            if self.seated.len() - before < class.members.len() {
                return;
            }
        }
    }

    /// The members that have a seat.
    pub(super) fn into_seated(self) -> Vec<Seated> {
        self.seated
    }

    fn pack_fast_first(&mut self, class: &Class, closer: usize) {
        let (slow, fast): (Vec<usize>, Vec<usize>) =
            (0..self.seats.len()).partition(|at| self.seats[*at].site.slow);
        let mut left = class.members.as_slice();
        self.pack(class, &fast, closer, &mut left);
        self.pack(class, &slow, closer, &mut left);
    }

    /// Fills part after part of the widest level, and within each of the next; without levels
    /// node after node. `left` are the members without a seat.
    fn pack(&mut self, class: &Class, among: &[usize], closer: usize, left: &mut &[usize]) {
        let levels = &self.ground.topology.levels()[..closer];
        let Some(widest) = levels.iter().rposition(Level::carried) else {
            return self.pack_nodes(class, among, left);
        };
        let mut parts = levels[widest].divide(among, |at| self.seats[at].site.at);
        while let Some(part) = self.take_best(&mut parts, left.len()) {
            self.pack(class, &part, widest, left);
        }
    }

    /// Takes out the part to fill next: one the gang is on already, else one that takes the most of
    /// what is left, of those the tightest, then the first. Filling the largest first needs the
    /// fewest, and a tight last one keeps larger ones whole.
    fn take_best(&self, parts: &mut Vec<Vec<usize>>, left: usize) -> Option<Vec<usize>> {
        let left = as_u32(left);
        if left == 0 {
            return None;
        }
        let key = |part: &Vec<usize>| {
            let seats = || part.iter().map(|at| &self.seats[*at]);
            let room = sum(seats().map(|seat| seat.room));
            let bonus = self.bonus(seats().any(holds_with_room));
            let used = seats().any(|seat| seat.members > 0);
            (room > 0).then(|| (Reverse(used), Reverse(room.min(left).saturating_add(bonus)), room))
        };
        let ranked = parts.iter().enumerate();
        let ranked = ranked.filter_map(|(at, part)| Some((key(part)?, at)));
        let (_, at) = ranked.min()?;
        // The rest keeps its order: it decides ties.
        Some(parts.remove(at))
    }

    /// Fills node after node, in the order in which [`Seating::take_best`] fills parts.
    fn pack_nodes(&mut self, class: &Class, among: &[usize], left: &mut &[usize]) {
        let (used, fresh): (Vec<usize>, Vec<usize>) =
            among.iter().partition(|at| self.seats[**at].members > 0);
        for nodes in [used, fresh] {
            let mut fullest = Fullest::new(as_u32(class.members.len()));
            for at in nodes {
                let seat = &self.seats[at];
                fullest.enter(at, seat.room, self.bonus(holds_with_room(seat)));
            }
            while let Some(at) = fullest.take(as_u32(left.len())) {
                self.seat(class, at, left.len(), left);
            }
        }
    }

    fn bonus(&self, holds: bool) -> u32 {
        if holds { self.gang.holds_bonus } else { 0 }
    }

    /// Seats members one by one on the node where the fewest are.
    fn spread_over_nodes(&mut self, class: &Class) {
        let key = |seat: &Seat<'_>| {
            (seat.room > 0).then_some((seat.site.slow, seat.members, !seat.site.holds))
        };
        let mut nodes = Queue::default();
        for (at, seat) in self.seats.iter().enumerate() {
            nodes.enter(at, key(seat));
        }
        let mut left = class.members.as_slice();
        while !left.is_empty() {
            let Some(at) = nodes.take() else { return };
            self.seat(class, at, 1, &mut left);
            nodes.enter(at, key(&self.seats[at]));
        }
    }

    /// Seats members one by one in the part where the fewest are, and there as
    /// [`Seating::spread_over_nodes`].
    fn spread_over_parts(&mut self, class: &Class) {
        let key = |seat: &Seat<'_>| {
            let rest = (!seat.site.holds, Reverse(seat.room));
            (seat.room > 0).then_some((seat.site.slow, seat.members, rest))
        };
        let all: Vec<usize> = (0..self.seats.len()).collect();
        let mut parts = Queue::default();
        let mut nodes = Vec::new();
        for part in self.ground.topology.apart().divide(&all, |at| self.seats[at].site.at) {
            parts.enter(nodes.len(), self.part_key(&part));
            let mut within = Queue::default();
            for at in &part {
                within.enter(*at, key(&self.seats[*at]));
            }
            nodes.push((part, within));
        }
        let mut left = class.members.as_slice();
        while !left.is_empty() {
            let Some(at) = parts.take() else { return };
            let (part, within) = &mut nodes[at];
            if let Some(node) = within.take() {
                self.seat(class, node, 1, &mut left);
                within.enter(node, key(&self.seats[node]));
            }
            parts.enter(at, self.part_key(part));
        }
    }

    fn part_key(&self, part: &[usize]) -> Option<(bool, u32, bool)> {
        let seats = || part.iter().map(|at| &self.seats[*at]);
        let fast = seats().any(|seat| seat.room > 0 && !seat.site.slow);
        let key = (!fast, sum(seats().map(|seat| seat.members)), !seats().any(holds_with_room));
        seats().any(|seat| seat.room > 0).then_some(key)
    }

    /// Seats up to `most` of `left` on a node, and lowers its bound to what was found.
    fn seat(&mut self, class: &Class, at: usize, most: usize, left: &mut &[usize]) {
        let seat = &mut self.seats[at];
        let wanted = seat.room.min(as_u32(most));
        let trial = seat.trial.take().or_else(|| {
            let trial = (self.ground.node)(seat.site.at);
            trial.map(Box::new)
        });
        let Some(mut trial) = trial else {
            seat.room = 0;
            return;
        };
        let grants = trial.fill(&class.settled, wanted);
        let got = as_u32(grants.len());
        seat.trial = Some(trial);
        seat.members += got;
        seat.room = if got < wanted { 0 } else { seat.room - got };
        let (now, later) = left.split_at(as_usize(got).min(left.len()));
        let node = seat.site.at;
        let seated = now.iter().zip(grants);
        self.seated.extend(seated.map(|(member, grant)| Seated { member: *member, grant, node }));
        *left = later;
    }
}

fn holds_with_room(seat: &Seat<'_>) -> bool {
    seat.site.holds && seat.room > 0
}

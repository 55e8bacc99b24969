//! Seats the members of a gang on the nodes of one scope.

use super::scope::{Site, divide};
use super::{Class, GangRequest, Spread};
use crate::placement::NodeView;
use crate::plans::capacity::sum;
use crate::plans::trial::{Trial, as_u32, as_usize};
use crate::slice::Grant;
use crate::units::Fgpu;
use std::cmp::Reverse;

/// A seating in the making.
pub(super) struct Seating<'a> {
    gang: &'a GangRequest,
    quantum: Fgpu,
    seats: Vec<Seat<'a>>,
    seated: Vec<(usize, Grant)>,
}

/// A node with the members seated on it.
struct Seat<'a> {
    site: &'a Site<'a>,
    /// Made when the first member comes.
    trial: Option<Trial>,
    members: u32,
    /// How many more of the class at hand may have room.
    room: u32,
}

impl<'a> Seating<'a> {
    pub(super) fn new(gang: &'a GangRequest, scope: &[&'a Site<'a>], quantum: Fgpu) -> Self {
        let seat = |site: &&'a Site<'a>| Seat { site, trial: None, members: 0, room: 0 };
        let seats = scope.iter().map(seat).collect();
        Self { gang, quantum, seats, seated: Vec::new() }
    }

    /// Seats class after class, and stops at the first that has no room. `levels` divide the
    /// scope, closest first.
    pub(super) fn seat_all(&mut self, classes: &[(usize, &Class)], levels: &[String]) {
        for (at, class) in classes {
            for seat in &mut self.seats {
                seat.room = seat.site.caps[*at];
            }
            let before = self.seated.len();
            match &self.gang.spread {
                Spread::Pack => self.pack_fast_first(class, levels),
                Spread::Nodes => self.spread(class, None),
                Spread::Label(label) => self.spread(class, Some(label)),
            }
            if self.seated.len() - before < class.members.len() {
                return;
            }
        }
    }

    /// The members that have a seat, each with its grant.
    pub(super) fn into_seated(self) -> Vec<(usize, Grant)> {
        self.seated
    }

    fn pack_fast_first(&mut self, class: &Class, levels: &[String]) {
        let (slow, fast): (Vec<usize>, Vec<usize>) =
            (0..self.seats.len()).partition(|at| self.seats[*at].site.slow);
        let mut left = class.members.as_slice();
        self.pack(class, &fast, levels, &mut left);
        self.pack(class, &slow, levels, &mut left);
    }

    /// Fills domain after domain of the widest level, and within each of the next; without levels
    /// node after node. `left` are the members without a seat.
    fn pack(&mut self, class: &Class, among: &[usize], levels: &[String], left: &mut &[usize]) {
        let Some((widest, closer)) = levels.split_last() else {
            let mut nodes: Vec<Vec<usize>> = among.iter().map(|at| vec![*at]).collect();
            while let Some(node) = self.take_best(&mut nodes, left.len()) {
                self.seat(class, node[0], left.len(), left);
            }
            return;
        };
        let mut domains = divide(among, widest, |at| self.seats[at].site.node);
        while let Some(domain) = self.take_best(&mut domains, left.len()) {
            self.pack(class, &domain, closer, left);
        }
    }

    /// Takes out the domain to fill next: one the gang is on already, else one that takes the most
    /// of what is left, of those the tightest, then the first. Filling the largest first needs the
    /// fewest, and a tight last one keeps larger ones whole.
    fn take_best(&self, domains: &mut Vec<Vec<usize>>, left: usize) -> Option<Vec<usize>> {
        let left = as_u32(left);
        if left == 0 {
            return None;
        }
        let key = |domain: &Vec<usize>| {
            let seats = || domain.iter().map(|at| &self.seats[*at]);
            let room = sum(seats().map(|seat| seat.room));
            let bonus = if seats().any(holds_with_room) { self.gang.holds_bonus } else { 0 };
            let used = seats().any(|seat| seat.members > 0);
            (room > 0).then(|| (Reverse(used), Reverse(room.min(left).saturating_add(bonus)), room))
        };
        let ranked = domains.iter().enumerate();
        let ranked = ranked.filter_map(|(at, domain)| Some((key(domain)?, at)));
        let (_, at) = ranked.min()?;
        // The rest keeps its order: it decides ties.
        Some(domains.remove(at))
    }

    /// Seats members one by one where the fewest are.
    fn spread(&mut self, class: &Class, label: Option<&str>) {
        let all: Vec<usize> = (0..self.seats.len()).collect();
        let domains = match label {
            None => all.iter().map(|at| vec![*at]).collect(),
            Some(label) => divide(&all, label, |at| self.seats[at].site.node),
        };
        let mut left = class.members.as_slice();
        while !left.is_empty() {
            let domain_key = |domain: &&Vec<usize>| {
                let seats = || domain.iter().map(|at| &self.seats[*at]);
                let fast = seats().any(|seat| seat.room > 0 && !seat.site.slow);
                (!fast, sum(seats().map(|seat| seat.members)), !seats().any(holds_with_room))
            };
            let with_room =
                domains.iter().filter(|domain| domain.iter().any(|at| self.seats[*at].room > 0));
            let Some(domain) = with_room.min_by_key(domain_key) else { return };
            let nodes = domain.iter().copied().filter(|at| self.seats[*at].room > 0);
            let node_key = |at: &usize| {
                let seat = &self.seats[*at];
                (seat.site.slow, seat.members, !seat.site.holds, Reverse(seat.room))
            };
            let Some(node) = nodes.min_by_key(node_key) else { return };
            self.seat(class, node, 1, &mut left);
        }
    }

    /// Seats up to `most` of `left` on a node, and lowers its bound to what was found.
    fn seat(&mut self, class: &Class, at: usize, most: usize, left: &mut &[usize]) {
        let seat = &mut self.seats[at];
        let wanted = seat.room.min(as_u32(most));
        let node: &NodeView = seat.site.node;
        let trial = match seat.trial.take() {
            Some(trial) => Some(trial),
            None => Trial::new(node, self.quantum).ok(),
        };
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
        self.seated.extend(now.iter().copied().zip(grants));
        *left = later;
    }
}

fn holds_with_room(seat: &Seat<'_>) -> bool {
    seat.site.holds && seat.room > 0
}

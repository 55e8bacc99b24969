//! The search itself: filter and score every node, reserve on the best.

use super::Request;
use super::entry::Entry;
use super::explain::{NoPlacement, explain};
use super::filter::miss;
use super::fit::{Fit, Prefer};
use super::layout::{Layout, layout};
use super::policy::Policy;
use super::random::SplitMix64;
use super::reserve::{Choice, reserve};
use super::score::score;
use super::view::View;
use crate::slice::Grant;

/// Places requests by one policy, and holds what that policy remembers between requests.
#[derive(Debug, Clone)]
pub struct Placer {
    policy: Policy,
    random: SplitMix64,
    /// Nodes with room, kept between requests for its memory alone.
    with_room: Vec<usize>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node and the slices.
    pub grant: Grant,
    /// What the policy thought of the node; only comparable within one request.
    pub score: i64,
}

impl Placer {
    /// A placer by `policy`. `seed` decides what [`Policy::Random`] draws.
    #[must_use]
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self { policy, random: SplitMix64::new(seed), with_room: Vec::new() }
    }

    /// The policy it places by.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Chooses the node and devices for `request`. Nothing is taken: [`View::allocate`] does that.
    ///
    /// # Errors
    /// [`NoPlacement`] says for every node why not, and what would fit. Where that is not wanted,
    /// [`Placer::find`] is far cheaper.
    pub fn place(&mut self, request: &Request, view: &View) -> Result<Placement, Box<NoPlacement>> {
        self.find(request, view).ok_or_else(|| Box::new(explain(request, view)))
    }

    /// As [`Placer::place`], without the reasons.
    pub fn find(&mut self, request: &Request, view: &View) -> Option<Placement> {
        match (layout(request, view).ok()?, &request.gpu) {
            (Layout::Devices(plan), Some(gpu)) => plan.counts.iter().find_map(|count| {
                let fit = Fit::new(gpu, *count, plan.split, view);
                self.on(request, view, Some(&fit))
            }),
            (Layout::NoGpu, _) => self.on(request, view, None),
            (Layout::NoNode | Layout::Devices(_), _) => None,
        }
    }

    /// The best placement on a fixed number of devices.
    fn on(&mut self, request: &Request, view: &View, fit: Option<&Fit>) -> Option<Placement> {
        if self.policy == Policy::Random {
            return self.any_node(request, view, fit);
        }
        let prefer = match self.policy {
            Policy::Spread => Prefer::Emptiest,
            Policy::Random | Policy::Binpack | Policy::BestFit => Prefer::Fullest,
        };
        let mut best: Option<(i64, &Entry)> = None;
        for entry in view.entries() {
            let Some(milli) = room(request, entry, fit, prefer) else { continue };
            let score = score(self.policy, request, entry, milli);
            if best.is_none_or(|(top, _)| score > top) {
                best = Some((score, entry));
            }
        }
        let (score, entry) = best?;
        let fit = fit.and_then(|fit| fit.of(entry));
        let grant = reserve(request, entry, fit, Choice::Best(prefer))?;
        Some(Placement { grant, score })
    }

    fn any_node(&mut self, request: &Request, view: &View, fit: Option<&Fit>) -> Option<Placement> {
        self.with_room.clear();
        let entries = view.entries().iter().enumerate();
        let with_room = entries
            .filter(|(_, entry)| room(request, entry, fit, Prefer::Fullest).is_some())
            .map(|(at, _)| at);
        self.with_room.extend(with_room);
        if self.with_room.is_empty() {
            return None;
        }
        let entry = &view.entries()[self.with_room[self.random.below(self.with_room.len())]];
        let fit = fit.and_then(|fit| fit.of(entry));
        let grant = reserve(request, entry, fit, Choice::Any(&mut self.random))?;
        Some(Placement { grant, score: 0 })
    }
}

/// Thousandths of a device the request would take on a node that has room for all of it.
fn room(request: &Request, entry: &Entry, fit: Option<&Fit>, prefer: Prefer) -> Option<u64> {
    if miss(request, entry).is_some() {
        return None;
    }
    match fit {
        None => Some(0),
        Some(fit) => fit.room(request, entry, prefer).map(|room| room.milli),
    }
}

//! The search itself: rank the states for the kind of request, reserve on the best node.

use super::Request;
use super::entry::Entry;
use super::explain::{NoPlacement, explain};
use super::filter::{barred, miss};
use super::fit::{Fit, apart};
use super::kind::{Kinds, Way, ways};
use super::mix::Mix;
use super::model::Model;
use super::policy::Policy;
use super::random::SplitMix64;
use super::reserve::{Choice, reserve};
use super::score::{Judged, judge, prefer};
use super::view::View;
use crate::slice::Grant;

/// Places requests by one policy, and holds what that policy remembers between requests.
#[derive(Debug)]
pub struct Placer {
    policy: Policy,
    random: SplitMix64,
    /// Nodes with room, kept between requests for its memory alone.
    with_room: Vec<usize>,
    kinds: Kinds,
    mix: Mix,
    model: Model,
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
        Self {
            policy,
            random: SplitMix64::new(seed),
            with_room: Vec::new(),
            kinds: Kinds::default(),
            mix: Mix::default(),
            model: Model::default(),
        }
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

    /// Counts `request` among those the cluster is asked for: to be called once for every one that
    /// arrives, whether or not it can be placed. Policies that look at the mix learn it from this.
    pub fn arrived(&mut self, request: &Request) {
        // The published policy knows its typical requests from the start, where it is told them.
        if self.policy != Policy::Fgd || !self.mix.is_expected() {
            self.mix.arrived(request);
        }
    }

    /// Takes for granted that `weight` requests like this one have arrived before.
    pub fn expect(&mut self, request: &Request, weight: u64) {
        self.mix.expect(request, weight);
    }

    /// As [`Placer::place`], without the reasons.
    pub fn find(&mut self, request: &Request, view: &View) -> Option<Placement> {
        self.refresh_model(view);
        let strict = request.without_shunned();
        if let Some(placement) = strict.and_then(|strict| self.find_one(&strict, view)) {
            return Some(placement);
        }
        self.find_one(request, view)
    }

    fn find_one(&mut self, request: &Request, view: &View) -> Option<Placement> {
        if self.policy == Policy::Random {
            return ways(request, view).iter().find_map(|way| self.any_node(request, view, way));
        }
        if let Some(name) = &request.node {
            let at = view.position(name).ok()?;
            return ways(request, view).iter().find_map(|way| self.on(request, view, at, way));
        }
        let Self { policy, kinds, model, .. } = self;
        let kind = kinds.get(request, view);
        kind.ways.iter_mut().find_map(|way| best(*policy, request, view, model, way))
    }

    /// Keeps up with the mix of requests and the hardware.
    fn refresh_model(&mut self, view: &View) {
        if self.policy.looks_at_the_mix() && self.model.refresh(self.policy, &self.mix, view) {
            self.kinds.clear_rankings();
        }
    }

    /// Places on the node at position `at`, if that is possible.
    fn on(&self, request: &Request, view: &View, at: usize, way: &Way) -> Option<Placement> {
        let entry = &view.entries()[at];
        if barred(request, entry).is_some() {
            return None;
        }
        reserve_on(self.policy, request, entry, way.fit.as_ref(), &self.model)
    }

    fn any_node(&mut self, request: &Request, view: &View, way: &Way) -> Option<Placement> {
        self.with_room.clear();
        let fit = way.fit.as_ref();
        let entries = view.entries().iter().enumerate();
        let with_room =
            entries.filter(|(_, entry)| has_room(request, entry, fit)).map(|(at, _)| at);
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

#[cfg(test)]
impl Placer {
    /// What looking at every node finds: its score and the node.
    pub(super) fn exhaustive<'v>(
        &self,
        request: &Request,
        view: &'v View,
    ) -> Option<(i64, &'v crate::ids::NodeName)> {
        ways(request, view).iter().find_map(|way| {
            let mut best: Option<(i64, &crate::ids::NodeName)> = None;
            for entry in view.entries() {
                let score = match miss(request, entry) {
                    Some(_) => continue,
                    None => judge(self.policy, request, entry, way.fit.as_ref(), &self.model),
                };
                let extra = self.model.extra(request, way.fit.as_ref(), entry.shape);
                let score = score.map(|judged| judged.score.saturating_add(extra));
                if let Some(score) = score
                    && best.is_none_or(|(top, _)| score > top)
                {
                    best = Some((score, &entry.node.name));
                }
            }
            best
        })
    }
}

/// A copy places as the original would; what is kept for speed alone is worked out again.
impl Clone for Placer {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy,
            random: self.random.clone(),
            with_room: Vec::new(),
            kinds: Kinds::default(),
            mix: self.mix.clone(),
            model: Model::default(),
        }
    }
}

/// The best node of all for `request` in one way.
fn best(
    policy: Policy,
    request: &Request,
    view: &View,
    model: &Model,
    way: &mut Way,
) -> Option<Placement> {
    let Way { fit, ranking } = way;
    let fit = fit.as_ref();
    ranking.sync(view.states(), |node| {
        let entry = &view.entries()[node as usize];
        judge(policy, request, entry, fit, model).map(|judged| judged.score)
    });
    let extra = |shape: usize| model.extra(request, fit, shape);
    let allowed = |node: u32| barred(request, &view.entries()[node as usize]).is_none();
    let (_, node) = if request.labels.is_empty() && request.avoid.is_empty() {
        ranking.best(extra)?
    } else {
        ranking.best_allowed(view.states(), extra, allowed)?
    };
    // Only now: what is equal in all else may be chosen by what it holds.
    let image = request.image.as_deref();
    let holder = image.and_then(|image| view.holder_beside(node, image, allowed));
    let node = holder.unwrap_or(node);
    reserve_on(policy, request, &view.entries()[node as usize], fit, model)
}

fn reserve_on(
    policy: Policy,
    request: &Request,
    entry: &Entry,
    fit: Option<&Fit>,
    model: &Model,
) -> Option<Placement> {
    let Judged { score, first } = judge(policy, request, entry, fit, model)?;
    let choice = match first {
        Some(device) => Choice::Device(device),
        None => Choice::Best(prefer(policy)),
    };
    let grant = reserve(request, entry, fit.and_then(|fit| fit.of(entry)), choice)?;
    let score = score.saturating_add(model.extra(request, fit, entry.shape));
    Some(Placement { grant, score })
}

/// Whether a node has room for all of the request.
pub(super) fn has_room(request: &Request, entry: &Entry, fit: Option<&Fit>) -> bool {
    if miss(request, entry).is_some() {
        return false;
    }
    let Some(fit) = fit else { return true };
    let room = fit.at(entry).and_then(|fit| {
        fit.choose(entry, apart(request, entry), prefer(Policy::Random), |_, _| {})
    });
    room.is_some()
}

//! What is kept for each kind of request: how it lies on devices, and the ranking of the states.

use super::Request;
use super::fit::Fit;
use super::layout::{Layout, layout};
use super::ranking::Ranking;
use super::view::{Identity, Versions, View};
use std::collections::HashMap;

/// Kinds kept at most; the one not asked for the longest goes first.
const MOST_KINDS: usize = 256;
/// Scores kept at most over all kinds: what the rankings may take of memory (24 bytes each).
const MOST_SCORES: usize = 4 << 20;
/// Kinds kept whatever the size of the cluster.
const LEAST_KINDS: usize = 16;

/// One kind of request: equal in everything but the node it names and those it avoids.
#[derive(Debug)]
pub(super) struct Kind {
    /// One per number of devices it may lie on, the preferred first; one without devices where no
    /// GPU is asked for; none where the hardware cannot hold it.
    pub(super) ways: Vec<Way>,
    versions: Versions,
    /// When it was last asked for, counted in requests.
    asked: u64,
}

/// A kind of request on a fixed number of devices.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) fit: Option<Fit>,
    pub(super) ranking: Ranking,
}

/// All kinds kept.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    known: HashMap<Request, Kind>,
    /// The view everything here was worked out from.
    of: Option<Identity>,
    requests: u64,
}

impl Kinds {
    /// The kind of `request`, laid out for the hardware of `view`.
    pub(super) fn get(&mut self, request: &Request, view: &View) -> &mut Kind {
        if !self.of.as_ref().is_some_and(|of| of.is(view.identity())) {
            *self = Self { of: Some(view.identity().same()), ..Self::default() };
        }
        self.requests += 1;
        if !request.names_nodes() {
            return self.entry(request, view);
        }
        self.entry(&request.of_any_node(), view)
    }

    /// Forgets every score, as what they depend on has changed.
    pub(super) fn clear_rankings(&mut self) {
        for way in self.known.values_mut().flat_map(|kind| &mut kind.ways) {
            way.ranking.clear();
        }
    }

    fn entry(&mut self, kind: &Request, view: &View) -> &mut Kind {
        if !self.known.contains_key(kind) {
            self.make_room(view);
            self.known.insert(kind.clone(), Kind::new(kind, view));
        }
        let requests = self.requests;
        let known = self.known.get_mut(kind).expect("it was there or has just been put there");
        if known.is_outdated(kind, view) {
            *known = Kind::new(kind, view);
        }
        known.asked = requests;
        known
    }

    fn make_room(&mut self, view: &View) {
        let states = view.states().len().max(1);
        let most = (MOST_SCORES / states).clamp(LEAST_KINDS, MOST_KINDS);
        while self.known.len() >= most {
            // No two kinds were asked for by the same request, so the order of the map is no matter.
            let oldest = self.known.iter().min_by_key(|(_, kind)| kind.asked);
            let Some(oldest) = oldest.map(|(request, _)| request.clone()) else { return };
            self.known.remove(&oldest);
        }
    }
}

impl Kind {
    fn new(request: &Request, view: &View) -> Self {
        Self { ways: ways(request, view), versions: view.versions(), asked: 0 }
    }

    fn is_outdated(&self, request: &Request, view: &View) -> bool {
        let now = view.versions();
        self.versions.hardware != now.hardware
            || (!request.labels.is_empty() && self.versions.labels != now.labels)
    }
}

/// The ways `request` may lie on the hardware of `view`.
pub(super) fn ways(request: &Request, view: &View) -> Vec<Way> {
    let way = |fit| Way { fit, ranking: Ranking::default() };
    match (layout(request, view), &request.gpu) {
        (Ok(Layout::Devices(plan)), Some(gpu)) => plan
            .counts
            .iter()
            .map(|count| way(Some(Fit::new(gpu, *count, plan.split, view))))
            .collect(),
        (Ok(Layout::NoGpu), _) => vec![way(None)],
        (Ok(Layout::NoNode | Layout::Devices(_)) | Err(_), _) => Vec::new(),
    }
}

//! How the members of a gang lie: where the policy puts each, close together, or apart.

use super::Cluster;
use crate::placement::{NoPlacement, Request};
use crate::plans::gang::{GangRefused, GangRequest, Spread, place_gang, place_gang_by};
use crate::session::{Arrangement, SessionSpec};
use crate::slice::Grant;

/// Labels of nodes that say which are close, the closest first.
pub const TOPOLOGY: [&str; 2] = ["fgpu.io/rack", "fgpu.io/zone"];

impl Cluster {
    /// The gang that `count` sessions of `spec` are; each asks for `request`.
    pub(super) fn gang(&self, spec: &SessionSpec, request: &Request, count: usize) -> GangRequest {
        // The policy decides for a gang without a wish, and looks at no labels.
        let close = spec.arrangement.is_some();
        let topology = TOPOLOGY.iter().filter(|_| close).map(|&label| label.to_owned()).collect();
        GangRequest {
            members: vec![request.clone(); count],
            spread: match &spec.arrangement {
                None | Some(Arrangement::Pack) => Spread::Pack,
                Some(Arrangement::Spread) => Spread::Nodes,
                Some(Arrangement::SpreadOver(label)) => Spread::Label(label.clone()),
            },
            topology,
            slow: request.shun.clone(),
            ..GangRequest::default()
        }
    }

    /// A place for each of `count` sessions of `spec` that ask for `request`, as they are to lie, or
    /// none: nothing is taken.
    pub(super) fn places_for(
        &mut self,
        spec: &SessionSpec,
        request: &Request,
        count: usize,
    ) -> Option<Vec<Grant>> {
        if count < 2 || spec.arrangement.is_none() {
            return self.places(request, count);
        }
        let gang = self.gang(spec, request, count);
        Some(place_gang_by(&mut self.closeness, &gang, &self.view).ok()?.grants)
    }

    /// As [`Cluster::places_for`], with the places of those that find one and why the next finds
    /// none; `None` where the policy alone says where each goes. What it costs is for a person who asks.
    pub(super) fn arranged(
        &self,
        spec: &SessionSpec,
        request: &Request,
        count: usize,
    ) -> Option<(Vec<Grant>, Option<Box<NoPlacement>>)> {
        spec.arrangement.as_ref().filter(|_| count > 1)?;
        let gang = self.gang(spec, request, count);
        match place_gang(&gang, &self.view) {
            Ok(placed) => Some((placed.grants, None)),
            Err(refused) => {
                let missing = refused.missing(&gang, &self.view)?;
                let GangRefused::Now { seated, .. } = refused else { return None };
                Some((seated.into_iter().map(|(_, grant)| grant).collect(), Some(missing)))
            }
        }
    }
}

//! How the members of a gang lie: where the policy puts each, close together, or apart.

use super::Cluster;
use crate::placement::{NoPlacement, Request};
use crate::plans::gang::{GangRefused, GangRequest, Spread, place_gang, place_gang_by};
use crate::session::{Arrangement, SessionSpec};
use crate::slice::{GpuAmount, Grant, Slice};

/// Labels of nodes that say which are close, the closest first.
pub const TOPOLOGY: [&str; 2] = ["fgpu.io/rack", "fgpu.io/zone"];

impl Cluster {
    /// The gang that `count` sessions of `spec` are; each asks for `request`.
    pub(super) fn gang(&self, spec: &SessionSpec, request: &Request, count: usize) -> GangRequest {
        // Nobody cares how the parts of devices of a gang lie that has no wish.
        let close = spec.arrangement.is_some() || takes_whole_devices(request);
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
        if count > 1 && spec.arrangement.is_some() {
            let gang = self.gang(spec, request, count);
            return Some(place_gang_by(&mut self.closeness, &gang, &self.view).ok()?.grants);
        }
        let close = self.close_by_default(spec, request, count);
        close.or_else(|| self.places(request, count))
    }

    /// Members that take whole devices lie close though nobody said so, where there is room for
    /// that: on devices of the model the policy would choose for the first of them, so that they do
    /// not take what is scarce.
    fn close_by_default(
        &mut self,
        spec: &SessionSpec,
        request: &Request,
        count: usize,
    ) -> Option<Vec<Grant>> {
        if count < 2 || !takes_whole_devices(request) {
            return None;
        }
        let first = self.placer.find(request, &self.view)?.grant;
        let gang = self.gang(spec, &self.on_devices_like(request, &first), count);
        Some(place_gang_by(&mut self.closeness, &gang, &self.view).ok()?.grants)
    }

    /// The same on devices of the models of `grant` alone.
    fn on_devices_like(&self, request: &Request, grant: &Grant) -> Request {
        let mut alike = request.clone();
        if let (Some(gpu), Some(node)) = (&mut alike.gpu, self.view.get(&grant.node)) {
            let of = |slice: &Slice| node.devices.iter().find(|device| device.uuid == slice.device);
            gpu.models = grant.slices.iter().filter_map(of).map(|it| it.model.clone()).collect();
            gpu.models.dedup();
        }
        alike
    }

    /// As [`Cluster::places_for`], with the places of those that find one and why the next finds
    /// none; `None` where the policy alone says where each goes. What it costs is for a person who asks.
    pub(super) fn arranged(
        &self,
        spec: &SessionSpec,
        request: &Request,
        count: usize,
    ) -> Option<(Vec<Grant>, Option<Box<NoPlacement>>)> {
        if count < 2 {
            return None;
        }
        if spec.arrangement.is_none() {
            let mut placer = takes_whole_devices(request).then(|| self.placer.clone())?;
            let first = placer.find(request, &self.view)?.grant;
            let gang = self.gang(spec, &self.on_devices_like(request, &first), count);
            return Some((place_gang(&gang, &self.view).ok()?.grants, None));
        }
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

fn takes_whole_devices(request: &Request) -> bool {
    request
        .gpu
        .as_ref()
        .is_some_and(|gpu| gpu.mig.is_none() && matches!(gpu.amount, GpuAmount::Whole(_)))
}

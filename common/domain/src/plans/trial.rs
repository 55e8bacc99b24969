//! A copy of one node on which placements are tried.
//!
//! On how many devices a request lies is settled by the hardware of the whole cluster, so it is
//! settled once ([`Settled`]) and a node alone is never asked for it.

use crate::ids::NodeName;
use crate::placement::{
    Allocation, NeverFits, NodeState, NodeView, Placer, Policy, Request, View, ViewError,
    feasible_when_empty,
};
use crate::slice::{GpuAmount, GpuRequest, Grant};
use crate::units::Fgpu;
use std::num::NonZeroU32;

/// A request with the number of devices it may lie on written into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    /// One per count of devices, in the order they are tried; never empty.
    tries: Vec<Request>,
}

impl Settled {
    /// Settles `request` by the hardware of `view`.
    pub(super) fn new(request: &Request, view: &View) -> Result<Self, NeverFits> {
        let plan = feasible_when_empty(request, view)?;
        let (Some(plan), Some(gpu)) = (plan, &request.gpu) else {
            return Ok(Self { tries: vec![request.clone()] });
        };
        let on = |count: &u32| Request {
            gpu: Some(GpuRequest {
                devices: match gpu.amount {
                    GpuAmount::Whole(_) => gpu.devices,
                    GpuAmount::Fgpu(_) | GpuAmount::Direct { .. } => NonZeroU32::new(*count),
                },
                split: Some(plan.split),
                ..gpu.clone()
            }),
            ..request.clone()
        };
        Ok(Self { tries: plan.counts.iter().map(on).collect() })
    }

    pub(super) fn tries(&self) -> &[Request] {
        &self.tries
    }

    /// Whether some try takes more than one device.
    fn on_several_devices(&self) -> bool {
        self.tries.iter().filter_map(|request| request.gpu.as_ref()).any(|gpu| match gpu.amount {
            GpuAmount::Whole(gpus) => gpus.get() > 1,
            GpuAmount::Fgpu(_) | GpuAmount::Direct { .. } => {
                gpu.devices.is_some_and(|devices| devices.get() > 1)
            }
        })
    }

    /// What `grant`, made for this request, takes.
    pub(super) fn allocation(&self, grant: &Grant) -> Allocation {
        Allocation::of(&self.tries[0], grant)
    }
}

/// One node, copied out of a view.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    /// Holds exactly one node.
    view: View,
    name: NodeName,
}

impl Trial {
    /// A copy of `node`.
    ///
    /// # Errors
    /// [`ViewError`] when the node contradicts itself, which none that comes from a view does.
    pub(super) fn new(node: &NodeView, quantum: Fgpu) -> Result<Self, ViewError> {
        let mut view = View::new(quantum);
        view.insert(NodeView { state: in_service(node.state), ..node.clone() })?;
        Ok(Self { view, name: node.name.clone() })
    }

    /// The node as it is now.
    pub(super) fn node(&self) -> Option<&NodeView> {
        self.view.get(&self.name)
    }

    /// Where the request would lie here: on the fullest devices with room, close to each other.
    pub(super) fn find(&self, settled: &Settled) -> Option<Grant> {
        self.find_by(settled, Policy::BestFit)
    }

    /// Takes an allocation; `false` when it is not free, and then nothing is taken.
    #[must_use]
    pub(super) fn take(&mut self, allocation: &Allocation) -> bool {
        self.view.allocate(&self.name, allocation).is_ok()
    }

    /// Gives an allocation back; `false` when it was not taken, and then nothing changes.
    #[must_use]
    pub(super) fn give_back(&mut self, allocation: &Allocation) -> bool {
        self.view.release(&self.name, allocation).is_ok()
    }

    /// Places and takes as many of `most` equal requests as have room here.
    ///
    /// Where each takes several devices, filling the fullest first can strand the last ones:
    /// taking the emptiest first packs the most sets of different devices. Both are tried.
    pub(super) fn fill(&mut self, settled: &Settled, most: u32) -> Vec<Grant> {
        let before = settled.on_several_devices().then(|| self.clone());
        let grants = self.fill_by(settled, most, Policy::BestFit);
        let Some(mut other) = before.filter(|_| grants.len() < as_usize(most)) else {
            return grants;
        };
        let more = other.fill_by(settled, most, Policy::Spread);
        if more.len() > grants.len() {
            *self = other;
            return more;
        }
        grants
    }

    fn fill_by(&mut self, settled: &Settled, most: u32, policy: Policy) -> Vec<Grant> {
        let mut grants = Vec::new();
        for _ in 0..most {
            let Some(grant) = self.find_by(settled, policy) else { break };
            if !self.take(&settled.allocation(&grant)) {
                break;
            }
            grants.push(grant);
        }
        grants
    }

    fn find_by(&self, settled: &Settled, policy: Policy) -> Option<Grant> {
        let mut placer = Placer::new(policy, 0);
        let placement = settled.tries.iter().find_map(|request| placer.find(request, &self.view));
        placement.map(|placement| placement.grant)
    }
}

/// A node that has not spoken since this manager started is expected to.
fn in_service(state: NodeState) -> NodeState {
    if state == NodeState::NeverSeen { NodeState::Ready } else { state }
}

/// A count as a size; counts here are of sessions and devices, far below any limit.
pub(super) fn as_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// A size as a count, the largest where it would be beyond the range.
pub(super) fn as_u32(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

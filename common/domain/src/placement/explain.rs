//! Why a request gets no place: a reason for every node, the closest, and what would fit.

use super::entry::Entry;
use super::filter::{miss, reason};
use super::fit::{Apart, Fit, apart};
use super::hint::hints;
use super::layout::{Layout, allows, layout};
use super::node::DeviceBlock;
use super::reason::Reason;
use super::shape::Kind;
use super::view::View;
use super::{Hint, Request};
use crate::ids::NodeName;
use crate::slice::{GpuAmount, GpuRequest, Isolation, SliceError, Split};
use std::collections::BTreeMap;
use std::fmt;

/// Why no node takes a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPlacement {
    /// One reason for every node, in the order of the view.
    pub reasons: Vec<(NodeName, Reason)>,
    /// Nodes per [`Reason::code`].
    pub summary: BTreeMap<&'static str, usize>,
    /// The node that lacks the least, the first of equals; `None` without nodes.
    pub closest: Option<(NodeName, Reason)>,
    /// Changes to the request with which it would start now.
    pub would_fit: Vec<Hint>,
    /// Set where no node could hold the GPU part even when empty: waiting will not help.
    pub impossible: Option<SliceError>,
}

impl NoPlacement {
    /// The reason of one node.
    #[must_use]
    pub fn reason(&self, node: &str) -> Option<&Reason> {
        self.reasons.iter().find(|(name, _)| name.as_str() == node).map(|(_, reason)| reason)
    }
}

impl std::error::Error for NoPlacement {}

impl fmt::Display for NoPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(impossible) = &self.impossible {
            return write!(f, "{impossible}");
        }
        let Some((node, reason)) = &self.closest else {
            return f.write_str("there is no node");
        };
        let counts: Vec<String> =
            self.summary.iter().map(|(code, nodes)| format!("{code} on {nodes}")).collect();
        write!(f, "no node can take it now ({}); closest is {node}: {reason}", counts.join(", "))
    }
}

/// What keeps `request` off every node of `view`; asked once it is known that none takes it.
pub(super) fn explain(request: &Request, view: &View) -> NoPlacement {
    let layout = layout(request, view);
    let gpu = request.gpu.as_ref().map(|gpu| Asked::new(gpu, &layout, view));
    let reason_of = |entry: &Entry| match (miss(request, entry), &gpu) {
        (Some(miss), _) => reason(miss, request, entry),
        (None, Some(asked)) => asked.reason(request, view, entry),
        // Without GPU nothing else can be in the way.
        (None, None) => Reason::NeverFits,
    };
    let reasons: Vec<(NodeName, Reason)> =
        view.entries().iter().map(|entry| (entry.node.name.clone(), reason_of(entry))).collect();
    let mut summary = BTreeMap::new();
    for (_, reason) in &reasons {
        *summary.entry(reason.code()).or_default() += 1;
    }
    let closest = reasons.iter().min_by_key(|(_, reason)| reason.distance()).cloned();
    let would_fit = hints(request, view);
    NoPlacement { reasons, summary, closest, would_fit, impossible: layout.err() }
}

/// The GPU part of a request on the number of devices that is tried first.
struct Asked<'a> {
    gpu: &'a GpuRequest,
    count: u32,
    fit: Fit,
    /// For nodes too small for `fit` even when empty: what an even share would need.
    even: Fit,
}

impl<'a> Asked<'a> {
    fn new(gpu: &'a GpuRequest, layout: &Result<Layout, SliceError>, view: &View) -> Self {
        let (count, split) = match layout {
            Ok(Layout::Devices(plan)) => (plan.counts[0], plan.split),
            // Not even empty nodes hold it; the reasons then speak of the least it would need.
            _ => (least_count(gpu), gpu.split.unwrap_or(Split::Even)),
        };
        let fit = |split| Fit::new(gpu, count, split, view);
        Self { gpu, count, fit: fit(split), even: fit(Split::Even) }
    }

    fn reason(&self, request: &Request, view: &View, entry: &Entry) -> Reason {
        let (slots, devices) = (&entry.slots, &entry.node.devices);
        let kinds = &view.shapes().get(entry.shape).kinds;
        if devices.is_empty() {
            return Reason::NoGpu;
        }
        let usable: Vec<usize> =
            (0..slots.len()).filter(|at| allows(self.gpu, &kinds[slots[*at].kind])).collect();
        if usable.is_empty() {
            if let Some(wanted) = &self.gpu.mig {
                return Reason::MigProfile { wanted: wanted.clone(), has: profiles(kinds) };
            }
            let cards = kinds.iter().filter(|kind| !kind.is_instance());
            let has: Vec<&str> = cards.map(|kind| kind.model.as_str()).collect();
            return Reason::Model { wanted: self.gpu.models.join(" or "), has: has.join(", ") };
        }
        let unblocked: Vec<usize> =
            usable.iter().copied().filter(|at| devices[*at].blocked.is_none()).collect();
        match unblocked.first() {
            None => blocked(usable.len(), devices[usable[0]].blocked.clone()),
            Some(_) if self.gpu.mig.is_some() => self.instances(request, entry, &usable),
            Some(_) => self.shortage(request, entry, &unblocked),
        }
    }

    /// What the MIG instances in `slots`, all of the profile asked for, lack.
    fn instances(&self, request: &Request, entry: &Entry, slots: &[usize]) -> Reason {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let free = slots.iter().filter(|at| entry.slots[**at].open && entry.slots[**at].empty);
        match (request.isolation, &self.gpu.mig) {
            (Some(wanted), _) if wanted < Isolation::Mig => {
                Reason::Isolation { wanted, offers: Isolation::Mig }
            }
            (_, Some(profile)) => Reason::MigInstances {
                profile: profile.clone(),
                wanted: self.count,
                free: count(free.count()),
                total: count(slots.len()),
            },
            (_, None) => Reason::NeverFits,
        }
    }

    /// What the devices in `slots`, all of them usable, lack.
    fn shortage(&self, request: &Request, entry: &Entry, slots: &[usize]) -> Reason {
        let Some(fit) = self.fit.of(entry).or_else(|| self.even.of(entry)) else {
            let with_room = u32::try_from(slots.len()).unwrap_or(u32::MAX);
            let too_few = with_room < self.count;
            return match too_few {
                true => Reason::Devices { wanted: self.count, with_room },
                false => Reason::NeverFits,
            };
        };
        let largest =
            |at: &usize| (fit.want(0, entry.slots[*at].kind).demand, entry.slots[*at].free);
        let memory = slots
            .iter()
            .map(largest)
            .min_by_key(|(wanted, free)| wanted.memory.saturating_sub(free.memory));
        let compute = slots
            .iter()
            .map(largest)
            .min_by_key(|(wanted, free)| wanted.compute.saturating_sub(free.compute));
        match (memory, compute) {
            (Some((wanted, free)), _) if wanted.memory > free.memory => {
                return Reason::GpuMemory { wanted: wanted.memory, largest_free: free.memory };
            }
            (_, Some((wanted, free))) if wanted.compute > free.compute => {
                return Reason::GpuCompute { wanted: wanted.compute, largest_free: free.compute };
            }
            _ => {}
        }
        let offers = entry.enforcer.unwrap_or(Isolation::Shared);
        for part in 0..fit.parts.len() {
            let takes = |at: &&usize| fit.takes(part, entry, **at, Apart::Partial(offers));
            let with_room = slots.iter().filter(takes).count();
            if with_room <= part {
                let with_room = u32::try_from(with_room).unwrap_or(u32::MAX);
                return Reason::Devices { wanted: self.count, with_room };
            }
        }
        match apart(request, entry) {
            Apart::WholeOnly | Apart::Never => {
                let wanted = request.isolation.unwrap_or(Isolation::Interposer);
                Reason::Isolation { wanted, offers }
            }
            Apart::Partial(_) => Reason::NeverFits,
        }
    }
}

/// The MIG instances of a node in words; empty where there are none.
fn profiles(kinds: &[Kind]) -> String {
    let of_kind = |kind: &Kind| {
        let profile = kind.mig.as_deref()?;
        Some(format!("{} {profile} of {}", kind.devices, kind.model))
    };
    kinds.iter().filter_map(of_kind).collect::<Vec<_>>().join(", ")
}

fn blocked(devices: usize, first: Option<DeviceBlock>) -> Reason {
    Reason::DeviceBlocked { devices, block: first.unwrap_or(DeviceBlock::Cordoned) }
}

fn least_count(gpu: &GpuRequest) -> u32 {
    match (gpu.amount, gpu.devices) {
        (GpuAmount::Whole(count), _) | (_, Some(count)) => count.get(),
        _ => 1,
    }
}

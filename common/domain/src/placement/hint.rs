//! What a request could ask instead to start now. Every hint has been tried on the view.

use super::Request;
use super::entry::Entry;
use super::filter::miss;
use super::fit::{Apart, apart};
use super::layout::{Layout, allows, layout};
use super::policy::Policy;
use super::search::Placer;
use super::shape::Kind;
use super::view::View;
use crate::ids::NodeName;
use crate::slice::{DeviceUnits, GpuAmount, GpuRequest, Isolation, Split};
use crate::units::{Fgpu, MemoryBytes};
use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;

/// A change with which a request would start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// Divided evenly over more devices.
    Split {
        /// How many.
        devices: u32,
        /// Where it would start.
        node: NodeName,
    },
    /// Less fGPU; the most that would start.
    Fgpu {
        /// How much.
        amount: Fgpu,
        /// Where it would start.
        node: NodeName,
    },
    /// Less GPU memory; the most that would start.
    Memory {
        /// How much, bytes.
        memory: MemoryBytes,
        /// Where it would start.
        node: NodeName,
    },
    /// Fewer whole devices; the most that would start.
    Gpus {
        /// How many.
        gpus: u32,
        /// Where it would start.
        node: NodeName,
    },
    /// Any device model.
    AnyModel {
        /// Where it would start.
        node: NodeName,
        /// The models of that node.
        models: String,
    },
    /// Any node.
    AnyNode {
        /// Where it would start.
        node: NodeName,
    },
    /// Other MIG instances: fewer, or of another profile; or one instead of a part of a device.
    Mig {
        /// The profile, as the driver names it.
        profile: String,
        /// How many.
        count: u32,
        /// Where it would start.
        node: NodeName,
    },
    /// Slices that nothing enforces.
    Shared {
        /// Where it would start.
        node: NodeName,
    },
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split { devices, node } => {
                write!(f, "`--devices {devices} --split even` would start now on node {node}")
            }
            Self::Fgpu { amount, node } => {
                write!(f, "`--fgpu {amount}` would start now on node {node}")
            }
            Self::Memory { memory, node } => {
                let memory = memory.to_string().replace(' ', "");
                write!(f, "`--gpu-memory {memory}` would start now on node {node}")
            }
            Self::Gpus { gpus, node } => {
                write!(f, "`--gpus {gpus}` would start now on node {node}")
            }
            Self::Mig { profile, count: 1, node } => {
                write!(f, "`--mig {profile}` would start now on node {node}")
            }
            Self::Mig { profile, count, node } => {
                write!(f, "`--mig {profile}:{count}` would start now on node {node}")
            }
            Self::AnyModel { node, models } => {
                write!(f, "without `--gpu-model` it would start now on node {node} ({models})")
            }
            Self::AnyNode { node } => {
                write!(f, "without `--node` it would start now on node {node}")
            }
            Self::Shared { node } => {
                write!(
                    f,
                    "`--isolation shared` would start now on node {node}, with no limit enforced"
                )
            }
        }
    }
}

/// What would let `request` start now, the smallest change first.
pub(super) fn hints(request: &Request, view: &View) -> Vec<Hint> {
    let mut hints = Vec::new();
    if request.node.is_some() {
        let anywhere = Request { node: None, ..request.clone() };
        hints.extend(starts_on(&anywhere, view).map(|node| Hint::AnyNode { node }));
    }
    let Some(gpu) = &request.gpu else { return hints };
    hints.extend(split(request, gpu, view));
    hints.extend(any_model(request, gpu, view));
    hints.extend(smaller(request, gpu, view));
    hints.extend(match request.takes_instances() {
        true => other_profile(request, gpu, view),
        false => an_instance(request, gpu, view),
    });
    if !request.takes_instances() && request.isolation.is_none() {
        let shared = Request { isolation: Some(Isolation::Shared), ..request.clone() };
        hints.extend(starts_on(&shared, view).map(|node| Hint::Shared { node }));
    }
    hints
}

fn starts_on(request: &Request, view: &View) -> Option<NodeName> {
    let placement = Placer::new(Policy::BestFit, 0).find(request, view)?;
    Some(placement.grant.node)
}

fn with_gpu(request: &Request, gpu: GpuRequest) -> Request {
    Request { gpu: Some(gpu), ..request.clone() }
}

fn split(request: &Request, gpu: &GpuRequest, view: &View) -> Option<Hint> {
    if gpu.devices.is_some() || gpu.split.is_some() || matches!(gpu.amount, GpuAmount::Whole(_)) {
        return None;
    }
    let widest = view.entries().iter().map(|entry| entry.slots.len()).max()?;
    (2..=u32::try_from(widest).ok()?).find_map(|devices| {
        let divided = GpuRequest {
            devices: NonZeroU32::new(devices),
            split: Some(Split::Even),
            ..gpu.clone()
        };
        let node = starts_on(&with_gpu(request, divided), view)?;
        Some(Hint::Split { devices, node })
    })
}

fn any_model(request: &Request, gpu: &GpuRequest, view: &View) -> Option<Hint> {
    if gpu.models.is_empty() {
        return None;
    }
    let any = GpuRequest { models: Vec::new(), ..gpu.clone() };
    let node = starts_on(&with_gpu(request, any), view)?;
    let devices = &view.get(&node)?.devices;
    let mut models: Vec<&str> = devices.iter().map(|device| device.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    Some(Hint::AnyModel { models: models.join(", "), node })
}

/// The smallest MIG instance that has the memory a part of one device was asked for.
fn an_instance(request: &Request, gpu: &GpuRequest, view: &View) -> Option<Hint> {
    if gpu.devices.is_some_and(|devices| devices.get() > 1) {
        return None;
    }
    let holds = |units: &DeviceUnits| match gpu.amount {
        GpuAmount::Fgpu(asked) => units.memory_of(asked) <= units.memory,
        GpuAmount::Direct { memory: Some(asked), .. } => asked <= units.memory,
        GpuAmount::Direct { memory: None, .. } | GpuAmount::Whole(_) => false,
    };
    let kinds = kinds(view).filter(|kind| holds(&kind.units));
    let large: BTreeSet<_> =
        kinds.filter_map(|kind| Some((kind.units.memory, kind.mig.as_deref()?))).collect();
    large.into_iter().find_map(|(_, profile)| {
        let instead = GpuRequest {
            models: gpu.models.clone(),
            ..GpuRequest::mig(profile.parse().ok()?, NonZeroU32::MIN)
        };
        let node = starts_on(&with_gpu(request, instead), view)?;
        Some(Hint::Mig { profile: profile.to_owned(), count: 1, node })
    })
}

/// The kinds of device that some node has.
fn kinds(view: &View) -> impl Iterator<Item = &Kind> {
    let live = view.shapes().list().iter().filter(|shape| shape.nodes > 0);
    live.flat_map(|shape| &shape.kinds)
}

/// As many instances of the profile with the least memory above what was asked for, else with the most
/// below.
fn other_profile(request: &Request, gpu: &GpuRequest, view: &View) -> Option<Hint> {
    let wanted = gpu.mig.as_ref()?;
    let known = || kinds(view).filter_map(|kind| Some((kind.units.memory, kind.mig.as_deref()?)));
    let asked = known().filter(|(_, profile)| wanted.is(profile)).map(|(memory, _)| memory).max();
    let asked = asked.unwrap_or_default();
    let others: BTreeSet<_> = known().filter(|(_, profile)| !wanted.is(profile)).collect();
    let (below, above): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(memory, _)| *memory < asked);
    above.into_iter().chain(below.into_iter().rev()).find_map(|(_, profile)| {
        let other = GpuRequest { mig: Some(profile.parse().ok()?), ..gpu.clone() };
        let count = match gpu.amount {
            GpuAmount::Whole(count) => count.get(),
            GpuAmount::Fgpu(_) | GpuAmount::Direct { .. } => return None,
        };
        let node = starts_on(&with_gpu(request, other), view)?;
        Some(Hint::Mig { profile: profile.to_owned(), count, node })
    })
}

fn smaller(request: &Request, gpu: &GpuRequest, view: &View) -> Option<Hint> {
    match gpu.amount {
        GpuAmount::Fgpu(asked) => smaller_fgpu(request, gpu, asked, view),
        GpuAmount::Whole(asked) => (1..asked.get()).rev().find_map(|gpus| {
            let amount = GpuAmount::Whole(NonZeroU32::new(gpus)?);
            let fewer = GpuRequest { amount, devices: None, ..gpu.clone() };
            let node = starts_on(&with_gpu(request, fewer), view)?;
            Some(match &gpu.mig {
                Some(profile) => Hint::Mig { profile: profile.to_string(), count: gpus, node },
                None => Hint::Gpus { gpus, node },
            })
        }),
        GpuAmount::Direct { memory: Some(asked), compute } => {
            let free = best_rest(request, gpu, view, 1, |entry, at| {
                entry.slots[at].free.memory.floor_mib().0
            });
            let memory = MemoryBytes(free).min(asked.saturating_sub(MemoryBytes(1)).floor_mib());
            let amount = GpuAmount::Direct { memory: Some(memory), compute };
            let node = starts_on(&with_gpu(request, GpuRequest { amount, ..gpu.clone() }), view)?;
            Some(Hint::Memory { memory, node })
        }
        GpuAmount::Direct { memory: None, .. } => None,
    }
}

/// The most fGPU below what was asked that would start: evenly on as many devices as planned, or
/// on fewer.
fn smaller_fgpu(request: &Request, gpu: &GpuRequest, asked: Fgpu, view: &View) -> Option<Hint> {
    let most = match layout(request, view) {
        Ok(Layout::Devices(plan)) => plan.counts[0],
        _ => 1,
    };
    let quantum = view.quantum().0.max(1);
    let counts = match gpu.devices {
        Some(devices) => devices.get()..=devices.get(),
        None => 1..=most,
    };
    let mut amounts: Vec<u64> = counts
        .map(|count| {
            let rest = best_rest(request, gpu, view, count, |entry, at| {
                let units = &entry.node.devices[at].units;
                units.fgpu_in(entry.slots[at].free).0 / quantum * quantum
            });
            rest.saturating_mul(u64::from(count)).min(asked.0.saturating_sub(1) / quantum * quantum)
        })
        .collect();
    amounts.sort_unstable_by(|a, b| b.cmp(a));
    amounts.into_iter().filter(|amount| *amount > 0).find_map(|amount| {
        let amount = Fgpu(amount);
        let less = GpuRequest { amount: GpuAmount::Fgpu(amount), ..gpu.clone() };
        let node = starts_on(&with_gpu(request, less), view)?;
        Some(Hint::Fgpu { amount, node })
    })
}

/// The most that `count` devices of one node each have left, by `rest`, over all nodes that
/// could take a part of a device.
fn best_rest(
    request: &Request,
    gpu: &GpuRequest,
    view: &View,
    count: u32,
    rest: impl Fn(&Entry, usize) -> u64,
) -> u64 {
    let nodes = view.entries().iter().filter(|entry| {
        miss(request, entry).is_none() && matches!(apart(request, entry), Apart::Partial(_))
    });
    let of_node = |entry: &Entry| {
        let kinds = &view.shapes().get(entry.shape).kinds;
        let open = entry.slots.iter().enumerate().filter(|(_, slot)| slot.open);
        let mut rests: Vec<u64> = open
            .filter(|(_, slot)| allows(gpu, &kinds[slot.kind]))
            .map(|(at, _)| rest(entry, at))
            .collect();
        rests.sort_unstable_by(|a, b| b.cmp(a));
        let last = usize::try_from(count).ok()?.checked_sub(1)?;
        rests.get(last).copied()
    };
    nodes.filter_map(of_node).max().unwrap_or(0)
}

//! Builders for the tests of placement.

use super::{
    Allocation, DeviceBlock, DeviceView, NoPlacement, NodeState, NodeView, Placer, Policy, Request,
    View,
};
use crate::ids::{DeviceUuid, NodeName};
use crate::slice::{GpuAmount, GpuRequest, Grant, Isolation, MigOrigin, Slice, UnitPolicy};
use crate::units::{CpuMilli, Fgpu, GIB, MemoryBytes};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// A node with 64 cores, 256 GiB and an agent whose driver keeps slices apart.
pub(crate) fn node(name: &str, devices: usize) -> NodeView {
    node_of(name, "NVIDIA H100 80GB HBM3", 80, devices)
}

/// The same with devices of `model` and `gib` each.
pub(crate) fn node_of(name: &str, model: &str, gib: u64, devices: usize) -> NodeView {
    let units = UnitPolicy::default().units_of(model, MemoryBytes(gib * GIB));
    let device = |index: usize| DeviceView {
        uuid: DeviceUuid::new(format!("GPU-{name}-{index}")).unwrap(),
        index: u32::try_from(index).unwrap(),
        model: model.to_owned(),
        units,
        free: units.whole(),
        blocked: None,
        numa_node: None,
        nvlink_peers: Vec::new(),
        sessions: 0,
        mig: None,
    };
    NodeView {
        name: name_of(name),
        state: NodeState::Ready,
        labels: BTreeMap::new(),
        cpu_total: CpuMilli::cores(64),
        cpu_free: CpuMilli::cores(64),
        memory_total: MemoryBytes::gib(256),
        memory_free: MemoryBytes::gib(256),
        devices: (0..devices).map(device).collect(),
        allow_shared: false,
        enforcers: vec![Isolation::Interposer, Isolation::Driver],
    }
}

/// A MIG instance of an eighth of a card.
pub(crate) const SMALL: &str = "1g.10gb";
/// One of half of it.
pub(crate) const LARGE: &str = "3g.40gb";

/// A node with `cards` ordinary cards, and one more for each list of profiles, which it is
/// partitioned in.
pub(crate) fn partitioned(name: &str, cards: usize, lists: &[&[&str]]) -> NodeView {
    partition(node(name, cards + lists.len()), lists)
}

/// The same with the last cards of `node`.
pub(crate) fn partition(mut node: NodeView, lists: &[&[&str]]) -> NodeView {
    let cards = node.devices.len() - lists.len();
    let mut index = 100;
    for (at, profiles) in lists.iter().enumerate() {
        let card = &mut node.devices[cards + at];
        card.blocked = Some(DeviceBlock::MigEnabled);
        let card = card.clone();
        for profile in *profiles {
            let part = if *profile == SMALL { 8 } else { 2 };
            let memory = MemoryBytes(card.units.memory.0 / part);
            let policy = UnitPolicy::default();
            let units = policy.units_of_instance(&card.model, card.units.memory, memory);
            node.devices.push(DeviceView {
                uuid: DeviceUuid::new(format!("MIG-{}-{at}-{index}", node.name)).unwrap(),
                index,
                units,
                free: units.whole(),
                blocked: None,
                mig: Some(MigOrigin { profile: (*profile).into(), card: card.uuid.clone() }),
                ..card.clone()
            });
            index += 1;
        }
    }
    node
}

pub(crate) fn name_of(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(super) fn view(nodes: impl IntoIterator<Item = NodeView>) -> View {
    let mut view = View::new(Fgpu(100));
    for node in nodes {
        view.insert(node).unwrap();
    }
    view
}

/// One core, 1 GiB, and `amount` of GPU.
pub(super) fn gpu(amount: GpuAmount) -> Request {
    Request { gpu: Some(GpuRequest::new(amount)), ..cpu_only(1) }
}

pub(super) fn fgpu(milli: u64) -> Request {
    gpu(GpuAmount::Fgpu(Fgpu(milli)))
}

pub(super) fn whole(count: u32) -> Request {
    gpu(GpuAmount::Whole(NonZeroU32::new(count).unwrap()))
}

pub(super) fn cpu_only(cores: u64) -> Request {
    Request { cpu: CpuMilli::cores(cores), memory: MemoryBytes::gib(1), ..Request::default() }
}

pub(super) fn place(request: &Request, view: &View) -> Grant {
    place_by(Policy::BestFit, request, view)
}

pub(super) fn place_by(policy: Policy, request: &Request, view: &View) -> Grant {
    Placer::new(policy, 0).place(request, view).unwrap().grant
}

pub(super) fn refuse(request: &Request, view: &View) -> NoPlacement {
    *Placer::new(Policy::BestFit, 0).place(request, view).unwrap_err()
}

/// Places `request` and takes what it was granted.
pub(super) fn fill(request: &Request, view: &mut View) -> Grant {
    let grant = place(request, view);
    view.allocate(&grant.node, &Allocation::of(request, &grant)).unwrap();
    grant
}

pub(super) fn indices(grant: &Grant) -> Vec<usize> {
    let last = |slice: &Slice| slice.device.as_str().rsplit('-').next().unwrap().parse().unwrap();
    grant.slices.iter().map(last).collect()
}

pub(super) fn on_node(request: Request, node: &str) -> Request {
    Request { node: Some(name_of(node)), ..request }
}

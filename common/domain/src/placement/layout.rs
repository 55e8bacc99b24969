//! On how many devices a request may lie, and whether any node could ever hold it.

use super::Request;
use super::entry::Entry;
use super::node::{NodeState, NodeView};
use super::shape::Kind;
use super::view::View;
use crate::ids::NodeName;
use crate::slice::{DevicePlan, DeviceUnits, GpuRequest, SliceError, UnitPolicy};
use crate::units::{CpuMilli, MemoryBytes};
use std::collections::{BTreeMap, BTreeSet};

/// Why no registered node could hold a request even when empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NeverFits {
    /// Nothing has registered yet.
    #[error("no node has registered yet: see `fgpu node list`")]
    NoNodes,
    /// The node asked for does not exist.
    #[error("node {node} is not registered: see `fgpu node list`")]
    UnknownNode {
        /// The node asked for.
        node: NodeName,
    },
    /// No node asked for carries the labels.
    #[error("no node allowed carries the labels {wanted}: see `fgpu node list`")]
    Labels {
        /// `key=value`, separated by commas.
        wanted: String,
    },
    /// More CPU than any allowed node has.
    #[error("{wanted} cores is more than any allowed node has: the most is {most} on {node}")]
    Cpu {
        /// Asked for.
        wanted: CpuMilli,
        /// The most one node has when empty.
        most: CpuMilli,
        /// That node.
        node: NodeName,
    },
    /// More memory than any allowed node has.
    #[error("{wanted} of memory is more than any allowed node has: the most is {most} on {node}")]
    Memory {
        /// Asked for.
        wanted: MemoryBytes,
        /// The most one node has when empty.
        most: MemoryBytes,
        /// That node.
        node: NodeName,
    },
    /// Each alone is on some node, but not all on one.
    #[error("no allowed node has {wanted} together, even when empty")]
    Together {
        /// What was asked.
        wanted: String,
    },
    /// The GPU part cannot be granted whatever the load.
    #[error(transparent)]
    Slice(#[from] SliceError),
}

/// What the hardware allows a request, whatever the load.
#[derive(Debug)]
pub(super) enum Layout {
    /// Nothing to lay out.
    NoGpu,
    /// These counts of devices.
    Devices(DevicePlan),
    /// No registered node is allowed and large enough in CPU and memory.
    NoNode,
}

/// Whether some registered node could hold `request` if nothing else ran there, and on how many
/// devices it would lie (`None` without GPU). Whether nodes are in service now does not matter,
/// nor does [`Request::avoid`].
///
/// # Errors
/// [`NeverFits`] with what was asked and the most there is.
pub fn feasible_when_empty(
    request: &Request,
    view: &View,
) -> Result<Option<DevicePlan>, NeverFits> {
    if let Some(gpu) = &request.gpu {
        check_amount(gpu, view)?;
    }
    match layout(request, view) {
        Ok(Layout::NoGpu) if view.entries().iter().any(|entry| could_hold(request, entry)) => {
            Ok(None)
        }
        Ok(Layout::NoGpu | Layout::NoNode) => Err(why_no_node(request, view)),
        Ok(Layout::Devices(plan)) => Ok(Some(plan)),
        Err(refused) => {
            let alone = Request {
                cpu: CpuMilli::ZERO,
                memory: MemoryBytes::ZERO,
                gpu: request.gpu.clone(),
                node: request.node.clone(),
                labels: request.labels.clone(),
                ..Request::default()
            };
            match layout(&alone, view) {
                Ok(_) => Err(together(request)),
                Err(_) => Err(refused.into()),
            }
        }
    }
}

/// Whether a node in service other than those in `not` could hold `request` if it were empty.
pub(crate) fn feasible_elsewhere(request: &Request, view: &View, not: &BTreeSet<NodeName>) -> bool {
    let mut tried = BTreeSet::new();
    view.entries().iter().any(|entry| {
        entry.node.state == NodeState::Ready
            && !not.contains(&entry.node.name)
            && !request.avoid.contains(&entry.node.name)
            && could_hold(request, entry)
            && tried.insert(entry.shape)
            && shape_holds(request, view, entry.shape)
    })
}

fn shape_holds(request: &Request, view: &View, shape: usize) -> bool {
    let Some(gpu) = &request.gpu else { return true };
    gpu.device_plan(&[allowed_units(gpu, view, shape)], view.quantum()).is_ok()
}

/// How `request` may lie on devices: from the hardware of every registered node that is allowed
/// (by name and labels) and has the CPU and memory when empty.
pub(super) fn layout(request: &Request, view: &View) -> Result<Layout, SliceError> {
    let Some(gpu) = &request.gpu else { return Ok(Layout::NoGpu) };
    check_amount(gpu, view)?;
    let shapes = allowed_shapes(request, view);
    if shapes.is_empty() {
        return Ok(Layout::NoNode);
    }
    let nodes: Vec<Vec<DeviceUnits>> =
        shapes.iter().map(|shape| allowed_units(gpu, view, *shape)).collect();
    if let Some(profile) = &gpu.mig
        && nodes.iter().all(Vec::is_empty)
    {
        let (wanted, available) = (profile.clone(), available_profiles(view));
        return Err(SliceError::NoSuchProfile { wanted, available });
    }
    if !gpu.models.is_empty() && nodes.iter().all(Vec::is_empty) {
        return Err(SliceError::NoSuchModel {
            wanted: gpu.models.join(" or "),
            available: available_models(view),
        });
    }
    gpu.device_plan(&nodes, view.quantum()).map(Layout::Devices)
}

/// The units of the devices of a shape that `gpu` allows, kind by kind.
pub(super) fn allowed_units(gpu: &GpuRequest, view: &View, shape: usize) -> Vec<DeviceUnits> {
    let kinds = view.shapes().get(shape).kinds.iter();
    let allowed = kinds.filter(|kind| allows(gpu, kind));
    allowed.flat_map(|kind| std::iter::repeat_n(kind.units, kind.devices)).collect()
}

/// Whether `gpu` may lie on devices of this kind.
pub(super) fn allows(gpu: &GpuRequest, kind: &Kind) -> bool {
    gpu.allows_mig(kind.mig.as_deref()) && (gpu.models.is_empty() || gpu.allows_model(&kind.model))
}

/// Whether a node would do if nothing ran on it, its devices left aside.
pub(super) fn could_hold(request: &Request, entry: &Entry) -> bool {
    let node = &entry.node;
    node.cpu_total >= request.cpu && node.memory_total >= request.memory && allowed(request, node)
}

fn allowed(request: &Request, node: &NodeView) -> bool {
    request.node.as_ref().is_none_or(|name| *name == node.name)
        && request.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
}

fn check_amount(gpu: &GpuRequest, view: &View) -> Result<(), SliceError> {
    UnitPolicy { quantum: view.quantum(), ..UnitPolicy::default() }.check(gpu)
}

fn allowed_shapes(request: &Request, view: &View) -> Vec<usize> {
    if request.node.is_none() && request.labels.is_empty() {
        return view.shapes_with(request.cpu, request.memory);
    }
    let mut seen = vec![false; view.shapes().list().len()];
    let mut shapes = Vec::new();
    let live = view.shapes().live();
    for entry in view.entries() {
        if !seen[entry.shape] && could_hold(request, entry) {
            seen[entry.shape] = true;
            shapes.push(entry.shape);
            if shapes.len() == live {
                break;
            }
        }
    }
    shapes
}

fn available_models(view: &View) -> String {
    let live = view.shapes().list().iter().filter(|shape| shape.nodes > 0);
    let kinds = live.flat_map(|shape| &shape.kinds).filter(|kind| !kind.is_instance());
    let mut models: Vec<&str> = kinds.map(|kind| kind.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    if models.is_empty() { "no device".to_owned() } else { models.join(", ") }
}

/// The profiles there are, each with the number of nodes that have it.
fn available_profiles(view: &View) -> String {
    let mut nodes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for shape in view.shapes().list().iter().filter(|shape| shape.nodes > 0) {
        for kind in &shape.kinds {
            if let Some(profile) = kind.mig.as_deref() {
                *nodes.entry((profile, &kind.model)).or_default() += shape.nodes;
            }
        }
    }
    let found = nodes.into_iter().map(|((profile, model), nodes)| {
        let plural = if nodes == 1 { "" } else { "s" };
        format!("{profile} of {model} on {nodes} node{plural}")
    });
    let found: Vec<String> = found.collect();
    if found.is_empty() { "no MIG instance at all".to_owned() } else { found.join(", ") }
}

fn why_no_node(request: &Request, view: &View) -> NeverFits {
    if view.is_empty() {
        return NeverFits::NoNodes;
    }
    if let Some(node) = request.node.as_ref().filter(|name| view.get(name).is_none()) {
        return NeverFits::UnknownNode { node: node.clone() };
    }
    let nodes = || view.iter().filter(|node| allowed(request, node));
    // `rev`, because of equals `max_by_key` takes the last and the first should be named.
    let (Some(cpu), Some(memory)) = (
        nodes().rev().max_by_key(|node| node.cpu_total),
        nodes().rev().max_by_key(|node| node.memory_total),
    ) else {
        let wanted: Vec<String> =
            request.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return NeverFits::Labels { wanted: wanted.join(",") };
    };
    if cpu.cpu_total < request.cpu {
        let node = cpu.name.clone();
        return NeverFits::Cpu { wanted: request.cpu, most: cpu.cpu_total, node };
    }
    if memory.memory_total < request.memory {
        let node = memory.name.clone();
        return NeverFits::Memory { wanted: request.memory, most: memory.memory_total, node };
    }
    together(request)
}

fn together(request: &Request) -> NeverFits {
    let gpu = request.gpu.as_ref().map(|gpu| format!("{gpu}, "));
    let (cpu, memory) = (request.cpu, request.memory);
    let wanted = format!("{}{cpu} cores and {memory} of memory", gpu.unwrap_or_default());
    NeverFits::Together { wanted }
}

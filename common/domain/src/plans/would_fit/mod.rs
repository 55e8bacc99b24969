//! Would fit if …: the changes with which a refused request or gang would start now.
//!
//! Placement itself names those of the GPU part ([`Hint`]); here are the others, each tried on the
//! view before it is named. Amounts are found by bisection: the next step above one that is named
//! does not fit. Where less would lie on another number of devices, more than that may fit again.

#[cfg(test)]
mod tests;

use super::gang::{GangRefused, GangRequest, place_gang};
use super::trial::as_u32;
use crate::ids::NodeName;
use crate::placement::{Hint, NoPlacement, Placer, Policy, Request, View};
use crate::slice::{ComputeRequest, GpuAmount, GpuRequest};
use crate::units::{ComputeMilli, CpuMilli, Fgpu, MIB, MemoryBytes};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// CPU is offered in tenths of a core.
const CPU_STEP: u64 = 100;

/// A change with which a request would start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WouldFit {
    /// What placement found: smaller, split, another model, another node.
    Hint(Hint),
    /// Less CPU; the most that would start.
    Cpu {
        /// How much.
        cpu: CpuMilli,
        /// Where it would start.
        node: NodeName,
    },
    /// Less host memory; the most that would start.
    Memory {
        /// How much, bytes.
        memory: MemoryBytes,
        /// Where it would start.
        node: NodeName,
    },
    /// Less compute of each device; the most that would start.
    GpuCompute {
        /// How much.
        compute: ComputeMilli,
        /// Where it would start.
        node: NodeName,
    },
    /// Without these labels of the node.
    NodeLabels {
        /// Those in the way.
        without: BTreeMap<String, String>,
        /// Where it would start.
        node: NodeName,
    },
    /// A gang of fewer members; the most that would start, the first ones first.
    Members {
        /// How many.
        members: usize,
        /// Where they would start.
        nodes: BTreeSet<NodeName>,
    },
    /// A gang of members that each take less fGPU; the most that would start.
    MemberFgpu {
        /// How much each.
        amount: Fgpu,
        /// Where they would start.
        nodes: BTreeSet<NodeName>,
    },
    /// A gang that also uses nodes where it failed before.
    FailedNodes {
        /// Where the members would start.
        nodes: BTreeSet<NodeName>,
    },
}

impl fmt::Display for WouldFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hint(hint) => hint.fmt(f),
            Self::Cpu { cpu, node } => write!(f, "`--cpu {cpu}` would start now on node {node}"),
            Self::Memory { memory, node } => {
                let memory = joined(memory);
                write!(f, "`--memory {memory}` would start now on node {node}")
            }
            Self::GpuCompute { compute, node } => {
                let compute = joined(compute);
                write!(f, "`--gpu-compute {compute}` would start now on node {node}")
            }
            Self::NodeLabels { without, node } => {
                let labels: Vec<String> =
                    without.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let labels = labels.join(",");
                write!(f, "without `--node-label {labels}` it would start now on node {node}")
            }
            Self::Members { members, nodes } => {
                write!(f, "{members} members would start now on {}", listed(nodes))
            }
            Self::MemberFgpu { amount, nodes } => {
                write!(f, "`--fgpu {amount}` each would start now on {}", listed(nodes))
            }
            Self::FailedNodes { nodes } => {
                write!(
                    f,
                    "with nodes where it failed before it would start now on {}",
                    listed(nodes)
                )
            }
        }
    }
}

/// What would let a request start that `refused` says why it does not: first what placement
/// found, then the other changes.
#[must_use]
pub fn would_fit(request: &Request, refused: &NoPlacement, view: &View) -> Vec<WouldFit> {
    let mut found: Vec<WouldFit> = refused.would_fit.iter().cloned().map(WouldFit::Hint).collect();
    found.extend(without_labels(request, view));
    found.extend(less_cpu(request, view));
    found.extend(less_memory(request, view));
    found.extend(less_compute(request, view));
    found
}

/// What would let a gang start that has no room now: fewer members, smaller ones, or nodes where
/// it failed before. Empty where it has room, or a member fits nowhere.
#[must_use]
pub fn gang_would_fit(gang: &GangRequest, view: &View) -> Vec<WouldFit> {
    let Err(GangRefused::Now { .. }) = place_gang(gang, view) else { return Vec::new() };
    let mut found = Vec::new();
    found.extend(fewer_members(gang, view));
    found.extend(smaller_members(gang, view));
    if !gang.avoid.is_empty() {
        let anywhere = GangRequest { avoid: BTreeSet::new(), ..gang.clone() };
        let nodes = starts_gang(&anywhere, view);
        found.extend(nodes.map(|nodes| WouldFit::FailedNodes { nodes }));
    }
    found
}

fn starts(request: &Request, view: &View) -> Option<NodeName> {
    let placement = Placer::new(Policy::BestFit, 0).find(request, view)?;
    Some(placement.grant.node)
}

fn starts_gang(gang: &GangRequest, view: &View) -> Option<BTreeSet<NodeName>> {
    let placed = place_gang(gang, view).ok()?;
    Some(placed.grants.into_iter().map(|grant| grant.node).collect())
}

/// The largest multiple of `step` above nothing and below `asked` for which `fits` finds something,
/// and that.
fn largest<T>(asked: u64, step: u64, fits: impl Fn(u64) -> Option<T>) -> Option<(u64, T)> {
    let (mut low, mut high) = (1, asked.saturating_sub(1) / step);
    if high == 0 || fits(step).is_none() {
        // Something else is in the way: no amount helps.
        return None;
    }
    let mut best = None;
    while low <= high {
        let middle = low.midpoint(high);
        match fits(middle * step) {
            Some(found) => {
                best = Some((middle * step, found));
                low = middle + 1;
            }
            None => high = middle - 1,
        }
    }
    best
}

fn without_labels(request: &Request, view: &View) -> Option<WouldFit> {
    // The fewest that must go: one of them, or all.
    let one = request.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
    let one = one.map(|label| BTreeMap::from([label]));
    one.chain([request.labels.clone()]).filter(|without| !without.is_empty()).find_map(|without| {
        let mut less = request.clone();
        less.labels.retain(|key, _| !without.contains_key(key));
        let node = starts(&less, view)?;
        Some(WouldFit::NodeLabels { without, node })
    })
}

fn less_cpu(request: &Request, view: &View) -> Option<WouldFit> {
    let with = |cpu| starts(&Request { cpu: CpuMilli(cpu), ..request.clone() }, view);
    let (cpu, node) = largest(request.cpu.0, CPU_STEP, with)?;
    Some(WouldFit::Cpu { cpu: CpuMilli(cpu), node })
}

fn less_memory(request: &Request, view: &View) -> Option<WouldFit> {
    let with = |memory| starts(&Request { memory: MemoryBytes(memory), ..request.clone() }, view);
    let (memory, node) = largest(request.memory.0, MIB, with)?;
    Some(WouldFit::Memory { memory: MemoryBytes(memory), node })
}

/// Only where memory is asked as well: else less compute would mean less memory too, which is what
/// placement's own hints are about.
fn less_compute(request: &Request, view: &View) -> Option<WouldFit> {
    let gpu = request.gpu.as_ref()?;
    let GpuAmount::Direct { memory: Some(memory), compute: ComputeRequest::Share(asked) } =
        gpu.amount
    else {
        return None;
    };
    let share = |milli: u64| u32::try_from(milli).ok().map(ComputeMilli);
    let with = |milli: u64| {
        let compute = ComputeRequest::Share(share(milli)?);
        let amount = GpuAmount::Direct { memory: Some(memory), compute };
        let gpu = GpuRequest { amount, ..gpu.clone() };
        starts(&Request { gpu: Some(gpu), ..request.clone() }, view)
    };
    let (milli, node) = largest(u64::from(asked.0), 1, with)?;
    Some(WouldFit::GpuCompute { compute: share(milli)?, node })
}

fn fewer_members(gang: &GangRequest, view: &View) -> Option<WouldFit> {
    let with = |count: u64| {
        let count = usize::try_from(count).ok()?;
        let members = gang.members.get(..count)?.to_vec();
        let nodes = starts_gang(&GangRequest { members, ..gang.clone() }, view)?;
        Some((count, nodes))
    };
    let (_, (members, nodes)) = largest(u64::from(as_u32(gang.members.len())), 1, with)?;
    Some(WouldFit::Members { members, nodes })
}

/// For members that all ask the same fGPU.
fn smaller_members(gang: &GangRequest, view: &View) -> Option<WouldFit> {
    let asked_of = |request: &Request| match request.gpu.as_ref()?.amount {
        GpuAmount::Fgpu(amount) => Some(amount),
        GpuAmount::Whole(_) | GpuAmount::Direct { .. } => None,
    };
    let asked = asked_of(gang.members.first()?)?;
    if gang.members.iter().any(|member| asked_of(member) != Some(asked)) {
        return None;
    }
    let with = |amount: u64| {
        let less = |request: &Request| {
            let gpu = request.gpu.clone()?;
            let gpu = GpuRequest { amount: GpuAmount::Fgpu(Fgpu(amount)), ..gpu };
            Some(Request { gpu: Some(gpu), ..request.clone() })
        };
        let members = gang.members.iter().map(less).collect::<Option<Vec<_>>>()?;
        starts_gang(&GangRequest { members, ..gang.clone() }, view)
    };
    let (amount, nodes) = largest(asked.0, view.quantum().0.max(1), with)?;
    Some(WouldFit::MemberFgpu { amount: Fgpu(amount), nodes })
}

/// An amount as it is written on the command line.
fn joined(amount: &impl fmt::Display) -> String {
    amount.to_string().replace(' ', "")
}

fn listed(nodes: &BTreeSet<NodeName>) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    let word = if names.len() == 1 { "node" } else { "nodes" };
    format!("{word} {}", names.join(", "))
}

//! Score: how good a node would be that has room. Larger is better; integers only, so that every
//! machine finds the same node.

use super::entry::Entry;
use super::filter::lacks;
use super::fit::{Fit, Prefer, apart};
use super::model::Model;
use super::node::NodeView;
use super::policy::Policy;
use super::{Request, fgd, fragmentation, instances};

/// CPU against which `best-fit` and `dot-product` measure: 128 cores.
const FULL_CPU_MILLI: i128 = 128_000;
/// GPU against which `best-fit` and `dot-product` measure: 8 devices.
const FULL_GPU_MILLI: i128 = 8_000;

/// What a policy thinks of a request on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judged {
    /// Larger is better; only comparable within one kind of request.
    pub(super) score: i64,
    /// The device of the only part, where the policy cares which.
    pub(super) first: Option<usize>,
}

/// The score of a node in service for `request` on the devices of `fit`; `None` where it has no
/// room. Neither the name nor the labels of the node matter.
pub(super) fn judge(
    policy: Policy,
    request: &Request,
    entry: &Entry,
    fit: Option<&Fit>,
    model: &Model,
) -> Option<Judged> {
    if lacks(request, entry).is_some() {
        return None;
    }
    let fit = match fit {
        Some(fit) => Some(fit.at(entry)?),
        None => None,
    };
    if let Some(fit) = fit.filter(|_| request.takes_instances()) {
        return instances::judge(policy, request, entry, fit);
    }
    match policy {
        Policy::Fgd => return fgd::judge(request, entry, fit, model),
        Policy::Fragmentation => return fragmentation::judge(request, entry, fit, model),
        _ => {}
    }
    let milli = match fit {
        Some(fit) => fit.milli_taken(entry, apart(request, entry), prefer(policy))?,
        None => 0,
    };
    let score = match policy {
        Policy::Random | Policy::Fgd | Policy::Fragmentation => 0,
        Policy::Binpack => allocated_after(request, entry, milli),
        Policy::Spread => -allocated_after(request, entry, milli),
        Policy::BestFit => best_fit(request, entry, milli),
        Policy::DotProduct => dot_product(request, entry, milli),
    };
    Some(Judged { score, first: None })
}

/// Which of several devices with room a policy takes that does not judge devices itself.
pub(super) fn prefer(policy: Policy) -> Prefer {
    match policy {
        Policy::Spread => Prefer::Emptiest,
        Policy::Random
        | Policy::Binpack
        | Policy::BestFit
        | Policy::DotProduct
        | Policy::Fgd
        | Policy::Fragmentation => Prefer::Fullest,
    }
}

/// `100 × (1 − (free · asked) ÷ 2)`, CPU in 128 cores and GPU in 8 devices, truncated towards
/// zero: the node that is scarcest in what is asked for most.
fn dot_product(request: &Request, entry: &Entry, gpu_milli: u64) -> i64 {
    let cpu = i128::from(entry.node.cpu_free.0) * i128::from(request.cpu.0);
    let gpu = i128::from(entry.gpu_free) * i128::from(gpu_milli);
    let whole = 2 * FULL_CPU_MILLI * FULL_CPU_MILLI * FULL_GPU_MILLI * FULL_GPU_MILLI;
    let product = cpu * FULL_GPU_MILLI * FULL_GPU_MILLI + gpu * FULL_CPU_MILLI * FULL_CPU_MILLI;
    i64::try_from(100 * (whole - product) / whole).unwrap_or(i64::MIN)
}

/// `100 × (1 − half the CPU left over ÷ 128 cores − half the GPU left over ÷ 8 devices)`,
/// truncated towards zero. The coarse steps are part of the policy: they make ties.
fn best_fit(request: &Request, entry: &Entry, gpu_milli: u64) -> i64 {
    let cpu = i128::from(entry.node.cpu_free.saturating_sub(request.cpu).0);
    let gpu = i128::from(entry.gpu_free.saturating_sub(gpu_milli));
    let whole = 2 * FULL_CPU_MILLI * FULL_GPU_MILLI;
    let left = cpu * FULL_GPU_MILLI + gpu * FULL_CPU_MILLI;
    i64::try_from(100 * (whole - left) / whole).unwrap_or(i64::MIN)
}

/// The mean of the shares of CPU, memory and GPU that are taken once the request is there, in
/// millionths; only of what the node has.
pub(super) fn allocated_after(request: &Request, entry: &Entry, gpu_milli: u64) -> i64 {
    let node = &entry.node;
    let cpu = share(node.cpu_total.0, node.cpu_free.0.saturating_sub(request.cpu.0));
    let memory = share(node.memory_total.0, node.memory_free.0.saturating_sub(request.memory.0));
    let gpu = share(gpu_total(node), entry.gpu_free.saturating_sub(gpu_milli));
    let shares = [cpu, memory, gpu];
    let had = shares.iter().flatten().count();
    let sum: u64 = shares.iter().flatten().sum();
    i64::try_from(sum / u64::try_from(had.max(1)).unwrap_or(1)).unwrap_or(i64::MAX)
}

fn gpu_total(node: &NodeView) -> u64 {
    let cards = node.devices.iter().filter(|device| device.mig.is_none()).count();
    u64::try_from(cards).unwrap_or(u64::MAX).saturating_mul(1000)
}

/// What is taken of `total` when `free` is left, in millionths; `None` of nothing.
fn share(total: u64, free: u64) -> Option<u64> {
    if total == 0 {
        return None;
    }
    let taken = u128::from(total.saturating_sub(free)) * 1_000_000 / u128::from(total);
    u64::try_from(taken).ok()
}

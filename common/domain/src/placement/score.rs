//! Score: how good a node would be that has room. Larger is better; integers only, so that every
//! machine finds the same node.

use super::Request;
use super::entry::Entry;
use super::node::NodeView;
use super::policy::Policy;

/// CPU against which `best-fit` measures what is left over: 128 cores.
const FULL_CPU_MILLI: i128 = 128_000;
/// GPU against which `best-fit` measures what is left over: 8 devices.
const FULL_GPU_MILLI: i128 = 8_000;

/// The score of a node for a request that takes `gpu_milli` thousandths of a device there.
pub(super) fn score(policy: Policy, request: &Request, entry: &Entry, gpu_milli: u64) -> i64 {
    match policy {
        Policy::Random => 0,
        Policy::Binpack => allocated_after(request, entry, gpu_milli),
        Policy::Spread => -allocated_after(request, entry, gpu_milli),
        Policy::BestFit => best_fit(request, entry, gpu_milli),
    }
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
fn allocated_after(request: &Request, entry: &Entry, gpu_milli: u64) -> i64 {
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
    u64::try_from(node.devices.len()).unwrap_or(u64::MAX).saturating_mul(1000)
}

/// What is taken of `total` when `free` is left, in millionths; `None` of nothing.
fn share(total: u64, free: u64) -> Option<u64> {
    if total == 0 {
        return None;
    }
    let taken = u128::from(total.saturating_sub(free)) * 1_000_000 / u128::from(total);
    u64::try_from(taken).ok()
}

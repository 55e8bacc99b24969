//! Running sessions as plans see them.

use crate::ids::{NodeName, SessionId};
use crate::placement::{Allocation, View};
use crate::time::UnixMillis;

/// A session that holds something now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningSession {
    /// Which one.
    pub id: SessionId,
    /// What it holds and where; a gang has one entry per member and goes as a whole.
    pub held: Vec<(NodeName, Allocation)>,
    /// Its priority; higher goes first.
    pub priority: i32,
    /// When it began to run.
    pub started_at: UnixMillis,
    /// When it will have ended at the latest; `None`: nobody knows.
    pub ends_at: Option<UnixMillis>,
    /// Whether its priority class lets it be preempted.
    pub preemptible: bool,
    /// Whether it has run for the minimum its class promises.
    pub min_run_over: bool,
    /// How long it takes to go once it is told to.
    pub grace_ms: u64,
    /// Whether it is on its way out already.
    pub stopping: bool,
}

/// What an allocation is of its node, in thousandths: its dominant share (Ghodsi et al., Dominant
/// Resource Fairness, 2011), so that CPU and GPU can be compared.
pub(super) fn share(view: &View, name: &NodeName, allocation: &Allocation) -> u64 {
    let Some(node) = view.get(name) else { return 0 };
    let slices = allocation.slices.iter().filter_map(|slice| {
        let device = node.devices.iter().find(|device| device.uuid == slice.device)?;
        if let Some(origin) = &device.mig {
            // All of an instance is a part of its card.
            let card = node.devices.iter().find(|card| card.uuid == origin.card)?;
            return Some(milli(slice.memory.0, card.units.memory.0));
        }
        let memory = milli(slice.memory.0, device.units.memory.0);
        Some(memory.max(u64::from(slice.compute.0)))
    });
    let cards = node.devices.iter().filter(|device| device.mig.is_none()).count();
    let devices = u64::try_from(cards).unwrap_or(u64::MAX);
    let gpu = slices.fold(0, u64::saturating_add) / devices.max(1);
    gpu.max(milli(allocation.cpu.0, node.cpu_total.0))
        .max(milli(allocation.memory.0, node.memory_total.0))
}

/// `part` of `whole` in thousandths, rounded up so that nothing counts as free of cost.
fn milli(part: u64, whole: u64) -> u64 {
    let milli = (u128::from(part) * 1000).div_ceil(u128::from(whole.max(1)));
    u64::try_from(milli).unwrap_or(u64::MAX)
}

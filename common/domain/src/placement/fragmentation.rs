//! The policy `fragmentation`: place where the least value is lost to what is expected next.
//!
//! Every rest of a device has a *value* in devices: the dual price of the cutting-stock problem
//! over the mix of requests ([`super::prices`]). The cost of a candidate, smaller is better, is the
//! weighted sum of
//!
//! - the **loss**: the value of the rest before, less that of the rest after and of what was asked.
//!   Nothing is lost where the part is cut from a device as the best patterns of the mix cut it;
//! - the growth and the level of what is **short**: the worth of the idle GPU of the node beyond
//!   what its CPU and host memory can serve, at what the mix asks of them with a device;
//! - what becomes **stuck**: value of rests that the CPU left on the node can no longer serve, request
//!   by request ([`super::reach`]);
//! - an **opened** device: a part that breaks a whole device without need;
//! - growth of what is **uneven**: memory left over beside less compute, or the other way round;
//! - a **charge** for what is scarce ([`super::scarcity`]), the same on all nodes of a shape.
//!
//! Nothing else is weighed: of places that cost the same the first node wins, which fills one node
//! after the other and keeps whole nodes for those who need several devices. How much each weight
//! matters, and what else was tried: docs/measurements/placement.md.

use super::Request;
use super::entry::Entry;
use super::fit::{ShapeFit, apart};
use super::model::Model;
use super::prices::WHOLE;
use super::score::Judged;
use super::worth::Worth;

/// Weights, in hundredths. A loss is final; the rest says which of several places without loss.
const LOSS: i64 = 250;
const GROWTH: i64 = 50;
const LEVEL: i64 = 10;
const STUCK: i64 = 100;
const OPENED: i64 = 5;
const UNEVEN: i64 = 50;

/// A node before anything is placed there.
struct Place<'a> {
    request: &'a Request,
    entry: &'a Entry,
    model: &'a Model,
    values: &'a Worth,
    rests: &'a [u64],
    /// Value of all rests.
    worth: i64,
    short: i64,
    stuck: i64,
}

/// The best device for `request` on a node, and what the node is worth then.
pub(super) fn judge(
    request: &Request,
    entry: &Entry,
    fit: Option<&ShapeFit>,
    model: &Model,
) -> Option<Judged> {
    let rests = entry.rests();
    let place = Place::new(request, entry, model, model.worth(entry)?, &rests);
    let Some(fit) = fit else { return Some(Judged { score: -place.cost(&[]), first: None }) };
    let apart = apart(request, entry);
    if fit.parts.len() > 1 {
        let changed = fit.rests_after(entry, apart)?;
        let lost = changed.iter().enumerate();
        let lost = lost.map(|(part, (slot, rest))| place.lost(fit, part, *slot, *rest));
        return Some(Judged { score: -lost.sum::<i64>() - place.cost(&changed), first: None });
    }
    fit.best_device(entry, apart, |slot, rest| {
        -place.lost(fit, 0, slot, rest) - place.cost(&[(slot, rest)])
    })
}

impl<'a> Place<'a> {
    fn new(
        request: &'a Request,
        entry: &'a Entry,
        model: &'a Model,
        values: &'a Worth,
        rests: &'a [u64],
    ) -> Self {
        let cpu = entry.node.cpu_free.0;
        let worth =
            rests.iter().enumerate().map(|(slot, rest)| values.of(entry, slot, *rest)).sum();
        let short = model.short(worth, cpu, entry.node.memory_free.0);
        let stuck = rests.iter().enumerate();
        let stuck = stuck.map(|(slot, rest)| values.lost_to_cpu(entry, slot, *rest, cpu)).sum();
        Self { request, entry, model, values, rests, worth, short, stuck }
    }

    /// What the node loses once the devices in `changed` have these rests.
    fn cost(&self, changed: &[(usize, u64)]) -> i64 {
        let node = &self.entry.node;
        let cpu = node.cpu_free.saturating_sub(self.request.cpu).0;
        let memory = node.memory_free.saturating_sub(self.request.memory).0;
        let taken = changed
            .iter()
            .map(|(slot, rest)| self.worth(*slot, self.rests[*slot]) - self.worth(*slot, *rest));
        let short = self.model.short(self.worth - taken.sum::<i64>(), cpu, memory);
        // What takes no GPU shall go where CPU is short already, not where it may become so.
        let level = if changed.is_empty() { 0 } else { LEVEL * short };
        GROWTH * (short - self.short)
            + level
            + STUCK * (self.stuck_after(cpu, changed) - self.stuck)
    }

    /// Value that CPU keeps idle once no more than `cpu` is left.
    fn stuck_after(&self, cpu: u64, changed: &[(usize, u64)]) -> i64 {
        let rests = self.rests.iter().enumerate().map(|(slot, rest)| {
            let changed = changed.iter().find(|(at, _)| *at == slot);
            let rest = changed.map_or(*rest, |(_, rest)| *rest);
            self.values.lost_to_cpu(self.entry, slot, rest, cpu)
        });
        rests.sum()
    }

    /// What the device in `slot` loses when `part` leaves `rest` on it.
    fn lost(&self, fit: &ShapeFit, part: usize, slot: usize, rest: u64) -> i64 {
        let milli = fit.want(part, self.entry.slots[slot].kind).milli;
        if milli >= 1000 {
            return 0;
        }
        let before = self.rests[slot];
        let loss = self.worth(slot, before) - self.worth(slot, rest) - self.worth(slot, milli);
        let opened = if before == 1000 { OPENED * WHOLE } else { 0 };
        LOSS * loss + opened + UNEVEN * fit.growth_of_uneven(part, self.entry, slot)
    }

    fn worth(&self, slot: usize, rest: u64) -> i64 {
        self.values.of(self.entry, slot, rest)
    }
}

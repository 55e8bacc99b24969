//! What the devices of a shape are worth to the mix, rest by rest.

use super::entry::Entry;
use super::fit::ShapeFit;
use super::prices::Values;
use std::sync::Arc;

/// The values of rests on nodes of one shape, by kind of device.
#[derive(Debug, Default)]
pub(super) struct Worth(Vec<Arc<Values>>);

impl Worth {
    pub(super) fn new(values: Vec<Arc<Values>>) -> Self {
        Self(values)
    }

    /// What a request counts for, on the first kind of device.
    pub(super) fn asked(&self, fit: &ShapeFit) -> i64 {
        let Some(values) = self.0.first() else { return 0 };
        (0..fit.parts.len()).map(|part| values.of(fit.want(part, 0).milli)).sum()
    }

    /// What a rest of the device in `slot` is worth.
    pub(super) fn of(&self, entry: &Entry, slot: usize, rest: u64) -> i64 {
        self.0.get(entry.slots[slot].kind).map_or(0, |values| values.of(rest))
    }

    /// The part of that which idles once the node has no more than `cpu` left.
    pub(super) fn lost_to_cpu(&self, entry: &Entry, slot: usize, rest: u64, cpu: u64) -> i64 {
        self.0.get(entry.slots[slot].kind).map_or(0, |values| values.lost_to_cpu(rest, cpu))
    }
}

//! Fragmentation Gradient Descent as published: Weng et al., "Beware of Fragmentation: Scheduling
//! GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC 2023.
//!
//! A node's fragmentation is the idle GPU a request drawn from the mix cannot use, as expectation;
//! the device and node are taken where it grows least. The published scheduler scores
//! `100 × sigmoid(decrease ÷ 1 device)`, truncated to an integer; those coarse steps, and ties by
//! node order, are part of what it does and are kept.

use super::Request;
use super::entry::Entry;
use super::fit::{Apart, Prefer, ShapeFit, apart};
use super::mix::Model;
use super::score::Judged;

/// Where the score passes from one integer to the next, from 51 up: `1000 × ln(s ÷ (100 − s))`
/// thousandths of a device for `s` from 51 to 99, times a million. Below 50 it is symmetric.
const STEPS: [i64; 49] = [
    40_005_335,
    80_042_708,
    120_144_312,
    160_342_650,
    200_670_695,
    241_162_057,
    281_851_152,
    322_773_392,
    363_965_377,
    405_465_108,
    447_312_218,
    489_548_225,
    532_216_814,
    575_364_145,
    619_039_208,
    663_294_217,
    708_185_058,
    753_771_802,
    800_119_300,
    847_297_860,
    895_384_047,
    944_461_609,
    994_622_575,
    1_045_968_555,
    1_098_612_289,
    1_152_679_510,
    1_208_311_206,
    1_265_666_373,
    1_324_925_415,
    1_386_294_361,
    1_450_010_176,
    1_516_347_489,
    1_585_627_264,
    1_658_228_077,
    1_734_601_055,
    1_815_289_967,
    1_900_958_761,
    1_992_430_165,
    2_090_741_097,
    2_197_224_577,
    2_313_634_929,
    2_442_347_035,
    2_586_689_344,
    2_751_535_313,
    2_944_438_979,
    3_178_053_830,
    3_476_098_690,
    3_891_820_298,
    4_595_119_850,
];

/// The best device for `request` on a node, and what the node is worth then.
pub(super) fn judge(
    request: &Request,
    entry: &Entry,
    fit: Option<&ShapeFit>,
    model: &Model,
) -> Option<Judged> {
    let cpu_left = entry.node.cpu_free.saturating_sub(request.cpu).0;
    let rests: Vec<u64> = entry.slots.iter().map(super::entry::Slot::usable_milli).collect();
    let before = fragmentation(entry, &rests, entry.node.cpu_free.0, model);
    let worth = |rests: &[u64]| steps(before - fragmentation(entry, rests, cpu_left, model), model);
    let Some(fit) = fit else { return Some(Judged { score: worth(&rests), first: None }) };
    let apart = apart(request, entry);
    if fit.parts.len() > 1 {
        let mut after = rests.clone();
        fit.choose(entry, apart, Prefer::Fullest, |part, slot| {
            after[slot] = fit.rest_after(part, entry, slot);
        })?;
        return Some(Judged { score: worth(&after), first: None });
    }
    each_device(entry, fit, apart, &rests, worth)
}

fn each_device(
    entry: &Entry,
    fit: &ShapeFit,
    apart: Apart,
    rests: &[u64],
    worth: impl Fn(&[u64]) -> i64,
) -> Option<Judged> {
    let mut best: Option<Judged> = None;
    let mut after = rests.to_vec();
    for slot in 0..rests.len() {
        let seen = entry.slots[..slot].contains(&entry.slots[slot]);
        if seen || !fit.takes(0, entry, slot, apart) {
            continue;
        }
        after[slot] = fit.rest_after(0, entry, slot);
        let score = worth(&after);
        after[slot] = rests[slot];
        if best.is_none_or(|best| score > best.score) {
            best = Some(Judged { score, first: Some(slot) });
        }
    }
    best
}

/// Idle GPU that a request drawn from the mix cannot use, thousandths of a device times the weight
/// of the whole mix.
fn fragmentation(entry: &Entry, rests: &[u64], cpu: u64, model: &Model) -> i128 {
    let idle: u64 = rests.iter().sum();
    let unusable = model.classes.iter().map(|class| {
        let usable = class.usable(entry, rests, cpu);
        i128::from(class.weight) * i128::from(idle - usable)
    });
    unusable.sum()
}

/// `100 × sigmoid(decrease ÷ 1 device)`, truncated.
fn steps(decrease: i128, model: &Model) -> i64 {
    let weight = i128::from(model.weight.max(1));
    let reached = |step: &i64| i128::from(*step) * weight <= decrease.abs() * 1_000_000;
    let passed = i64::try_from(STEPS.partition_point(reached)).unwrap_or(i64::MAX);
    // Truncation goes down on both sides: exactly nothing is 50, the least increase 49.
    if decrease >= 0 { 50 + passed } else { 49 - passed }
}

//! Fragmentation Gradient Descent as published: Weng et al., "Beware of Fragmentation: Scheduling
//! GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC 2023.
//!
//! A node's fragmentation is the idle GPU a request drawn from the mix cannot use, as expectation;
//! the device and node are taken where it grows least. The published scheduler scores
//! `100 × sigmoid(decrease ÷ 1 device)`, truncated to an integer; those coarse steps, and ties by
//! node order, are part of what it does and are kept.

use super::Request;
use super::entry::Entry;
use super::fit::{ShapeFit, apart};
use super::measure::Measure;
use super::model::Model;
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
    let measure = model.measure(entry)?;
    let cpu_left = entry.node.cpu_free.saturating_sub(request.cpu).0;
    let rests = entry.rests();
    let before = measure.before(entry, &rests);
    let worth = |changed: &[(usize, u64)]| steps(before.decrease(cpu_left, changed), measure);
    let Some(fit) = fit else { return Some(Judged { score: worth(&[]), first: None }) };
    let apart = apart(request, entry);
    if fit.parts.len() > 1 {
        let score = worth(&fit.rests_after(entry, apart)?);
        return Some(Judged { score, first: None });
    }
    fit.best_device(entry, apart, |slot, rest| worth(&[(slot, rest)]))
}

/// `100 × sigmoid(decrease ÷ 1 device)`, truncated.
fn steps(decrease: i64, measure: &Measure) -> i64 {
    let weight = measure.weight().max(1);
    let reached = |step: &i64| *step * weight <= decrease.abs() * 1_000_000;
    let passed = i64::try_from(STEPS.partition_point(reached)).unwrap_or(i64::MAX);
    // Truncation goes down on both sides: exactly nothing is 50, the least increase 49.
    if decrease >= 0 { 50 + passed } else { 49 - passed }
}

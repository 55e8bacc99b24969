//! What projects used lately: the history that fair share weighs.
//!
//! Use counts half as much after every [`HALF_LIFE_MS`]. Instead of making all history smaller as
//! time passes, later use is counted for more: a moment weighs `2^(t / half-life)`, counted from
//! the start of an epoch, and what was held from `a` to `b` adds `amount × (weight(b) − weight(a))`.
//! Divided by the weight of now, the sum is the average amount held, decayed exponentially. This is
//! forward decay (Cormode, Shkapenyuk, Srivastava, Xu: "Forward Decay: A Practical Time Decay Model
//! for Streaming Systems", ICDE 2009). Nothing has to be touched as time passes, the sums are exact
//! integers, and they do not depend on the order or the number of the additions, so that a history
//! can be rebuilt from a record and what came after it.
//!
//! Weights are fixed point with 32 binary places: a power of two for whole half-lives, the constant
//! `2^(1 minute / half-life)` raised by squaring for whole minutes, a straight line within one.

use crate::ids::{ProjectName, UserName};
use crate::project::Held;
use crate::time::UnixMillis;
use crate::units::MIB;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// After this time use counts half as much, milliseconds: 7 days.
pub const HALF_LIFE_MS: u64 = HALF_LIFE_MINUTES * MINUTE_MS;

const MINUTE_MS: u64 = 60_000;
const HALF_LIFE_MINUTES: u64 = 7 * 24 * 60;
/// Half-lives of one epoch: older use is too small to matter.
const EPOCH_HALF_LIVES: u64 = 32;
/// `2^(1/10080)` with 62 binary places.
const MINUTE_GROWTH: u128 = 4_612_003_150_081_107_828;
const GROWTH_PLACES: u32 = 62;
const WEIGHT_PLACES: u32 = 32;

/// A project's history as the store keeps it: everything used up to one point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Whose.
    pub project: ProjectName,
    /// Up to when.
    pub at: UnixMillis,
    /// What the amounts are weighed by, see [`epoch_of`].
    pub epoch: u64,
    /// All of the project.
    pub total: Amounts,
    /// By user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<UserName, Amounts>,
}

/// Amounts over time, each moment weighed by how recent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amounts {
    /// fGPU, thousandths.
    pub fgpu: i128,
    /// CPU, thousandths of a core.
    pub cpu: i128,
    /// Host memory, MiB.
    pub memory: i128,
}

/// The epoch `at` lies in.
#[must_use]
pub fn epoch_of(at: UnixMillis) -> u64 {
    at.0 / (EPOCH_HALF_LIVES * HALF_LIFE_MS)
}

/// What the moment `at` weighs in `epoch`; grows with time.
#[must_use]
pub fn weight(at: UnixMillis, epoch: u64) -> i128 {
    let minute = at.0 / MINUTE_MS;
    let (from, to) = (minute_weight(minute, epoch), minute_weight(minute + 1, epoch));
    let within = i128::from(at.0 % MINUTE_MS);
    from + (to - from) * within / i128::from(MINUTE_MS)
}

fn minute_weight(minute: u64, epoch: u64) -> i128 {
    let start = epoch.saturating_mul(EPOCH_HALF_LIVES * HALF_LIFE_MINUTES);
    let (halves, rest, later) = match minute.checked_sub(start) {
        Some(after) => (after / HALF_LIFE_MINUTES, after % HALF_LIFE_MINUTES, true),
        None => {
            let before = start - minute;
            let halves = before.div_ceil(HALF_LIFE_MINUTES);
            (halves, halves * HALF_LIFE_MINUTES - before, false)
        }
    };
    let halves = u32::try_from(halves.min(64)).unwrap_or(64);
    let places = GROWTH_PLACES - WEIGHT_PLACES;
    let weight =
        if later { (growth(rest) << halves) >> places } else { growth(rest) >> (places + halves) };
    i128::try_from(weight).unwrap_or(i128::MAX)
}

/// [`MINUTE_GROWTH`] to the power of `minutes`, below two.
fn growth(mut minutes: u64) -> u128 {
    let mut power = 1 << GROWTH_PLACES;
    let mut base = MINUTE_GROWTH;
    while minutes > 0 {
        if minutes % 2 == 1 {
            power = (power * base) >> GROWTH_PLACES;
        }
        minutes /= 2;
        if minutes > 0 {
            base = (base * base) >> GROWTH_PLACES;
        }
    }
    power
}

impl Amounts {
    /// `held` at the moment that weighs `weight`.
    #[must_use]
    pub fn of(held: &Held, weight: i128) -> Self {
        Self {
            fgpu: i128::from(held.fgpu.0).saturating_mul(weight),
            cpu: i128::from(held.cpu.0).saturating_mul(weight),
            memory: i128::from(held.memory.0 / MIB).saturating_mul(weight),
        }
    }

    /// With `other` on top.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            fgpu: self.fgpu.saturating_add(other.fgpu),
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    /// Without `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            fgpu: self.fgpu.saturating_sub(other.fgpu),
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
        }
    }

    /// The same amounts, weighed in a later epoch.
    #[must_use]
    pub fn in_epoch(self, from: u64, to: u64) -> Self {
        let halves = to.saturating_sub(from).saturating_mul(EPOCH_HALF_LIVES);
        let shift = u32::try_from(halves.min(126)).unwrap_or(126);
        Self { fgpu: self.fgpu >> shift, cpu: self.cpu >> shift, memory: self.memory >> shift }
    }

    /// Whether nothing is left that would count at the moment that weighs `weight`.
    #[must_use]
    pub fn is_spent(&self, weight: i128) -> bool {
        let most = self.fgpu.max(self.cpu).max(self.memory);
        most < weight / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Fgpu;

    const DAY: u64 = 24 * 60 * MINUTE_MS;

    fn at(days: u64) -> UnixMillis {
        // Within one epoch: it begins at day 20160.
        UnixMillis((20_200 + days) * DAY)
    }

    #[test]
    fn a_moment_weighs_twice_as_much_after_a_half_life() {
        let epoch = epoch_of(at(0));
        for days in [0, 1, 30, 100] {
            let (now, later) = (weight(at(days), epoch), weight(at(days + 7), epoch));
            assert!((later - 2 * now).abs() <= 2, "{days}: {now} {later}");
        }
    }

    #[test]
    fn weights_never_fall_with_time_not_even_at_the_edge_of_a_minute_or_half_life() {
        let epoch = 90;
        let start = epoch * EPOCH_HALF_LIVES * HALF_LIFE_MS;
        for edge in [MINUTE_MS, HALF_LIFE_MS, 2 * HALF_LIFE_MS, 31 * HALF_LIFE_MS] {
            for ms in (start + edge - 70_000..start + edge + 70_000).step_by(997) {
                let (from, to) = (UnixMillis(ms), UnixMillis(ms + 997));
                assert!(weight(from, epoch) <= weight(to, epoch), "{ms}");
                let (from, to) = (weight(from, epoch + 1), weight(to, epoch + 1));
                assert!(from <= to, "{ms} before the epoch");
            }
        }
    }

    #[test]
    fn a_history_is_the_same_in_another_epoch_up_to_rounding() {
        let held = Held { fgpu: Fgpu::whole(8), ..Held::default() };
        let used = |epoch| {
            let (from, to) = (weight(at(1), epoch), weight(at(2), epoch));
            Amounts::of(&held, to).minus(Amounts::of(&held, from))
        };
        let epoch = epoch_of(at(0));
        let (own, next) = (used(epoch).in_epoch(epoch, epoch + 1), used(epoch + 1));
        assert!((own.fgpu - next.fgpu).abs() <= 8_000, "{own:?} {next:?}");
    }
}

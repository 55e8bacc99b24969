//! What of the value of a rest can still be had with the CPU that its node has left.
//!
//! A rest of 530 is worth half a device where a request for 470 may follow; with 6 cores left on the
//! node, and requests for 470 that ask for 8 or 12, it is worth what smaller ones make of it. A size
//! counts at its price times the share of those who ask for it with no more CPU than is left.
//!
//! Floating point with the four basic operations only, as for the prices themselves.

use super::prices::{DEVICE, millionths};

/// Amounts of CPU that are told apart. What is left is rounded down to one, what is asked for up.
const LEVELS: u64 = 32;
/// So many percent of the requests are told apart by their CPU; the others ask for so much that
/// steps would be coarse for all.
const TOLD_APART_PERCENT: u64 = 90;

/// Requests for a device or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    /// Thousandths of the device.
    pub(super) size: u64,
    /// Thousandths of a core.
    pub(super) cpu: u64,
    pub(super) weight: u64,
}

/// The value of every rest at every amount of CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// Thousandths of a core from one row to the next.
    step: u64,
    /// By CPU in steps: millionths of a device, by thousandths of the rest.
    rows: Vec<Vec<i32>>,
}

/// A size that some ask for with little enough CPU.
struct Usable {
    size: usize,
    value: f64,
    /// What the most modest of them asks for, in steps.
    steps: usize,
}

impl Reach {
    /// For what is asked, with the sizes that are priced and their prices in devices.
    pub(super) fn new(asked: &[Asked], prices: &[(usize, f64)]) -> Self {
        let step = step(asked);
        let mut reached: Vec<Vec<f64>> = Vec::new();
        for level in 0..LEVELS {
            let usable: Vec<Usable> = prices
                .iter()
                .filter_map(|(size, price)| usable(asked, *size, *price, step, level))
                .collect();
            let row = row(&usable, &reached);
            reached.push(row);
        }
        let whole =
            |row: Vec<f64>| row.into_iter().map(|worth| narrow(millionths(worth))).collect();
        Self { step, rows: reached.into_iter().map(whole).collect() }
    }

    /// The value of a rest of `milli` with `cpu` left; `None`: more than is told apart.
    pub(super) fn of(&self, milli: usize, cpu: u64) -> Option<i64> {
        let level = usize::try_from(cpu / self.step).unwrap_or(usize::MAX);
        self.rows.get(level)?.get(milli).map(|value| i64::from(*value))
    }
}

/// Thousandths of a core per step, so that most are told apart.
fn step(asked: &[Asked]) -> u64 {
    let mut by_cpu: Vec<(u64, u64)> = asked.iter().map(|asked| (asked.cpu, asked.weight)).collect();
    by_cpu.sort_unstable();
    let total: u64 = by_cpu.iter().map(|(_, weight)| weight).sum();
    let (mut seen, mut most) = (0, 0);
    for (cpu, weight) in by_cpu {
        if seen * 100 >= total * TOLD_APART_PERCENT {
            break;
        }
        seen += weight;
        most = cpu;
    }
    most.div_ceil(LEVELS - 1).max(1)
}

fn usable(asked: &[Asked], size: usize, price: f64, step: u64, level: u64) -> Option<Usable> {
    let same = || asked.iter().filter(|asked| usize::try_from(asked.size) == Ok(size));
    let within = || same().filter(|asked| asked.cpu.div_ceil(step) <= level);
    let least = within().map(|asked| asked.cpu.div_ceil(step)).min()?;
    let sum: u64 = same().map(|asked| asked.weight).sum();
    let served: u64 = within().map(|asked| asked.weight).sum();
    let value = price * super::prices::ratio(served, sum.max(1));
    Some(Usable { size, value, steps: usize::try_from(least).ok()? })
}

/// The best use of every length with as many steps of CPU as there are rows in `fewer`, which hold
/// the same for fewer steps.
fn row(usable: &[Usable], fewer: &[Vec<f64>]) -> Vec<f64> {
    let mut row = vec![0.0; DEVICE + 1];
    for length in 1..=DEVICE {
        let mut best: f64 = row[length - 1];
        for Usable { size, value, steps } in usable.iter().filter(|usable| usable.size <= length) {
            let left = length - size;
            let beside = match steps {
                0 => row[left],
                steps => fewer[fewer.len() - steps][left],
            };
            if value + beside > best {
                best = value + beside;
            }
        }
        row[length] = best;
    }
    row
}

fn narrow(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: [Asked; 3] = [
        Asked { size: 470, cpu: 12_000, weight: 3 },
        Asked { size: 470, cpu: 8_000, weight: 1 },
        Asked { size: 320, cpu: 4_000, weight: 4 },
    ];
    const PRICES: [(usize, f64); 2] = [(320, 0.25), (470, 0.5)];

    fn of(milli: usize, cpu: u64) -> Option<i64> {
        Reach::new(&ASKED, &PRICES).of(milli, cpu)
    }

    #[test]
    fn a_rest_is_worth_what_the_cpu_beside_it_can_serve() {
        assert_eq!(of(530, 3_000), Some(0));
        assert_eq!(of(530, 5_000), Some(250_000));
        // A request for 470 in four asks for so little: the smaller size is the better hope.
        assert_eq!(of(530, 9_000), Some(250_000));
        assert_eq!(of(530, 12_400), Some(500_000));
    }

    #[test]
    fn what_is_cut_first_leaves_less_cpu_for_the_next() {
        assert_eq!(of(640, 7_000), Some(250_000));
        assert_eq!(of(640, 9_000), Some(500_000));
        assert_eq!(of(960, 9_000), Some(500_000));
    }

    #[test]
    fn beyond_what_is_usually_asked_cpu_is_no_matter() {
        assert_eq!(of(530, 13_000), None);
        let no_cpu = [Asked { size: 470, cpu: 0, weight: 1 }];
        assert_eq!(Reach::new(&no_cpu, &PRICES).of(470, 0), Some(500_000));
    }

    #[test]
    fn a_few_that_ask_for_very_much_do_not_make_the_steps_coarse() {
        let mut asked = ASKED.to_vec();
        let exact = step(&asked);
        asked.push(Asked { size: 1000, cpu: 1_000_000, weight: 0 });
        assert_eq!(step(&asked), exact);
        assert_eq!(exact, 388);
    }

    proptest::proptest! {
        #[test]
        fn more_cpu_and_more_rest_are_never_worth_less(
            asked in proptest::collection::vec((1_u64..=1000, 0_u64..20_000, 1_u64..50), 1..12),
        ) {
            let asked: Vec<Asked> =
                asked.into_iter().map(|(size, cpu, weight)| Asked { size, cpu, weight }).collect();
            let values = super::super::prices::Values::new(&asked);
            for milli in (1..=1000).step_by(9) {
                for cpu in (0..22_000_u64).step_by(700) {
                    let lost = values.lost_to_cpu(milli, cpu);
                    proptest::prop_assert!(lost >= 0 && lost <= values.of(milli));
                    proptest::prop_assert!(values.lost_to_cpu(milli, cpu + 700) <= lost);
                }
            }
        }
    }
}

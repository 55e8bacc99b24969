//! Amounts. All are integers with their unit in the type; arithmetic is checked.
//!
//! Texts mean what they say: `10GB` is 10 × 10⁹ bytes, `10GiB` is 10 × 2³⁰. A memory size needs a
//! unit; a decimal fraction is taken exactly or refused.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a plain decimal number in front.
    #[error("`{value}` is not a number: {hint}")]
    NotANumber {
        /// The text given.
        value: String,
        /// What would be accepted.
        hint: &'static str,
    },
    /// A number with an unknown unit behind it, or none where one is needed.
    #[error("`{value}` has no known unit: {hint}")]
    UnknownUnit {
        /// The text given.
        value: String,
        /// What would be accepted.
        hint: &'static str,
    },
    /// More digits after the point than the amount can hold.
    #[error("`{value}` is finer than {step}")]
    TooFine {
        /// The text given.
        value: String,
        /// The smallest step of this amount.
        step: &'static str,
    },
    /// Beyond what the type can hold.
    #[error("`{value}` is too large")]
    TooLarge {
        /// The text given.
        value: String,
    },
}

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0);

            /// Whether this is nothing.
            #[must_use]
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }

            /// The sum, or `None` beyond the range.
            #[must_use]
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                match self.0.checked_add(other.0) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The difference, or `None` below zero.
            #[must_use]
            pub const fn checked_sub(self, other: Self) -> Option<Self> {
                match self.0.checked_sub(other.0) {
                    Some(rest) => Some(Self(rest)),
                    None => None,
                }
            }

            /// The difference, zero where it would be negative.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// The sum, the largest amount where it would be beyond the range.
            #[must_use]
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl Sum for $name {
            /// Saturates: a sum that meets the end of the range stays there.
            fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
                amounts.fold(Self::ZERO, Self::saturating_add)
            }
        }
    };
}

amount!(
    /// Memory in bytes.
    MemoryBytes(u64)
);
amount!(
    /// Compute of one device in thousandths: 1000 is the whole device.
    ComputeMilli(u32)
);
amount!(
    /// CPU in thousandths of a core.
    CpuMilli(u64)
);
amount!(
    /// fGPU in thousandths: `Fgpu(10_000)` is 10 fGPU.
    Fgpu(u64)
);

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;

impl MemoryBytes {
    /// `count` mebibytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(MIB))
    }

    /// `count` gibibytes.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(GIB))
    }

    /// The largest whole number of mebibytes not above this.
    #[must_use]
    pub const fn floor_mib(self) -> Self {
        Self(self.0 / MIB * MIB)
    }
}

impl ComputeMilli {
    /// A whole device.
    pub const WHOLE: Self = Self(1000);
}

impl CpuMilli {
    /// `count` cores.
    #[must_use]
    pub const fn cores(count: u64) -> Self {
        Self(count.saturating_mul(1000))
    }
}

impl Fgpu {
    /// `count` whole fGPU.
    #[must_use]
    pub const fn whole(count: u64) -> Self {
        Self(count.saturating_mul(1000))
    }
}

const MEMORY_HINT: &str = "write a size such as `20GiB`, `512MiB` or `10GB`";
const COMPUTE_HINT: &str = "write a share such as `30%` or `0.3`";
const CPU_HINT: &str = "write cores such as `2`, `0.5` or `500m`";
const FGPU_HINT: &str = "write a number such as `10` or `2.5`";

impl FromStr for MemoryBytes {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (number, unit) = split_unit(text);
        let Some(unit_bytes) = memory_unit(unit) else {
            return Err(if number.is_empty() {
                not_a_number(text, MEMORY_HINT)
            } else {
                AmountError::UnknownUnit { value: text.to_owned(), hint: MEMORY_HINT }
            });
        };
        scaled(text, number, unit_bytes, "one byte", MEMORY_HINT).map(Self)
    }
}

impl FromStr for ComputeMilli {
    type Err = AmountError;

    /// `30%` or `0.3`: a share of one device, at most all of it.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (number, unit) = split_unit(text);
        let per_unit = match unit {
            "%" => 10,
            "" => 1000,
            _ => {
                return Err(AmountError::UnknownUnit {
                    value: text.to_owned(),
                    hint: COMPUTE_HINT,
                });
            }
        };
        let milli = scaled(text, number, per_unit, "a thousandth of a device", COMPUTE_HINT)?;
        match u32::try_from(milli) {
            Ok(milli) if milli <= Self::WHOLE.0 => Ok(Self(milli)),
            _ => Err(AmountError::TooLarge { value: text.to_owned() }),
        }
    }
}

impl FromStr for CpuMilli {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (number, unit) = split_unit(text);
        let per_unit = match unit {
            "" => 1000,
            "m" => 1,
            _ => return Err(AmountError::UnknownUnit { value: text.to_owned(), hint: CPU_HINT }),
        };
        scaled(text, number, per_unit, "a thousandth of a core", CPU_HINT).map(Self)
    }
}

impl FromStr for Fgpu {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (number, unit) = split_unit(text);
        if !unit.is_empty() {
            return Err(not_a_number(text, FGPU_HINT));
        }
        scaled(text, number, 1000, "a thousandth of an fGPU", FGPU_HINT).map(Self)
    }
}

impl fmt::Display for MemoryBytes {
    /// The first unit that shows the amount exactly in at most three decimals, binary ones before
    /// decimal ones.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 6] = [
            ("TiB", 1 << 40),
            ("GiB", GIB),
            ("MiB", MIB),
            ("GB", 1_000_000_000),
            ("MB", 1_000_000),
            ("KiB", 1 << 10),
        ];
        let exact = UNITS.iter().find(|(_, unit)| {
            self.0 >= *unit && (u128::from(self.0) * 1000).is_multiple_of(u128::from(*unit))
        });
        let text = match exact {
            Some((name, unit)) => {
                let milli = u128::from(self.0) * 1000 / u128::from(*unit);
                format!("{} {name}", Thousandths(milli))
            }
            None => format!("{} B", self.0),
        };
        f.pad(&text)
    }
}

impl fmt::Display for ComputeMilli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} %", Thousandths(u128::from(self.0) * 100)))
    }
}

impl fmt::Display for CpuMilli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&Thousandths(u128::from(self.0)).to_string())
    }
}

impl fmt::Display for Fgpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&Thousandths(u128::from(self.0)).to_string())
    }
}

/// A number of thousandths, shown as a decimal without trailing zeros.
struct Thousandths(u128);

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, milli) = (self.0 / 1000, self.0 % 1000);
        if milli == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{milli:03}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

fn not_a_number(value: &str, hint: &'static str) -> AmountError {
    AmountError::NotANumber { value: value.to_owned(), hint }
}

/// Splits `10 GiB` into `10` and `GiB`.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn memory_unit(unit: &str) -> Option<u64> {
    Some(match unit {
        "B" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => MIB,
        "GiB" | "Gi" => GIB,
        "TiB" | "Ti" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    })
}

/// The exact value of the decimal `number` times `scale`; `text` is the whole input, for errors.
fn scaled(
    text: &str,
    number: &str,
    scale: u64,
    step: &'static str,
    hint: &'static str,
) -> Result<u64, AmountError> {
    let too_large = || AmountError::TooLarge { value: text.to_owned() };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(not_a_number(text, hint));
    }
    let fraction = fraction.trim_end_matches('0');
    let parse = |digits: &str| match digits {
        "" => Ok(0),
        _ => digits.parse::<u128>().map_err(|_| too_large()),
    };
    let decimals = u32::try_from(fraction.len())
        .ok()
        .filter(|n| *n <= 18)
        .ok_or_else(|| AmountError::TooFine { value: text.to_owned(), step })?;
    let base = 10_u128.pow(decimals);
    let scaled_fraction = parse(fraction)? * u128::from(scale);
    if !scaled_fraction.is_multiple_of(base) {
        return Err(AmountError::TooFine { value: text.to_owned(), step });
    }
    let scaled_whole = parse(whole)?.checked_mul(u128::from(scale)).ok_or_else(too_large)?;
    let total = scaled_whole.checked_add(scaled_fraction / base).ok_or_else(too_large)?;
    u64::try_from(total).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_and_binary_sizes_mean_what_they_say() {
        assert_eq!("10GB".parse(), Ok(MemoryBytes(10_000_000_000)));
        assert_eq!("10 GB".parse(), Ok(MemoryBytes(10_000_000_000)));
        assert_eq!("10GiB".parse(), Ok(MemoryBytes::gib(10)));
        assert_eq!("0.5GiB".parse(), Ok(MemoryBytes::mib(512)));
        assert_eq!("10 GB".parse::<MemoryBytes>().unwrap().to_string(), "10 GB");
    }

    #[test]
    fn a_memory_size_without_a_unit_is_refused() {
        for bad in ["10", "10G", "10 gigs"] {
            let refused = bad.parse::<MemoryBytes>().unwrap_err();
            assert!(matches!(refused, AmountError::UnknownUnit { .. }), "{bad}: {refused}");
        }
        for bad in ["", "GiB", "-1GiB", "1.2.3GiB", "x"] {
            assert!(bad.parse::<MemoryBytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fraction_finer_than_the_amount_is_refused_not_rounded() {
        assert_eq!("2.5".parse(), Ok(Fgpu(2_500)));
        assert_eq!("7.93".parse(), Ok(Fgpu(7_930)));
        assert!(matches!("0.0001".parse::<Fgpu>(), Err(AmountError::TooFine { .. })));
        assert!(matches!("0.0001B".parse::<MemoryBytes>(), Err(AmountError::TooFine { .. })));
        assert!("-3".parse::<Fgpu>().is_err());
    }

    #[test]
    fn a_share_is_a_percentage_or_a_fraction_up_to_one_device() {
        assert_eq!("30%".parse(), Ok(ComputeMilli(300)));
        assert_eq!("0.3".parse(), Ok(ComputeMilli(300)));
        assert_eq!("100%".parse(), Ok(ComputeMilli::WHOLE));
        assert!("101%".parse::<ComputeMilli>().is_err());
    }

    #[test]
    fn cores_may_be_written_in_thousandths() {
        assert_eq!("500m".parse(), Ok(CpuMilli(500)));
        assert_eq!("0.5".parse(), Ok(CpuMilli(500)));
        assert_eq!("8".parse(), Ok(CpuMilli::cores(8)));
    }

    #[test]
    fn amounts_beyond_the_range_are_refused() {
        let huge = "999999999999999999999999TiB";
        assert!(matches!(huge.parse::<MemoryBytes>(), Err(AmountError::TooLarge { .. })));
        assert_eq!(MemoryBytes(u64::MAX).checked_add(MemoryBytes(1)), None);
    }

    #[test]
    fn amounts_are_shown_exactly() {
        assert_eq!(MemoryBytes::gib(80).to_string(), "80 GiB");
        assert_eq!(MemoryBytes::mib(8155).to_string(), "8155 MiB");
        assert_eq!(MemoryBytes(1536).to_string(), "1.5 KiB");
        assert_eq!(ComputeMilli(142).to_string(), "14.2 %");
        assert_eq!(Fgpu(2_500).to_string(), "2.5");
    }
}

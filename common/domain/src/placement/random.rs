//! A small generator of numbers that is the same on every machine.

/// `SplitMix64`: one word of state, fine for choosing, not for secrets.
#[derive(Debug, Clone)]
pub(super) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A uniform number below `end`, which must not be 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = end as u64;
        // Words at and above the last whole multiple of `end` would favour small numbers.
        let biased = (u64::MAX % end + 1) % end;
        loop {
            let word = self.next();
            if word <= u64::MAX - biased {
                return usize::try_from(word % end).expect("it is below a usize");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_numbers_everywhere() {
        let mut random = SplitMix64::new(42);
        // First output of the reference implementation for this seed.
        assert_eq!(random.next(), 13_679_457_532_755_275_413);
        let mut again = SplitMix64::new(7);
        let mut other = again.clone();
        for end in 1..50 {
            let value = again.below(end);
            assert!(value < end);
            assert_eq!(value, other.below(end));
        }
    }
}

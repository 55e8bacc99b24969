//! What is known of the cards people name.

/// Streaming multiprocessors of well-known cards, from NVIDIA's data sheets (the SXM form where a
/// card has several).
const MULTIPROCESSORS: &[(&str, u32)] = &[
    ("B200", 148),
    ("H200", 132),
    ("H100", 132),
    ("H800", 132),
    ("H20", 78),
    ("A100", 108),
    ("A800", 108),
    ("A40", 84),
    ("A30", 56),
    ("A10", 72),
    ("L40S", 142),
    ("L40", 142),
    ("L4", 58),
    ("T4", 40),
    ("V100", 80),
    ("P100", 56),
    ("P40", 30),
    ("P4", 20),
];

/// Streaming multiprocessors of one MIG compute slice, from NVIDIA's MIG user guide.
const PER_MIG_SLICE: &[(&str, u32)] = &[
    ("B200", 18),
    ("H200", 16),
    ("H100", 16),
    ("H800", 16),
    ("A100", 14),
    ("A800", 14),
    ("A30", 14),
];

/// Streaming multiprocessors of `model`, if it is a well-known one.
pub(super) fn multiprocessors(model: &str) -> Option<u32> {
    find(MULTIPROCESSORS, model)
}

/// Streaming multiprocessors of one MIG slice of `model`, if it is a well-known one.
pub(super) fn multiprocessors_per_slice(model: &str) -> Option<u32> {
    find(PER_MIG_SLICE, model)
}

/// A card is known by a whole word of its model's name.
fn find(table: &[(&str, u32)], model: &str) -> Option<u32> {
    let mut words = model.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| {
        table.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, count)| *count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_known_by_a_whole_word() {
        assert_eq!(multiprocessors("H100-80GB"), Some(132));
        assert_eq!(multiprocessors("NVIDIA A100-SXM4-40GB"), Some(108));
        assert_eq!(multiprocessors("tesla t4"), Some(40));
        assert_eq!(multiprocessors("XT4"), None);
        assert_eq!(multiprocessors_per_slice("H100-80GB"), Some(16));
        assert_eq!(multiprocessors_per_slice("T4-16GB"), None);
    }
}

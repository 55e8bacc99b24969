//! Numbers NVML does not tell, from those it does.

use fgpu_domain::units::{GIB, MIB};

/// Streaming multiprocessors of a whole device. NVML tells them for MIG instances only, so they
/// follow from its CUDA cores and how many of those its architecture has in one multiprocessor;
/// `None` for an architecture that is not known, or where the division leaves something over.
pub(super) fn multiprocessors(cores: u32, capability: (i32, i32)) -> Option<u32> {
    let each = cores_per_multiprocessor(capability)?;
    (cores > 0 && cores.is_multiple_of(each)).then(|| cores / each)
}

/// FP32 cores per multiprocessor by compute capability: the CUDA C++ programming guide's table of
/// arithmetic throughput, and `_ConvertSMVer2Cores` in NVIDIA's CUDA samples.
fn cores_per_multiprocessor(capability: (i32, i32)) -> Option<u32> {
    Some(match capability {
        (3, _) => 192,
        (5, _) | (6, 1 | 2) => 128,
        (6, 0) | (7, _) | (8, 0) => 64,
        (8, 6 | 7 | 9) | (9, 0) => 128,
        (10, 0 | 1 | 3) | (11, 0) | (12, 0 | 1) => 128,
        _ => return None,
    })
}

/// The name of a MIG profile, `3g.40gb`, or `1c.3g.40gb` for a part of one: as NVIDIA names them
/// from slices and the share of the card's memory in eighths. For drivers that do not tell it.
pub(super) fn profile_name(
    compute_slices: u32,
    gpu_slices: u32,
    memory_mib: u64,
    card_memory: u64,
) -> String {
    let card_mib = (card_memory / MIB).max(1);
    let eighths = (memory_mib * 8).div_ceil(card_mib);
    let gigabytes = (eighths * card_memory.div_ceil(GIB) + 4) / 8;
    let part =
        if compute_slices == gpu_slices { String::new() } else { format!("{compute_slices}c.") };
    format!("{part}{gpu_slices}g.{gigabytes}gb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multiprocessors_of_known_cards_come_out() {
        for (card, cores, capability, expected) in [
            ("Tesla K80", 2496, (3, 7), Some(13)),
            ("Tesla P100", 3584, (6, 0), Some(56)),
            ("Tesla V100", 5120, (7, 0), Some(80)),
            ("Tesla T4", 2560, (7, 5), Some(40)),
            ("A100", 6912, (8, 0), Some(108)),
            ("A40", 10752, (8, 6), Some(84)),
            ("L40S", 18176, (8, 9), Some(142)),
            ("H100 SXM", 16896, (9, 0), Some(132)),
            ("B200", 18944, (10, 0), Some(148)),
            ("RTX PRO 6000", 24064, (12, 0), Some(188)),
            ("something newer", 10_000, (13, 0), None),
            ("cores that do not divide", 100, (9, 0), None),
            ("no cores", 0, (9, 0), None),
        ] {
            assert_eq!(multiprocessors(cores, capability), expected, "{card}");
        }
    }

    #[test]
    fn a_profile_is_named_as_nvidia_names_it() {
        let (a100, h100) = (40_960 * MIB, 81_559 * MIB);
        for (name, compute, gpu, mib, card) in [
            ("1g.5gb", 1, 1, 4_864, a100),
            ("2g.10gb", 2, 2, 9_984, a100),
            ("3g.20gb", 3, 3, 20_096, a100),
            ("7g.40gb", 7, 7, 40_192, a100),
            ("1g.10gb", 1, 1, 9_856, h100),
            ("3g.40gb", 3, 3, 40_448, h100),
            ("1c.3g.40gb", 1, 3, 40_448, h100),
        ] {
            assert_eq!(profile_name(compute, gpu, mib, card), name);
        }
    }
}

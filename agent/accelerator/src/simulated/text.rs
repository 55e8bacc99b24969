//! Devices by text: `8xH100-80GB`, `4xA100-40GB,2xT4-16GB`.

use super::{SimulatedDevice, limited, models};
use crate::spec::SpecError;
use fgpu_domain::units::MemoryBytes;

/// The devices `text` lists.
pub(super) fn parse(text: &str) -> Result<Vec<SimulatedDevice>, SpecError> {
    let groups: Vec<_> = text.split(',').map(group).collect::<Result<_, _>>()?;
    limited(groups.iter().map(|(count, _)| u64::from(*count)).sum())?;
    Ok(groups
        .into_iter()
        .flat_map(|(count, device)| std::iter::repeat_n(device, count as usize))
        .collect())
}

/// `[COUNTx]MODEL-SIZE`.
fn group(part: &str) -> Result<(u32, SimulatedDevice), SpecError> {
    let part = part.trim();
    let refused = |reason| SpecError::Group { part: part.to_owned(), reason };
    let digits = part.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = part.split_at(digits);
    let (count, model) = match rest.strip_prefix(['x', 'X']) {
        Some(model) if digits > 0 => {
            (number.parse().map_err(|_| refused("the count is too large"))?, model)
        }
        _ => (1, part),
    };
    if count == 0 {
        return Err(refused("the count is 0"));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_. ".contains(&byte);
    if !model.bytes().all(allowed) {
        return Err(refused("a model has letters, digits, `-`, `_`, `.` and spaces"));
    }
    let Some((name, size)) = model.rsplit_once('-').filter(|(name, _)| !name.is_empty()) else {
        return Err(refused("it needs a model and a memory size, joined by `-`"));
    };
    let memory = size_on_label(size).ok_or_else(|| refused("the memory size is not understood"))?;
    let device = SimulatedDevice {
        model: model.to_owned(),
        memory,
        multiprocessors: models::multiprocessors(name),
        ..SimulatedDevice::default()
    };
    Ok((count, device))
}

/// A size as on a card's label, where `GB` means GiB; at least 1 MiB.
pub(super) fn size_on_label(size: &str) -> Option<MemoryBytes> {
    let binary = match size.strip_suffix("GB") {
        Some(number) => format!("{number}GiB"),
        None => size.to_owned(),
    };
    binary.parse().ok().filter(|memory: &MemoryBytes| *memory >= MemoryBytes::mib(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn groups_follow_each_other_in_the_order_written() {
        let devices = parse("4xA100-40GB, 2xT4-16GB,MyCard-24GiB").unwrap();

        let models: Vec<_> = devices.iter().map(|device| device.model.as_str()).collect();
        let a100 = "A100-40GB";
        assert_eq!(models, [a100, a100, a100, a100, "T4-16GB", "T4-16GB", "MyCard-24GiB"]);
        let counts: Vec<_> = devices.iter().map(|device| device.multiprocessors).collect();
        assert_eq!(counts[3..], [Some(108), Some(40), Some(40), None]);
        assert_eq!(parse("2XT4-16GB"), parse("2xT4-16GB"));
        assert_eq!(parse("6x8x-8GB").unwrap()[5].model, "8x-8GB");
    }

    #[test]
    fn gb_on_a_label_is_gib() {
        assert_eq!(parse("H100-80GB").unwrap()[0].memory, MemoryBytes::mib(81_920));
        assert_eq!(parse("H100-80GiB").unwrap()[0].memory, MemoryBytes::gib(80));
        assert_eq!(parse("Tiny-512MiB").unwrap()[0].memory, MemoryBytes::mib(512));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (bad, part) in [
            ("", "``"),
            ("8xH100", "`8xH100`"),
            ("8x-80GB", "`8x-80GB`"),
            ("0xH100-80GB", "count is 0"),
            ("99999999999xH100-80GB", "count is too large"),
            ("2xT4-16GB,", "``"),
            ("H100-80", "memory size"),
            ("H100-0GB", "memory size"),
            ("H1:00-8GB", "letters"),
        ] {
            assert!(refused(bad).contains(part), "{bad}: {}", refused(bad));
        }
        assert!(refused("1000xT4-16GB,25xT4-16GB").contains("1025"));
    }
}

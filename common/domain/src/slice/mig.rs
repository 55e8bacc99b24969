//! MIG: profiles as NVIDIA names them, and where an instance offered as a device comes from.

use crate::ids::DeviceUuid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest name of a profile.
const MAX_LEN: usize = 32;

/// The name of a MIG profile, e.g. `1g.10gb`, `1c.3g.40gb` or `1g.10gb+me`; lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MigProfile(String);

/// Not the name of a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no MIG profile: write it as `nvidia-smi mig -lgip` names it, such as `1g.10gb`")]
pub struct NoMigProfile(pub String);

/// Where a device comes from that is an instance of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigOrigin {
    /// Its profile, as the driver names it.
    pub profile: String,
    /// The card.
    pub card: DeviceUuid,
}

impl MigProfile {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the driver means this profile by `name`.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name)
    }
}

impl FromStr for MigProfile {
    type Err = NoMigProfile;

    fn from_str(text: &str) -> Result<Self, NoMigProfile> {
        let name = text.to_ascii_lowercase();
        match name.len() <= MAX_LEN && is_profile(&name) {
            true => Ok(Self(name)),
            false => Err(NoMigProfile(text.to_owned())),
        }
    }
}

impl TryFrom<String> for MigProfile {
    type Error = NoMigProfile;

    fn try_from(text: String) -> Result<Self, NoMigProfile> {
        text.parse()
    }
}

impl From<MigProfile> for String {
    fn from(profile: MigProfile) -> Self {
        profile.0
    }
}

impl fmt::Display for MigProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// `[1c.]3g.40gb`, and what it has besides: `+me`, `+gfx`, `+me.all`, `-me`.
fn is_profile(name: &str) -> bool {
    let sized = |part: &str, unit: &str| {
        let number = part.strip_suffix(unit).unwrap_or_default();
        !number.starts_with('0') && is_made_of(number, |byte| byte.is_ascii_digit())
    };
    let (size, besides) = match name.find(['+', '-']) {
        Some(at) => (&name[..at], Some(&name[at + 1..])),
        None => (name, None),
    };
    let parts: Vec<&str> = size.split('.').collect();
    let known = match parts.as_slice() {
        [slices, memory] => sized(slices, "g") && sized(memory, "gb"),
        [cores, slices, memory] => sized(cores, "c") && sized(slices, "g") && sized(memory, "gb"),
        _ => false,
    };
    let is_word = |word: &str| is_made_of(word, |byte| byte.is_ascii_lowercase());
    known && besides.is_none_or(|besides| besides.split(['.', '+', '-']).all(is_word))
}

fn is_made_of(text: &str, of: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_written_as_the_driver_names_them() {
        for name in
            ["1g.10gb", "1c.3g.40gb", "1g.10gb+me", "7g.141gb", "1g.24gb+me.all", "2g.48gb-me"]
        {
            let profile: MigProfile = name.parse().unwrap();
            assert_eq!(profile.to_string(), name);
        }
        let shouted: MigProfile = "1G.10GB+ME".parse().unwrap();
        assert!(shouted.as_str() == "1g.10gb+me" && shouted.is("1g.10gb+ME"));
    }

    #[test]
    fn what_is_no_profile_is_refused_with_an_example() {
        for name in [
            "",
            "1g",
            "10gb",
            "1g10gb",
            "0g.10gb",
            "g.10gb",
            "1g.10gib",
            "1g.10gb+",
            "a.1g.10gb",
            "1g.10gb.x",
        ] {
            let refused = name.parse::<MigProfile>().unwrap_err();
            assert!(refused.to_string().contains("1g.10gb"), "{name}: {refused}");
        }
        assert!(format!("1g.10gb+{}", "m".repeat(MAX_LEN)).parse::<MigProfile>().is_err());
    }
}

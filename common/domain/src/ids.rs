//! Identifiers. Each is a checked string: what is in one has already been validated. A clone shares
//! the text, since every index and every snapshot holds them; a session's id, which all the large
//! indexes are ordered by, is held in place.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{value}` is not valid: {rule}")]
pub struct IdError {
    /// Which kind of identifier was wanted.
    pub what: &'static str,
    /// The text given.
    pub value: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $text:ty, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($text);

        impl $name {
            /// Checks `value` against the rule of this identifier.
            ///
            /// # Errors
            /// [`IdError`] names the value and the rule it breaks.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                value.into().parse()
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(value) {
                    Ok(Self(value.into()))
                } else {
                    Err(IdError { what: $what, value: value.to_owned(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(PhantomData))
            }
        }
    };
}

/// Lets a map that is ordered or hashed by an identifier be asked by its text.
macro_rules! found_by_text {
    ($($name:ident),*) => {
        $(impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        })*
    };
}

/// Reads an identifier from a text where it stands, without a copy on the way.
struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err = IdError>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// At most 32 bytes of text without a zero, held in place and compared without following a pointer,
/// word by word.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct InPlace([u8; 32]);

impl InPlace {
    /// The words it is compared by: their order is that of the text.
    fn words(&self) -> impl Iterator<Item = u64> {
        let (words, _) = self.0.as_chunks();
        words.iter().map(|word| u64::from_be_bytes(*word))
    }
}

impl Ord for InPlace {
    fn cmp(&self, other: &Self) -> Ordering {
        self.words().cmp(other.words())
    }
}

impl PartialOrd for InPlace {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<&str> for InPlace {
    fn from(text: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        Self(bytes)
    }
}

impl Deref for InPlace {
    type Target = str;
    fn deref(&self) -> &str {
        let length = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        // It was made from text, so the other case never comes.
        str::from_utf8(&self.0[..length]).unwrap_or_default()
    }
}

impl fmt::Debug for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

id!(
    /// The cluster an object belongs to: written once into the store, carried by every container.
    ClusterId, Arc<str>, "cluster id", "8 to 64 lower-case letters, digits or `-`",
    |v| (8..=64).contains(&v.len()) && v.bytes().all(lower_digit_dash)
);
id!(
    /// A machine of the cluster, by the name its agent registers with.
    NodeName, Arc<str>, "node name", "1 to 63 lower-case letters, digits, `-` or `.`, starting and ending with a letter or digit",
    |v| v.len() <= 63 && v.bytes().all(|b| lower_digit_dash(b) || b == b'.') && alphanumeric_ends(v)
);
id!(
    /// One physical GPU, by the UUID its driver reports (`GPU-…`), or a simulated one's.
    DeviceUuid, Arc<str>, "device uuid", "1 to 96 letters, digits, `-`, `/` or `_`",
    |v| (1..=96).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/_".contains(&b))
);
id!(
    /// A session: given by the manager at create, never reused.
    SessionId, InPlace, "session id", "8 to 32 lower-case letters or digits",
    |v| (8..=32).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
);
id!(
    /// The name a person gives a session; unique among those that have not ended.
    SessionName, Arc<str>, "session name", "1 to 63 lower-case letters, digits or `-`, starting and ending with a letter or digit",
    |v| v.len() <= 63 && v.bytes().all(lower_digit_dash) && alphanumeric_ends(v)
);
id!(
    /// Chosen by the caller of create: the same one means the same session.
    RequestId, Arc<str>, "request id", "8 to 64 letters, digits, `-` or `_`",
    |v| (8..=64).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
);
id!(
    /// Who asked: the name of the token a request came with.
    UserName, Arc<str>, "user name", "1 to 63 lower-case letters, digits, `-`, `.`, `_` or `@`, starting and ending with a letter or digit",
    |v| v.len() <= 63 && v.bytes().all(|b| lower_digit_dash(b) || b"._@".contains(&b)) && alphanumeric_ends(v)
);
id!(
    /// A project: what quotas and fair share are counted by.
    ProjectName, Arc<str>, "project name", "1 to 63 lower-case letters, digits or `-`, starting and ending with a letter or digit",
    |v| v.len() <= 63 && v.bytes().all(lower_digit_dash) && alphanumeric_ends(v)
);
id!(
    /// A priority class.
    ClassName, Arc<str>, "class name", "1 to 63 lower-case letters, digits or `-`, starting and ending with a letter or digit",
    |v| v.len() <= 63 && v.bytes().all(lower_digit_dash) && alphanumeric_ends(v)
);

found_by_text!(NodeName, ProjectName, ClassName, UserName, DeviceUuid);

/// The project of a session that names none.
pub const DEFAULT_PROJECT: &str = "default";
/// The class of a session that names none.
pub const DEFAULT_CLASS: &str = "normal";

impl Default for ProjectName {
    fn default() -> Self {
        Self(DEFAULT_PROJECT.into())
    }
}

impl Default for ClassName {
    fn default() -> Self {
        Self(DEFAULT_CLASS.into())
    }
}

impl SessionId {
    /// Stands for a session that is only asked about.
    pub(crate) fn of_dry_run() -> Self {
        Self(InPlace::from("dryrun00"))
    }

    /// The id of member `position` of the group this session is the first of: itself for 0.
    ///
    /// # Errors
    /// [`IdError`] when this id is too long to have members.
    pub fn member(&self, position: u32) -> Result<Self, IdError> {
        match position {
            0 => Ok(self.clone()),
            _ => Self::new(format!("{self}x{position}")),
        }
    }
}

fn lower_digit_dash(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn alphanumeric_ends(value: &str) -> bool {
    let ends = [value.bytes().next(), value.bytes().last()];
    ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_name_outside_the_rule_is_refused_with_the_rule() {
        let refused = NodeName::new("-a").unwrap_err();

        assert_eq!(refused.value, "-a");
        assert!(refused.to_string().contains("starting and ending"));
        for bad in ["", "A", "a b", "a-", &"a".repeat(64)] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
        for good in ["a", "gpu-1.rack2", &"a".repeat(63)] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_session_id_is_ordered_hashed_and_shown_as_its_text() {
        let texts =
            ["abcdefgh", "abcdefg0", "abcdefghi", "zzzzzzzz", &"z".repeat(32), "00000000x1"];
        let ids: Vec<SessionId> = texts.iter().map(|&text| SessionId::new(text).unwrap()).collect();
        for (one, text) in ids.iter().zip(texts) {
            assert_eq!((one.as_str(), format!("{one:?}")), (text, format!("SessionId({text:?})")));
            for (other, other_text) in ids.iter().zip(texts) {
                assert_eq!(one.cmp(other), text.cmp(other_text), "{one} {other}");
            }
        }
        let known: HashSet<SessionId> = ids.into_iter().collect();
        assert!(texts.iter().all(|&text| known.contains(&SessionId::new(text).unwrap())));
    }

    #[test]
    fn the_id_of_a_dry_run_is_one() {
        let id = SessionId::of_dry_run();
        assert_eq!(SessionId::new(id.as_str()), Ok(id));
    }

    #[test]
    fn reading_a_record_checks_the_identifier_in_it() {
        assert!(serde_json::from_str::<SessionId>("\"short\"").is_err());
        assert!(serde_json::from_str::<SessionId>("\"abcdef12\"").is_ok());
    }
}

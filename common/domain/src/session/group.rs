//! Sessions made together: arrays, whose members are independent, and gangs, which run as a whole
//! or not at all.

use super::SpecError;
use super::field;
use super::{Session, SessionSpec};
use crate::ids::{IdError, SessionId, SessionName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// Members of one array or gang: all are made in one write of the store.
pub const MAX_MEMBERS: u32 = 120;

/// What a session is a member of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The id of its first member.
    pub id: SessionId,
    /// Which member: the number from the array's range, or from 0 in a gang.
    pub index: u32,
    /// How many members there are.
    pub size: u32,
    /// What holds them together.
    pub kind: GroupKind,
}

/// What holds the members of a group together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum GroupKind {
    /// Nothing: each runs and ends by itself.
    Array {
        /// At most so many hold a place at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_once: Option<NonZeroU32>,
    },
    /// All are placed together; when one ends other than by completing, all are stopped.
    Gang,
}

/// How many sessions one create makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Members {
    /// One session that belongs to no group.
    #[default]
    One,
    /// An array (`--array`).
    Array(ArrayRange),
    /// A gang of this many (`--size`).
    Gang(NonZeroU32),
}

/// The numbers of an array, written `1-100`, `1-10:2` or `1-100%5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayRange {
    /// The first number.
    pub first: u32,
    /// No number is above this.
    pub last: u32,
    /// From one number to the next.
    pub step: NonZeroU32,
    /// At most so many members hold a place at once.
    pub at_once: Option<NonZeroU32>,
}

impl ArrayRange {
    /// Its numbers in order.
    pub fn indexes(&self) -> impl Iterator<Item = u32> {
        let step = usize::try_from(self.step.get()).unwrap_or(usize::MAX);
        (self.first..=self.last).step_by(step)
    }

    /// How many numbers there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        match self.last.checked_sub(self.first) {
            Some(span) => (span / self.step.get()).saturating_add(1),
            None => 0,
        }
    }

    /// Whether there is no number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromStr for ArrayRange {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        const RULE: &str = "write `1-100`, `1-10:2` (every second) or `1-100%5` (five at once)";
        let refused = || field("--array", text, RULE);
        let number = |part: &str| part.parse::<u32>().map_err(|_| refused());
        let positive =
            |part: &str| number(part).and_then(|n| NonZeroU32::new(n).ok_or_else(refused));
        let (range, at_once) = match text.split_once('%') {
            Some((range, at_once)) => (range, Some(positive(at_once)?)),
            None => (text, None),
        };
        let (range, step) = match range.split_once(':') {
            Some((range, step)) => (range, positive(step)?),
            None => (range, NonZeroU32::MIN),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let range = Self { first: number(first)?, last: number(last)?, step, at_once };
        Members::Array(range).check().map(|()| range)
    }
}

impl fmt::Display for ArrayRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)?;
        if self.step != NonZeroU32::MIN {
            write!(f, ":{}", self.step)?;
        }
        self.at_once.map_or(Ok(()), |at_once| write!(f, "%{at_once}"))
    }
}

impl Members {
    /// How many sessions.
    #[must_use]
    pub fn count(&self) -> u32 {
        match self {
            Self::One => 1,
            Self::Array(range) => range.len(),
            Self::Gang(size) => size.get(),
        }
    }

    /// Checks the number of members.
    ///
    /// # Errors
    /// The flag, its value, and the rule.
    pub fn check(&self) -> Result<(), SpecError> {
        let rule = || format!("from 1 to {MAX_MEMBERS} members");
        let allowed = (1..=MAX_MEMBERS).contains(&self.count());
        match self {
            Self::Array(range) if !allowed => Err(field("--array", range, &rule())),
            Self::Gang(size) if !allowed => Err(field("--size", size, &rule())),
            Self::One | Self::Array(_) | Self::Gang(_) => Ok(()),
        }
    }

    /// The members: for each its position, and the group it carries.
    ///
    /// # Errors
    /// [`IdError`] when `first` is too long to have members.
    pub(crate) fn groups(
        &self,
        first: &SessionId,
    ) -> Result<Vec<(SessionId, Option<Group>)>, IdError> {
        let size = self.count();
        let (kind, indexes): (GroupKind, Vec<u32>) = match self {
            Self::One => return Ok(vec![(first.clone(), None)]),
            Self::Array(range) => {
                (GroupKind::Array { at_once: range.at_once }, range.indexes().collect())
            }
            Self::Gang(_) => (GroupKind::Gang, (0..size).collect()),
        };
        let members = (0..).zip(indexes).map(|(position, index)| {
            let group = Group { id: first.clone(), index, size, kind };
            Ok((first.member(position)?, Some(group)))
        });
        members.collect()
    }
}

impl Group {
    /// Whether its members run as a whole or not at all.
    #[must_use]
    pub fn is_gang(&self) -> bool {
        self.kind == GroupKind::Gang
    }
}

impl SessionSpec {
    /// What a member of a group is made of: as this, with the member's own name.
    ///
    /// # Errors
    /// The name with the index behind it is too long.
    pub(crate) fn member(&self, group: &Group) -> Result<Self, SpecError> {
        let Some(name) = &self.name else { return Ok(self.clone()) };
        let own = SessionName::new(format!("{name}-{}", group.index))
            .map_err(|error| field("--name", name, error.rule))?;
        Ok(Self { name: Some(own), ..self.clone() })
    }
}

impl Session {
    /// What the session's environment says of its group; empty without one.
    #[must_use]
    pub fn group_environment(&self) -> BTreeMap<String, String> {
        let Some(group) = &self.group else { return BTreeMap::new() };
        let mut pairs = match group.kind {
            GroupKind::Array { .. } => vec![("FGPU_ARRAY_INDEX", group.index.to_string())],
            GroupKind::Gang => vec![
                ("FGPU_CLUSTER_INDEX", group.index.to_string()),
                ("FGPU_CLUSTER_ROLE", if group.index == 0 { "head" } else { "worker" }.to_owned()),
            ],
        };
        let (id, size) = match group.kind {
            GroupKind::Array { .. } => ("FGPU_ARRAY_ID", "FGPU_ARRAY_SIZE"),
            GroupKind::Gang => ("FGPU_CLUSTER_ID", "FGPU_CLUSTER_SIZE"),
        };
        pairs.push((id, group.id.to_string()));
        pairs.push((size, group.size.to_string()));
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> ArrayRange {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_read_as_it_is_written() {
        assert_eq!(range("1-100").len(), 100);
        assert_eq!(range("1-10:2").indexes().collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
        assert_eq!(range("7").indexes().collect::<Vec<_>>(), [7]);
        assert_eq!(range("1-100%5").at_once, NonZeroU32::new(5));
        for text in ["1-100", "1-10:2", "0-9:3%2"] {
            assert_eq!(range(text).to_string(), text);
        }
    }

    #[test]
    fn a_bad_range_is_refused_by_its_flag() {
        for bad in ["", "a", "3-1", "1-1000", "1-10:0", "1-10%0", "1-10:x", "1-4294967295"] {
            let refused = bad.parse::<ArrayRange>().unwrap_err();
            assert_eq!(refused.field(), "--array", "{bad}");
        }
        let huge = Members::Gang(NonZeroU32::new(1000).unwrap()).check().unwrap_err();
        assert_eq!(huge.field(), "--size");
    }

    #[test]
    fn members_have_ids_of_their_own_that_begin_like_the_first() {
        let first: SessionId = "abcdefgh2345".parse().unwrap();
        let members = Members::Array(range("5-9:2")).groups(&first).unwrap();
        let ids: Vec<&str> = members.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["abcdefgh2345", "abcdefgh2345x1", "abcdefgh2345x2"]);
        let last = members[2].1.as_ref().unwrap();
        assert_eq!((last.index, last.size), (9, 3));
    }
}

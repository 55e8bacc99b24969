//! Arrays and gangs.

use crate::error::CallError;
use crate::v1;
use crate::v1::create_session_request as create;
use fgpu_domain::session::{ArrayRange, Group, GroupKind, Members};
use std::num::NonZeroU32;

/// Reads how many sessions a create makes.
///
/// # Errors
/// A gang of none.
pub fn members(members: Option<create::Members>) -> Result<Members, CallError> {
    match members {
        None => Ok(Members::One),
        Some(create::Members::Array(range)) => Ok(Members::Array(ArrayRange {
            first: range.first,
            last: range.last,
            step: NonZeroU32::new(range.step).unwrap_or(NonZeroU32::MIN),
            at_once: NonZeroU32::new(range.at_once),
        })),
        Some(create::Members::GangSize(size)) => {
            let none = || CallError::field("--size", size, "at least one member");
            Ok(Members::Gang(NonZeroU32::new(size).ok_or_else(none)?))
        }
    }
}

impl From<&ArrayRange> for v1::ArrayRange {
    fn from(range: &ArrayRange) -> Self {
        Self {
            first: range.first,
            last: range.last,
            step: range.step.get(),
            at_once: range.at_once.map_or(0, NonZeroU32::get),
        }
    }
}

impl From<&Group> for v1::Group {
    fn from(group: &Group) -> Self {
        let (kind, at_once) = match group.kind {
            GroupKind::Array { at_once } => (v1::GroupKind::Array, at_once),
            GroupKind::Gang => (v1::GroupKind::Gang, None),
        };
        Self {
            id: group.id.to_string(),
            index: group.index,
            size: group.size,
            kind: kind.into(),
            at_once: at_once.map_or(0, NonZeroU32::get),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_comes_back_as_it_was_sent(
            first: u32, last: u32, step in 1..u32::MAX, at_once: u32,
        ) {
            let step = NonZeroU32::new(step).unwrap();
            let range = ArrayRange { first, last, step, at_once: NonZeroU32::new(at_once) };
            let sent = create::Members::Array((&range).into());
            prop_assert_eq!(members(Some(sent)), Ok(Members::Array(range)));
        }
    }

    #[test]
    fn a_gang_has_a_size_and_a_range_without_a_step_goes_one_by_one() {
        let refused = members(Some(create::Members::GangSize(0))).unwrap_err();
        assert_eq!(refused.fields[0].field, "--size");
        let gang = members(Some(create::Members::GangSize(8)));
        assert_eq!(gang, Ok(Members::Gang(NonZeroU32::new(8).unwrap())));
        let plain = v1::ArrayRange { first: 1, last: 9, step: 0, at_once: 0 };
        match members(Some(create::Members::Array(plain))) {
            Ok(Members::Array(range)) => assert_eq!(range.to_string(), "1-9"),
            other => panic!("{other:?}"),
        }
        assert_eq!(members(None), Ok(Members::One));
    }

    #[test]
    fn a_session_says_which_member_of_what_it_is() {
        let at_once = NonZeroU32::new(2);
        let kind = GroupKind::Array { at_once };
        let group = Group { id: "abcdefgh".parse().unwrap(), index: 3, size: 5, kind };
        let wire = v1::Group::from(&group);
        assert_eq!((wire.id.as_str(), wire.index, wire.size, wire.at_once), ("abcdefgh", 3, 5, 2));
        assert_eq!(wire.kind(), v1::GroupKind::Array);
        let gang = Group { kind: GroupKind::Gang, ..group };
        assert_eq!(v1::Group::from(&gang).kind(), v1::GroupKind::Gang);
    }
}

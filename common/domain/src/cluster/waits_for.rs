//! What a waiting session waits for, in one word: cheap enough to be asked of every row of a list.
//!
//! It says what was found when the session was last looked at; [`Cluster::explain`] looks anew.

use super::Cluster;
use super::judge::Hold;
use super::waiting::{Standing, unit_of, waits};
use crate::ids::SessionId;
use std::fmt;

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// Its start time.
    StartAt,
    /// The end of other sessions.
    Dependency,
    /// Other members of its array, of which only some may hold a place at once.
    ArrayLimit,
    /// Other members of its gang, which are still being stopped.
    Gang,
    /// A quota.
    Quota,
    /// Room on some node.
    Room,
    /// Room that is kept for others which wait longer or are more important.
    Reserved,
    /// Its turn.
    Turn,
}

impl WaitsFor {
    /// A stable code, as holds of an explanation have it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::StartAt => "START_AT",
            Self::Dependency => "DEPENDENCY",
            Self::ArrayLimit => "ARRAY_LIMIT",
            Self::Gang => "GANG",
            Self::Quota => "QUOTA_EXCEEDED",
            Self::Room => "NO_ROOM",
            Self::Reserved => "RESERVED",
            Self::Turn => "QUEUED",
        }
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StartAt => "start time",
            Self::Dependency => "others to end",
            Self::ArrayLimit => "array limit",
            Self::Gang => "gang stopping",
            Self::Quota => "quota",
            Self::Room => "room",
            Self::Reserved => "room kept for others",
            Self::Turn => "its turn",
        })
    }
}

impl Cluster {
    /// What a session waits for; `None` for one that does not wait.
    #[must_use]
    pub fn waits_for(&self, id: &SessionId) -> Option<WaitsFor> {
        let session = self.sessions.get(id).filter(|session| waits(session))?;
        let unit = self.index.waiting.units.get(unit_of(session))?;
        Some(match &unit.standing {
            Standing::Held(Hold::Until { .. }) => WaitsFor::StartAt,
            Standing::Held(Hold::After { .. }) => WaitsFor::Dependency,
            Standing::Held(Hold::Array { .. }) => WaitsFor::ArrayLimit,
            Standing::Held(Hold::Gang { .. }) => WaitsFor::Gang,
            Standing::Ready(place, _) if self.index.waiting.queue.is_over_quota(place) => {
                WaitsFor::Quota
            }
            Standing::Ready(place, _) if self.index.waiting.queue.is_refused(place) => {
                WaitsFor::Reserved
            }
            Standing::Ready(place, _) if self.index.waiting.queue.found_no_room(place) => {
                WaitsFor::Room
            }
            Standing::Ready(..) | Standing::Unjudged => WaitsFor::Turn,
        })
    }
}

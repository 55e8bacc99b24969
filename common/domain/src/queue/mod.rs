//! The queue: who is tried next, and who is not tried at all because nothing changed.
//!
//! Waiting *units* (a session, or a gang as a whole) lie in buckets: by effective priority, then
//! *kind* (what is asked of placement, see [`kind`]), then project and user, oldest first. A
//! [`Pass`] walks one priority in the order of fair share. A kind for which no room was found is
//! closed until a node that has changed has room for it, and a bucket that met a quota until that quota or
//! what is held under it has changed: what waits costs nothing in between, however much it is.

mod kind;
mod pass;

pub(crate) use kind::{Kind, KindId};
pub(crate) use pass::{Candidate, Pass, Shares};

use crate::ids::{NodeName, ProjectName, SessionId, UserName};
use crate::placement::{Request, View};
use kind::Kinds;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Where a unit waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub priority: i32,
    pub project: ProjectName,
    pub user: UserName,
    pub kind: KindId,
    pub sequence: u64,
}

/// Everything that waits and may start as far as time, dependencies and its group are concerned.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue {
    levels: BTreeMap<Reverse<i32>, Level>,
    kinds: Kinds,
    /// Kinds that are not closed, by the priorities they wait at.
    open: BTreeMap<Reverse<i32>, BTreeSet<KindId>>,
    /// Kinds closed for the sake of others, not for want of room.
    refused: BTreeSet<KindId>,
    /// Buckets closed by a quota.
    over_quota: BTreeMap<ProjectName, BTreeSet<(Reverse<i32>, UserName, KindId)>>,
}

/// All units of one priority, by kind, so that only what is open is ever looked at.
type Level = BTreeMap<KindId, Lines>;

/// Who waits for one kind.
type Lines = BTreeMap<ProjectName, BTreeMap<UserName, Bucket>>;

/// Units of one user in one project that ask for the same, by age.
#[derive(Debug, Clone, Default)]
struct Bucket {
    units: BTreeMap<u64, SessionId>,
    over_quota: bool,
}

impl Queue {
    /// The kind of this key.
    pub(crate) fn kind(&mut self, key: Kind) -> KindId {
        self.kinds.id(key)
    }

    /// Lets `unit` wait at `place`.
    pub(crate) fn enter(&mut self, unit: SessionId, place: &Place) {
        let Place { priority, project, user, kind, sequence } = place;
        let level = self.levels.entry(Reverse(*priority)).or_default();
        let users = level.entry(*kind).or_default().entry(project.clone()).or_default();
        users.entry(user.clone()).or_default().units.insert(*sequence, unit);
        if self.kinds.take(*kind, *priority) {
            self.open.entry(Reverse(*priority)).or_default().insert(*kind);
        }
    }

    /// Takes away what waits at `place`.
    pub(crate) fn leave(&mut self, place: &Place) {
        let Place { priority, project, user, kind, .. } = place;
        let Some(bucket_left) = self.take_away(place) else { return };
        if !bucket_left && let Some(closed) = self.over_quota.get_mut(project) {
            closed.remove(&(Reverse(*priority), user.clone(), *kind));
            if closed.is_empty() {
                self.over_quota.remove(project);
            }
        }
        if self.kinds.release(*kind, *priority) {
            self.shut(Reverse(*priority), *kind);
        }
    }

    /// Tells whether others are left in the bucket; `None` if the unit was not there.
    fn take_away(&mut self, place: &Place) -> Option<bool> {
        let priority = Reverse(place.priority);
        let level = self.levels.get_mut(&priority)?;
        let projects = level.get_mut(&place.kind)?;
        let users = projects.get_mut(&place.project)?;
        let bucket = users.get_mut(&place.user)?;
        bucket.units.remove(&place.sequence)?;
        let left = !bucket.units.is_empty();
        if !left {
            users.remove(&place.user);
        }
        if users.is_empty() {
            projects.remove(&place.project);
        }
        if projects.is_empty() {
            level.remove(&place.kind);
        }
        if level.is_empty() {
            self.levels.remove(&priority);
        }
        Some(left)
    }

    /// Takes a kind from those that are open at a priority.
    fn shut(&mut self, priority: Reverse<i32>, kind: KindId) {
        if let Some(kinds) = self.open.get_mut(&priority) {
            kinds.remove(&kind);
            if kinds.is_empty() {
                self.open.remove(&priority);
            }
        }
    }

    fn bucket(&self, place: &Place) -> Option<&Bucket> {
        let lines = self.levels.get(&Reverse(place.priority))?.get(&place.kind)?;
        lines.get(&place.project)?.get(&place.user)
    }

    fn bucket_mut(
        &mut self,
        priority: Reverse<i32>,
        project: &ProjectName,
        user: &UserName,
        kind: KindId,
    ) -> Option<&mut Bucket> {
        let lines = self.levels.get_mut(&priority)?.get_mut(&kind)?;
        lines.get_mut(project)?.get_mut(user)
    }

    /// Priorities at which a kind waits that is not closed, the highest first.
    pub(crate) fn open_priorities(&self) -> Vec<i32> {
        self.open.keys().map(|Reverse(priority)| *priority).collect()
    }

    /// Priorities at which anything waits, the highest first.
    pub(crate) fn priorities(&self) -> impl Iterator<Item = i32> {
        self.levels.keys().map(|Reverse(priority)| *priority)
    }

    /// Closes a kind: `view` has no room for what it asks.
    pub(crate) fn no_room(&mut self, kind: KindId, request: Request, view: &View) {
        self.refused.remove(&kind);
        for priority in self.kinds.close(kind, request, view) {
            self.shut(Reverse(priority), kind);
        }
    }

    /// Closes a kind as [`Queue::no_room`] does: there is room, but it is kept for others.
    pub(crate) fn refuse(&mut self, kind: KindId, request: Request, view: &View) {
        self.no_room(kind, request, view);
        self.refused.insert(kind);
    }

    /// Opens every kind that was closed for the sake of others.
    pub(crate) fn open_refused(&mut self) {
        for kind in std::mem::take(&mut self.refused) {
            let opened = vec![(kind, self.kinds.open(kind))];
            self.opened(opened);
        }
    }

    /// Whether any kind is closed.
    pub(crate) fn has_closed(&self) -> bool {
        self.kinds.has_closed()
    }

    /// Whether what waits at `place` was tried and found only room that is kept for others.
    pub(crate) fn is_refused(&self, place: &Place) -> bool {
        self.refused.contains(&place.kind) && self.found_no_room(place)
    }

    /// Whether a kind is closed.
    pub(crate) fn is_closed(&self, kind: KindId) -> bool {
        !self.kinds.is_open(kind)
    }

    /// Whether what waits at `place` is to be tried.
    pub(crate) fn is_open(&self, place: &Place) -> bool {
        self.kinds.is_open(place.kind) && !self.is_over_quota(place)
    }

    /// Whether what waits at `place` was tried and found no room, and nothing changed since.
    pub(crate) fn found_no_room(&self, place: &Place) -> bool {
        !self.kinds.is_open(place.kind) && !self.is_over_quota(place)
    }

    /// Whether what waits at `place` met a quota, and nothing changed for that since.
    pub(crate) fn is_over_quota(&self, place: &Place) -> bool {
        self.bucket(place).is_some_and(|bucket| bucket.over_quota)
    }

    /// Opens the kinds that `node`, which has changed, has room for.
    pub(crate) fn node_changed(&mut self, view: &View, node: &NodeName) {
        let opened = self.kinds.node_changed(view, node);
        self.opened(opened);
    }

    /// Whether the hardware has changed in a way that may give any closed kind room.
    pub(crate) fn is_outdated(&self, view: &View) -> bool {
        self.kinds.is_outdated(view)
    }

    /// Opens every kind.
    pub(crate) fn hardware_changed(&mut self) {
        let opened = self.kinds.open_all();
        self.opened(opened);
    }

    fn opened(&mut self, kinds: Vec<(KindId, Vec<i32>)>) {
        for (kind, priorities) in kinds {
            for priority in priorities {
                self.open.entry(Reverse(priority)).or_default().insert(kind);
            }
        }
    }

    /// Closes a bucket until a quota of its project, or what is held under it, changes.
    pub(crate) fn met_quota(&mut self, place: &Place) {
        let Place { priority, project, user, kind, .. } = place;
        let priority = Reverse(*priority);
        let Some(bucket) = self.bucket_mut(priority, project, user, *kind) else { return };
        bucket.over_quota = true;
        let closed = self.over_quota.entry(project.clone()).or_default();
        closed.insert((priority, user.clone(), *kind));
    }

    /// Opens what quotas of `project` had closed; tells whether there was any.
    pub(crate) fn quota_changed(&mut self, project: &ProjectName) -> bool {
        let Some(closed) = self.over_quota.remove(project) else { return false };
        for (priority, user, kind) in closed {
            if let Some(bucket) = self.bucket_mut(priority, project, &user, kind) {
                bucket.over_quota = false;
            }
        }
        true
    }

    /// Opens what any quota had closed.
    pub(crate) fn quotas_changed(&mut self) {
        let projects: Vec<ProjectName> = self.over_quota.keys().cloned().collect();
        for project in &projects {
            self.quota_changed(project);
        }
    }

    /// Every unit with where it waits.
    pub(crate) fn units(&self) -> impl Iterator<Item = (&SessionId, Place)> {
        self.levels.iter().flat_map(|(Reverse(priority), level)| {
            level.iter().flat_map(move |(kind, projects)| {
                projects.iter().flat_map(move |(project, users)| {
                    users.iter().flat_map(move |(user, bucket)| {
                        bucket.units.iter().map(move |(sequence, unit)| {
                            let place = Place {
                                priority: *priority,
                                project: project.clone(),
                                user: user.clone(),
                                kind: *kind,
                                sequence: *sequence,
                            };
                            (unit, place)
                        })
                    })
                })
            })
        })
    }
}

//! The queue: who is tried next, and who is not tried at all because nothing changed.
//!
//! Waiting *units* (a session, or a gang as a whole) lie in buckets: by effective priority, then
//! project, then user, then *kind* (what is asked of placement, see [`kind`]), oldest first. A
//! [`Pass`] walks one priority in the order of fair share. A kind for which no room was found is
//! closed until a node it could use has changed, and a bucket that met a quota until that quota or
//! what is held under it has changed: what waits costs nothing in between, however much it is.

mod kind;
mod pass;

pub(crate) use kind::{Kind, KindId};
pub(crate) use pass::{Candidate, Pass, Shares};

use crate::ids::{ProjectName, SessionId, UserName};
use crate::placement::{NodeView, Request};
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
    /// Buckets closed by a quota.
    over_quota: BTreeMap<ProjectName, BTreeSet<(Reverse<i32>, UserName, KindId)>>,
}

/// All units of one priority.
#[derive(Debug, Clone, Default)]
struct Level {
    projects: BTreeMap<ProjectName, BTreeMap<UserName, Line>>,
    /// In which projects a kind waits, and how many units.
    kinds: BTreeMap<KindId, BTreeMap<ProjectName, usize>>,
}

/// What one user waits for in one project.
type Line = BTreeMap<KindId, Bucket>;

/// Units that ask for the same.
#[derive(Debug, Clone, Default)]
struct Bucket {
    units: BTreeMap<u64, SessionId>,
    over_quota: bool,
}

impl Queue {
    /// The kind of this key; `request` is what it asks of placement.
    pub(crate) fn kind(&mut self, key: Kind, request: impl FnOnce() -> Request) -> KindId {
        self.kinds.id(key, request)
    }

    /// Lets `unit` wait at `place`.
    pub(crate) fn enter(&mut self, unit: SessionId, place: &Place) {
        let Place { priority, project, user, kind, sequence } = place;
        let level = self.levels.entry(Reverse(*priority)).or_default();
        *level.kinds.entry(*kind).or_default().entry(project.clone()).or_default() += 1;
        let users = level.projects.entry(project.clone()).or_default();
        let line = users.entry(user.clone()).or_default();
        line.entry(*kind).or_default().units.insert(*sequence, unit);
        self.kinds.take(*kind);
    }

    /// Takes away what waits at `place`.
    pub(crate) fn leave(&mut self, place: &Place) {
        let Place { priority, project, user, kind, sequence } = place;
        let Some(level) = self.levels.get_mut(&Reverse(*priority)) else { return };
        if !level.leave(project, user, *kind, *sequence) {
            return;
        }
        if level.projects.is_empty() {
            self.levels.remove(&Reverse(*priority));
        }
        self.kinds.release(*kind);
    }

    /// Priorities at which a kind waits that is not closed, the highest first.
    pub(crate) fn open_priorities(&self) -> Vec<i32> {
        let open = |level: &Level| level.kinds.keys().any(|kind| self.kinds.is_open(*kind));
        let levels = self.levels.iter().filter(|(_, level)| open(level));
        levels.map(|(Reverse(priority), _)| *priority).collect()
    }

    /// Priorities at which anything waits, the highest first.
    pub(crate) fn priorities(&self) -> impl Iterator<Item = i32> {
        self.levels.keys().map(|Reverse(priority)| *priority)
    }

    /// Closes a kind: there is no room for it, and on a node without a device that has `part` free
    /// there never is.
    pub(crate) fn no_room(&mut self, kind: KindId, part: u64) {
        self.kinds.close(kind, part);
    }

    /// Opens the kinds that `node`, which has changed, could take; tells whether there are any.
    pub(crate) fn node_changed(&mut self, node: &NodeView) -> bool {
        self.kinds.node_changed(node)
    }

    /// Opens every kind.
    pub(crate) fn hardware_changed(&mut self) {
        self.kinds.open_all();
    }

    /// Closes a bucket until a quota of its project, or what is held under it, changes.
    pub(crate) fn met_quota(&mut self, place: &Place) {
        let Place { priority, project, user, kind, .. } = place;
        let level = self.levels.get_mut(&Reverse(*priority));
        let line = level.and_then(|level| level.projects.get_mut(project)?.get_mut(user));
        let Some(bucket) = line.and_then(|line| line.get_mut(kind)) else { return };
        bucket.over_quota = true;
        let closed = self.over_quota.entry(project.clone()).or_default();
        closed.insert((Reverse(*priority), user.clone(), *kind));
    }

    /// Opens what quotas of `project` had closed; tells whether there was any.
    pub(crate) fn quota_changed(&mut self, project: &ProjectName) -> bool {
        let Some(closed) = self.over_quota.remove(project) else { return false };
        for (priority, user, kind) in closed {
            let level = self.levels.get_mut(&priority);
            let line = level.and_then(|level| level.projects.get_mut(project)?.get_mut(&user));
            if let Some(bucket) = line.and_then(|line| line.get_mut(&kind)) {
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
            level.projects.iter().flat_map(move |(project, users)| {
                users.iter().flat_map(move |(user, line)| {
                    line.iter().flat_map(move |(kind, bucket)| {
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

impl Level {
    /// Whether it was there.
    fn leave(
        &mut self,
        project: &ProjectName,
        user: &UserName,
        kind: KindId,
        sequence: u64,
    ) -> bool {
        let Some(users) = self.projects.get_mut(project) else { return false };
        let Some(line) = users.get_mut(user) else { return false };
        let Some(bucket) = line.get_mut(&kind) else { return false };
        if bucket.units.remove(&sequence).is_none() {
            return false;
        }
        if bucket.units.is_empty() {
            line.remove(&kind);
        }
        if line.is_empty() {
            users.remove(user);
        }
        if users.is_empty() {
            self.projects.remove(project);
        }
        if let Some(projects) = self.kinds.get_mut(&kind) {
            if let Some(units) = projects.get_mut(project) {
                *units -= 1;
                if *units == 0 {
                    projects.remove(project);
                }
            }
            if projects.is_empty() {
                self.kinds.remove(&kind);
            }
        }
        true
    }
}

//! One walk over the units of one priority, in the order of fair share.
//!
//! The project with the smallest share goes first, in it the user with the smallest share, and of
//! that user's units the oldest. Whenever one has started, the shares of its project and user are
//! asked for again (progressive filling): the next one may be another project's. Equal shares go
//! by age.

use super::{Bucket, KindId, Level, Line, Place, Queue};
use crate::ids::{ProjectName, SessionId, UserName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Answers what projects and users have, as a part of the cluster by their weight.
pub(crate) trait Shares {
    fn project(&self, project: &ProjectName) -> u128;
    fn user(&self, project: &ProjectName, user: &UserName) -> u128;
}

/// A unit whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub unit: SessionId,
    pub place: Place,
}

/// Share, oldest unit, name.
type Turn<N> = (u128, u64, N);

/// A walk over one priority.
#[derive(Debug)]
pub(crate) struct Pass {
    priority: i32,
    /// Whether closed kinds and buckets are walked as well: to tell the order, not to place.
    all: bool,
    projects: BTreeSet<Turn<ProjectName>>,
    users: HashMap<ProjectName, BTreeSet<Turn<UserName>>>,
    /// Where to go on in a bucket.
    cursors: BTreeMap<(ProjectName, UserName, KindId), u64>,
}

impl Pass {
    /// A walk over what is not closed.
    pub(crate) fn open(queue: &Queue, priority: i32, shares: &impl Shares) -> Self {
        Self::new(queue, priority, shares, false)
    }

    /// A walk over everything, as if all that comes before had started.
    pub(crate) fn all(queue: &Queue, priority: i32, shares: &impl Shares) -> Self {
        Self::new(queue, priority, shares, true)
    }

    fn new(queue: &Queue, priority: i32, shares: &impl Shares, all: bool) -> Self {
        let (projects, users, cursors) = Default::default();
        let mut pass = Self { priority, all, projects, users, cursors };
        let Some(level) = queue.levels.get(&Reverse(priority)) else { return pass };
        let open = level.kinds.iter().filter(|(kind, _)| all || queue.kinds.is_open(**kind));
        let names: BTreeSet<&ProjectName> = open.flat_map(|(_, names)| names.keys()).collect();
        for name in names {
            if let Some(oldest) = pass.oldest_of(queue, level, name) {
                pass.projects.insert((shares.project(name), oldest, name.clone()));
            }
        }
        pass
    }

    /// The unit whose turn it is; the same again until it has left, or something was closed or
    /// [`Pass::took`] was told.
    pub(crate) fn next(&mut self, queue: &Queue, shares: &impl Shares) -> Option<Candidate> {
        let level = queue.levels.get(&Reverse(self.priority))?;
        loop {
            let project = self.projects.first()?.2.clone();
            if !self.users.contains_key(&project) {
                let users = self.users_of(queue, level, &project, shares);
                self.users.insert(project.clone(), users);
            }
            while let Some(user) = self.first_user(&project) {
                let line = level.projects.get(&project).and_then(|users| users.get(&user));
                let oldest = line.and_then(|line| self.oldest_in(queue, line, &project, &user));
                if let Some((sequence, kind, unit)) = oldest {
                    let priority = self.priority;
                    let place = Place { priority, project, user, kind, sequence };
                    return Some(Candidate { unit, place });
                }
                self.users.entry(project.clone()).or_default().pop_first();
            }
            self.projects.pop_first();
        }
    }

    /// Takes note that `candidate` has started, or is counted as if it had.
    pub(crate) fn took(&mut self, candidate: &Candidate, shares: &impl Shares) {
        let Place { project, user, kind, sequence, .. } = &candidate.place;
        self.cursors.insert((project.clone(), user.clone(), *kind), sequence + 1);
        // Both are the first: that is how the candidate was found.
        if let Some(users) = self.users.get_mut(project)
            && users.first().is_some_and(|(_, _, name)| name == user)
            && let Some((_, oldest, name)) = users.pop_first()
        {
            users.insert((shares.user(project, user), oldest, name));
        }
        if self.projects.first().is_some_and(|(_, _, name)| name == project)
            && let Some((_, oldest, name)) = self.projects.pop_first()
        {
            self.projects.insert((shares.project(project), oldest, name));
        }
    }

    fn first_user(&self, project: &ProjectName) -> Option<UserName> {
        self.users.get(project)?.first().map(|(_, _, user)| user.clone())
    }

    fn users_of(
        &self,
        queue: &Queue,
        level: &Level,
        project: &ProjectName,
        shares: &impl Shares,
    ) -> BTreeSet<Turn<UserName>> {
        let lines = level.projects.get(project).into_iter().flatten();
        let turns = lines.filter_map(|(user, line)| {
            let (oldest, ..) = self.oldest_in(queue, line, project, user)?;
            Some((shares.user(project, user), oldest, user.clone()))
        });
        turns.collect()
    }

    fn oldest_of(&self, queue: &Queue, level: &Level, project: &ProjectName) -> Option<u64> {
        let lines = level.projects.get(project).into_iter().flatten();
        let oldest = lines.filter_map(|(user, line)| self.oldest_in(queue, line, project, user));
        oldest.map(|(sequence, ..)| sequence).min()
    }

    /// The oldest unit of a line that may be tried.
    fn oldest_in(
        &self,
        queue: &Queue,
        line: &Line,
        project: &ProjectName,
        user: &UserName,
    ) -> Option<(u64, KindId, SessionId)> {
        let walked = |kind: &KindId, bucket: &Bucket| {
            self.all || (!bucket.over_quota && queue.kinds.is_open(*kind))
        };
        let buckets = line.iter().filter(|(kind, bucket)| walked(kind, bucket));
        let firsts = buckets.filter_map(|(kind, bucket)| {
            let from = match self.cursors.is_empty() {
                true => 0,
                false => {
                    let key = (project.clone(), user.clone(), *kind);
                    self.cursors.get(&key).copied().unwrap_or(0)
                }
            };
            let (sequence, unit) = bucket.units.range(from..).next()?;
            Some((*sequence, *kind, unit))
        });
        firsts.min().map(|(sequence, kind, unit)| (sequence, kind, unit.clone()))
    }
}

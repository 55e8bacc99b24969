//! One walk over the units of one priority, in the order of fair share.
//!
//! The project with the smallest share goes first, in it the user with the smallest share, and of
//! that user's units the oldest. Whenever one has started, the shares of its project and user are
//! asked for again (progressive filling): the next one may be another project's. Equal shares go
//! by age.

use super::{KindId, Level, Place, Queue};
use crate::ids::{ProjectName, SessionId, UserName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

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
    turns: BTreeSet<Turn<ProjectName>>,
    projects: BTreeMap<ProjectName, Walked>,
}

/// A project that is walked.
#[derive(Debug, Default)]
struct Walked {
    /// Its users in their order; made when its turn first comes.
    turns: Option<BTreeSet<Turn<UserName>>>,
    /// Of each user the kinds to walk, each by where to go on in it: what is found closed, or has
    /// nothing more, is left out from then on.
    users: BTreeMap<UserName, BTreeSet<(u64, KindId)>>,
}

impl Pass {
    /// A walk over what is not closed.
    pub(crate) fn open(queue: &Queue, priority: i32, shares: &impl Shares) -> Self {
        let open = queue.open.get(&Reverse(priority)).into_iter().flatten().copied();
        Self::new(queue, priority, shares, open, false)
    }

    /// A walk over everything, as if all that comes before had started.
    pub(crate) fn all(queue: &Queue, priority: i32, shares: &impl Shares) -> Self {
        let kinds = queue.levels.get(&Reverse(priority)).into_iter().flat_map(BTreeMap::keys);
        Self::new(queue, priority, shares, kinds.copied(), true)
    }

    fn new(
        queue: &Queue,
        priority: i32,
        shares: &impl Shares,
        kinds: impl Iterator<Item = KindId>,
        all: bool,
    ) -> Self {
        let (turns, mut projects) = (BTreeSet::new(), BTreeMap::<ProjectName, Walked>::new());
        let mut pass = Self { priority, all, turns, projects: BTreeMap::new() };
        let Some(level) = queue.levels.get(&Reverse(priority)) else { return pass };
        let mut oldest: BTreeMap<&ProjectName, u64> = BTreeMap::new();
        for kind in kinds {
            for (project, users) in level.get(&kind).into_iter().flatten() {
                for (user, bucket) in users.iter().filter(|(_, bucket)| all || !bucket.over_quota) {
                    let Some(first) = bucket.units.keys().next() else { continue };
                    let known = oldest.entry(project).or_insert(*first);
                    *known = (*known).min(*first);
                    let walked = projects.entry(project.clone()).or_default();
                    walked.users.entry(user.clone()).or_default().insert((*first, kind));
                }
            }
        }
        let turn = |(name, first): (&ProjectName, u64)| (shares.project(name), first, name.clone());
        pass.turns = oldest.into_iter().map(turn).collect();
        pass.projects = projects;
        pass
    }

    /// The unit whose turn it is; the same again until it has left, or something was closed or
    /// [`Pass::took`] was told.
    pub(crate) fn next(&mut self, queue: &Queue, shares: &impl Shares) -> Option<Candidate> {
        let level = queue.levels.get(&Reverse(self.priority))?;
        let (priority, all) = (self.priority, self.all);
        loop {
            let (_, _, project) = self.turns.first()?;
            if let Some(walked) = self.projects.get_mut(project) {
                let look = Look { queue, level, project, all };
                while let Some(user) = walked.first_user(&look, shares) {
                    let kinds = walked.users.get_mut(&user);
                    let oldest = kinds.and_then(|kinds| look.oldest(&user, kinds));
                    if let Some((sequence, kind, unit)) = oldest {
                        let project = project.clone();
                        let place = Place { priority, project, user, kind, sequence };
                        return Some(Candidate { unit, place });
                    }
                    walked.turns.as_mut().and_then(BTreeSet::pop_first);
                }
            }
            self.turns.pop_first();
        }
    }

    /// Takes note that `candidate` has started, or is counted as if it had.
    pub(crate) fn took(&mut self, candidate: &Candidate, shares: &impl Shares) {
        let Place { project, user, kind, sequence, .. } = &candidate.place;
        if let Some(walked) = self.projects.get_mut(project) {
            walked.took(project, user, *kind, *sequence, shares);
        }
        // It is the first: that is how the candidate was found.
        if self.turns.first().is_some_and(|(_, _, name)| name == project)
            && let Some((_, oldest, name)) = self.turns.pop_first()
        {
            self.turns.insert((shares.project(project), oldest, name));
        }
    }
}

impl Walked {
    fn first_user(&mut self, look: &Look<'_>, shares: &impl Shares) -> Option<UserName> {
        let users = &mut self.users;
        let turns = self.turns.get_or_insert_with(|| {
            let turns = users.iter_mut().filter_map(|(user, kinds)| {
                let (oldest, ..) = look.oldest(user, kinds)?;
                Some((shares.user(look.project, user), oldest, user.clone()))
            });
            turns.collect()
        });
        turns.first().map(|(_, _, user)| user.clone())
    }

    fn took(
        &mut self,
        project: &ProjectName,
        user: &UserName,
        kind: KindId,
        sequence: u64,
        shares: &impl Shares,
    ) {
        if let Some(kinds) = self.users.get_mut(user)
            && kinds.remove(&(sequence, kind))
        {
            kinds.insert((sequence + 1, kind));
        }
        let Some(turns) = &mut self.turns else { return };
        if turns.first().is_some_and(|(_, _, name)| name == user)
            && let Some((_, oldest, name)) = turns.pop_first()
        {
            turns.insert((shares.user(project, user), oldest, name));
        }
    }
}

/// Where a walk looks.
struct Look<'a> {
    queue: &'a Queue,
    level: &'a Level,
    project: &'a ProjectName,
    all: bool,
}

impl Look<'_> {
    /// The oldest unit of a user that may be tried, of these kinds from there on.
    fn oldest(
        &self,
        user: &UserName,
        kinds: &mut BTreeSet<(u64, KindId)>,
    ) -> Option<(u64, KindId, SessionId)> {
        loop {
            let (from, kind) = *kinds.first()?;
            let next = self.next_of(user, kind, from);
            if let Some((sequence, unit)) = next
                && sequence == from
            {
                return Some((sequence, kind, unit.clone()));
            }
            kinds.pop_first();
            kinds.extend(next.map(|(sequence, _)| (sequence, kind)));
        }
    }

    /// The next unit of a user that may be tried, of one kind from there on.
    fn next_of(&self, user: &UserName, kind: KindId, from: u64) -> Option<(u64, &SessionId)> {
        if !self.all && !self.queue.kinds.is_open(kind) {
            return None;
        }
        let bucket = self.level.get(&kind)?.get(self.project)?.get(user)?;
        if !self.all && bucket.over_quota {
            return None;
        }
        bucket.units.range(from..).next().map(|(sequence, unit)| (*sequence, unit))
    }
}

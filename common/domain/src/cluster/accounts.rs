//! What every project, and every user in it, holds and has used.
//!
//! Derived from the sessions: what is held is the sum over their grants, exactly. History is kept
//! beside it (see [`crate::usage`]) and written as one record per project, from [`Cluster::tick`].

use super::Cluster;
use super::index::Undo;
use crate::device::{Device, MigInstance};
use crate::ids::{DEFAULT_PROJECT, ProjectName, UserName};
use crate::node::Node;
use crate::project::Held;
use crate::session::{Ended, Phase, Session};
use crate::slice::{Grant, UnitPolicy};
use crate::time::UnixMillis;
use crate::units::{CpuMilli, Fgpu, MIB, MemoryBytes};
use crate::usage::{Amounts, Usage, epoch_of, weight};
use std::collections::BTreeMap;

/// From one record of a project's history to the next, milliseconds.
const CHECKPOINT_MS: u64 = 5 * 60 * 1000;

/// What one project, or one user in it, holds and has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Account {
    /// Held now.
    pub held: Held,
    /// Use that is over, less what is held times the weight of the moment it was taken.
    past: Amounts,
    epoch: u64,
}

/// A project and its users.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ProjectAccount {
    pub total: Account,
    pub users: BTreeMap<UserName, Account>,
}

/// All accounts, and what the cluster has.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub projects: BTreeMap<ProjectName, ProjectAccount>,
    pub capacity: Capacity,
    /// When history is written next; `None` while nothing changes it.
    pub checkpoint: Option<UnixMillis>,
}

/// What all nodes have together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Capacity {
    pub fgpu: Fgpu,
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
    /// Devices by model and memory.
    pub devices: BTreeMap<(String, MemoryBytes), u64>,
    /// MIG instances by profile, model and memory of the card, and memory.
    pub instances: BTreeMap<(String, String, MemoryBytes, MemoryBytes), u64>,
}

impl Account {
    /// Moves from holding `before` to holding `after`.
    pub(super) fn change(&mut self, before: Held, after: Held, now: UnixMillis) {
        self.held = self.held.minus(before).plus(after);
        let at = self.weight(now);
        self.past = self.past.plus(Amounts::of(&before, at)).minus(Amounts::of(&after, at));
    }

    /// Everything used up to the moment that weighs `at`.
    fn used(&self, at: i128) -> Amounts {
        self.past.plus(Amounts::of(&self.held, at))
    }

    /// The weight of `now` in this account's epoch, which is moved on if it is over.
    fn weight(&mut self, now: UnixMillis) -> i128 {
        let epoch = epoch_of(now).max(self.epoch);
        self.past = self.past.in_epoch(self.epoch, epoch);
        self.epoch = epoch;
        weight(now, epoch)
    }

    /// History and what is held now together, each as an amount with 8 binary places.
    pub(super) fn standing(mut self, now: UnixMillis) -> Amounts {
        let at = self.weight(now).max(1);
        let part = |used: i128, held: i128| ((used.max(0) << 8) / at) + (held << 8);
        let (used, held) = (self.used(at), Amounts::of(&self.held, 1));
        Amounts {
            fgpu: part(used.fgpu, held.fgpu),
            cpu: part(used.cpu, held.cpu),
            memory: part(used.memory, held.memory),
        }
    }
}

impl Capacity {
    /// Takes `old` out and `new` in.
    pub(super) fn replace(&mut self, old: Option<&Node>, new: Option<&Node>, units: &UnitPolicy) {
        if let Some(old) = old {
            let (fgpu, cpu, memory) = totals(old, units);
            self.fgpu = self.fgpu.saturating_sub(fgpu);
            self.cpu = self.cpu.saturating_sub(cpu);
            self.memory = self.memory.saturating_sub(memory);
            for device in &old.inventory.devices {
                count_down(&mut self.devices, &(device.model.clone(), device.memory));
                for instance in device.instances() {
                    count_down(&mut self.instances, &instance_key(device, instance));
                }
            }
        }
        if let Some(new) = new {
            let (fgpu, cpu, memory) = totals(new, units);
            self.fgpu = self.fgpu.saturating_add(fgpu);
            self.cpu = self.cpu.saturating_add(cpu);
            self.memory = self.memory.saturating_add(memory);
            for device in &new.inventory.devices {
                *self.devices.entry((device.model.clone(), device.memory)).or_default() += 1;
                for instance in device.instances() {
                    *self.instances.entry(instance_key(device, instance)).or_default() += 1;
                }
            }
        }
    }

    /// The part of the cluster that `standing` is, of whatever it is most of, with 40 binary
    /// places; divided by `weight` hundredths.
    pub(super) fn share(&self, standing: &Amounts, weight: u32) -> u128 {
        let part = |amount: i128, of: u64| {
            (u128::try_from(amount).unwrap_or(0) << 32) / u128::from(of.max(1))
        };
        let dominant = part(standing.fgpu, self.fgpu.0)
            .max(part(standing.cpu, self.cpu.0))
            .max(part(standing.memory, self.memory.0 / MIB));
        dominant * 100 / u128::from(weight.max(1))
    }
}

fn count_down<K: Ord>(counts: &mut BTreeMap<K, u64>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn instance_key(
    card: &Device,
    instance: &MigInstance,
) -> (String, String, MemoryBytes, MemoryBytes) {
    (instance.profile.clone(), card.model.clone(), card.memory, instance.memory)
}

/// A card counts once, whether or not it is given in MIG instances.
fn totals(node: &Node, units: &UnitPolicy) -> (Fgpu, CpuMilli, MemoryBytes) {
    let devices = node.inventory.devices.iter();
    let fgpu = devices.map(|device| units.units_of(&device.model, device.memory).capacity).sum();
    (fgpu, node.inventory.cpu, node.inventory.memory)
}

/// What `grant` of `session` holds.
pub(crate) fn held_by(session: &Session, grant: &Grant) -> Held {
    Held {
        fgpu: grant.slices.iter().map(|slice| slice.fgpu).sum(),
        cpu: session.spec.resources.cpu,
        memory: session.spec.resources.memory,
        ..Held::default()
    }
}

/// What `session` counts for.
pub(crate) fn counted(session: &Session) -> Held {
    let grants = session.held().map(|(_, grant)| held_by(session, grant));
    let held = grants.fold(Held::default(), Held::plus);
    Held {
        sessions: u64::from(session.held().next().is_some()),
        pending: u64::from(matches!(session.phase, Phase::Pending { .. })),
        ..held
    }
}

impl Cluster {
    /// What a project holds, and how many of its sessions wait.
    #[must_use]
    pub fn held_by_project(&self, project: &ProjectName) -> Held {
        self.index
            .accounts
            .projects
            .get(project)
            .map(|account| account.total.held)
            .unwrap_or_default()
    }

    /// What each user of a project holds, and how many of their sessions wait.
    pub fn held_by_users(&self, project: &ProjectName) -> impl Iterator<Item = (&UserName, Held)> {
        let account = self.index.accounts.projects.get(project);
        account.into_iter().flat_map(|a| a.users.iter().map(|(user, own)| (user, own.held)))
    }

    /// A project's part of the cluster as fair share counts it, in millionths and before its
    /// weight: the average held lately (half as much after 7 days) and what is held now.
    #[must_use]
    pub fn share_of_project(&self, project: &ProjectName) -> u64 {
        let account =
            self.index.accounts.projects.get(project).map(|a| a.total).unwrap_or_default();
        let share = self.index.accounts.capacity.share(&account.standing(self.now), 100);
        u64::try_from((share * 1_000_000) >> 40).unwrap_or(u64::MAX)
    }

    pub(super) fn held_by_user(&self, project: &ProjectName, user: &UserName) -> Held {
        let account = self.index.accounts.projects.get(project);
        account.and_then(|a| a.users.get(user)).map(|own| own.held).unwrap_or_default()
    }

    /// Books the change of a session's record from `old` to `new`.
    pub(super) fn book(&mut self, old: Option<&Session>, new: Option<&Session>) {
        let before = old.map(counted).unwrap_or_default();
        let after = new.map(counted).unwrap_or_default();
        let Some(session) = new.or(old).filter(|_| before != after) else { return };
        let (project, user) = (session.spec.project(), session.owner.clone());
        let known = self.index.accounts.projects.get(&project);
        let mut total = known.map(|account| account.total).unwrap_or_default();
        let mut own = known.and_then(|a| a.users.get(&user)).copied().unwrap_or_default();
        let undo = Undo::Account(Box::new((project.clone(), user.clone(), total, own)));
        total.change(before, after, self.now);
        own.change(before, after, self.now);
        self.journal_step(undo);
        self.set_account(project, user, total, own);
        if Amounts::of(&before, 1) != Amounts::of(&after, 1) {
            let due = self.now.plus(CHECKPOINT_MS);
            self.index.accounts.checkpoint.get_or_insert(due);
        }
    }

    /// Forgets what a project has used, unless a lost node may still run something of it.
    pub(super) fn forget_history(&mut self, project: &ProjectName) {
        let account = self.index.accounts.projects.get(project).cloned().unwrap_or_default();
        if account.total.held != Held::default() {
            return;
        }
        let mut total = account.total;
        for (user, own) in account.users {
            let undo = Undo::Account(Box::new((project.clone(), user.clone(), total, own)));
            self.journal_step(undo);
            total = Account::default();
            self.set_account(project.clone(), user, total, Account::default());
        }
        if self.usage.contains_key(project) {
            self.delete_usage(project);
        }
    }

    pub(super) fn set_account(
        &mut self,
        project: ProjectName,
        user: UserName,
        total: Account,
        own: Account,
    ) {
        let account = self.index.accounts.projects.entry(project.clone()).or_default();
        account.total = total;
        account.users.insert(user.clone(), own);
        if own == Account::default() {
            account.users.remove(&user);
        }
        if *account == ProjectAccount::default() {
            self.index.accounts.projects.remove(&project);
        }
    }

    /// Writes the history of every project that used something since it was last written.
    pub(super) fn write_history(&mut self, now: UnixMillis) {
        if self.index.accounts.checkpoint.is_none_or(|due| due > now) {
            return;
        }
        let mut holds = false;
        let mut records = Vec::new();
        let projects = &self.projects;
        let known =
            |name: &ProjectName| name.as_str() == DEFAULT_PROJECT || projects.contains_key(name);
        for (name, account) in &mut self.index.accounts.projects {
            if !known(name) {
                continue;
            }
            let at = account.total.weight(now);
            let total = account.total.used(at);
            holds |= account.total.held.sessions > 0;
            let written = self.usage.get(name);
            if written.is_some_and(|usage| {
                usage.total.in_epoch(usage.epoch, account.total.epoch) == total
            }) {
                continue;
            }
            let mut users = BTreeMap::new();
            account.users.retain(|user, own| {
                let at = own.weight(now);
                let used = own.used(at);
                let spent = used.is_spent(at);
                if !spent {
                    users.insert(user.clone(), used);
                }
                !spent || own.held != Held::default()
            });
            let epoch = account.total.epoch;
            records.push(Usage { project: name.clone(), at: now, epoch, total, users });
        }
        self.index.accounts.checkpoint = holds.then(|| now.plus(CHECKPOINT_MS));
        for record in records {
            self.put_usage(record);
        }
    }

    /// Makes the accounts what the records say: the written history, and what came after it.
    pub(super) fn rebuild_history(&mut self) {
        let mut accounts: BTreeMap<ProjectName, ProjectAccount> = BTreeMap::new();
        for usage in self.usage.values() {
            let account =
                |past: &Amounts| Account { past: *past, epoch: usage.epoch, ..Account::default() };
            let users = usage.users.iter().map(|(user, past)| (user.clone(), account(past)));
            let project = ProjectAccount { total: account(&usage.total), users: users.collect() };
            accounts.insert(usage.project.clone(), project);
        }
        let mut holds = false;
        for session in self.sessions.values() {
            let project = session.spec.project();
            let since = self.usage.get(&project).map(|usage| usage.at).unwrap_or_default();
            let account = accounts.entry(project).or_default();
            let own = account.users.entry(session.owner.clone()).or_default();
            let (counted, intervals) = (counted(session), intervals(session));
            holds |= counted.sessions > 0;
            for account in [&mut account.total, own] {
                account.held = account.held.plus(counted);
                for (held, from, to) in &intervals {
                    account.take_in(*held, (*from).max(since), *to);
                }
            }
        }
        accounts.retain(|_, account| {
            account.users.retain(|_, own| *own != Account::default());
            *account != ProjectAccount::default()
        });
        self.index.accounts.projects = accounts;
        let written = self.usage.values().map(|usage| usage.at).max().unwrap_or_default();
        self.index.accounts.checkpoint = holds.then(|| written.plus(CHECKPOINT_MS));
    }
}

impl Account {
    /// Counts what was held from one moment to another, or from one moment on.
    fn take_in(&mut self, held: Held, from: UnixMillis, to: Option<UnixMillis>) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let end = to.map(|to| Amounts::of(&held, self.weight(to))).unwrap_or_default();
        let begin = Amounts::of(&held, self.weight(from));
        self.past = self.past.plus(end).minus(begin);
    }
}

/// What a session has held: how much, from when, and until when if it is given back.
fn intervals(session: &Session) -> Vec<(Held, UnixMillis, Option<UnixMillis>)> {
    let mut intervals = Vec::new();
    let placed_at = session.placed_at.unwrap_or(session.created_at);
    let attempts = session.attempts.iter();
    let mut placed: BTreeMap<u64, UnixMillis> = attempts
        .map(|attempt| (attempt.generation, attempt.placed_at.unwrap_or(attempt.at)))
        .collect();
    placed.insert(session.generation, placed_at);
    let mut held = Vec::new();
    for (generation, grant) in session.held() {
        let from = placed.get(&generation).copied().unwrap_or(placed_at);
        intervals.push((held_by(session, grant), from, None));
        held.push(generation);
    }
    for attempt in session.attempts.iter().filter(|old| !held.contains(&old.generation)) {
        let from = attempt.placed_at.unwrap_or(attempt.at);
        intervals.push((held_by(session, &attempt.grant), from, Some(attempt.at)));
    }
    if let Phase::Ended(Ended { grant: Some(grant), at, .. }) = &session.phase
        && !held.contains(&session.generation)
    {
        intervals.push((held_by(session, grant), placed_at, Some(*at)));
    }
    intervals
}

//! What projects and users have, as fair share weighs it.

use super::Cluster;
use super::accounts::Account;
use crate::ids::{ProjectName, UserName};
use crate::project::{DEFAULT_WEIGHT, Held};
use crate::queue::Shares;
use std::collections::HashMap;

/// Shares as they are now, with what is counted on top.
pub(super) struct Standings<'a> {
    cluster: &'a Cluster,
    extra: HashMap<ProjectName, Extra>,
}

/// What a project and its users are counted to hold on top.
#[derive(Default)]
struct Extra {
    total: Held,
    users: HashMap<UserName, Held>,
}

impl<'a> Standings<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, extra: HashMap::new() }
    }

    /// Counts `held` as if it had been given now.
    pub(super) fn count(&mut self, project: &ProjectName, user: &UserName, held: Held) {
        let extra = self.extra.entry(project.clone()).or_default();
        extra.total = extra.total.plus(held);
        let own = extra.users.entry(user.clone()).or_default();
        *own = own.plus(held);
    }

    fn share(&self, account: Option<&Account>, extra: Option<&Held>, weight: u32) -> u128 {
        let mut account = account.copied().unwrap_or_default();
        let now = self.cluster.now;
        if let Some(extra) = extra {
            account.change(Held::default(), *extra, now);
        }
        self.cluster.index.accounts.capacity.share(&account.standing(now), weight)
    }
}

impl Shares for Standings<'_> {
    fn project(&self, project: &ProjectName) -> u128 {
        let account = self.cluster.index.accounts.projects.get(project);
        let weight = self.cluster.projects.get(project).map_or(DEFAULT_WEIGHT, |p| p.weight);
        let extra = self.extra.get(project).map(|extra| &extra.total);
        self.share(account.map(|account| &account.total), extra, weight)
    }

    fn user(&self, project: &ProjectName, user: &UserName) -> u128 {
        let account = self.cluster.index.accounts.projects.get(project);
        let own = account.and_then(|account| account.users.get(user));
        let extra = self.extra.get(project).and_then(|extra| extra.users.get(user));
        self.share(own, extra, DEFAULT_WEIGHT)
    }
}

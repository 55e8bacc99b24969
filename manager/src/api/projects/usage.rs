//! What projects and their users hold, beside what they may.

use fgpu_domain::cluster::Cluster;
use fgpu_domain::ids::UserName;
use fgpu_domain::project::{Held, Project};
use fgpu_domain::time::UnixMillis;
use fgpu_domain::units::MIB;
use fgpu_domain::usage::{epoch_of, weight};
use fgpu_wire::v1;
use std::collections::BTreeMap;

/// The use of `project`; of its users `only` one, if given.
pub(super) fn of(
    cluster: &Cluster,
    project: &Project,
    only: Option<&UserName>,
    now: UnixMillis,
) -> v1::ProjectUsage {
    let mut users: BTreeMap<&UserName, Held> = cluster.held_by_users(&project.name).collect();
    for user in project.users.keys().chain(only) {
        users.entry(user).or_default();
    }
    let shown = users.into_iter().filter(|(user, held)| match only {
        Some(only) => *user == only,
        None => *held != Held::default() || project.users.contains_key(*user),
    });
    let user = |(user, held): (&UserName, Held)| v1::UserUsage {
        user: user.to_string(),
        held: Some((&held).into()),
        quota: Some(project.quota_of(user).into()),
    };
    v1::ProjectUsage {
        project: project.name.to_string(),
        weight: project.weight,
        held: Some((&cluster.held_by_project(&project.name)).into()),
        quota: Some((&project.quota).into()),
        share_millionths: cluster.share_of_project(&project.name),
        users: shown.map(user).collect(),
        lately: Some(lately(cluster, project, now)),
    }
}

/// The average held, as the history last written says.
fn lately(cluster: &Cluster, project: &Project, now: UnixMillis) -> v1::Held {
    let Some(usage) = cluster.usage().get(&project.name) else { return v1::Held::default() };
    let epoch = epoch_of(now).max(usage.epoch);
    let (used, at) = (usage.total.in_epoch(usage.epoch, epoch), weight(now, epoch).max(1));
    let average = |used: i128| u64::try_from(used.max(0) / at).unwrap_or(u64::MAX);
    v1::Held {
        fgpu_milli: average(used.fgpu),
        cpu_milli: average(used.cpu),
        memory_bytes: average(used.memory).saturating_mul(MIB),
        sessions: 0,
        pending: 0,
    }
}

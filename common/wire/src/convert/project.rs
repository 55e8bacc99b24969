//! Projects, quotas and priority classes.

use super::id;
use crate::error::CallError;
use crate::v1;
use fgpu_domain::class::{OnPreempt, PriorityClass};
use fgpu_domain::ids::{IdError, ProjectName, UserName};
use fgpu_domain::project::{Held, Project, Quota};
use fgpu_domain::time::UnixMillis;
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};
use std::collections::{BTreeMap, BTreeSet};

/// Reads a project.
///
/// # Errors
/// A name that is none.
pub fn project(project: v1::Project) -> Result<Project, CallError> {
    let user = |(user, quota): (String, v1::Quota)| Ok((id("--user", &user)?, quota_of(&quota)));
    Ok(Project {
        name: project_name(&project.name)?,
        weight: project.weight,
        quota: project.quota.as_ref().map(quota_of).unwrap_or_default(),
        user_quota: project.user_quota.as_ref().map(quota_of).unwrap_or_default(),
        users: project.users.into_iter().map(user).collect::<Result<_, CallError>>()?,
        members: users("--member", &project.members)?,
        created_at: UnixMillis(project.created_at_ms),
    })
}

/// Reads the name of a project.
///
/// # Errors
/// It is none; the empty text is not one either.
pub fn project_name(name: &str) -> Result<ProjectName, CallError> {
    id("--project", name)
}

/// Reads names of users; `field` is where they were given.
///
/// # Errors
/// The first that is none.
pub fn users(field: &str, names: &[String]) -> Result<BTreeSet<UserName>, CallError> {
    let read = |name: &String| {
        name.parse().map_err(|e: IdError| CallError::field(field, &e.value, e.rule))
    };
    names.iter().map(read).collect()
}

/// Reads a quota.
#[must_use]
pub fn quota_of(quota: &v1::Quota) -> Quota {
    Quota {
        fgpu: quota.fgpu_milli.map(Fgpu),
        cpu: quota.cpu_milli.map(CpuMilli),
        memory: quota.memory_bytes.map(MemoryBytes),
        sessions: quota.sessions,
        pending: quota.pending,
    }
}

/// `quota` with the limits of `set` in it and those of `remove` taken out.
#[must_use]
pub fn change_quota(quota: &Quota, set: &v1::Quota, remove: &[v1::QuotaKind]) -> Quota {
    let set = quota_of(set);
    let mut changed = Quota {
        fgpu: set.fgpu.or(quota.fgpu),
        cpu: set.cpu.or(quota.cpu),
        memory: set.memory.or(quota.memory),
        sessions: set.sessions.or(quota.sessions),
        pending: set.pending.or(quota.pending),
    };
    for kind in remove {
        match kind {
            v1::QuotaKind::Unspecified => {}
            v1::QuotaKind::Fgpu => changed.fgpu = None,
            v1::QuotaKind::Cpu => changed.cpu = None,
            v1::QuotaKind::Memory => changed.memory = None,
            v1::QuotaKind::Sessions => changed.sessions = None,
            v1::QuotaKind::Pending => changed.pending = None,
        }
    }
    changed
}

/// Reads a priority class.
///
/// # Errors
/// A name that is none.
pub fn priority_class(class: &v1::PriorityClass) -> Result<PriorityClass, CallError> {
    Ok(PriorityClass {
        name: id("--class", &class.name)?,
        priority: class.priority,
        may_preempt: class.may_preempt,
        preemptible: class.preemptible,
        min_run_ms: class.min_run_ms,
        grace_ms: class.grace_ms,
        on_preempt: match class.on_preempt() {
            v1::OnPreempt::Unspecified | v1::OnPreempt::Requeue => OnPreempt::Requeue,
            v1::OnPreempt::Stop => OnPreempt::Stop,
        },
    })
}

impl From<&Project> for v1::Project {
    fn from(project: &Project) -> Self {
        let users = project.users.iter().map(|(user, quota)| (user.to_string(), quota.into()));
        Self {
            name: project.name.to_string(),
            weight: project.weight,
            quota: Some((&project.quota).into()),
            user_quota: Some((&project.user_quota).into()),
            users: users.collect::<BTreeMap<String, v1::Quota>>(),
            members: project.members.iter().map(ToString::to_string).collect(),
            created_at_ms: project.created_at.0,
        }
    }
}

impl From<&Quota> for v1::Quota {
    fn from(quota: &Quota) -> Self {
        Self {
            fgpu_milli: quota.fgpu.map(|fgpu| fgpu.0),
            cpu_milli: quota.cpu.map(|cpu| cpu.0),
            memory_bytes: quota.memory.map(|memory| memory.0),
            sessions: quota.sessions,
            pending: quota.pending,
        }
    }
}

impl From<&Held> for v1::Held {
    fn from(held: &Held) -> Self {
        Self {
            fgpu_milli: held.fgpu.0,
            cpu_milli: held.cpu.0,
            memory_bytes: held.memory.0,
            sessions: held.sessions,
            pending: held.pending,
        }
    }
}

impl From<&PriorityClass> for v1::PriorityClass {
    fn from(class: &PriorityClass) -> Self {
        Self {
            name: class.name.to_string(),
            priority: class.priority,
            may_preempt: class.may_preempt,
            preemptible: class.preemptible,
            min_run_ms: class.min_run_ms,
            grace_ms: class.grace_ms,
            on_preempt: match class.on_preempt {
                OnPreempt::Requeue => v1::OnPreempt::Requeue,
                OnPreempt::Stop => v1::OnPreempt::Stop,
            }
            .into(),
            built_in: PriorityClass::built_in(&class.name).as_ref() == Some(class),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    fn any_quota() -> impl Strategy<Value = Quota> {
        let limit = || option::of(0..1_000_000_u64);
        (limit(), limit(), limit(), limit(), limit()).prop_map(
            |(fgpu, cpu, memory, sessions, pending)| Quota {
                fgpu: fgpu.map(Fgpu),
                cpu: cpu.map(CpuMilli),
                memory: memory.map(MemoryBytes),
                sessions,
                pending,
            },
        )
    }

    fn any_user() -> impl Strategy<Value = UserName> {
        "[a-z]{1,8}".prop_map(|name| name.parse().unwrap())
    }

    proptest! {
        #[test]
        fn a_project_comes_back_as_it_was_sent(
            weight in 1..10_000_u32,
            quota in any_quota(),
            user_quota in any_quota(),
            users in proptest::collection::btree_map(any_user(), any_quota(), 0..4),
            members in proptest::collection::btree_set(any_user(), 0..4),
            at in 0..u64::MAX,
        ) {
            let name = "research".parse().unwrap();
            let created_at = UnixMillis(at);
            let sent = Project { name, weight, quota, user_quota, users, members, created_at };
            prop_assert_eq!(project((&sent).into()), Ok(sent));
        }

        #[test]
        fn a_class_comes_back_as_it_was_sent(
            priority in -1000..1000_i32,
            may_preempt: bool,
            preemptible: bool,
            min_run_ms: u64,
            grace_ms in option::of(any::<u64>()),
            stops: bool,
        ) {
            let on_preempt = if stops { OnPreempt::Stop } else { OnPreempt::Requeue };
            let name = "urgent".parse().unwrap();
            let sent = PriorityClass {
                name, priority, may_preempt, preemptible, min_run_ms, grace_ms, on_preempt,
            };
            prop_assert_eq!(priority_class(&(&sent).into()), Ok(sent));
        }

        #[test]
        fn a_change_of_a_quota_touches_what_is_named_and_nothing_else(
            before in any_quota(),
            set in any_quota(),
        ) {
            let changed = change_quota(&before, &(&set).into(), &[]);
            prop_assert_eq!(changed.fgpu, set.fgpu.or(before.fgpu));
            prop_assert_eq!(changed.pending, set.pending.or(before.pending));
            let nothing = v1::Quota::default();
            prop_assert_eq!(change_quota(&before, &nothing, &[]), before);
            let without = change_quota(&before, &nothing, &[v1::QuotaKind::Memory]);
            prop_assert_eq!(without, Quota { memory: None, ..before });
        }
    }

    #[test]
    fn a_class_is_built_in_only_as_long_as_nobody_changed_it() {
        let low = PriorityClass::built_in(&"low".parse().unwrap()).unwrap();
        assert!(v1::PriorityClass::from(&low).built_in);
        let changed = PriorityClass { priority: -200, ..low };
        assert!(!v1::PriorityClass::from(&changed).built_in);
    }

    #[test]
    fn a_name_that_is_none_is_refused_by_its_flag() {
        let refused =
            |project_: v1::Project| project(project_).unwrap_err().fields[0].field.clone();
        let named = |name: &str| v1::Project { name: name.to_owned(), ..Default::default() };
        assert_eq!(refused(named("No!")), "--project");
        assert_eq!(refused(named("")), "--project");
        let members = vec!["No!".to_owned()];
        assert_eq!(refused(v1::Project { members, ..named("a") }), "--member");
        let users = [("No!".to_owned(), v1::Quota::default())].into();
        assert_eq!(refused(v1::Project { users, ..named("a") }), "--user");
        let class = v1::PriorityClass::default();
        assert_eq!(priority_class(&class).unwrap_err().fields[0].field, "--class");
    }
}

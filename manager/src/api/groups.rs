//! Arrays and gangs: naming their members, and stopping all of them.
//!
//! A group is named as its first member is, by the name its members begin with, or by a beginning
//! that all its members have in common; `GROUP/INDEX` is one member.

use super::{Caller, errors};
use fgpu_domain::cluster::{Applied, Input, Refusal, find as find_one};
use fgpu_domain::ids::{SessionId, UserName};
use fgpu_domain::session::{Phase, Session, StopReason};
use fgpu_wire::error::CallError;
use imbl::OrdMap;
use std::sync::Arc;

type Sessions = OrdMap<SessionId, Arc<Session>>;

/// The session meant by `text`: one by itself, a member of a group, or the first member where a
/// group is named. With an `owner`, only that user's are looked at.
pub(super) fn find(
    sessions: &Sessions,
    text: &str,
    owner: Option<&UserName>,
) -> Result<Arc<Session>, Refusal> {
    let missing = || Refusal::SessionNotFound { session: text.to_owned() };
    let Some((group, index)) = text.split_once('/') else {
        return find_whole(sessions, text, owner);
    };
    let first = find_whole(sessions, group, owner)?;
    let index: u32 = index.parse().map_err(|_| missing())?;
    let members = members(sessions, &first);
    let such =
        |member: &&Arc<Session>| member.group.as_ref().is_some_and(|group| group.index == index);
    members.iter().find(such).cloned().ok_or_else(missing)
}

fn find_whole(
    sessions: &Sessions,
    text: &str,
    owner: Option<&UserName>,
) -> Result<Arc<Session>, Refusal> {
    let missing = || Refusal::SessionNotFound { session: text.to_owned() };
    let first = |id: &SessionId| sessions.get(id).cloned().ok_or_else(missing);
    match find_one(sessions, text, owner) {
        Ok(id) => first(&id),
        Err(Refusal::SessionNotFound { .. }) => {
            first(&named(sessions, text, owner).ok_or_else(missing)?)
        }
        Err(ambiguous @ Refusal::AmbiguousSession { .. }) => {
            first(&common(sessions, text, owner).ok_or(ambiguous)?)
        }
        Err(other) => Err(other),
    }
}

/// The group whose members are called `text` with their index behind it; of several the newest.
fn named(sessions: &Sessions, text: &str, owner: Option<&UserName>) -> Option<SessionId> {
    let such = |session: &&Arc<Session>| {
        let index = session.group.as_ref().map(|group| group.index);
        let name = session.spec.name.as_ref().and_then(|name| name.as_str().strip_prefix(text));
        let rest = name.and_then(|rest| rest.strip_prefix('-'));
        owner.is_none_or(|owner| session.owner == *owner)
            && index.zip(rest).is_some_and(|(index, rest)| rest.parse() == Ok(index))
    };
    let newest = sessions.values().filter(such).max_by_key(|session| session.sequence)?;
    newest.group.as_ref().map(|group| group.id.clone())
}

/// The group that all sessions whose id begins with `text` are members of.
fn common(sessions: &Sessions, text: &str, owner: Option<&UserName>) -> Option<SessionId> {
    let visible = |session: &&Arc<Session>| owner.is_none_or(|owner| session.owner == *owner);
    let such = sessions.values().filter(|session| session.id.as_str().starts_with(text));
    let mut groups = such.filter(visible).map(|session| session.group.as_ref().map(|g| &g.id));
    let first = groups.next()??;
    groups.all(|group| group == Some(first)).then(|| first.clone())
}

/// All members of the group whose first member `session` is, in the order of their index; itself
/// otherwise.
pub(super) fn members(sessions: &Sessions, session: &Arc<Session>) -> Vec<Arc<Session>> {
    match &session.group {
        Some(group) if group.id == session.id => {
            let ids = sessions.range(session.id.clone()..).map(|(_, member)| member);
            let near = ids.take_while(|member| member.id.as_str().starts_with(group.id.as_str()));
            let such = |member: &&Arc<Session>| {
                member.group.as_ref().is_some_and(|other| other.id == group.id)
            };
            let mut members: Vec<Arc<Session>> = near.filter(such).cloned().collect();
            members.sort_by_key(|member| member.group.as_ref().map(|group| group.index));
            members
        }
        _ => vec![session.clone()],
    }
}

/// Stops all members of the group `text` names, or the one session it means.
pub(super) async fn stop(
    caller: &Caller,
    text: &str,
    grace_ms: Option<u64>,
) -> Result<Vec<Arc<Session>>, CallError> {
    let first = caller.find(text)?;
    let snapshot = caller.term.engine.snapshot();
    // `GROUP/INDEX` is one member, the first too.
    let mut members = match text.contains('/') {
        true => vec![first],
        false => members(&snapshot.sessions, &first),
    };
    // Those that wait first, so that none of them takes the place of one that stops.
    members.sort_by_key(|member| !matches!(member.phase, Phase::Pending { .. }));
    let stops = members.iter().map(|member| {
        let (id, reason) = (member.id.clone(), StopReason::Requested);
        caller.term.engine.submit(Input::Stop { id, reason, grace_ms })
    });
    let mut stopped = Vec::with_capacity(members.len());
    for answer in futures_util::future::join_all(stops).await {
        match answer.map_err(errors::from_engine)? {
            Applied::Session { session, .. } => stopped.push(session),
            other => return Err(errors::unexpected(&other)),
        }
    }
    stopped.sort_by_key(|session| session.group.as_ref().map(|group| group.index));
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_domain::cluster::{Cluster, Settings};
    use fgpu_domain::session::{Members, Resources, SessionSpec};
    use fgpu_domain::time::UnixMillis;
    use fgpu_domain::units::{CpuMilli, MemoryBytes};

    fn sessions() -> Sessions {
        let mut cluster = Cluster::new(Settings::default());
        let array = |range: &str| Members::Array(range.parse().unwrap());
        let made = [
            ("abcdefgh2222", "sweep", "ann", array("5-9:2")),
            ("abcdefgh3333", "gang", "bob", Members::Gang(2.try_into().unwrap())),
            ("zzzzzzzz2222", "alone", "ann", Members::One),
        ];
        for (id, name, owner, members) in made {
            let (cpu, memory) = (CpuMilli::cores(1), MemoryBytes::gib(1));
            let resources = Resources { gpu: None, cpu, memory, shm: None };
            let mut spec = SessionSpec::new(vec!["true".to_owned()], resources);
            spec.name = Some(name.parse().unwrap());
            let input = Input::Create {
                id: id.parse().unwrap(),
                spec: Box::new(spec),
                owner: owner.parse().unwrap(),
                request_id: None,
                members,
            };
            cluster.apply(input, UnixMillis(1)).unwrap();
        }
        cluster.sessions().clone()
    }

    fn found(text: &str, owner: Option<&str>) -> Result<String, &'static str> {
        let owner = owner.map(|owner| owner.parse::<UserName>().unwrap());
        let session = find(&sessions(), text, owner.as_ref()).map_err(|refusal| refusal.code())?;
        Ok(session.id.to_string())
    }

    #[test]
    fn a_group_is_named_by_its_first_member_a_common_beginning_or_its_name() {
        for text in ["abcdefgh2222", "abcdefgh2", "sweep", "sweep-5", "sweep/5"] {
            assert_eq!(found(text, None).as_deref(), Ok("abcdefgh2222"), "{text}");
        }
        assert_eq!(found("alone", None).as_deref(), Ok("zzzzzzzz2222"));
    }

    #[test]
    fn a_member_is_named_by_its_group_and_index() {
        for text in ["abcdefgh2222/7", "abcdefgh2/7", "sweep/7", "sweep-7", "abcdefgh2222x1"] {
            assert_eq!(found(text, None).as_deref(), Ok("abcdefgh2222x1"), "{text}");
        }
        for text in ["sweep/6", "sweep/", "sweep/x", "alone/0", "abcdefgh2222x1/9", "nothing"] {
            assert_eq!(found(text, None), Err("SESSION_NOT_FOUND"), "{text}");
        }
        assert_eq!(found("abcdefgh", None), Err("AMBIGUOUS_SESSION"));
    }

    #[test]
    fn nobody_finds_the_group_of_another() {
        assert_eq!(found("sweep/7", Some("bob")), Err("SESSION_NOT_FOUND"));
        assert_eq!(found("gang/1", Some("bob")).as_deref(), Ok("abcdefgh3333x1"));
        assert_eq!(found("abcdefgh", Some("bob")).as_deref(), Ok("abcdefgh3333"));
    }

    #[test]
    fn the_first_stands_for_all_and_every_other_member_for_itself() {
        let sessions = sessions();
        let members_of = |text: &str| {
            let indexes = members(&sessions, &find(&sessions, text, None).unwrap());
            let index = |s: &Arc<Session>| s.group.as_ref().map(|group| group.index);
            indexes.iter().map(index).collect::<Vec<_>>()
        };
        assert_eq!(members_of("sweep"), [Some(5), Some(7), Some(9)]);
        assert_eq!(members_of("gang"), [Some(0), Some(1)]);
        assert_eq!(members_of("sweep/9"), [Some(9)]);
        assert_eq!(members_of("alone"), [None]);
    }
}

use super::tests::*;
use super::*;
use crate::project::{Project, Quota};
use crate::session::{ArrayRange, Members, SessionSpec};
use std::num::NonZeroU32;

pub(super) fn project(name: &str) -> Project {
    Project::new(name.parse().unwrap())
}

pub(super) fn put_project(cluster: &mut Cluster, project: Project) {
    cluster.apply(Input::PutProject { project: Box::new(project) }, T0).unwrap();
}

pub(super) fn gang(size: u32) -> Members {
    Members::Gang(NonZeroU32::new(size).unwrap())
}

pub(super) fn array(range: &str) -> Members {
    Members::Array(range.parse::<ArrayRange>().unwrap())
}

pub(super) fn in_project(project: &str, spec: SessionSpec) -> SessionSpec {
    SessionSpec { project: Some(project.parse().unwrap()), ..spec }
}

pub(super) fn try_create_members(
    cluster: &mut Cluster,
    number: usize,
    spec: SessionSpec,
    request: Option<&str>,
    members: Members,
) -> Result<Applied, Refusal> {
    let input = Input::Create {
        id: session_id(number),
        spec: Box::new(spec),
        owner: "me".parse().unwrap(),
        request_id: request.map(|request| request.parse().unwrap()),
        members,
    };
    cluster.apply(input, T0)
}

#[test]
fn an_unknown_project_or_class_or_one_without_the_caller_is_refused() {
    let mut cluster = cluster(&[("a1", 1)]);
    let mut closed = project("closed");
    closed.members.insert("ann".parse().unwrap());
    put_project(&mut cluster, closed);

    let urgent = SessionSpec { class: Some("urgent".parse().unwrap()), ..spec(0) };
    let cases = [
        (in_project("nowhere", spec(0)), "PROJECT_NOT_FOUND"),
        (in_project("closed", spec(0)), "NOT_A_MEMBER"),
        (urgent, "CLASS_NOT_FOUND"),
    ];
    for (spec, code) in cases {
        assert_eq!(try_create(&mut cluster, 1, spec, None).unwrap_err().code(), code);
    }
}

#[test]
fn a_project_is_removed_only_when_nothing_waits_or_runs_in_it() {
    let mut cluster = cluster(&[("a1", 1)]);
    put_project(&mut cluster, project("ml"));
    let id = create(&mut cluster, 1, in_project("ml", spec(0)));
    let remove = || Input::RemoveProject { name: "ml".parse().unwrap() };
    assert_eq!(cluster.apply(remove(), T0).unwrap_err().code(), "PROJECT_IN_USE");

    report(&mut cluster, "a1", &id, gone(0));
    assert_eq!(cluster.apply(remove(), T0), Ok(Applied::Removed));
    assert_eq!(cluster.apply(remove(), T0).unwrap_err().code(), "PROJECT_NOT_FOUND");
}

#[test]
fn changing_a_project_keeps_when_it_was_made_and_is_undone_as_a_whole() {
    let mut cluster = cluster(&[]);
    put_project(&mut cluster, project("ml"));
    cluster.take_changes();
    let heavier = Project { weight: 7, created_at: UnixMillis(5), ..project("ml") };
    cluster.apply(Input::PutProject { project: Box::new(heavier) }, T0.plus(9)).unwrap();
    let name = "ml".parse().unwrap();
    assert_eq!(cluster.project(&name).unwrap().created_at, T0);
    assert_eq!(cluster.project(&name).unwrap().weight, 7);

    let changes = cluster.take_changes();
    assert_eq!(changes.puts.len(), 1);
    cluster.rollback(changes);
    assert_eq!(cluster.project(&name).unwrap().weight, crate::project::DEFAULT_WEIGHT);
}

#[test]
fn an_array_is_made_at_once_and_the_same_request_gives_the_same_sessions() {
    let mut cluster = cluster(&[("a1", 2)]);
    cluster.take_changes();
    let named = SessionSpec { name: Some("job".parse().unwrap()), ..spec(1_000) };
    let made =
        try_create_members(&mut cluster, 1, named.clone(), Some("request-1"), array("2-6:2"));
    let Ok(Applied::Group { sessions, existed: false }) = made else { panic!("{made:?}") };
    let names: Vec<String> =
        sessions.iter().map(|s| s.spec.name.as_ref().unwrap().to_string()).collect();
    assert_eq!(names, ["job-2", "job-4", "job-6"]);
    assert_eq!(sessions[1].group_environment()["FGPU_ARRAY_INDEX"], "4");
    assert_eq!(sessions[1].group_environment()["FGPU_ARRAY_SIZE"], "3");
    assert_eq!(cluster.take_changes().puts.len(), 3);

    let again =
        try_create_members(&mut cluster, 9, named.clone(), Some("request-1"), array("2-6:2"));
    let Ok(Applied::Group { sessions: same, existed: true }) = again else { panic!("{again:?}") };
    assert_eq!(same, sessions);
    for other in [array("2-6"), gang(3), Members::One] {
        let refused = try_create_members(&mut cluster, 9, named.clone(), Some("request-1"), other);
        assert_eq!(refused.unwrap_err().code(), "REQUEST_ID_REUSED");
    }
}

#[test]
fn a_quota_of_a_project_reads_back_with_it() {
    let mut cluster = cluster(&[]);
    let quota = Quota { sessions: Some(3), ..Quota::default() };
    put_project(&mut cluster, Project { quota, ..project("ml") });
    let restored = Cluster::restore(settings(), cluster.records()).unwrap();
    assert_eq!(restored.projects(), cluster.projects());
}

//! Projects, quotas, classes, arrays, gangs and dependencies over the wire.

use crate::agent::{FakeAgent, gone};
use crate::harness::{Bearer, Running, World, code, spec};
use fgpu_wire::error::CallError;
use fgpu_wire::v1;
use fgpu_wire::v1::create_session_request::Members;
use fgpu_wire::v1::set_quota_request::Of;
use tonic::Status;

fn array(first: u32, last: u32, step: u32) -> Members {
    Members::Array(v1::ArrayRange { first, last, step, at_once: 0 })
}

async fn create(
    manager: &Running,
    bearer: Bearer,
    spec: v1::SessionSpec,
    members: Option<Members>,
) -> Result<v1::CreateSessionResponse, Status> {
    let request_id = String::new();
    let request = v1::CreateSessionRequest { spec: Some(spec), request_id, members };
    Ok(manager.sessions_as(bearer).create_session(request).await?.into_inner())
}

async fn project(manager: &Running, name: &str) -> v1::Project {
    let name = name.to_owned();
    let request = v1::CreateProjectRequest { name, ..Default::default() };
    manager.projects().create_project(request).await.unwrap().into_inner()
}

async fn limit(manager: &Running, project: &str, of: Option<Of>, set: v1::Quota) -> v1::Project {
    let (project, set) = (project.to_owned(), Some(set));
    let request = v1::SetQuotaRequest { project, of, set, ..Default::default() };
    manager.projects().set_quota(request).await.unwrap().into_inner()
}

fn in_project(fgpu_milli: u64, project: &str) -> v1::SessionSpec {
    v1::SessionSpec { project: project.to_owned(), ..spec(fgpu_milli) }
}

#[tokio::test]
async fn an_array_is_made_as_a_whole_and_each_member_is_told_its_index() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let named = v1::SessionSpec { name: "sweep".to_owned(), ..spec(1000) };

    let made = create(&manager, manager.bearer(), named, Some(array(5, 9, 2))).await.unwrap();

    let first = made.session.unwrap();
    let indexes: Vec<u32> = made.members.iter().map(|m| m.group.clone().unwrap().index).collect();
    assert_eq!(indexes, [5, 7, 9]);
    assert_eq!(made.members[0], first);
    let group = first.group.unwrap();
    assert_eq!((group.id.as_str(), group.size), (first.id.as_str(), 3));
    assert_eq!(group.kind(), v1::GroupKind::Array);
    for member in &made.members {
        let env = agent.wants(&member.id).await.group_environment;
        assert_eq!(env["FGPU_ARRAY_INDEX"], member.group.clone().unwrap().index.to_string());
        assert_eq!(env["FGPU_ARRAY_ID"], first.id);
        assert_eq!(env["FGPU_ARRAY_SIZE"], "3");
    }
    assert_eq!(manager.get("sweep/7").await.id, made.members[1].id);
    assert_eq!(manager.get("sweep").await.id, first.id);
    let request = v1::ListSessionsRequest { group: "sweep".to_owned(), ..Default::default() };
    let listed = manager.sessions().list_sessions(request).await.unwrap().into_inner();
    assert_eq!(listed.sessions.len(), 3);
    manager.stop().await;
}

#[tokio::test]
async fn a_gang_is_told_who_leads_it_and_what_its_maker_says_of_that_does_not_count() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let env = [("FGPU_CLUSTER_INDEX".to_owned(), "99".to_owned())].into();
    let spec = v1::SessionSpec { env, ..spec(1000) };

    let made = create(&manager, manager.bearer(), spec, Some(Members::GangSize(2))).await.unwrap();

    let roles = ["head", "worker"];
    for (index, member) in made.members.iter().enumerate() {
        assert_eq!(member.group.clone().unwrap().kind(), v1::GroupKind::Gang);
        let env = agent.wants(&member.id).await.group_environment;
        assert_eq!(env["FGPU_CLUSTER_INDEX"], index.to_string());
        assert_eq!(env["FGPU_CLUSTER_ROLE"], roles[index]);
        assert_eq!(env["FGPU_CLUSTER_SIZE"], "2");
        let hosts: Vec<&str> = env["FGPU_CLUSTER_HOSTS"].split(',').collect();
        assert_eq!(hosts, [env["FGPU_CLUSTER_HEAD"].as_str(); 2], "each member, on one node");
    }
    let request = Some(Members::GangSize(0));
    let refused = create(&manager, manager.bearer(), self::spec(1), request).await.unwrap_err();
    assert_eq!(code(&refused), "INVALID_ARGUMENT");
    manager.stop().await;
}

#[tokio::test]
async fn a_repeated_create_of_an_array_gives_the_same_members() {
    let world = World::new().await;
    let manager = world.start().await;
    let request = v1::CreateSessionRequest {
        spec: Some(spec(1000)),
        request_id: "request-array".to_owned(),
        members: Some(array(1, 3, 1)),
    };
    let first = manager.sessions().create_session(request.clone()).await.unwrap().into_inner();
    let again = manager.sessions().create_session(request.clone()).await.unwrap().into_inner();
    assert!(!first.existed && again.existed);
    assert_eq!(first.members, again.members);

    let other = v1::CreateSessionRequest { members: Some(array(1, 4, 1)), ..request };
    let refused = manager.sessions().create_session(other).await.unwrap_err();
    assert_eq!(code(&refused), "REQUEST_ID_REUSED");
    manager.stop().await;
}

#[tokio::test]
async fn all_members_are_stopped_together_or_one_alone() {
    let world = World::new().await;
    let manager = world.start().await;
    let made = create(&manager, manager.bearer(), spec(1000), Some(array(1, 4, 1))).await.unwrap();
    let id = made.session.unwrap().id;

    for (index, member) in [(3, 2), (1, 0)] {
        let one = v1::StopGroupRequest { group: format!("{id}/{index}"), grace_ms: 0 };
        let stopped = manager.sessions().stop_group(one).await.unwrap().into_inner().members;
        assert_eq!(stopped.len(), 1);
        assert_eq!(stopped[0].id, made.members[member].id);
    }
    assert_eq!(manager.get(&format!("{id}/2")).await.phase(), v1::Phase::Pending);

    let all = v1::StopGroupRequest { group: id, grace_ms: 0 };
    let stopped = manager.sessions().stop_group(all).await.unwrap().into_inner().members;
    let indexes: Vec<u32> = stopped.iter().map(|m| m.group.clone().unwrap().index).collect();
    assert_eq!(indexes, [1, 2, 3, 4]);
    assert!(stopped.iter().all(|member| member.phase() == v1::Phase::Ended));
    manager.stop().await;
}

#[tokio::test]
async fn a_quota_refuses_with_its_numbers() {
    let world = World::new().await;
    let manager = world.start().await;
    let _agent = FakeAgent::join(&manager, "a1").await;
    project(&manager, "research").await;
    let quota = v1::Quota { fgpu_milli: Some(4_000), pending: Some(2), ..Default::default() };
    limit(&manager, "research", None, quota).await;

    let large = in_project(5_000, "research");
    let refused = create(&manager, manager.bearer(), large, None).await.unwrap_err();

    assert_eq!(code(&refused), "QUOTA_EXCEEDED");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let error = CallError::from_status(&refused).unwrap();
    assert_eq!(error.message, "the fgpu quota of project research is 4: 0 in use, 5 asked for");
    let number = |name: &str| error.metadata[name].as_str();
    assert_eq!((number("limit"), number("used"), number("asked")), ("4", "0", "5"));
    assert_eq!((number("project"), number("quota")), ("research", "fgpu"));

    let many =
        create(&manager, manager.bearer(), in_project(100, "research"), Some(array(1, 3, 1)));
    let refused = many.await.unwrap_err();
    assert_eq!(CallError::from_status(&refused).unwrap().metadata["quota"], "pending");
    assert_eq!(manager.list().await.len(), 0);
    manager.stop().await;
}

#[tokio::test]
async fn usage_says_what_is_held_beside_what_may_be_and_members_see_their_own() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let (ann, bob) = (
        manager.token("ann", v1::Role::Member).await,
        manager.token("bob", v1::Role::Member).await,
    );
    project(&manager, "research").await;
    let fgpu = |milli| v1::Quota { fgpu_milli: Some(milli), ..Default::default() };
    limit(&manager, "research", None, fgpu(10_000)).await;
    limit(&manager, "research", Some(Of::User("ann".to_owned())), fgpu(3_000)).await;
    let made = create(&manager, ann.clone(), in_project(2_000, "research"), None).await.unwrap();
    agent.wants(&made.session.unwrap().id).await;

    let request = v1::GetUsageRequest { project: "research".to_owned() };
    let usage = manager.projects().get_usage(request.clone()).await.unwrap().into_inner();
    let usage = usage.projects[0].clone();
    let held = usage.held.unwrap();
    assert_eq!((held.fgpu_milli, held.sessions, held.pending), (2_000, 1, 0));
    assert_eq!(usage.quota.unwrap().fgpu_milli, Some(10_000));
    assert!(usage.share_millionths > 0);
    assert_eq!(usage.users[0].user, "ann");
    assert_eq!(usage.users[0].quota.unwrap().fgpu_milli, Some(3_000));

    let own = manager.projects_as(bob.clone()).get_usage(request).await.unwrap().into_inner();
    assert_eq!(own.projects[0].held.unwrap().fgpu_milli, 2_000);
    let users: Vec<&str> = own.projects[0].users.iter().map(|u| u.user.as_str()).collect();
    assert_eq!(users, ["bob"]);
    let get = v1::GetProjectRequest { name: "research".to_owned() };
    let seen = manager.projects_as(bob).get_project(get).await.unwrap().into_inner();
    assert!(seen.users.is_empty(), "{seen:?}");
    manager.stop().await;
}

#[tokio::test]
async fn a_project_is_seen_by_its_members_and_changed_by_administrators() {
    let world = World::new().await;
    let manager = world.start().await;
    let ann = manager.token("ann", v1::Role::Member).await;
    let members = vec!["bob".to_owned()];
    let name = "closed".to_owned();
    let closed = v1::CreateProjectRequest { name: name.clone(), weight: 300, members };
    let made = manager.projects().create_project(closed.clone()).await.unwrap().into_inner();
    assert_eq!((made.weight, made.members.len()), (300, 1));
    let again = manager.projects().create_project(closed.clone()).await.unwrap().into_inner();
    assert_eq!(again, made);
    let other = v1::CreateProjectRequest { weight: 1, ..closed };
    let refused = manager.projects().create_project(other).await.unwrap_err();
    assert_eq!(code(&refused), "PROJECT_EXISTS");

    let get = v1::GetProjectRequest { name: name.clone() };
    let hidden = manager.projects_as(ann.clone()).get_project(get).await.unwrap_err();
    assert_eq!(code(&hidden), "PROJECT_NOT_FOUND");
    let refused = create(&manager, ann.clone(), in_project(100, &name), None).await.unwrap_err();
    assert_eq!(code(&refused), "NOT_A_MEMBER");
    let list = |bearer| async {
        let request = v1::ListProjectsRequest {};
        let listed = manager.projects_as(bearer).list_projects(request).await.unwrap();
        listed.into_inner().projects.into_iter().map(|p| p.name).collect::<Vec<_>>()
    };
    assert_eq!(list(ann.clone()).await, ["default"]);
    assert_eq!(list(manager.bearer()).await, ["closed", "default"]);
    let change = v1::UpdateProjectRequest {
        name: name.clone(),
        add_members: vec!["ann".to_owned()],
        ..Default::default()
    };
    let denied = manager.projects_as(ann.clone()).update_project(change.clone()).await.unwrap_err();
    assert_eq!(code(&denied), "PERMISSION_DENIED");
    manager.projects().update_project(change).await.unwrap();
    create(&manager, ann.clone(), in_project(100, &name), None).await.unwrap();

    let remove = v1::RemoveProjectRequest { name };
    let used = manager.projects().remove_project(remove).await.unwrap_err();
    assert_eq!(code(&used), "PROJECT_IN_USE");
    manager.stop().await;
    assert_eq!(world.restored().await.projects().len(), 1);
}

#[tokio::test]
async fn classes_are_listed_changed_and_put_back() {
    let world = World::new().await;
    let manager = world.start().await;
    let list = || async {
        let listed = manager.projects().list_classes(v1::ListClassesRequest {}).await.unwrap();
        let classes = listed.into_inner().classes.into_iter();
        classes.map(|class| (class.name, class.priority, class.built_in)).collect::<Vec<_>>()
    };
    let class = |name: &str, priority, built_in| (name.to_owned(), priority, built_in);
    let before = [class("low", -100, true), class("normal", 0, true), class("high", 100, true)];
    assert_eq!(list().await, before);

    let put = |name: &str, priority| v1::PutClassRequest {
        class: Some(v1::PriorityClass { name: name.to_owned(), priority, ..Default::default() }),
    };
    manager.projects().put_class(put("low", -500)).await.unwrap();
    manager.projects().put_class(put("urgent", 500)).await.unwrap();
    let changed = list().await;
    assert_eq!(changed[0], class("low", -500, false));
    assert_eq!(changed[3], class("urgent", 500, false));
    let refused = manager.projects().put_class(put("urgent", 2000)).await.unwrap_err();
    assert_eq!(code(&refused), "INVALID_ARGUMENT");

    for name in ["low", "urgent"] {
        let request = v1::RemoveClassRequest { name: name.to_owned() };
        manager.projects().remove_class(request).await.unwrap();
    }
    assert_eq!(list().await, before);
    let gone = v1::RemoveClassRequest { name: "urgent".to_owned() };
    let refused = manager.projects().remove_class(gone).await.unwrap_err();
    assert_eq!(code(&refused), "CLASS_NOT_FOUND");
    manager.stop().await;
}

#[tokio::test]
async fn a_session_to_follow_is_named_as_anywhere_and_must_be_there() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let named = v1::SessionSpec { name: "prepare".to_owned(), ..spec(1000) };
    let first = manager.create(named).await.id;
    let after = |session: &str| v1::SessionSpec {
        after: vec![v1::Dependency { session: session.to_owned(), condition: 0 }],
        ..spec(1000)
    };

    let second = manager.create(after("prepare")).await;

    let kept = &second.spec.clone().unwrap().after[0];
    assert_eq!(kept.session, first);
    assert_eq!(kept.condition(), v1::DependencyCondition::Ok);
    let refused = create(&manager, manager.bearer(), after("nothing"), None).await.unwrap_err();
    assert_eq!(code(&refused), "DEPENDENCY_NOT_FOUND");
    assert_eq!(CallError::from_status(&refused).unwrap().fields[0].field, "--after");
    agent.report(&agent.wants(&first).await, gone(0)).await;
    agent.wants(&second.id).await;
    manager.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_by_project() {
    let world = World::new().await;
    let manager = world.start().await;
    project(&manager, "research").await;
    let own = manager.create(in_project(1000, "research")).await.id;
    manager.create(spec(1000)).await;
    let request = v1::ListSessionsRequest { project: "research".to_owned(), ..Default::default() };
    let listed = manager.sessions().list_sessions(request).await.unwrap().into_inner().sessions;
    assert_eq!(listed.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), [own.as_str()]);
    let request = v1::ListSessionsRequest { project: "default".to_owned(), ..Default::default() };
    let listed = manager.sessions().list_sessions(request).await.unwrap().into_inner().sessions;
    assert_eq!(listed.len(), 1);
    manager.stop().await;
}

async fn dry_run(
    manager: &Running,
    spec: v1::SessionSpec,
    members: Option<Members>,
) -> Result<v1::ExplainSessionResponse, Status> {
    let request = v1::CreateSessionRequest { spec: Some(spec), request_id: String::new(), members };
    Ok(manager.sessions().dry_run_session(request).await?.into_inner())
}

#[tokio::test]
async fn a_dry_run_judges_all_of_an_array_or_gang_and_names_alternatives() {
    let world = World::new().await;
    let manager = world.start().await;
    let _agent = FakeAgent::join(&manager, "a1").await;

    let gang = dry_run(&manager, spec(10_000), Some(Members::GangSize(2))).await.unwrap();
    assert_eq!((gang.members, gang.starts_now), (2, 2), "{}", gang.summary);
    assert_eq!(gang.places, [v1::NodeMembers { node: "a1".to_owned(), members: 2 }]);
    let sweep = dry_run(&manager, spec(5_000), Some(array(1, 10, 1))).await.unwrap();
    assert_eq!((sweep.members, sweep.starts_now), (10, 4), "{}", sweep.summary);

    manager.create(spec(6_000)).await;
    let waits = dry_run(&manager, spec(10_000), Some(Members::GangSize(2))).await.unwrap();
    assert_eq!((waits.starts_now, waits.grant), (0, None));
    let fewer = waits.alternatives.iter().find(|other| other.code == "FEWER_MEMBERS").unwrap();
    assert_eq!(
        (fewer.flags["--size"].as_str(), fewer.nodes.as_slice()),
        ("1", ["a1".to_owned()].as_slice())
    );
    assert!(waits.would_fit.contains(&fewer.text));
    manager.create(spec(6_000)).await;
    let split = dry_run(&manager, spec(7_000), None).await.unwrap();
    let split = split.alternatives.into_iter().find(|other| other.code == "SPLIT").unwrap();
    assert_eq!((split.flags["--devices"].as_str(), split.flags["--split"].as_str()), ("2", "even"));

    let refused = dry_run(&manager, spec(10_000), Some(Members::GangSize(3))).await.unwrap_err();
    assert_eq!(code(&refused), "UNSATISFIABLE");
    let error = CallError::from_status(&refused).unwrap();
    assert_eq!((error.metadata["members"].as_str(), error.metadata["most"].as_str()), ("3", "2"));
    assert_eq!(manager.list().await.len(), 2);
    manager.stop().await;
}

#[tokio::test]
async fn a_list_says_what_each_session_waits_for() {
    let world = World::new().await;
    let manager = world.start().await;
    let _agent = FakeAgent::join(&manager, "a1").await;
    let held = manager.create(spec(20_000)).await.id;
    manager.reaches(&held, v1::Phase::Scheduled).await;
    let room = manager.create(spec(1_000)).await.id;
    let after = vec![v1::Dependency { session: held.clone(), ..v1::Dependency::default() }];
    let follows = manager.create(v1::SessionSpec { after, ..spec(1_000) }).await.id;

    let codes: std::collections::BTreeMap<String, String> = manager
        .list()
        .await
        .into_iter()
        .map(|session| (session.id, session.pending_code))
        .collect();
    assert_eq!(codes[&held], "");
    assert_eq!(codes[&room], "NO_ROOM");
    assert_eq!(codes[&follows], "DEPENDENCY");
    assert_eq!(manager.get(&room).await.pending_reason, "room");
    manager.stop().await;
}

#[tokio::test]
async fn changes_of_a_class_at_the_same_time_do_not_undo_each_other() {
    let world = World::new().await;
    let manager = world.start().await;
    let update = |change: v1::UpdateClassRequest| {
        let mut projects = manager.projects();
        async move { projects.update_class(change).await.map(tonic::Response::into_inner) }
    };
    let named = || v1::UpdateClassRequest { name: "low".to_owned(), ..Default::default() };
    let changes = [
        v1::UpdateClassRequest { priority: Some(-500), ..named() },
        v1::UpdateClassRequest { may_preempt: Some(true), ..named() },
        v1::UpdateClassRequest { min_run_ms: Some(60_000), ..named() },
        v1::UpdateClassRequest { grace_ms: Some(5_000), ..named() },
    ];
    for changed in futures_util::future::join_all(changes.map(update)).await {
        changed.unwrap();
    }
    let classes = manager.projects().list_classes(v1::ListClassesRequest {}).await.unwrap();
    let classes = classes.into_inner().classes;
    let low = classes.iter().find(|class| class.name == "low").unwrap();
    assert_eq!((low.priority, low.may_preempt, low.min_run_ms), (-500, true, 60_000));
    assert!(low.preemptible && low.grace_ms == Some(5_000), "{low:?}");

    let made = v1::UpdateClassRequest { name: "urgent".to_owned(), ..Default::default() };
    assert_eq!(update(made).await.unwrap().priority, 0);
    let refused = update(v1::UpdateClassRequest { priority: Some(2_000), ..named() }).await;
    assert_eq!(code(&refused.unwrap_err()), "INVALID_ARGUMENT");
    manager.stop().await;
}

//! What sessions go through.

use crate::agent::{FakeAgent, gone, running};
use crate::harness::{World, code, create_with, open, spec};
use fgpu_domain::cluster::{Cluster, Settings};
use fgpu_manager::load_records;
use fgpu_wire::v1;
use tonic::Code;

#[tokio::test]
async fn a_session_is_created_placed_run_and_ended() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;

    let id = manager.create(spec(2500)).await.id;
    let wanted = agent.wants(&id).await;
    let slice = wanted.grant.clone().unwrap().slices[0].clone();
    assert_eq!(slice.memory_bytes, 20 << 30);
    assert_eq!(slice.compute_milli, 250);
    agent.report(&wanted, running()).await;
    let session = manager.reaches(&id, v1::Phase::Running).await;
    assert_eq!(session.started_at_ms, 1_700_000_000_500);

    agent.report(&wanted, gone(0)).await;
    let ended = manager.reaches(&id, v1::Phase::Ended).await;

    assert_eq!(ended.outcome(), v1::Outcome::Completed);
    assert_eq!(ended.exit_code, Some(0));
    // It has said so itself: it hears of it when its heartbeat is answered.
    agent.be_heard(1).await;
    let free =
        |heard: &crate::agent::Heard| heard.desired.last()?.sessions.is_empty().then_some(());
    agent.hears("an empty desired state", free).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_session_waits_with_a_reason_and_starts_when_another_ends() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let first = manager.create(spec(10_000)).await.id;
    let second = manager.create(spec(10_000)).await.id;
    let waiting = manager.create(spec(10_000)).await.id;
    agent.wants(&second).await;

    let request = v1::ExplainSessionRequest { session: waiting.clone() };
    let why = manager.sessions().explain_session(request).await.unwrap().into_inner();
    assert_eq!(why.queue_position, 1);
    assert_eq!(why.closest.unwrap().node, "a1");
    assert_eq!(manager.get(&waiting).await.phase(), v1::Phase::Pending);

    let wanted = agent.wants(&first).await;
    let stop = v1::StopSessionRequest { session: first.clone(), grace_ms: 7 };
    manager.sessions().stop_session(stop).await.unwrap();
    let told = agent.wants_as(&first, |wanted| wanted.stop_grace_ms.is_some()).await;
    assert_eq!(told.stop_grace_ms, Some(7));
    assert_eq!(manager.get(&waiting).await.phase(), v1::Phase::Pending);
    agent.report(&wanted, gone(143)).await;

    agent.wants(&waiting).await;
    assert_eq!(manager.get(&first).await.outcome(), v1::Outcome::Cancelled);
    manager.stop().await;
}

#[tokio::test]
async fn a_repeated_request_id_gives_the_same_session_even_after_a_restart() {
    let world = World::new().await;
    let manager = world.start().await;
    let first = manager.sessions().create_session(create_with("request-1")).await.unwrap();
    let id = first.into_inner().session.unwrap().id;
    manager.stop().await;

    let manager = world.start().await;
    let again = manager.sessions().create_session(create_with("request-1")).await.unwrap();
    let again = again.into_inner();

    assert!(again.existed);
    assert_eq!(again.session.unwrap().id, id);
    assert_eq!(manager.list().await.len(), 1);
    let mut other = create_with("request-1");
    other.spec = Some(spec(2000));
    let refused = manager.sessions().create_session(other).await.unwrap_err();
    assert_eq!(code(&refused), "REQUEST_ID_REUSED");
    manager.stop().await;
}

#[tokio::test]
async fn a_restart_rebuilds_the_same_state_from_the_file_alone() {
    let mut world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let mut ids = Vec::new();
    for fgpu in [1000, 2500, 10_000, 10_000, 500] {
        ids.push(manager.create(spec(fgpu)).await.id);
    }
    agent.report(&agent.wants(&ids[0]).await, running()).await;
    manager.reaches(&ids[0], v1::Phase::Running).await;
    agent.report(&agent.wants(&ids[1]).await, gone(3)).await;
    manager.reaches(&ids[1], v1::Phase::Ended).await;
    let before = manager.list().await;
    manager.stop().await;

    // Let go of the file, then open it as a new process would.
    let folder = tempfile::tempdir().unwrap();
    world.store = std::sync::Arc::new(open(folder.path()).await);
    world.store = std::sync::Arc::new(open(world.folder.path()).await);
    let restored = world.restored().await;
    assert_eq!(fgpu_domain::check::check(&restored), Ok(()));
    let manager = world.start().await;

    assert_eq!(manager.list().await, before);
    manager.stop().await;
    let loaded = load_records(&*world.store).await.unwrap();
    let again = Cluster::restore(Settings::default(), loaded.records).unwrap();
    assert_eq!(again.sessions(), restored.sessions());
    assert_eq!(again.nodes(), restored.nodes());
}

#[tokio::test]
async fn bad_requests_get_one_clear_error_and_change_nothing() {
    let world = World::new().await;
    let manager = world.start().await;
    let _agent = FakeAgent::join(&manager, "a1").await;
    let refused = async |change: fn(&mut v1::SessionSpec)| {
        let mut spec = spec(1000);
        change(&mut spec);
        let request = v1::CreateSessionRequest { spec: Some(spec), ..Default::default() };
        manager.sessions().create_session(request).await.unwrap_err()
    };
    let quantum = refused(|spec| *spec = crate::harness::spec(7930)).await;
    assert_eq!((code(&quantum), quantum.code()), ("INVALID_ARGUMENT", Code::InvalidArgument));
    assert!(quantum.message().contains("7.93"), "{quantum}");
    let large = refused(|spec| *spec = crate::harness::spec(50_000)).await;
    assert_eq!(code(&large), "UNSATISFIABLE");
    let node = refused(|spec| spec.node = "nowhere".to_owned()).await;
    assert_eq!(code(&node), "NODE_NOT_FOUND");
    let mount = refused(|spec| {
        spec.mounts = vec![v1::Mount {
            source: "/database".to_owned(),
            target: "/d".to_owned(),
            read_only: true,
        }];
    })
    .await;
    assert_eq!(code(&mount), "UNSATISFIABLE");
    let request_id = manager.sessions().create_session(create_with("short")).await.unwrap_err();
    assert_eq!(code(&request_id), "INVALID_ARGUMENT");
    assert_eq!(manager.list().await, []);
    assert_eq!(world.records().await, 0);
    manager.stop().await;
}

#[tokio::test]
async fn a_mount_leads_only_to_nodes_that_allow_it() {
    let world = World::new().await;
    let manager = world.start().await;
    let mut closed = crate::agent::registration("a1", "agent-a1");
    closed.inventory.as_mut().unwrap().runtime.as_mut().unwrap().allowed_mounts.clear();
    let _closed = FakeAgent::dial(&manager, closed).await;
    let open = FakeAgent::join(&manager, "b1").await;
    let mut mounted = spec(1000);
    mounted.mounts = vec![v1::Mount {
        source: "/data/set".to_owned(),
        target: "/data".to_owned(),
        read_only: true,
    }];
    for _ in 0..5 {
        let id = manager.create(mounted.clone()).await.id;
        open.wants(&id).await;
    }
    manager.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_that_together_are_everything() {
    let world = World::new().await;
    let manager = world.start().await;
    let mut created = Vec::new();
    for _ in 0..7 {
        created.push(manager.create(spec(1000)).await.id);
    }
    created.sort();
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListSessionsRequest { page_size: 3, page_token, ..Default::default() };
        let page = manager.sessions().list_sessions(request).await.unwrap().into_inner();
        assert!(page.sessions.len() <= 3);
        listed.extend(page.sessions.into_iter().map(|session| session.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, created);
    let bad = v1::ListSessionsRequest { page_token: "?".to_owned(), ..Default::default() };
    let refused = manager.sessions().list_sessions(bad).await.unwrap_err();
    assert_eq!(code(&refused), "INVALID_ARGUMENT");
    manager.stop().await;
}

#[tokio::test]
async fn time_limits_and_retention_come_due_by_the_clock() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let limited = v1::SessionSpec { time_limit_ms: 60_000, ..spec(1000) };
    let id = manager.create(limited).await.id;
    let wanted = agent.wants(&id).await;
    agent.report(&wanted, running()).await;
    manager.reaches(&id, v1::Phase::Running).await;

    for sequence in 1..=7 {
        world.clock.advance(std::time::Duration::from_secs(9));
        agent.be_heard(sequence).await;
    }
    agent.wants_as(&id, |wanted| wanted.stop_grace_ms.is_some()).await;
    agent.report(&wanted, gone(143)).await;
    manager.reaches(&id, v1::Phase::Ended).await;
    world.clock.advance(std::time::Duration::from_secs(8 * 24 * 3600));

    crate::harness::eventually("the session is forgotten", async || {
        let left = manager.list().await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert_eq!(world.records().await, 0);
    manager.stop().await;
}

#[tokio::test]
async fn the_progress_of_starting_is_shown_but_not_written() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let id = manager.create(spec(1000)).await.id;
    let wanted = agent.wants(&id).await;
    let before = world.store.commits();
    let pulling = |done_bytes| {
        v1::session_report::State::Pulling(v1::Pulling { done_bytes, total_bytes: 100 })
    };
    agent.report(&wanted, pulling(1)).await;
    manager.reaches(&id, v1::Phase::Pulling).await;
    for done in 2..=50 {
        agent.report(&wanted, pulling(done)).await;
    }

    crate::harness::eventually("the progress is shown", async || {
        let session = manager.get(&id).await;
        if session.pull_done_bytes == 50 { Ok(()) } else { Err(format!("{session:?}")) }
    })
    .await;
    assert_eq!(world.store.commits(), before);
    agent.report(&wanted, running()).await;
    manager.reaches(&id, v1::Phase::Running).await;
    assert_eq!(world.store.commits(), before + 1);
    manager.stop().await;
}

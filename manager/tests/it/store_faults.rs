//! A store that fails: nothing acknowledged is lost, nothing is doubled.

use crate::agent::{FakeAgent, gone, registration, running};
use crate::harness::{Running, World, code, create_with, eventually, spec};
use fgpu_store::{Fault, Store as _};
use fgpu_wire::v1;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Status;

#[tokio::test]
async fn a_lost_answer_of_the_store_neither_doubles_nor_loses_a_session() {
    let world = World::new().await;
    let manager = world.start().await;
    for (fault, request) in [(Fault::LostAck, "request-1"), (Fault::LostRequest, "request-2")] {
        world.store.fail_next_commits([fault]);
        let created = manager.sessions().create_session(create_with(request)).await.unwrap();
        assert!(!created.into_inner().existed, "{fault:?}");
    }
    // The look at what became of it fails as well.
    world.store.fail_next_commits([Fault::LostAck, Fault::None]);
    world.store.fail_next([Fault::Unavailable]);
    let created = manager.sessions().create_session(create_with("request-3")).await.unwrap();
    assert!(!created.into_inner().existed);

    assert_eq!(manager.list().await.len(), 3);
    assert_eq!(world.records().await, 3);
    manager.stop().await;
}

#[tokio::test]
async fn while_the_store_is_away_creates_are_refused_reads_served_and_it_recovers() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let id = manager.create(spec(1000)).await.id;
    let wanted = agent.wants(&id).await;
    agent.report(&wanted, running()).await;
    manager.reaches(&id, v1::Phase::Running).await;

    world.store.fail_all(Fault::Unavailable);
    for _ in 0..3 {
        let refused =
            manager.sessions().create_session(create_with("request-1")).await.unwrap_err();
        assert_eq!(code(&refused), "STORE_UNAVAILABLE");
    }
    assert_eq!(manager.get(&id).await.phase(), v1::Phase::Running);
    assert_eq!(manager.list().await.len(), 1);
    // What agents say meanwhile is not lost.
    agent.report(&wanted, gone(0)).await;
    agent.be_heard(1).await;
    assert_eq!(manager.get(&id).await.phase(), v1::Phase::Running);

    world.store.heal();
    manager.reaches(&id, v1::Phase::Ended).await;
    let created = eventually("creates are taken again", async || {
        let answer = manager.sessions().create_session(create_with("request-1")).await;
        answer.map_err(|status| status.to_string())
    })
    .await;
    agent.wants(&created.into_inner().session.unwrap().id).await;
    assert_eq!(world.records().await, 2);
    manager.stop().await;
}

#[tokio::test]
async fn a_known_agent_is_welcomed_and_acknowledged_while_the_store_is_away() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let id = manager.create(spec(1000)).await.id;
    let wanted = agent.wants(&id).await;
    agent.report(&wanted, running()).await;
    manager.reaches(&id, v1::Phase::Running).await;
    world.store.fail_all(Fault::Unavailable);
    let refused = manager.sessions().create_session(create_with("request-1")).await.unwrap_err();
    assert_eq!(code(&refused), "STORE_UNAVAILABLE");
    drop(agent);

    let mut back = registration("a1", "agent-a1");
    back.sessions = Some(v1::SessionReports {
        full: true,
        sessions: vec![v1::SessionReport {
            session_id: id.clone(),
            generation: wanted.generation,
            state: Some(gone(0)),
            grant: wanted.grant.clone(),
        }],
    });
    let agent = FakeAgent::dial(&manager, back).await;
    agent.welcomed().await;
    agent.be_heard(1).await;
    agent.wants(&id).await;
    assert_eq!(manager.get(&id).await.phase(), v1::Phase::Running);

    world.store.heal();
    manager.reaches(&id, v1::Phase::Ended).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_full_store_is_named_as_such_and_used_again_once_there_is_space() {
    let world = World::new().await;
    let manager = world.start().await;
    world.store.fail_all(Fault::Full);

    let refused = manager.sessions().create_session(create_with("request-1")).await.unwrap_err();
    assert_eq!(code(&refused), "STORE_FULL");
    assert_eq!(manager.list().await, []);

    world.store.heal();
    eventually("creates are taken again", async || {
        let answer = manager.sessions().create_session(create_with("request-1")).await;
        answer.map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(manager.list().await.len(), 1);
    manager.stop().await;
}

#[tokio::test]
async fn many_creates_at_once_share_few_writes_and_all_are_durable() {
    let world = World::new().await;
    let manager = world.start().await;
    let before = world.store.commits();
    let calls = (0..200).map(|number| {
        let mut client = manager.sessions();
        tokio::spawn(async move {
            client.create_session(create_with(&format!("request-{number}"))).await.unwrap()
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }

    let commits = world.store.commits() - before;
    assert!(commits < 200, "{commits} commits for 200 creates");
    assert_eq!(world.records().await, 200);
    manager.stop().await;
}

/// Creates a session while the commit of another one is on its way and meets `fault`; gives the
/// answers of both, and how many commits there were.
async fn create_during(
    world: &World,
    manager: &Running,
    fault: Fault,
    requests: [v1::CreateSessionRequest; 2],
) -> ([Result<v1::Session, Status>; 2], usize) {
    let [first, second] = requests;
    let before = world.store.commits();
    let create = |request| {
        let mut client = manager.sessions();
        tokio::spawn(async move {
            let created = client.create_session(request).await?.into_inner();
            created.session.ok_or_else(|| Status::internal("no session"))
        })
    };
    world.store.fail_next_commits([fault]);
    let first = create(first);
    eventually("the first is on its way", async || {
        if world.store.commits() > before { Ok(()) } else { Err("nothing yet".to_owned()) }
    })
    .await;
    let second = create(second);
    let answers = [first.await.unwrap(), second.await.unwrap()];
    (answers, world.store.commits() - before)
}

#[tokio::test]
async fn what_comes_while_a_write_is_on_its_way_is_told_only_after_it() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let requests = ["request-1", "request-2"].map(create_with);

    let slow = Fault::Delay(Duration::from_millis(300));
    let (answers, commits) = create_during(&world, &manager, slow, requests).await;

    assert_eq!(commits, 2);
    for session in answers {
        agent.wants(&session.unwrap().id).await;
    }
    assert_eq!(world.records().await, 2);
    manager.stop().await;
}

#[tokio::test]
async fn what_rests_on_a_refused_write_is_undone_and_applied_anew() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    // The second may have the name only if the first has not got it.
    let requests = ["request-1", "request-2"].map(|request| {
        let named = v1::SessionSpec { name: "train".to_owned(), ..spec(10_000) };
        v1::CreateSessionRequest { spec: Some(named), ..create_with(request) }
    });

    let refusing = Fault::Refuse(Duration::from_millis(300));
    let (answers, _) = create_during(&world, &manager, refusing, requests).await;

    let [first, second] = answers;
    assert!(first.unwrap_err().message().contains("made to be refused"));
    let id = second.unwrap().id;
    agent.wants(&id).await;
    assert_eq!(manager.list().await.iter().map(|s| s.id.clone()).collect::<Vec<_>>(), [id]);
    assert_eq!(world.restored().await.sessions().len(), 1);
    manager.stop().await;
}

#[tokio::test]
async fn a_batch_larger_than_one_transaction_is_written_whole() {
    let world = World::new().await;
    let manager = world.start().await;
    for number in 0..300 {
        let small =
            v1::SessionSpec { cpu_milli: 100, memory_bytes: 16 << 20, gpu: None, ..spec(1) };
        let request = v1::CreateSessionRequest {
            spec: Some(small),
            request_id: format!("request-{number}"),
            members: None,
        };
        manager.sessions().create_session(request).await.unwrap();
    }
    // All 300 are placed at once when the node comes, and stopped at once when it is drained; the
    // store loses an answer in the middle of each.
    world.store.fail_next_commits([Fault::None, Fault::LostAck, Fault::LostRequest]);
    let agent = FakeAgent::join(&manager, "a1").await;
    agent
        .hears("all 300", |heard| (heard.desired.last()?.sessions.len() == 300).then_some(()))
        .await;
    world.store.fail_next_commits([Fault::None, Fault::LostAck, Fault::LostRequest]);
    let drain = v1::DrainNodeRequest { name: "a1".to_owned() };
    manager.nodes().drain_node(drain).await.unwrap();

    let stopping = |session: &v1::Session| session.phase() == v1::Phase::Stopping;
    assert!(manager.list().await.iter().all(stopping));
    let restored = world.restored().await;
    assert_eq!(fgpu_domain::check::check(&restored), Ok(()));
    let stored = restored.sessions().values();
    assert_eq!(stored.filter(|session| session.phase.name() == "stopping").count(), 300);
    manager.stop().await;
}

#[tokio::test]
async fn a_manager_whose_mark_was_moved_by_someone_else_reads_everything_anew() {
    let world = World::new().await;
    let manager = world.start().await;
    let id = manager.create(spec(1000)).await.id;
    let intruder = fgpu_store::Txn::new().put("engine/commit", "someone else");
    world.store.inner().commit(intruder).await.unwrap();

    let refused = manager.sessions().create_session(create_with("request-1")).await.unwrap_err();
    assert_eq!(code(&refused), "NOT_LEADER");
    eventually("it leads again", async || {
        let answer = manager.sessions().create_session(create_with("request-1")).await;
        answer.map_err(|status| status.to_string())
    })
    .await;

    assert_eq!(manager.get(&id).await.id, id);
    assert_eq!(world.records().await, 2);
    manager.stop().await;
}

/// Creates sessions with these names all at once, each asked for again until it is taken, while the
/// commit of one more, `first`, is on its way and meets the first of `faults`, and those that follow
/// meet the rest; gives the answer of that first one.
async fn create_many_during(
    world: &World,
    manager: &Running,
    first: &str,
    names: &[String],
    faults: &[Fault],
) -> Result<(), Status> {
    let named = |name: &str| {
        let small = v1::SessionSpec { name: name.to_owned(), gpu: None, ..spec(1) };
        v1::CreateSessionRequest { spec: Some(small), ..create_with(name) }
    };
    let before = world.store.commits();
    world.store.fail_next_commits(faults.iter().copied());
    let (mut client, request) = (manager.sessions(), named(first));
    let first = tokio::spawn(async move { client.create_session(request).await });
    eventually("the first is on its way", async || {
        if world.store.commits() > before { Ok(()) } else { Err("nothing yet".to_owned()) }
    })
    .await;
    let all = names.iter().map(async |name| {
        eventually("it is taken", async || {
            let answer = manager.sessions().create_session(named(name)).await;
            answer.map_err(|status| status.to_string())
        })
        .await;
    });
    join_all(all).await;
    first.await.unwrap().map(drop)
}

#[tokio::test]
async fn transactions_on_their_way_together_survive_whatever_becomes_of_each() {
    use Fault::{Delay, Full, Late, LostAck, LostRequest, None, Refuse, Unavailable};
    let slow = Delay(Duration::from_millis(200));
    let world = World::new().await;
    let manager = world.start().await;
    let mut expected = 0;
    // After the first one come at least two more, which are sent while it is on its way.
    let rounds: &[(&[Fault], bool)] = &[
        (&[slow], true),
        (&[slow, None, LostAck], true),
        (&[LostAck, slow], true),
        // The answer that it came too early is there only once it is the first.
        (&[slow, Late(Duration::from_millis(400))], true),
        (&[slow, LostAck, LostRequest], true),
        (&[slow, LostRequest, LostAck, slow, LostAck], true),
        (&[slow, Unavailable, None, Unavailable], true),
        (&[slow, slow, Refuse(Duration::ZERO)], true),
        (&[Refuse(Duration::from_millis(200))], false),
        (&[Refuse(Duration::from_millis(200)), None, LostAck, Full], false),
    ];
    for (round, (faults, taken)) in rounds.iter().enumerate() {
        let name = |number: usize| format!("round-{round}-{number}");
        let names: Vec<String> = (1..300).map(name).collect();
        let first = create_many_during(&world, &manager, &name(0), &names, faults).await;
        assert_eq!(first.is_ok(), *taken, "{faults:?}: {first:?}");
        expected += names.len() + usize::from(*taken);
        assert_eq!(world.records().await, expected, "{faults:?}");
    }

    let restored = world.restored().await;
    assert_eq!(fgpu_domain::check::check(&restored), Ok(()));
    let names: BTreeSet<_> =
        restored.sessions().values().map(|session| &session.spec.name).collect();
    assert_eq!(names.len(), expected, "each name once");
    manager.stop().await;
}

#[tokio::test]
async fn the_next_transaction_is_sent_before_the_answer_to_the_last_is_there() {
    let world = World::new().await;
    let manager = world.start().await;
    let before = world.store.commits();
    let slow = Fault::Delay(Duration::from_secs(5));
    let names: Vec<String> = (1..200).map(|number| format!("session-{number}")).collect();
    let during = async {
        eventually("another one is sent", async || match world.store.commits() - before {
            sent @ 0..=1 => Err(format!("{sent} so far")),
            _ => Ok(()),
        })
        .await;
        assert_eq!(world.records().await, 0, "the first is on its way, and the rest rests on it");
    };
    let faults = [slow];
    let creating = create_many_during(&world, &manager, "session-0", &names, &faults);
    let ((), created) = tokio::join!(during, creating);
    created.unwrap();
    assert_eq!(world.records().await, 200);
    manager.stop().await;
}

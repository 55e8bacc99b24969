//! Watching sessions.

use crate::agent::{FakeAgent, gone, running};
use crate::harness::{DEADLINE, World, spec};
use fgpu_wire::v1;
use fgpu_wire::v1::watch_sessions_response::Event;
use tonic::Streaming;

async fn next(events: &mut Streaming<v1::WatchSessionsResponse>) -> Event {
    let next = tokio::time::timeout(DEADLINE, events.message()).await;
    next.expect("an event in time").unwrap().unwrap().event.unwrap()
}

async fn phase(events: &mut Streaming<v1::WatchSessionsResponse>) -> v1::Phase {
    match next(events).await {
        Event::Changed(session) => session.phase(),
        other => panic!("a change was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn a_watcher_sees_what_is_then_every_change_in_order() {
    let world = World::new().await;
    let manager = world.start().await;
    let before = manager.create(spec(1000)).await.id;
    let request = v1::WatchSessionsRequest::default();
    let mut events = manager.sessions().watch_sessions(request).await.unwrap().into_inner();
    assert!(matches!(next(&mut events).await, Event::Changed(session) if session.id == before));
    assert_eq!(next(&mut events).await, Event::Synced(true));

    let agent = FakeAgent::join(&manager, "a1").await;
    assert_eq!(phase(&mut events).await, v1::Phase::Scheduled);
    let wanted = agent.wants(&before).await;
    agent.report(&wanted, running()).await;
    agent.report(&wanted, gone(0)).await;
    assert_eq!(phase(&mut events).await, v1::Phase::Running);
    assert_eq!(phase(&mut events).await, v1::Phase::Ended);
    let id = manager.create(spec(1000)).await.id;
    assert_eq!(phase(&mut events).await, v1::Phase::Pending);
    assert_eq!(phase(&mut events).await, v1::Phase::Scheduled);
    let remove = v1::RemoveSessionRequest { session: before.clone() };
    manager.sessions().remove_session(remove).await.unwrap();
    assert_eq!(next(&mut events).await, Event::RemovedId(before));
    assert_eq!(manager.get(&id).await.phase(), v1::Phase::Scheduled);
    manager.stop().await;
}

#[tokio::test]
async fn a_watch_of_one_session_is_silent_about_all_others_and_of_others_sessions() {
    let world = World::new().await;
    let manager = world.start().await;
    let bob = manager.token("bob", v1::Role::Member).await;
    let own = manager.create(spec(1000)).await.id;
    let one = v1::WatchSessionsRequest { session: own.clone() };
    let mut only = manager.sessions().watch_sessions(one).await.unwrap().into_inner();
    let all = v1::WatchSessionsRequest::default();
    let mut bobs = manager.sessions_as(bob).watch_sessions(all).await.unwrap().into_inner();
    assert!(matches!(next(&mut only).await, Event::Changed(session) if session.id == own));
    assert_eq!(next(&mut only).await, Event::Synced(true));
    assert_eq!(next(&mut bobs).await, Event::Synced(true));

    manager.create(spec(1000)).await;
    let stop = v1::StopSessionRequest { session: own.clone(), grace_ms: 0 };
    manager.sessions().stop_session(stop).await.unwrap();

    assert_eq!(phase(&mut only).await, v1::Phase::Ended);
    // The end of the term is the next thing bob hears.
    let stopped = tokio::spawn(manager.stop());
    assert!(tokio::time::timeout(DEADLINE, bobs.message()).await.unwrap().is_err());
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_watcher_that_lags_far_behind_is_brought_up_to_date() {
    let world = World::new().await;
    let manager = world.start().await;
    let request = v1::WatchSessionsRequest::default();
    let mut events = manager.sessions().watch_sessions(request).await.unwrap().into_inner();
    // Nothing is read meanwhile: first the connection's window fills, then the backlog.
    let text = "x".repeat(20_000);
    let mut created = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let large = v1::SessionSpec {
            env: [("TEXT".to_owned(), text.clone())].into_iter().collect(),
            ..spec(1000)
        };
        created.insert(manager.create(large).await.id);
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen != created {
        match next(&mut events).await {
            Event::Changed(session) => drop(seen.insert(session.id)),
            Event::Synced(_) => {}
            Event::RemovedId(id) => panic!("{id} was not removed"),
        }
    }
    manager.stop().await;
}

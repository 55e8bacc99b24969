//! One leads, others wait, and a deposed one cannot write.

use crate::agent::FakeAgent;
use crate::harness::{DEADLINE, World, code, create_with, eventually, spec};
use fgpu_store::{Fault, Store as _, Txn};
use fgpu_wire::error::CallError;
use fgpu_wire::v1;
use std::time::Duration;

#[tokio::test]
async fn a_manager_that_waits_names_the_one_that_leads() {
    let world = World::new().await;
    let leader = world.start().await;
    let standby = world.spawn(world.config()).await;

    let error = eventually("the leader is named", async || {
        let refused =
            standby.sessions().create_session(create_with("request-1")).await.unwrap_err();
        let error = CallError::from_status(&refused).unwrap();
        if error.metadata.contains_key("leader") { Ok(error) } else { Err(format!("{error:?}")) }
    })
    .await;
    assert_eq!(error.code.as_str(), "NOT_LEADER");
    assert_eq!(error.metadata["leader"], leader.manager.url);

    let created = leader.create(spec(1000)).await;
    leader.stop().await;
    let leads = tokio::time::timeout(DEADLINE, standby.manager.leading()).await;
    assert_eq!(leads, Ok(true));
    assert_eq!(standby.get(&created.id).await.id, created.id);
    standby.stop().await;
}

#[tokio::test]
async fn a_leader_that_was_replaced_unnoticed_cannot_write() {
    let world = World::new().await;
    let old = world.start().await;
    let agent = FakeAgent::join(&old, "a1").await;
    let old_epoch = agent.welcomed().await.epoch;
    let new = world.spawn(world.config()).await;
    // As if its lease had run out while it was stopped.
    world.store.inner().commit(Txn::new().delete("leader")).await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, new.manager.leading()).await, Ok(true));

    let refused = old.sessions().create_session(create_with("request-1")).await.unwrap_err();

    assert_eq!(code(&refused), "NOT_LEADER");
    assert_eq!(world.records().await, 0);
    assert_eq!(code(&agent.refused().await), "NOT_LEADER");
    let agent = FakeAgent::join(&new, "a1").await;
    assert!(agent.welcomed().await.epoch > old_epoch);
    new.stop().await;
    old.stop().await;
}

#[tokio::test]
async fn a_leader_that_lost_touch_with_the_store_serves_reads_and_leads_again() {
    let world = World::new().await;
    let mut config = world.config();
    config.timings.leader_ttl = Duration::from_secs(1);
    let manager = world.spawn(config).await;
    assert!(manager.manager.leading().await);
    let id = manager.create(spec(1000)).await.id;
    let agent = FakeAgent::join(&manager, "a1").await;

    world.store.fail_all(Fault::Unavailable);
    // Its leadership cannot be proven any more: agents are let go.
    assert_eq!(code(&agent.refused().await), "NOT_LEADER");
    assert_eq!(manager.get(&id).await.id, id);
    let refused = manager.sessions().create_session(create_with("request-1")).await.unwrap_err();
    assert_eq!(code(&refused), "STORE_UNAVAILABLE");
    let watch = v1::WatchSessionsRequest::default();
    assert_eq!(
        code(&manager.sessions().watch_sessions(watch).await.unwrap_err()),
        "STORE_UNAVAILABLE"
    );

    world.store.heal();
    eventually("it leads again", async || {
        let answer = manager.sessions().create_session(create_with("request-1")).await;
        answer.map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(manager.list().await.len(), 2);
    manager.stop().await;
}

#[tokio::test]
async fn a_record_of_a_newer_release_stops_the_manager_with_its_key() {
    let world = World::new().await;
    let newer = Txn::new().put("sessions/abcdefgh", r#"{"format":9,"value":{}}"#);
    world.store.commit(newer).await.unwrap();
    let manager = world.spawn(world.config()).await;

    let stopped = tokio::time::timeout(DEADLINE, manager.manager.join()).await.unwrap();
    let error = stopped.unwrap_err().to_string();

    assert!(error.contains("sessions/abcdefgh") && error.contains("format 9"), "{error}");
}

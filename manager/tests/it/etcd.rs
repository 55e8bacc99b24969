//! The same manager over a real etcd that goes away.

use crate::agent::{FakeAgent, registration, running};
use crate::harness::{DEADLINE, Running, World, code, create_with, eventually, spec};
use fgpu_domain::cluster::{Cluster, Settings};
use fgpu_manager::load_records;
use fgpu_store::{EtcdConfig, EtcdStore, Store};
use fgpu_testkit::etcd::EtcdServer;
use fgpu_wire::v1;
use std::sync::Arc;
use std::time::Duration;

async fn connect(server: &EtcdServer) -> Arc<dyn Store> {
    let mut config = EtcdConfig::new(vec![server.endpoint()]);
    config.request_timeout = Duration::from_secs(1);
    Arc::new(EtcdStore::connect(config).await.unwrap())
}

async fn lead(world: &World, store: &Arc<dyn Store>, ttl: Duration) -> Running {
    let mut config = world.config();
    config.timings.leader_ttl = ttl;
    let manager = world.spawn_on(Arc::clone(store), config).await;
    let leads = tokio::time::timeout(DEADLINE, manager.manager.leading()).await;
    assert_eq!(leads, Ok(true), "the manager does not lead");
    manager
}

async fn create(manager: &Running, request: &str) -> v1::CreateSessionResponse {
    eventually("creates are taken", async || {
        let answer = manager.sessions().create_session(create_with(request)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    })
    .await
}

#[tokio::test]
async fn over_etcd_a_restart_and_a_time_without_it_lose_and_double_nothing() {
    let world = World::new().await;
    let mut server = EtcdServer::start().await;
    let store = connect(&server).await;
    let manager = lead(&world, &store, Duration::from_secs(120)).await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let id = create(&manager, "request-1").await.session.unwrap().id;
    agent.report(&agent.wants(&id).await, running()).await;
    manager.reaches(&id, v1::Phase::Running).await;
    let before = manager.list().await;
    manager.stop().await;

    let manager = lead(&world, &store, Duration::from_secs(120)).await;
    assert_eq!(manager.list().await, before);
    assert!(create(&manager, "request-1").await.existed);

    server.kill9().await;
    let refused = manager.sessions().create_session(create_with("request-2")).await.unwrap_err();
    assert_eq!(code(&refused), "STORE_UNAVAILABLE");
    assert_eq!(manager.get(&id).await.phase(), v1::Phase::Running);
    server.restart().await;
    let second = create(&manager, "request-2").await.session.unwrap().id;

    let loaded = load_records(&*store).await.unwrap();
    let restored = Cluster::restore(Settings::default(), loaded.records).unwrap();
    let mut ids: Vec<String> = restored.sessions().keys().map(ToString::to_string).collect();
    let mut expected = vec![id, second];
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    manager.stop().await;
}

#[tokio::test]
async fn a_leader_that_etcd_forgot_is_elected_anew_as_soon_as_etcd_is_back() {
    let world = World::new().await;
    let mut server = EtcdServer::start().await;
    let store = connect(&server).await;
    let manager = lead(&world, &store, Duration::from_secs(2)).await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let id = manager.create(spec(1000)).await.id;
    agent.wants(&id).await;

    server.stop().await;
    assert_eq!(code(&agent.refused().await), "NOT_LEADER");
    assert_eq!(manager.get(&id).await.phase(), v1::Phase::Scheduled);
    server.restart().await;

    create(&manager, "request-1").await;
    let again = FakeAgent::dial(&manager, registration("a1", "agent-a1")).await;
    again.wants(&id).await;
    assert!(again.welcomed().await.epoch > agent.welcomed().await.epoch);
    manager.stop().await;
}

//! Nodes and devices through the API.

use crate::agent::{FakeAgent, gone, running};
use crate::harness::{World, code, spec};
use fgpu_wire::v1;
use std::time::Duration;

#[tokio::test]
async fn a_drained_node_stops_its_sessions_and_takes_none_until_it_is_opened() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let id = manager.create(spec(1000)).await.id;
    let wanted = agent.wants(&id).await;
    agent.report(&wanted, running()).await;
    manager.reaches(&id, v1::Phase::Running).await;

    let drain = v1::DrainNodeRequest { name: "a1".to_owned() };
    let node = manager.nodes().drain_node(drain).await.unwrap().into_inner();
    assert_eq!(node.state(), v1::NodeState::Draining);
    agent.wants_as(&id, |wanted| wanted.stop_grace_ms.is_some()).await;
    agent.report(&wanted, gone(143)).await;
    let ended = manager.reaches(&id, v1::Phase::Ended).await;
    assert_eq!(ended.outcome(), v1::Outcome::Evicted);
    let waiting = manager.create(spec(1000)).await;
    assert_eq!(waiting.phase(), v1::Phase::Pending);

    let open = v1::UncordonNodeRequest { name: "a1".to_owned() };
    let node = manager.nodes().uncordon_node(open).await.unwrap().into_inner();
    assert_eq!(node.state(), v1::NodeState::Ready);
    agent.wants(&waiting.id).await;
    manager.stop().await;
}

#[tokio::test]
async fn labels_narrow_the_choice_and_the_api_wins_over_the_agent() {
    let world = World::new().await;
    let manager = world.start().await;
    let _a = FakeAgent::join(&manager, "a1").await;
    let b = FakeAgent::join(&manager, "b1").await;
    let set = [("rack".to_owned(), "r2".to_owned())].into_iter().collect();
    let request = v1::SetNodeLabelsRequest { name: "b1".to_owned(), set, remove: Vec::new() };
    let node = manager.nodes().set_node_labels(request).await.unwrap().into_inner();
    assert_eq!(node.labels["rack"], "r2");
    let labels: std::collections::BTreeMap<String, String> =
        [("rack".to_owned(), "r2".to_owned())].into_iter().collect();

    let id = manager.create(v1::SessionSpec { node_labels: labels.clone(), ..spec(1000) }).await.id;
    b.wants(&id).await;
    let listed = manager.nodes().list_nodes(v1::ListNodesRequest { labels }).await.unwrap();
    let names: Vec<String> = listed.into_inner().nodes.into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["b1"]);
    manager.stop().await;
}

#[tokio::test]
async fn the_map_shows_every_slice_and_what_is_left() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let named = v1::SessionSpec { name: "train".to_owned(), ..spec(2500) };
    let id = manager.create(named).await.id;
    let grant = agent.wants(&id).await.grant.unwrap();
    let cordon = v1::CordonDeviceRequest { uuid: "GPU-a1-1".to_owned() };
    let cordoned = manager.devices_as(manager.bearer()).cordon_device(cordon).await.unwrap();
    assert!(cordoned.get_ref().cordoned);

    let request = v1::ListDevicesRequest::default();
    let devices = manager.devices_as(manager.bearer()).list_devices(request).await.unwrap();
    let devices = devices.into_inner().devices;

    let used = devices.iter().find(|device| !device.slices.is_empty()).unwrap();
    assert_eq!(used.slices[0].slice.as_ref().unwrap(), &grant.slices[0]);
    assert_eq!(used.slices[0].session_name, "train");
    assert_eq!(used.capacity_fgpu_milli, 10_000);
    assert_eq!(used.allocated_memory_bytes, 20 << 30);
    assert_eq!(used.allocatable_fgpu_milli, 7_500);
    assert_eq!(devices[1].blocked, "cordoned");
    manager.stop().await;
}

#[tokio::test]
async fn only_a_silent_node_that_holds_nothing_can_be_removed() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let remove = || v1::RemoveNodeRequest { name: "a1".to_owned() };
    let refused = manager.nodes().remove_node(remove()).await.unwrap_err();
    assert_eq!(code(&refused), "NODE_IN_USE");

    drop(agent);
    world.clock.advance(Duration::from_secs(41));
    manager.node_reaches("a1", v1::NodeState::Lost).await;
    manager.nodes().remove_node(remove()).await.unwrap();

    assert_eq!(code(&manager.nodes().remove_node(remove()).await.unwrap_err()), "NODE_NOT_FOUND");
    assert!(world.restored().await.nodes().is_empty());
    let agent = FakeAgent::join(&manager, "a1").await;
    agent.be_heard(1).await;
    manager.node_reaches("a1", v1::NodeState::Ready).await;
    manager.stop().await;
}

//! The conversation with agents.

use crate::agent::{FakeAgent, inventory, registration};
use crate::harness::{World, code, spec};
use fgpu_wire::error::CallError;
use fgpu_wire::v1;
use fgpu_wire::v1::agent_message::Message as Up;
use fgpu_wire::v1::session_report::State;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

#[tokio::test]
async fn a_node_name_belongs_to_the_agent_that_is_heard() {
    let world = World::new().await;
    let manager = world.start().await;
    let first = FakeAgent::join(&manager, "a1").await;
    first.be_heard(1).await;

    let other = FakeAgent::dial(&manager, registration("a1", "someone-else")).await;
    assert_eq!(code(&other.refused().await), "NODE_NAME_TAKEN");
    first.be_heard(2).await;

    let again = FakeAgent::dial(&manager, registration("a1", "agent-a1")).await;
    again.welcomed().await;
    assert_eq!(code(&first.refused().await), "NODE_NAME_TAKEN");
    again.be_heard(1).await;
    manager.stop().await;
}

#[tokio::test]
async fn an_agent_of_another_protocol_or_cluster_is_refused_with_the_next_step() {
    let world = World::new().await;
    let manager = world.start().await;
    let newer =
        v1::Register { protocol: fgpu_wire::PROTOCOL_VERSION + 1, ..registration("a1", "x") };
    let older = v1::Register { protocol: 0, ..registration("a1", "x") };
    let stranger =
        v1::Register { cluster_id: "another-cluster".to_owned(), ..registration("a1", "x") };
    for (register, expected, hint) in [
        (newer, "PROTOCOL_MISMATCH", "update the manager first"),
        (older, "PROTOCOL_MISMATCH", "update the agent"),
        (stranger, "WRONG_CLUSTER", "its own manager"),
    ] {
        let refused = FakeAgent::dial(&manager, register).await.refused().await;
        let error = CallError::from_status(&refused).unwrap();
        assert_eq!(error.code.as_str(), expected);
        assert!(error.hint.contains(hint), "{error:?}");
    }
    let list = manager.nodes().list_nodes(v1::ListNodesRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().nodes, []);
    manager.stop().await;
}

#[tokio::test]
async fn an_agent_that_does_not_register_first_is_refused() {
    let world = World::new().await;
    let manager = world.start().await;
    let (up, messages) = mpsc::channel(4);
    let heartbeat = Some(Up::Heartbeat(v1::Heartbeat::default()));
    up.send(v1::AgentMessage { message: heartbeat }).await.unwrap();
    let link = manager.agents().link(ReceiverStream::new(messages)).await.unwrap();
    let refused = link.into_inner().message().await.unwrap_err();
    assert_eq!(code(&refused), "INVALID_ARGUMENT");
    manager.stop().await;
}

#[tokio::test]
async fn an_agent_that_reads_nothing_holds_up_nobody() {
    let world = World::new().await;
    let manager = world.start().await;
    // Never read from: its stream fills up.
    let (up, messages) = mpsc::channel(64);
    let register = Some(Up::Register(registration("stuck", "agent-stuck")));
    up.send(v1::AgentMessage { message: register }).await.unwrap();
    let _unread = manager.agents().link(ReceiverStream::new(messages)).await.unwrap();
    manager.node_reaches("stuck", v1::NodeState::Ready).await;
    let agent = FakeAgent::join(&manager, "a1").await;
    // Large desired states for the one that does not read.
    for number in 0..20 {
        let large = v1::SessionSpec {
            node: "stuck".to_owned(),
            env: [("TEXT".to_owned(), "x".repeat(100_000))].into_iter().collect(),
            ..spec(500)
        };
        manager.create(large).await;
        let id = manager.create(v1::SessionSpec { node: "a1".to_owned(), ..spec(500) }).await.id;
        agent.wants(&id).await;
        agent.be_heard(number + 1).await;
    }
    manager.stop().await;
}

#[tokio::test]
async fn heartbeats_and_usage_never_reach_the_store() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    manager.node_reaches("a1", v1::NodeState::Ready).await;
    let before = world.store.commits();
    let usage = v1::DeviceUsage {
        uuid: "GPU-a1-0".to_owned(),
        memory_used_bytes: 7 << 30,
        ..Default::default()
    };
    for sequence in 1..=50 {
        let heartbeat =
            v1::Heartbeat { sequence, devices: vec![usage.clone()], ..Default::default() };
        agent.say(Up::Heartbeat(heartbeat)).await;
    }
    agent.hears("the last ack", |heard| heard.acks.contains(&50).then_some(())).await;

    assert_eq!(world.store.commits(), before);
    let request = v1::ListDevicesRequest { node: "a1".to_owned() };
    let devices = manager.devices_as(manager.bearer()).list_devices(request).await.unwrap();
    let device = devices.into_inner().devices.remove(0);
    assert_eq!(device.usage.unwrap().memory_used_bytes, 7 << 30);
    manager.stop().await;
}

#[tokio::test]
async fn an_inventory_that_changes_is_recorded_and_one_that_does_not_is_not() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    manager.node_reaches("a1", v1::NodeState::Ready).await;
    let before = world.store.commits();
    agent.say(Up::Inventory(inventory("a1"))).await;
    let mut broken = inventory("a1");
    broken.devices[1].unhealthy_reason = "Xid 79".to_owned();
    agent.say(Up::Inventory(broken)).await;

    crate::harness::eventually("the device is shown as blocked", async || {
        let request = v1::GetNodeRequest { name: "a1".to_owned() };
        let node = manager.nodes().get_node(request).await.unwrap().into_inner();
        let blocked = node.devices[1].blocked.clone();
        if blocked.contains("Xid 79") { Ok(()) } else { Err(blocked) }
    })
    .await;
    assert_eq!(world.store.commits(), before + 1);
    // Silence is measured from the last word of any kind.
    world.clock.advance(Duration::from_secs(9));
    manager.node_reaches("a1", v1::NodeState::Ready).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_session_goes_to_the_node_that_says_it_has_its_image_and_nothing_of_that_is_stored() {
    let world = World::new().await;
    let manager = world.start().await;
    let _first = FakeAgent::join(&manager, "a1").await;
    let holder = FakeAgent::join(&manager, "b1").await;
    manager.node_reaches("b1", v1::NodeState::Ready).await;
    let before = world.store.commits();
    let added = vec!["busybox:latest".to_owned()];
    holder.say(Up::Images(v1::NodeImages { full: true, added, removed: Vec::new() })).await;
    crate::harness::eventually("the image is shown", async || {
        let request = v1::GetNodeRequest { name: "b1".to_owned() };
        let node = manager.nodes().get_node(request).await.unwrap().into_inner();
        let shown = node.images == ["docker.io/library/busybox:latest"];
        if shown { Ok(()) } else { Err(format!("{:?}", node.images)) }
    })
    .await;
    assert_eq!(world.store.commits(), before);

    let id = manager.create(v1::SessionSpec { image: "busybox".to_owned(), ..spec(500) }).await.id;
    holder.wants(&id).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_node_where_sessions_do_not_start_is_held_off_and_they_go_elsewhere() {
    let world = World::new().await;
    let manager = world.start().await;
    let bad = FakeAgent::join(&manager, "a1").await;
    let good = FakeAgent::join(&manager, "b1").await;
    let failed = || {
        State::Gone(v1::Gone {
            code: "START_FAILED".to_owned(),
            message: "no space left on device".to_owned(),
            ..Default::default()
        })
    };
    for _ in 0..2 {
        let id = manager.create(spec(500)).await.id;
        let wanted = bad.wants(&id).await;
        bad.report(&wanted, failed()).await;
        let again = good.wants(&id).await;
        assert!(again.generation > wanted.generation);
        good.report(&again, crate::agent::running()).await;
        let session = manager.reaches(&id, v1::Phase::Running).await;
        assert!(session.attempts[0].node_fault, "{:?}", session.attempts);
        good.report(&again, crate::agent::gone(0)).await;
        manager.reaches(&id, v1::Phase::Ended).await;
    }
    let node = manager.node_reaches("a1", v1::NodeState::HeldOff).await;
    assert!(node.condition.contains("no space left on device"), "{}", node.condition);
    let third = manager.create(spec(500)).await.id;
    good.wants(&third).await;

    // The time of the hold-off passes, and the node is tried again.
    world.clock.advance(Duration::from_secs(31));
    bad.be_heard(1).await;
    good.be_heard(1).await;
    manager.node_reaches("a1", v1::NodeState::Ready).await;
    manager.stop().await;
}

//! Nodes that fall silent.

use crate::agent::{FakeAgent, registration, running};
use crate::harness::{Running, World, spec};
use fgpu_wire::v1;
use std::time::Duration;

async fn placed(manager: &Running, agent: &FakeAgent, on_lost: v1::OnLost) -> v1::DesiredSession {
    let on_disconnect = match on_lost {
        v1::OnLost::Wait | v1::OnLost::Unspecified => v1::OnDisconnect::Keep,
        v1::OnLost::Replace | v1::OnLost::Fail => v1::OnDisconnect::Stop,
    };
    let spec = v1::SessionSpec {
        on_lost: on_lost.into(),
        on_disconnect: on_disconnect.into(),
        ..spec(1000)
    };
    let id = manager.create(spec).await.id;
    let wanted = agent.wants(&id).await;
    agent.report(&wanted, running()).await;
    manager.reaches(&id, v1::Phase::Running).await;
    wanted
}

#[tokio::test]
async fn a_silent_node_is_suspected_then_lost_and_its_sessions_go_as_they_asked() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let waits = placed(&manager, &agent, v1::OnLost::Wait).await;
    let replaced = placed(&manager, &agent, v1::OnLost::Replace).await;
    let fails = placed(&manager, &agent, v1::OnLost::Fail).await;

    world.clock.advance(Duration::from_secs(11));
    manager.node_reaches("a1", v1::NodeState::Suspect).await;
    assert_eq!(manager.get(&replaced.session_id).await.phase(), v1::Phase::Running);
    agent.be_heard(1).await;
    manager.node_reaches("a1", v1::NodeState::Ready).await;

    world.clock.advance(Duration::from_secs(41));
    manager.node_reaches("a1", v1::NodeState::Lost).await;
    manager.reaches(&waits.session_id, v1::Phase::Lost).await;
    let failed = manager.reaches(&fails.session_id, v1::Phase::Ended).await;
    assert_eq!(failed.outcome(), v1::Outcome::Failed);
    let again = manager.reaches(&replaced.session_id, v1::Phase::Pending).await;
    // Its slice stays taken: the silent node may still run it.
    assert_eq!(again.stranded.len(), 1);
    let other = FakeAgent::join(&manager, "b1").await;
    let moved = other.wants(&replaced.session_id).await;
    assert!(moved.generation > replaced.generation);
    assert_eq!(fgpu_domain::check::check(&world.restored().await), Ok(()));

    // The node comes back: what waited goes on, what was given up is told to stop.
    let mut back = registration("a1", "agent-a1");
    let report = |wanted: &v1::DesiredSession| v1::SessionReport {
        session_id: wanted.session_id.clone(),
        generation: wanted.generation,
        state: Some(running()),
        grant: wanted.grant.clone(),
    };
    let sessions = [&waits, &replaced, &fails].map(report).to_vec();
    back.sessions = Some(v1::SessionReports { sessions, full: true });
    drop(agent);
    let agent = FakeAgent::dial(&manager, back).await;
    manager.reaches(&waits.session_id, v1::Phase::Running).await;
    let told = agent.wants(&replaced.session_id).await;
    assert_eq!(told.generation, replaced.generation);
    assert!(told.stop_grace_ms.is_some());
    manager.stop().await;
}

#[tokio::test]
async fn a_node_not_heard_since_a_restart_is_lost_only_after_the_new_manager_led_that_long() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let wanted = placed(&manager, &agent, v1::OnLost::Wait).await;
    manager.stop().await;
    world.clock.advance(Duration::from_secs(3600));

    let manager = world.start().await;
    manager.node_reaches("a1", v1::NodeState::NeverSeen).await;
    world.clock.advance(Duration::from_secs(39));
    let still = manager.get(&wanted.session_id).await;
    assert_eq!(still.phase(), v1::Phase::Running);
    world.clock.advance(Duration::from_secs(2));
    manager.node_reaches("a1", v1::NodeState::Lost).await;
    manager.reaches(&wanted.session_id, v1::Phase::Lost).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_loses_no_node() {
    let world = World::new().await;
    let manager = world.start().await;
    let agent = FakeAgent::join(&manager, "a1").await;
    let wanted = placed(&manager, &agent, v1::OnLost::Fail).await;
    world.clock.set_wall(fgpu_domain::time::UnixMillis(1_700_003_600_000));
    world.clock.advance(Duration::from_secs(1));
    agent.be_heard(1).await;
    world.clock.advance(Duration::from_secs(5));

    manager.node_reaches("a1", v1::NodeState::Ready).await;
    assert_eq!(manager.get(&wanted.session_id).await.phase(), v1::Phase::Running);
    manager.stop().await;
}

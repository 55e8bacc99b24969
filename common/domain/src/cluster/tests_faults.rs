//! Failures of nodes: where a session is placed after one.

use super::tests::*;
use super::*;
use crate::check::check;
use crate::session::{
    MOST_STARTS, OnDisconnect, OnLost, Outcome, Phase, ReportState, SessionSpec, StopReason,
};
use std::collections::BTreeSet;

fn failed(code: &str) -> ReportState {
    let message = "the engine said no".to_owned();
    ReportState::Gone { exit_code: None, code: code.into(), message }
}

fn node_of(cluster: &Cluster, id: &SessionId) -> String {
    phase(cluster, id).grant().map(|grant| grant.node.to_string()).unwrap_or_default()
}

fn replaced(fgpu_milli: u64) -> SessionSpec {
    let (on_disconnect, on_lost) = (OnDisconnect::Stop, OnLost::Replace);
    SessionSpec { on_disconnect, on_lost, ..spec(fgpu_milli) }
}

#[test]
fn a_session_that_could_not_start_goes_to_another_node_and_ends_after_the_last_try() {
    let mut cluster = cluster(&[("a1", 1), ("b2", 1), ("c3", 1), ("d4", 1)]);
    let id = create(&mut cluster, 1, spec(10_000));
    let mut seen = BTreeSet::new();
    for _ in 0..MOST_STARTS {
        let node = node_of(&cluster, &id);
        assert!(seen.insert(node.clone()), "not where it failed before: {node}");
        report(&mut cluster, &node, &id, failed("START_FAILED"));
        assert_eq!(check(&cluster), Ok(()));
    }
    assert_eq!(outcome(&cluster, &id), Outcome::Failed);
    let avoided = cluster.session(&id).unwrap().avoided();
    assert_eq!(avoided.len(), MOST_STARTS - 1, "the last try is not one of the earlier placements");
}

#[test]
fn what_is_no_fault_of_the_node_ends_a_session_at_once() {
    for code in ["IMAGE_NOT_FOUND", "INVALID_SPEC", "COMMAND_NOT_FOUND", "MOUNT_NOT_ALLOWED"] {
        let mut cluster = cluster(&[("a1", 1), ("b2", 1)]);
        let id = create(&mut cluster, 1, spec(10_000));
        report(&mut cluster, "a1", &id, failed(code));
        assert_eq!(outcome(&cluster, &id), Outcome::Failed, "{code}");
    }
}

#[test]
fn a_start_that_no_other_node_could_repeat_ends_the_session() {
    let mut cluster = cluster(&[("a1", 2), ("b2", 1)]);
    let id = create(&mut cluster, 1, spec(20_000));
    assert_eq!(node_of(&cluster, &id), "a1");
    report(&mut cluster, "a1", &id, failed("START_FAILED"));
    assert_eq!(outcome(&cluster, &id), Outcome::Failed);
}

#[test]
fn a_session_stopped_by_a_person_while_it_starts_does_not_come_back() {
    let mut cluster = cluster(&[("a1", 1), ("b2", 1)]);
    let id = create(&mut cluster, 1, spec(10_000));
    let stop = Input::Stop { id: id.clone(), reason: StopReason::Requested, grace_ms: None };
    cluster.apply(stop, T0).unwrap();
    report(&mut cluster, "a1", &id, failed("START_FAILED"));
    assert_eq!(outcome(&cluster, &id), Outcome::Cancelled);
}

#[test]
fn a_start_that_took_too_long_is_tried_elsewhere_once_it_is_gone() {
    let mut cluster = cluster(&[("a1", 1), ("b2", 1)]);
    let id = create(&mut cluster, 1, spec(10_000));
    cluster.tick(T0.plus(settings().start_timeout_ms));
    assert_eq!(phase(&cluster, &id).name(), "stopping");
    report(&mut cluster, "a1", &id, gone(137));
    assert_eq!(node_of(&cluster, &id), "b2");
    let session = cluster.session(&id).unwrap();
    assert_eq!(session.avoided(), [node_name("a1")].into());
}

#[test]
fn a_node_where_a_session_was_lost_is_used_again_only_if_no_other_fits() {
    let mut cluster = cluster(&[("a1", 1), ("b2", 1)]);
    let id = create(&mut cluster, 1, replaced(10_000));
    report(&mut cluster, "a1", &id, running());
    let other = create(&mut cluster, 2, spec(10_000));
    liveness(&mut cluster, "a1", Liveness::Lost);
    assert!(matches!(phase(&cluster, &id), Phase::Pending { .. }), "b2 is full");

    // It comes back with nothing: the slice is free again, and there is no other place.
    register(&mut cluster, "a1", 1, Vec::new());
    cluster.schedule(T0);
    assert_eq!(node_of(&cluster, &id), "a1");
    let attempts = &cluster.session(&id).unwrap().attempts;
    assert!(attempts[0].node_fault && attempts[0].reason.contains("lost"));

    // The memory is in the record: a manager that starts anew knows it.
    report(&mut cluster, "b2", &other, gone(0));
    let records = Records {
        sessions: cluster.sessions().values().map(|session| Session::clone(session)).collect(),
        nodes: cluster.nodes().values().map(|node| Node::clone(node)).collect(),
        ..Records::default()
    };
    let mut cluster = Cluster::restore(settings(), records).unwrap();
    register(&mut cluster, "b2", 1, Vec::new());
    liveness(&mut cluster, "a1", Liveness::Lost);
    assert_eq!(node_of(&cluster, &id), "b2");
}

#[test]
fn moves_that_are_no_fault_of_the_node_are_not_held_against_it() {
    let mut cluster = cluster(&[("a1", 1), ("b2", 1)]);
    let id = create(&mut cluster, 1, replaced(10_000));
    report(&mut cluster, "a1", &id, running());
    let drain = Input::Cordon { node: node_name("a1"), cordon: crate::node::Cordon::Draining };
    cluster.apply(drain, T0).unwrap();
    report(&mut cluster, "a1", &id, gone(143));
    assert_eq!(node_of(&cluster, &id), "b2");
    assert!(cluster.session(&id).unwrap().avoided().is_empty());
}

/// A session that fails to start on `node`, and where it goes then.
fn fail_once(cluster: &mut Cluster, number: usize, node: &str) {
    let id = create(cluster, number, SessionSpec { node: Some(node_name(node)), ..spec(100) });
    assert_eq!(node_of(cluster, &id), node);
    report(cluster, node, &id, failed("START_FAILED"));
}

#[test]
fn a_node_where_nothing_starts_is_held_off_ever_longer_until_a_session_runs_there() {
    let mut cluster = cluster(&[("a1", 1), ("b2", 1)]);
    fail_once(&mut cluster, 1, "a1");
    assert_eq!(cluster.node_state(&node_name("a1")), Some(NodeState::Ready), "one may be chance");
    fail_once(&mut cluster, 2, "a1");
    assert_eq!(cluster.node_state(&node_name("a1")), Some(NodeState::HeldOff));
    let known = cluster.trouble(&node_name("a1")).unwrap();
    assert_eq!((known.failures, known.held_until), (2, Some(T0.plus(30_000))));
    assert!(known.to_string().contains("the engine said no"), "{known}");

    // What waits for it is told why, and starts as soon as the time is over.
    let pinned = SessionSpec { node: Some(node_name("a1")), ..spec(100) };
    let waiting = create(&mut cluster, 3, pinned);
    let why = cluster.explain(&waiting).unwrap().refused.unwrap();
    assert_eq!(why.reason("a1").map(|reason| reason.code()), Some("held_off"));
    assert_eq!(cluster.next_deadline(), Some(T0.plus(30_000)));
    cluster.tick(T0.plus(30_000));
    cluster.schedule(T0.plus(30_000));
    assert_eq!(node_of(&cluster, &waiting), "a1");

    // One more failure, and it is off for twice as long; a session that runs clears it.
    report(&mut cluster, "a1", &waiting, failed("START_FAILED"));
    assert_eq!(cluster.trouble(&node_name("a1")).unwrap().held_until, Some(T0.plus(60_000)));
    assert_eq!(check(&cluster), Ok(()));
    cluster.tick(T0.plus(90_000));
    let pinned = SessionSpec { node: Some(node_name("a1")), ..spec(100) };
    let runs = create(&mut cluster, 4, pinned);
    report(&mut cluster, "a1", &runs, running());
    assert_eq!(cluster.trouble(&node_name("a1")), None);
    assert_eq!(check(&cluster), Ok(()));
}

#[test]
fn a_session_that_fails_everywhere_holds_no_node_off() {
    let names: Vec<String> = (0..6).map(|n| format!("n{n}")).collect();
    let nodes: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut cluster = cluster(&nodes);
    for number in 0..2 {
        let id = create(&mut cluster, number, spec(10_000));
        while let Some(grant) = phase(&cluster, &id).grant().cloned() {
            report(&mut cluster, grant.node.as_str(), &id, failed("START_FAILED"));
        }
        assert_eq!(outcome(&cluster, &id), Outcome::Failed);
    }
    let failures: u32 = cluster.troubles().map(|(_, trouble)| trouble.failures).sum();
    assert_eq!(failures, 2, "each session counts once, where it failed first");
}

#[test]
fn a_rolled_back_failure_is_not_held_against_a_node() {
    let mut cluster = cluster(&[("a1", 1), ("b2", 1)]);
    fail_once(&mut cluster, 1, "a1");
    let id = create(&mut cluster, 2, SessionSpec { node: Some(node_name("a1")), ..spec(100) });
    drop(cluster.take_changes());
    report(&mut cluster, "a1", &id, failed("START_FAILED"));
    assert_eq!(cluster.node_state(&node_name("a1")), Some(NodeState::HeldOff));
    let changes = cluster.take_changes();
    assert!(changes.nodes.contains(&node_name("a1")));
    cluster.rollback(changes);
    assert_eq!(cluster.node_state(&node_name("a1")), Some(NodeState::Ready));
    assert_eq!(cluster.trouble(&node_name("a1")).unwrap().failures, 1);

    let open = Input::Cordon { node: node_name("a1"), cordon: crate::node::Cordon::Open };
    cluster.apply(open, T0).unwrap();
    assert_eq!(cluster.trouble(&node_name("a1")), None, "an administrator lets it start anew");
    assert_eq!(check(&cluster), Ok(()));
}

#[test]
fn a_session_goes_where_its_image_is_and_a_new_manager_is_told_anew() {
    let mut cluster = cluster(&[("a1", 1), ("b2", 1)]);
    let images = |full, added: &str, removed: &str| Input::Images {
        node: node_name("b2"),
        full,
        added: added.split_whitespace().map(str::to_owned).collect(),
        removed: removed.split_whitespace().map(str::to_owned).collect(),
    };
    cluster.apply(images(true, "busybox torch:2", ""), T0).unwrap();
    assert!(
        cluster.take_changes().puts.iter().all(|record| !format!("{record:?}").contains("busy"))
    );
    let mut of = |number, image: &str| {
        let id = create(&mut cluster, number, SessionSpec { image: image.into(), ..spec(100) });
        let node = node_of(&cluster, &id);
        report(&mut cluster, &node, &id, gone(0));
        node
    };
    assert_eq!(of(1, "docker.io/library/busybox:latest"), "b2");
    assert_eq!(of(2, "busybox:1"), "a1");
    cluster.apply(images(false, "busybox:1", "torch:2"), T0).unwrap();
    let held: Vec<&str> =
        cluster.view().images_of(&node_name("b2")).iter().map(|name| &**name).collect();
    assert_eq!(held, ["docker.io/library/busybox:1", "docker.io/library/busybox:latest"]);
}

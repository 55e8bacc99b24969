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

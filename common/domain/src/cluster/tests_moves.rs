use super::tests::*;
use super::*;
use crate::check::check;
use crate::node::Cordon;
use crate::plans::defrag::{DefragLimits, Freed};
use crate::reconcile::Want;
use crate::session::{Outcome, Phase, SessionSpec, StopReason};

fn movable(fgpu_milli: u64) -> SessionSpec {
    SessionSpec { movable: true, ..spec(fgpu_milli) }
}

fn node_of(cluster: &Cluster, id: &SessionId) -> String {
    phase(cluster, id).grant().unwrap().node.to_string()
}

/// Two nodes of one device, with a session of 3 fGPU on each that began on a full device.
fn scattered() -> (Cluster, [SessionId; 2]) {
    let mut cluster = cluster(&[("n1", 1), ("n2", 1)]);
    let run = |cluster: &mut Cluster, number, spec| {
        let id = create(cluster, number, spec);
        let node = node_of(cluster, &id);
        report(cluster, &node, &id, running());
        (id, node)
    };
    let (one, on) = run(&mut cluster, 1, movable(3_000));
    let (filler, there) = run(&mut cluster, 2, spec(7_000));
    assert_eq!(on, there);
    let (other, elsewhere) = run(&mut cluster, 3, movable(3_000));
    assert_ne!(on, elsewhere);
    report(&mut cluster, &on, &filler, gone(0));
    (cluster, [one, other])
}

fn plan(cluster: &Cluster) -> MovePlan {
    cluster.defrag_question(None).unwrap().plan(DefragLimits::default())
}

fn order(planned: &PlannedMove) -> Input {
    let (id, generation) = (planned.session.clone(), planned.generation);
    Input::Move { id, generation, to: Box::new(planned.to.clone()) }
}

/// A move that was ordered: the planned move, of the only step.
fn ordered(cluster: &mut Cluster) -> PlannedMove {
    let plan = plan(cluster);
    cluster.check_moves(&plan).unwrap();
    let planned = plan.steps[0].moves[0].clone();
    cluster.apply(order(&planned), T0).unwrap();
    cluster.schedule(T0);
    check(cluster).unwrap();
    planned
}

fn stale(cluster: &Cluster, plan: &MovePlan) -> String {
    let refused = cluster.check_moves(plan).unwrap_err();
    assert_eq!(refused.code(), "PLAN_STALE");
    refused.to_string()
}

#[test]
fn a_plan_frees_a_device_and_says_what_that_costs() {
    let (cluster, ids) = scattered();
    let plan = plan(&cluster);

    assert_eq!((plan.before.free_devices, plan.after.free_devices), (0, 1));
    assert_eq!((plan.steps.len(), plan.cost.restarts, plan.movable), (1, 1, 2));
    let planned = &plan.steps[0].moves[0];
    assert!(ids.contains(&planned.session));
    assert_ne!(planned.from.node, planned.to.node);
    assert_eq!(plan.cost.gpu_memory, planned.from.slices[0].memory);
    assert!(
        matches!(&plan.steps[0].frees, Freed::Device { node, .. } if *node == planned.from.node)
    );
}

#[test]
fn only_what_allows_it_is_moved_and_only_from_the_node_that_is_named() {
    let mut cluster = cluster(&[("n1", 2), ("n2", 1)]);
    let id = create(&mut cluster, 1, spec(1_000));
    let node = node_of(&cluster, &id);
    report(&mut cluster, &node, &id, running());
    assert_eq!(plan(&cluster).movable, 0);

    let (cluster, ids) = scattered();
    for id in &ids {
        let node = phase(&cluster, id).grant().unwrap().node.clone();
        let plan = cluster.defrag_question(Some(&node)).unwrap().plan(DefragLimits::default());
        assert_eq!(plan.moves().map(|planned| &planned.session).collect::<Vec<_>>(), [id]);
    }
    let unknown = cluster.defrag_question(Some(&node_name("n9"))).unwrap_err();
    assert_eq!(unknown.code(), "NODE_NOT_FOUND");
}

#[test]
fn a_moved_session_goes_to_its_new_place_which_nobody_takes_meanwhile() {
    let (mut cluster, _) = scattered();
    let PlannedMove { session: id, from, to, .. } = ordered(&mut cluster);
    assert_eq!(phase(&cluster, &id).name(), "stopping");
    assert!(matches!(cluster.desired(&from.node)[0].want, Want::Stop { .. }));
    assert!(cluster.desired(&to.node).iter().all(|desired| desired.session.id != id));

    // 7 fGPU are free on both devices, 3 of them kept on the new one.
    let waits = create(&mut cluster, 10, spec(7_000));
    assert_eq!(node_of(&cluster, &waits), from.node.as_str());
    let next = create(&mut cluster, 11, spec(5_000));
    assert_eq!(phase(&cluster, &next).name(), "pending");

    report(&mut cluster, from.node.as_str(), &id, gone(143));
    assert_eq!(phase(&cluster, &id).grant(), Some(&to));
    let session = cluster.session(&id).unwrap().clone();
    assert_eq!((session.generation, session.attempts.len()), (2, 1));
    assert_eq!(session.attempts[0].grant, from);
    check(&cluster).unwrap();

    report(&mut cluster, to.node.as_str(), &id, running());
    assert_eq!(phase(&cluster, &id).name(), "running");
    assert_eq!(cluster.session(&id).unwrap().moving, None);
    report(&mut cluster, to.node.as_str(), &id, gone(0));
    assert_eq!(outcome(&cluster, &id), Outcome::Completed);
}

#[test]
fn a_session_whose_new_place_takes_nothing_goes_back_to_its_old_one() {
    let (mut cluster, _) = scattered();
    let PlannedMove { session: id, from, to, .. } = ordered(&mut cluster);
    let cordon = Input::Cordon { node: to.node.clone(), cordon: Cordon::Cordoned };
    cluster.apply(cordon, T0).unwrap();

    report(&mut cluster, from.node.as_str(), &id, gone(143));

    assert_eq!(phase(&cluster, &id).grant(), Some(&from));
    check(&cluster).unwrap();
}

#[test]
fn a_session_that_does_not_start_in_its_new_place_goes_back_to_its_old_one() {
    let (mut cluster, _) = scattered();
    let PlannedMove { session: id, from, to, .. } = ordered(&mut cluster);
    report(&mut cluster, from.node.as_str(), &id, gone(143));
    let broken = crate::session::ReportState::Gone {
        exit_code: None,
        code: "IMAGE_NOT_FOUND".to_owned(),
        message: "no such image".to_owned(),
    };

    report(&mut cluster, to.node.as_str(), &id, broken.clone());

    assert_eq!(phase(&cluster, &id).grant(), Some(&from));
    let attempts = &cluster.session(&id).unwrap().attempts;
    assert_eq!(attempts[1].reason, format!("did not start on node {}: no such image", to.node));
    report(&mut cluster, from.node.as_str(), &id, broken);
    assert_eq!(outcome(&cluster, &id), Outcome::Failed, "only once");
}

#[test]
fn a_session_that_is_too_slow_to_start_in_its_new_place_goes_back_to_its_old_one() {
    let (mut cluster, _) = scattered();
    let PlannedMove { session: id, from, to, .. } = ordered(&mut cluster);
    report(&mut cluster, from.node.as_str(), &id, gone(143));
    cluster.tick(T0.plus(settings().start_timeout_ms + 1));
    assert_eq!(phase(&cluster, &id).name(), "stopping");

    report(&mut cluster, to.node.as_str(), &id, gone(143));

    assert_eq!(phase(&cluster, &id).grant(), Some(&from));
    check(&cluster).unwrap();
}

#[test]
fn a_session_that_is_stopped_while_it_moves_ends() {
    let (mut cluster, _) = scattered();
    let planned = ordered(&mut cluster);
    let id = planned.session;
    let stop = Input::Stop { id: id.clone(), reason: StopReason::Requested, grace_ms: None };
    cluster.apply(stop, T0).unwrap();
    check(&cluster).unwrap();

    report(&mut cluster, planned.from.node.as_str(), &id, gone(143));
    assert_eq!(outcome(&cluster, &id), Outcome::Cancelled);
    check(&cluster).unwrap();
}

#[test]
fn another_manager_carries_a_move_to_its_end() {
    let (mut cluster, _) = scattered();
    let planned = ordered(&mut cluster);
    let (id, from, to) = (planned.session, planned.from, planned.to);
    let mut restored = Cluster::restore(settings(), cluster.records()).unwrap();
    for node in [&from.node, &to.node] {
        liveness(&mut restored, node.as_str(), Liveness::Live);
    }
    create(&mut restored, 10, spec(7_000));

    report(&mut restored, from.node.as_str(), &id, gone(143));

    assert_eq!(phase(&restored, &id).grant(), Some(&to));
    check(&restored).unwrap();
}

#[test]
fn a_move_whose_node_is_lost_keeps_nothing_and_the_session_comes_back_to_it() {
    let (mut cluster, _) = scattered();
    let planned = ordered(&mut cluster);
    let (id, from, to) = (planned.session, planned.from, planned.to);
    liveness(&mut cluster, from.node.as_str(), Liveness::Lost);
    assert_eq!(free(&cluster, to.node.as_str()), [7_000]);
    let Phase::Lost { .. } = phase(&cluster, &id) else { panic!("not lost") };

    liveness(&mut cluster, from.node.as_str(), Liveness::Live);
    report(&mut cluster, from.node.as_str(), &id, gone(143));
    assert_eq!(phase(&cluster, &id).grant(), Some(&from));
    check(&cluster).unwrap();
}

#[test]
fn a_plan_that_does_not_hold_any_more_is_refused_with_what_has_changed() {
    let (mut cluster, _) = scattered();
    let plan = plan(&cluster);
    let planned = plan.steps[0].moves[0].clone();
    let id = planned.session.clone();

    // Something new takes what is free on the target.
    let newcomer = SessionSpec { node: Some(planned.to.node.clone()), ..spec(6_000) };
    let newcomer = create(&mut cluster, 10, newcomer);
    let why = stale(&cluster, &plan);
    assert!(why.contains(id.as_str()) && why.contains("8 GiB"), "{why}");
    report(&mut cluster, planned.to.node.as_str(), &newcomer, gone(0));
    cluster.check_moves(&plan).unwrap();

    // Something new is placed on the device to be freed.
    let newcomer = SessionSpec { node: Some(planned.from.node.clone()), ..spec(1_000) };
    let newcomer = create(&mut cluster, 11, newcomer);
    let why = stale(&cluster, &plan);
    assert!(why.contains(newcomer.as_str()), "{why}");
    report(&mut cluster, planned.from.node.as_str(), &newcomer, gone(0));

    report(&mut cluster, planned.from.node.as_str(), &id, gone(0));
    let why = stale(&cluster, &plan);
    assert!(why.contains("it is ended, no longer running"), "{why}");
    let refused = cluster.apply(order(&planned), T0).unwrap_err();
    assert_eq!(refused.code(), "PLAN_STALE");
}

#[test]
fn ordering_a_move_twice_moves_once() {
    let (mut cluster, _) = scattered();
    let planned = ordered(&mut cluster);
    cluster.take_changes();
    cluster.apply(order(&planned), T0).unwrap();
    assert!(cluster.take_changes().is_empty());
}

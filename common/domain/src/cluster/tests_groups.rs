use super::tests::*;
use super::tests_projects::*;
use super::*;
use crate::check::check;
use crate::class::{OnPreempt, PriorityClass};
use crate::session::{
    Arrangement, Condition, Dependency, Members, OnDisconnect, OnLost, Outcome, Phase, SessionSpec,
    StopReason,
};

/// The ids of a group made with `number`.
fn ids(number: usize, size: u32) -> Vec<SessionId> {
    (0..size).map(|position| session_id(number).member(position).unwrap()).collect()
}

fn make(cluster: &mut Cluster, number: usize, spec: SessionSpec, members: Members) {
    try_create_members(cluster, number, spec, None, members).unwrap();
    cluster.schedule(T0);
}

fn phases(cluster: &Cluster, ids: &[SessionId]) -> Vec<&'static str> {
    ids.iter().map(|id| phase(cluster, id).name()).collect()
}

#[test]
fn a_gang_starts_as_a_whole_or_not_at_all() {
    let mut cluster = cluster(&[("n1", 2), ("n2", 2)]);
    let other = create(&mut cluster, 9, SessionSpec { node: Some(node_name("n2")), ..spec(1_000) });
    make(&mut cluster, 1, spec(10_000), gang(4));
    let members = ids(1, 4);
    assert_eq!(phases(&cluster, &members), ["pending"; 4]);
    assert_eq!(free(&cluster, "n1"), [10_000, 10_000]);
    let why = cluster.explain(&members[2]).unwrap();
    assert_eq!(why.queue_position, Some(1));
    assert!(why.summary.contains("3 of 4 members find room"), "{}", why.summary);

    report(&mut cluster, "n2", &other, gone(0));
    assert_eq!(phases(&cluster, &members), ["scheduled"; 4]);
    let session = cluster.session(&members[1]).unwrap();
    let environment = cluster.group_environment(session);
    assert_eq!(environment["FGPU_CLUSTER_INDEX"], "1");
    assert_eq!(environment["FGPU_CLUSTER_SIZE"], "4");
    assert_eq!(environment["FGPU_CLUSTER_HOSTS"].split(',').count(), 4);
    check(&cluster).unwrap();
}

#[test]
fn stopping_one_member_stops_the_gang() {
    let mut cluster = cluster(&[("n1", 2)]);
    make(&mut cluster, 1, spec(1_000), gang(3));
    let members = ids(1, 3);
    let stop =
        Input::Stop { id: members[1].clone(), reason: StopReason::Requested, grace_ms: None };
    cluster.apply(stop, T0).unwrap();
    assert_eq!(phases(&cluster, &members), ["stopping"; 3]);
}

#[test]
fn when_a_member_fails_the_others_are_stopped_and_when_it_completes_they_are_not() {
    let mut cluster = cluster(&[("n1", 2)]);
    make(&mut cluster, 1, spec(1_000), gang(3));
    let members = ids(1, 3);
    for id in &members {
        report(&mut cluster, "n1", id, running());
    }
    report(&mut cluster, "n1", &members[0], gone(0));
    assert_eq!(phases(&cluster, &members), ["ended", "running", "running"]);
    report(&mut cluster, "n1", &members[1], gone(9));
    assert_eq!(phases(&cluster, &members), ["ended", "ended", "stopping"]);
    report(&mut cluster, "n1", &members[2], gone(143));
    let Phase::Ended(ended) = phase(&cluster, &members[2]) else { panic!("not ended") };
    assert_eq!(ended.code, "GANG_ENDED");
}

#[test]
fn a_gang_that_loses_a_node_is_placed_anew_as_a_whole() {
    let mut cluster = cluster(&[("n1", 1), ("n2", 1), ("n3", 2)]);
    let fenced =
        SessionSpec { on_disconnect: OnDisconnect::Stop, on_lost: OnLost::Replace, ..spec(10_000) };
    make(&mut cluster, 1, fenced, gang(2));
    let members = ids(1, 2);
    let node = |cluster: &Cluster, id: &SessionId| {
        phase(cluster, id).grant().unwrap().node.as_str().to_owned()
    };
    let nodes: Vec<String> = members.iter().map(|id| node(&cluster, id)).collect();
    for (id, node) in members.iter().zip(&nodes) {
        report(&mut cluster, node, id, running());
    }
    liveness(&mut cluster, &nodes[0], Liveness::Lost);
    let after = phases(&cluster, &members);
    if nodes[0] == nodes[1] {
        assert_eq!(after, ["scheduled"; 2], "both were lost, and there is room elsewhere");
    } else {
        assert_eq!(after, ["pending", "stopping"]);
        report(&mut cluster, &nodes[1], &members[1], gone(143));
        assert_eq!(phases(&cluster, &members), ["scheduled"; 2]);
    }
    check(&cluster).unwrap();
}

#[test]
fn no_more_members_of_an_array_hold_a_place_than_may_at_once() {
    let mut cluster = cluster(&[("n1", 4)]);
    make(&mut cluster, 1, spec(1_000), array("1-12%2"));
    let members = ids(1, 12);
    let holding = |cluster: &Cluster| {
        members.iter().filter(|id| phase(cluster, id).grant().is_some()).count()
    };
    assert_eq!(phases(&cluster, &members)[..3], ["scheduled", "scheduled", "pending"]);
    let hold = cluster.explain(&members[2]).unwrap().hold;
    assert_eq!(hold, Some(Hold::Array { group: session_id(1), at_once: 2 }));
    for id in &members {
        report(&mut cluster, "n1", id, gone(0));
        check(&cluster).unwrap();
        assert!(holding(&cluster) <= 2);
    }
    assert_eq!(phases(&cluster, &members), ["ended"; 12]);
}

#[test]
fn members_of_an_array_that_are_stopped_while_they_wait_make_way() {
    let mut cluster = cluster(&[("n1", 1)]);
    let hog = create(&mut cluster, 9, spec(10_000));
    make(&mut cluster, 1, spec(5_000), array("1-4%1"));
    let members = ids(1, 4);
    let stop =
        Input::Stop { id: members[0].clone(), reason: StopReason::Requested, grace_ms: None };
    cluster.apply(stop, T0).unwrap();
    cluster.schedule(T0);
    check(&cluster).unwrap();
    report(&mut cluster, "n1", &hog, gone(0));
    assert_eq!(phases(&cluster, &members), ["ended", "scheduled", "pending", "pending"]);
}

#[test]
fn following_the_first_of_an_array_is_following_all_of_it() {
    let mut cluster = cluster(&[("n1", 2)]);
    make(&mut cluster, 1, spec(0), array("1-3"));
    let after = vec![Dependency { session: session_id(1), condition: Condition::Any }];
    let last = create(&mut cluster, 2, SessionSpec { after, ..spec(0) });
    for id in ids(1, 3) {
        assert_eq!(phase(&cluster, &last).name(), "pending");
        report(&mut cluster, "n1", &id, gone(1));
    }
    assert_eq!(phase(&cluster, &last).name(), "scheduled");
}

#[test]
fn a_gang_of_which_only_a_part_was_written_as_placed_waits_again_as_a_whole() {
    let mut cluster = cluster(&[("n1", 3)]);
    make(&mut cluster, 1, spec(10_000), gang(3));
    let mut records = cluster.records();
    let pending = records.sessions.last_mut().unwrap();
    pending.phase = Phase::Pending { since: T0 };
    pending.generation = 0;

    let mut restored = Cluster::restore(settings(), records).unwrap();
    assert_eq!(phases(&restored, &ids(1, 3)), ["pending"; 3]);
    assert_eq!(restored.take_changes().puts.len(), 2, "to be written");
    liveness(&mut restored, "n1", Liveness::Live);
    assert_eq!(phases(&restored, &ids(1, 3)), ["scheduled"; 3]);
    check(&restored).unwrap();
}

fn of_class(class: &str, spec: SessionSpec) -> SessionSpec {
    SessionSpec { class: Some(class.parse().unwrap()), ..spec }
}

#[test]
fn a_place_is_taken_only_of_a_lower_preemptible_class_after_its_minimum() {
    let mut cluster = cluster(&[("n1", 2)]);
    let brief = PriorityClass {
        preemptible: true,
        min_run_ms: 60_000,
        grace_ms: Some(7_000),
        ..PriorityClass::new("brief".parse().unwrap(), -50)
    };
    cluster.apply(Input::PutClass { class: Box::new(brief) }, T0).unwrap();
    let low = create(&mut cluster, 1, of_class("brief", spec(10_000)));
    let normal = create(&mut cluster, 2, spec(10_000));
    let high = create(&mut cluster, 3, of_class("high", spec(10_000)));
    for id in [&low, &normal] {
        report(&mut cluster, "n1", id, running());
    }
    let blocked = cluster.blocked(5);
    assert_eq!(blocked.len(), 1);
    assert_eq!((&blocked[0].unit, blocked[0].may_preempt), (&high, true));
    let yielding = |at: UnixMillis| -> Vec<SessionId> {
        let tenants = cluster.tenants(at).into_iter();
        tenants.filter(|tenant| tenant.yields_to(&blocked[0])).map(|tenant| tenant.id).collect()
    };
    assert_eq!(yielding(T0.plus(59_999)), []);
    let later = T0.plus(60_000);
    assert_eq!(yielding(later), std::slice::from_ref(&low));

    assert!(cluster.preempt(&normal, &session_id(99), later).is_err());
    cluster.preempt(&low, &session_id(99), later).unwrap();
    assert_eq!(cluster.session(&low).unwrap().stop_grace_ms, Some(7_000));
    report(&mut cluster, "n1", &low, gone(143));
    assert_eq!(phases(&cluster, &[low.clone(), high]), ["pending", "scheduled"]);
    assert_eq!(cluster.session(&low).unwrap().attempts.len(), 1);
}

#[test]
fn a_class_may_say_that_what_loses_its_place_ends() {
    let mut cluster = cluster(&[("n1", 1)]);
    let stops = PriorityClass {
        preemptible: true,
        on_preempt: OnPreempt::Stop,
        ..PriorityClass::new("stops".parse().unwrap(), -50)
    };
    cluster.apply(Input::PutClass { class: Box::new(stops) }, T0).unwrap();
    let id = create(&mut cluster, 1, of_class("stops", spec(1_000)));
    report(&mut cluster, "n1", &id, running());
    cluster.preempt(&id, &session_id(99), T0).unwrap();
    report(&mut cluster, "n1", &id, gone(143));
    let Phase::Ended(ended) = phase(&cluster, &id) else { panic!("not ended") };
    assert_eq!((ended.code.as_str(), ended.outcome), ("PREEMPTED", Outcome::Evicted));
}

#[test]
fn a_gang_loses_its_places_as_a_whole_and_waits_again() {
    let mut cluster = cluster(&[("n1", 3)]);
    make(&mut cluster, 1, of_class("low", spec(10_000)), gang(3));
    let members = ids(1, 3);
    for id in &members {
        report(&mut cluster, "n1", id, running());
    }
    let tenants = cluster.tenants(T0);
    assert_eq!((tenants.len(), tenants[0].held.len()), (1, 3));
    cluster.preempt(&members[1], &session_id(99), T0).unwrap();
    assert_eq!(phases(&cluster, &members), ["stopping"; 3]);
    let high = create(&mut cluster, 2, of_class("high", spec(10_000)));
    for id in &members {
        report(&mut cluster, "n1", id, gone(143));
        check(&cluster).unwrap();
    }
    assert_eq!(phases(&cluster, &members), ["pending"; 3]);
    assert_eq!(phase(&cluster, &high).name(), "scheduled");
}

/// Four nodes of two devices, two in each of two racks.
fn racks() -> Cluster {
    let mut cluster = cluster(&[("n1", 2), ("n2", 2), ("n3", 2), ("n4", 2)]);
    for (node, rack) in [("n1", "r1"), ("n2", "r2"), ("n3", "r1"), ("n4", "r2")] {
        let set = [(TOPOLOGY[0].to_owned(), rack.to_owned())].into();
        let labels = Input::Labels { node: node_name(node), set, remove: Vec::new() };
        cluster.apply(labels, T0).unwrap();
    }
    cluster
}

/// How many members lie on each node.
fn lie(cluster: &Cluster, ids: &[SessionId]) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for id in ids {
        *counts.entry(phase(cluster, id).grant().unwrap().node.to_string()).or_default() += 1;
    }
    counts.into_iter().collect()
}

fn arranged(arrangement: Arrangement) -> SessionSpec {
    SessionSpec { arrangement: Some(arrangement), ..spec(10_000) }
}

#[test]
fn a_gang_lies_together_or_apart_as_it_asks() {
    let on = |nodes: &[(&str, usize)]| {
        nodes.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect::<Vec<_>>()
    };
    let mut packed = racks();
    make(&mut packed, 1, arranged(Arrangement::Pack), gang(4));
    let nodes = lie(&packed, &ids(1, 4));
    assert!(
        [on(&[("n1", 2), ("n3", 2)]), on(&[("n2", 2), ("n4", 2)])].contains(&nodes),
        "{nodes:?}"
    );

    let mut spread = racks();
    let four = dry_run(&spread, &arranged(Arrangement::Spread), 2);
    assert!(four.summary.starts_with("all 2 members would start now on nodes"), "{four:?}");
    make(&mut spread, 1, arranged(Arrangement::Spread), gang(2));
    assert_eq!(lie(&spread, &ids(1, 2)).len(), 2);

    let mut over = racks();
    let label = TOPOLOGY[0].to_owned();
    make(&mut over, 1, arranged(Arrangement::SpreadOver(label)), gang(4));
    let nodes = lie(&over, &ids(1, 4));
    let in_first: usize = nodes
        .iter()
        .filter(|(node, _)| ["n1", "n3"].contains(&node.as_str()))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(in_first, 2, "{nodes:?}");
    check(&over).unwrap();
}

fn dry_run(cluster: &Cluster, spec: &SessionSpec, size: u32) -> Explanation {
    cluster.dry_run_members(spec, &"me".parse().unwrap(), gang(size)).unwrap()
}

#[test]
fn an_arranged_gang_that_finds_no_room_says_what_is_missing() {
    let mut cluster = racks();
    create(&mut cluster, 9, spec(1_000));
    let waits = dry_run(&cluster, &arranged(Arrangement::Spread), 8);
    assert!(waits.summary.contains("7 of 8 members find room"), "{}", waits.summary);
    make(&mut cluster, 1, arranged(Arrangement::Spread), gang(8));
    assert_eq!(phases(&cluster, &ids(1, 8)), ["pending"; 8]);
}

#[test]
fn only_a_gang_may_be_arranged() {
    let mut cluster = racks();
    for members in [Members::One, array("1-3")] {
        let spec = arranged(Arrangement::Pack);
        let refused = try_create_members(&mut cluster, 1, spec, None, members).unwrap_err();
        assert_eq!((refused.code(), refused.field()), ("INVALID_ARGUMENT", Some("--pack")));
    }
}

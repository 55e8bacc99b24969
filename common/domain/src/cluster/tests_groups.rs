use super::tests::*;
use super::tests_projects::*;
use super::*;
use crate::check::check;
use crate::session::{
    Condition, Dependency, Members, OnDisconnect, OnLost, Phase, SessionSpec, StopReason,
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
    let mut cluster = cluster(&[("n1", 2), ("n2", 1)]);
    make(&mut cluster, 1, spec(10_000), gang(4));
    let members = ids(1, 4);
    assert_eq!(phases(&cluster, &members), ["pending"; 4]);
    assert_eq!(free(&cluster, "n1"), [10_000, 10_000]);
    let why = cluster.explain(&members[2]).unwrap();
    assert_eq!(why.queue_position, Some(1));
    assert!(why.summary.contains("not all 4 together"), "{}", why.summary);

    register(&mut cluster, "n3", 1, Vec::new());
    cluster.schedule(T0);
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

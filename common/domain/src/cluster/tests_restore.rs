//! A cluster from its records, and what is found in records that contradict each other.

use super::tests::{cluster, create, report, running, session_id, settings, spec};
use super::*;
use crate::check::{Broken, check};
use crate::node::Node;

fn filled() -> Cluster {
    let mut cluster = cluster(&[("a1", 2), ("b2", 2)]);
    for number in 0..3 {
        let id = create(&mut cluster, number, spec(6_000));
        let node = cluster.session(&id).unwrap().phase.grant().unwrap().node.clone();
        report(&mut cluster, node.as_str(), &id, running());
    }
    create(&mut cluster, 3, spec(20_000));
    cluster
}

/// The session under another id, with nothing derived from it.
fn smuggle_in(cluster: &mut Cluster, number: usize) -> SessionId {
    let known = Session::clone(cluster.session(&session_id(number)).unwrap());
    let id = session_id(number + 100);
    cluster.sessions.insert(id.clone(), Arc::new(Session { id: id.clone(), ..known }));
    id
}

#[test]
fn a_cluster_restored_sees_and_counts_what_the_one_before_did() {
    let cluster = filled();
    let restored = Cluster::restore(settings(), cluster.records()).unwrap();

    assert_eq!(restored.records(), cluster.records());
    assert_eq!(restored.index.on_node, cluster.index.on_node);
    assert_eq!(restored.index.by_request, cluster.index.by_request);
    assert_eq!(restored.index.deadlines, cluster.index.deadlines);
    assert_eq!(restored.index.accounts.capacity, cluster.index.accounts.capacity);
    assert_eq!(restored.queue_length(), 1);
    for (then, now) in cluster.view.iter().zip(restored.view.iter()) {
        assert_eq!((&then.name, &then.devices), (&now.name, &now.devices));
        assert_eq!((then.cpu_free, then.memory_free), (now.cpu_free, now.memory_free));
    }
    assert_eq!(restored.next_sequence, cluster.next_sequence);
}

#[test]
fn records_that_are_there_twice_are_refused_by_name() {
    let mut records = filled().records();
    records.sessions.push(records.sessions[1].clone());
    let twice = Cluster::restore(settings(), records).unwrap_err();
    assert!(twice.to_string().contains(session_id(1).as_str()), "{twice}");

    let mut records = filled().records();
    records.nodes.push(records.nodes[1].clone());
    let twice = Cluster::restore(settings(), records).unwrap_err();
    assert!(twice.to_string().contains("node b2"), "{twice}");
}

#[test]
fn a_session_on_a_node_that_is_not_there_is_refused_with_both_names() {
    let mut records = filled().records();
    let held = records.sessions[0].phase.grant().unwrap().node.clone();
    records.nodes.retain(|node: &Node| node.name != held);
    let refused = Cluster::restore(settings(), records).unwrap_err();
    let RestoreError::UnknownNode { node, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(*node, held);
}

#[test]
fn what_is_broken_is_found() {
    let mut cluster = filled();
    let smuggled = smuggle_in(&mut cluster, 0);
    let gone = cluster.session(&session_id(2)).unwrap().phase.grant().unwrap().node.clone();
    cluster.nodes.remove(&gone);

    let broken = check(&cluster).unwrap_err();
    let node = cluster.session(&smuggled).unwrap().phase.grant().unwrap().node.clone();
    let unseen = |broken: &Broken| match broken {
        Broken::ViewOutOfStep { node: name } | Broken::UnknownNode { node: name, .. } => {
            *name == node
        }
        _ => false,
    };
    assert!(broken.iter().any(unseen), "{broken:?}");
    assert!(broken.iter().any(|b| matches!(b, Broken::Account { .. })), "{broken:?}");
    assert!(broken.iter().any(|b| matches!(b, Broken::UnknownNode { node, .. } if *node == gone)));
}

use super::*;
use crate::placement::{NodeState, NodeView, View};
use crate::plans::testing::{fgpu, labelled, name_of, node, node_of, take, view, whole};

fn gang(members: usize, request: &Request) -> GangRequest {
    GangRequest { members: vec![request.clone(); members], ..GangRequest::default() }
}

/// Four nodes of eight devices, two to a rack.
fn two_racks() -> View {
    let rack = |name: &str, rack: &str| labelled(node(name, 8), &[("rack", rack)]);
    view([rack("a1", "a"), rack("a2", "a"), rack("b1", "b"), rack("b2", "b")])
}

fn by_rack(members: usize, request: &Request) -> GangRequest {
    GangRequest { topology: vec!["rack".to_owned()], ..gang(members, request) }
}

fn nodes_of(placement: &GangPlacement) -> Vec<&str> {
    placement.grants.iter().map(|grant| grant.node.as_str()).collect()
}

fn busy(view: &mut View, name: &str, gpus: u32) {
    let request = Request { node: Some(name_of(name)), ..whole(gpus) };
    let grant = Placer::new(Policy::BestFit, 0).find(&request, view).unwrap().grant;
    take(view, &request, &grant);
}

#[test]
fn a_gang_without_room_for_all_gets_nothing_and_is_told_how_many_fit() {
    let view = view([node("a", 2), node("b", 1)]);

    let refused = place_gang(&gang(4, &whole(1)), &view).unwrap_err();

    let GangRefused::Now { members: 4, fit: 3, member: 3, .. } = &refused else {
        panic!("{refused:?}")
    };
    let missing = refused.missing(&gang(4, &whole(1)), &view).unwrap();
    assert_eq!(missing.reasons.len(), 2);
}

#[test]
fn a_member_no_node_could_ever_hold_is_named() {
    let mut members = gang(2, &whole(1));
    members.members.push(whole(9));

    let refused = place_gang(&members, &view([node("a", 8)])).unwrap_err();

    assert!(matches!(refused, GangRefused::Never { member: 2, .. }), "{refused:?}");
    assert!(refused.missing(&members, &view([node("a", 8)])).is_none());
}

#[test]
fn packing_takes_the_fewest_nodes_and_the_tightest_last_one() {
    let view = view([node("a", 2), node("b", 8), node("c", 8), node("d", 4)]);

    let placed = place_gang(&gang(10, &whole(1)), &view).unwrap();

    assert_eq!(placed.nodes, 2);
    assert_eq!(nodes_of(&placed), [["b"; 8].as_slice(), &["a"; 2]].concat());
}

#[test]
fn members_stay_in_one_rack_where_one_holds_them_all() {
    let mut view = two_racks();
    busy(&mut view, "a1", 6);

    let placed = place_gang(&by_rack(2, &whole(7)), &view).unwrap();

    assert_eq!(nodes_of(&placed), ["b1", "b2"]);
    assert_eq!(placed.domains, [1]);
    let both = place_gang(&by_rack(3, &whole(7)), &view).unwrap();
    assert_eq!(both.domains, [2]);
}

#[test]
fn of_two_racks_the_one_with_less_to_spare_is_used() {
    let mut view = two_racks();
    busy(&mut view, "b1", 4);

    let placed = place_gang(&by_rack(8, &whole(1)), &view).unwrap();

    assert_eq!(nodes_of(&placed), ["b2"; 8]);
}

#[test]
fn a_slow_node_is_used_only_where_the_gang_does_not_fit_without() {
    let slow = |members| GangRequest {
        slow: BTreeSet::from([name_of("a1")]),
        ..by_rack(members, &whole(8))
    };

    let without = place_gang(&slow(3), &two_racks()).unwrap();
    assert_eq!(nodes_of(&without), ["b1", "b2", "a2"]);
    assert!(without.slow.is_empty());
    let with = place_gang(&slow(4), &two_racks()).unwrap();
    assert_eq!(with.slow, [name_of("a1")]);
}

#[test]
fn nodes_where_it_failed_are_not_used() {
    let avoiding = GangRequest { avoid: BTreeSet::from([name_of("a1")]), ..gang(4, &whole(8)) };

    let refused = place_gang(&avoiding, &two_racks()).unwrap_err();

    assert!(matches!(refused, GangRefused::Now { fit: 3, .. }), "{refused}");
}

#[test]
fn nodes_that_hold_the_image_come_first_within_the_bonus() {
    let view = view([node("a", 8), node("b", 6)]);
    let holding = |holds_bonus| GangRequest {
        holds: BTreeSet::from([name_of("b")]),
        holds_bonus,
        ..gang(7, &whole(1))
    };

    assert_eq!(nodes_of(&place_gang(&holding(0), &view).unwrap()), ["a"; 7]);
    let placed = place_gang(&holding(2), &view).unwrap();
    assert_eq!(nodes_of(&placed), ["b", "b", "b", "b", "b", "b", "a"]);
}

#[test]
fn members_spread_over_nodes_or_over_a_label_as_evenly_as_there_is_room() {
    let over = |spread| GangRequest { spread, ..gang(5, &whole(2)) };
    let count = |placed: &GangPlacement, prefix: &str| {
        nodes_of(placed).iter().filter(|name| name.starts_with(prefix)).count()
    };

    let nodes = place_gang(&over(Spread::Nodes), &two_racks()).unwrap();
    assert_eq!(nodes.nodes, 4);
    let mut tight = two_racks();
    busy(&mut tight, "a1", 8);
    let racks = place_gang(&over(Spread::Label("rack".to_owned())), &tight).unwrap();
    assert_eq!((count(&racks, "a"), count(&racks, "b")), (3, 2));
}

#[test]
fn spreading_over_racks_may_still_stay_in_one_zone() {
    let at = |name: &str, rack: &str, zone: &str| {
        labelled(node(name, 4), &[("rack", rack), ("zone", zone)])
    };
    let view = view([at("a", "r1", "west"), at("b", "r2", "east"), at("c", "r3", "west")]);
    let spread = GangRequest {
        spread: Spread::Label("rack".to_owned()),
        topology: vec!["rack".to_owned(), "zone".to_owned()],
        ..gang(4, &whole(1))
    };

    let placed = place_gang(&spread, &view).unwrap();

    assert_eq!(placed.domains, [2, 1]);
    assert_eq!(nodes_of(&placed), ["a", "c", "a", "c"]);
}

#[test]
fn members_that_differ_share_nodes_and_the_hardest_is_seated_first() {
    let view = view([node("a", 4), node("b", 4)]);
    let mut mixed = gang(4, &fgpu(2_000));
    mixed.members.push(whole(4));
    mixed.members.push(whole(3));

    let placed = place_gang(&mixed, &view).unwrap();

    assert_eq!(placed.grants[4].slices.len(), 4);
    assert_ne!(placed.grants[4].node, placed.grants[5].node);
    assert!(placed.grants[..4].iter().all(|grant| grant.node == placed.grants[5].node));
}

#[test]
fn two_devices_each_are_not_stranded_by_filling_the_fullest_first() {
    // Rests of 5, 5 and 10: two members of 2 × 5 fit only if both use the empty device.
    let mut three = view([node("a", 3)]);
    for device in 0..2 {
        let slice = crate::slice::Slice {
            device: crate::plans::testing::device_of("a", device),
            memory: crate::units::MemoryBytes::gib(40),
            compute: crate::units::ComputeMilli(500),
            fgpu: Fgpu(5_000),
        };
        let taken = Allocation { slices: vec![slice], ..Allocation::default() };
        three.allocate(&name_of("a"), &taken).unwrap();
    }
    let mut pair = fgpu(10_000);
    if let Some(gpu) = &mut pair.gpu {
        gpu.devices = std::num::NonZeroU32::new(2);
    }

    assert!(place_gang(&gang(2, &pair), &three).is_ok());
}

#[test]
fn a_member_is_not_split_on_a_small_node_because_it_is_looked_at_alone() {
    let big = node_of("big", "H100", 80, 1);
    let mut small = node_of("small", "T4", 16, 8);
    for device in &mut small.devices {
        device.units.capacity = Fgpu(2_000);
    }
    let one = fgpu(10_000);

    let refused = place_gang(&gang(2, &one), &view([big, small])).unwrap_err();

    assert!(matches!(refused, GangRefused::Now { fit: 1, .. }), "{refused}");
}

#[test]
fn nodes_out_of_service_take_no_member() {
    let cordoned = NodeView { state: NodeState::Cordoned, ..node("a", 8) };

    assert!(place_gang(&gang(1, &whole(1)), &view([cordoned])).is_err());
}

#[test]
fn an_empty_gang_is_placed() {
    let placed = place_gang(&GangRequest::default(), &two_racks()).unwrap();

    assert!(placed.grants.is_empty());
}

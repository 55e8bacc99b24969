use super::testing::*;
use super::*;
use crate::ids::DeviceUuid;
use crate::slice::{ComputeRequest, GpuAmount, Isolation, Split};
use crate::units::{CpuMilli, Fgpu, MIB, MemoryBytes};
use std::num::NonZeroU32;

#[test]
fn a_node_that_takes_nothing_new_is_passed_over_with_its_state() {
    let cases = [
        (NodeState::Cordoned, Reason::Cordoned),
        (NodeState::Draining, Reason::Draining),
        (NodeState::Suspect, Reason::Suspect),
        (NodeState::Lost, Reason::Lost),
        (NodeState::NeverSeen, Reason::NeverSeen),
    ];
    for (state, reason) in cases {
        let mut view = view([node("a1", 1), node("b2", 1)]);
        view.set_state(&name_of("a1"), state).unwrap();
        assert_eq!(place(&fgpu(1_000), &view).node, name_of("b2"));

        view.set_state(&name_of("b2"), state).unwrap();
        let refused = refuse(&fgpu(1_000), &view);
        assert_eq!(refused.reason("a1"), Some(&reason));
        assert_eq!(refused.summary, [(reason.code(), 2)].into());
    }
}

#[test]
fn name_labels_and_nodes_to_avoid_narrow_the_choice() {
    let mut labelled = node("b2", 1);
    labelled.labels.insert("zone".to_owned(), "west".to_owned());
    let view = view([node("a1", 1), labelled]);
    let west = |zone: &str| Request {
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        ..fgpu(1_000)
    };

    assert_eq!(place(&fgpu(1_000), &view).node, name_of("a1"));
    assert_eq!(place(&on_node(fgpu(1_000), "b2"), &view).node, name_of("b2"));
    assert_eq!(place(&west("west"), &view).node, name_of("b2"));
    let avoiding = Request { avoid: [name_of("a1")].into(), ..fgpu(1_000) };
    assert_eq!(place(&avoiding, &view).node, name_of("b2"));

    let shunning = Request { shun: [name_of("a1")].into(), ..fgpu(1_000) };
    assert_eq!(place(&shunning, &view).node, name_of("b2"));
    let named = on_node(shunning.clone(), "a1");
    assert_eq!(place(&named, &view).node, name_of("a1"), "it would rather not, but no other fits");
    let larger = Request { shun: [name_of("a1"), name_of("b2")].into(), ..fgpu(1_000) };
    assert_eq!(place(&larger, &view).node, name_of("a1"));

    let refused = refuse(&west("east"), &view);
    assert_eq!(
        refused.reason("a1").unwrap().to_string(),
        "needs label zone=east, has no label zone"
    );
    assert_eq!(refused.reason("b2").unwrap().to_string(), "needs label zone=east, has zone=west");
    let refused = refuse(&on_node(cpu_only(100), "b2"), &view);
    assert_eq!(refused.reason("a1"), Some(&Reason::WrongNode { wanted: name_of("b2") }));
    assert_eq!(refused.closest.unwrap().1.to_string(), "needs 100 cores, 64 of 64 are free");
}

#[test]
fn best_fit_counts_half_of_what_is_left_in_128_cores_and_in_8_devices() {
    // a1 keeps 127 cores and 2 devices, b2 63 and 8.
    let mut a1 = node("a1", 2);
    (a1.cpu_total, a1.cpu_free) = (CpuMilli::cores(128), CpuMilli::cores(128));
    let view = view([a1, node("b2", 8)]);

    let score = |node: &str| {
        let request = on_node(cpu_only(1), node);
        Placer::new(Policy::BestFit, 0).find(&request, &view).unwrap().score
    };
    // 100 × (1 − 127/256 − 2/16) = 37.89; 100 × (1 − 63/256 − 8/16) = 25.39.
    assert_eq!((score("a1"), score("b2")), (37, 25));
    assert_eq!(place(&cpu_only(1), &view).node, name_of("a1"));
}

#[test]
fn equal_scores_go_to_the_node_inserted_first() {
    for policy in [Policy::BestFit, Policy::Binpack, Policy::Spread] {
        let mut view = view([node("z", 8), node("a", 8)]);
        assert_eq!(place_by(policy, &fgpu(1_000), &view).node, name_of("z"), "{policy}");

        let first = view.remove(&name_of("z")).unwrap();
        view.insert(first).unwrap();
        assert_eq!(place_by(policy, &fgpu(1_000), &view).node, name_of("a"), "{policy}");
    }
}

#[test]
fn packing_joins_the_fullest_device_with_room_and_spreading_the_emptiest() {
    let mut view = view([node("a1", 3), node("b2", 3)]);
    fill(&on_node(fgpu(6_000), "b2"), &mut view);
    fill(&on_node(fgpu(7_000), "b2"), &mut view);

    for policy in [Policy::BestFit, Policy::Binpack] {
        let grant = place_by(policy, &fgpu(3_000), &view);
        assert_eq!((grant.node.as_str(), indices(&grant)), ("b2", vec![1]), "{policy}");
        let grant = place_by(policy, &fgpu(4_000), &view);
        assert_eq!((grant.node.as_str(), indices(&grant)), ("b2", vec![0]), "{policy}");
    }
    let grant = place_by(Policy::Spread, &fgpu(3_000), &view);
    assert_eq!(grant.node, name_of("a1"));
    let grant = place_by(Policy::Spread, &on_node(fgpu(3_000), "b2"), &view);
    assert_eq!(indices(&grant), [2]);
}

#[test]
fn random_reaches_every_node_and_device_and_repeats_for_a_seed() {
    let view = view([node("a1", 2), node("b2", 2)]);
    let draw = |seed| {
        let mut placer = Placer::new(Policy::Random, seed);
        let one = |_| placer.place(&fgpu(1_000), &view).unwrap().grant.slices[0].device.clone();
        (0..64).map(one).collect::<Vec<_>>()
    };

    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let reached: std::collections::BTreeSet<_> = draw(3).into_iter().collect();
    assert_eq!(reached.len(), 4);
}

#[test]
fn a_larger_request_takes_the_fewest_devices_wherever_the_node_stands() {
    // The only node that could hold 15 fGPU on two devices is out of service: no other node may
    // take it on four.
    let mut view = view([node_of("small", "L4", 24, 4), node("big", 2)]);
    assert_eq!(indices(&place(&fgpu(15_000), &view)).len(), 2);

    view.set_state(&name_of("big"), NodeState::Lost).unwrap();
    let grant = place(&fgpu(15_000), &view);
    assert_eq!((grant.node.as_str(), grant.slices.len()), ("small", 2));
    assert_eq!(grant.slices[0].fgpu, Fgpu(7_500));
}

#[test]
fn with_a_split_allowed_the_fewest_devices_come_first_on_any_node() {
    let split = |mut request: Request| {
        request.gpu.as_mut().unwrap().split = Some(Split::Even);
        request
    };
    let mut view = view([node("a1", 2), node("b2", 1)]);
    fill(&on_node(fgpu(5_000), "a1"), &mut view);
    fill(&on_node(whole(1), "a1"), &mut view);
    assert_eq!(place(&split(fgpu(8_000)), &view).node, name_of("b2"));

    fill(&on_node(fgpu(5_000), "b2"), &mut view);
    assert!(Placer::new(Policy::BestFit, 0).find(&split(fgpu(8_000)), &view).is_none());
}

#[test]
fn slices_are_in_the_order_of_the_device_index_even_where_parts_differ() {
    let mut view = view([node("a1", 2)]);
    fill(&fgpu(4_900), &mut view);

    // 10.1 = 5.1 + 5.0: only device 0 is short of 5.2, so the larger part may go to either.
    let mut request = fgpu(10_100);
    request.gpu.as_mut().unwrap().devices = NonZeroU32::new(2);
    let grant = place(&request, &view);

    assert_eq!(indices(&grant), [0, 1]);
    assert_eq!(grant.slices.iter().map(|slice| slice.fgpu).sum::<Fgpu>(), Fgpu(10_100));
}

#[test]
fn several_devices_are_chosen_close_to_each_other() {
    let mut linked = node("a1", 4);
    let uuid = |index: usize| DeviceUuid::new(format!("GPU-a1-{index}")).unwrap();
    for (one, other) in [(0, 2), (1, 3)] {
        linked.devices[one].nvlink_peers = vec![uuid(other)];
        linked.devices[other].nvlink_peers = vec![uuid(one)];
    }
    let mut numa = node("b2", 4);
    for (index, socket) in [(0, 0), (1, 1), (2, 1), (3, 0)] {
        numa.devices[index].numa_node = Some(socket);
    }
    let mut view = view([linked, numa]);

    assert_eq!(indices(&place(&on_node(whole(2), "a1"), &view)), [0, 2]);
    assert_eq!(indices(&place(&on_node(whole(2), "b2"), &view)), [0, 3]);
    // With device 0 taken only 1 and 3 are still linked.
    view.set_blocked(&name_of("a1"), &uuid(0), Some(DeviceBlock::Cordoned)).unwrap();
    assert_eq!(indices(&place(&on_node(whole(2), "a1"), &view)), [1, 3]);
}

#[test]
fn isolation_is_whole_only_where_nothing_of_the_device_is_left() {
    let mut view = view([node("a1", 2)]);
    assert_eq!(place(&whole(1), &view).isolation, Isolation::Whole);
    assert_eq!(place(&fgpu(10_000), &view).isolation, Isolation::Whole);
    assert_eq!(place(&fgpu(9_900), &view).isolation, Isolation::Driver);
    assert_eq!(place(&fgpu(15_000), &view).isolation, Isolation::Driver);
    assert_eq!(place(&cpu_only(1), &view).isolation, Isolation::Whole);

    fill(&fgpu(9_900), &mut view);
    let grant = fill(&fgpu(100), &mut view);
    assert_eq!((indices(&grant), grant.isolation), (vec![0], Isolation::Driver));
}

#[test]
fn what_a_whole_device_leaves_below_a_quantum_is_given_to_nobody() {
    let mut odd = node("a1", 1);
    odd.devices[0].units =
        crate::slice::UnitPolicy::default().units_of("H100", MemoryBytes::mib(81_559));
    odd.devices[0].free = odd.devices[0].units.whole();
    let mut view = view([odd]);
    assert_eq!(fill(&fgpu(10_000), &mut view).isolation, Isolation::Whole);
    assert_eq!(view.get(&name_of("a1")).unwrap().devices[0].free.memory, MemoryBytes::mib(9));

    let crumb =
        GpuAmount::Direct { memory: Some(MemoryBytes(5 * MIB)), compute: ComputeRequest::Shared };
    let refused = refuse(&gpu(crumb), &view);
    assert_eq!(refused.reason("a1"), Some(&Reason::Devices { wanted: 1, with_room: 0 }));
}

#[test]
fn a_change_that_does_not_fit_changes_nothing() {
    let mut view = view([node("a1", 2)]);
    let request = fgpu(6_000);
    let grant = place(&request, &view);
    let allocation = Allocation::of(&request, &grant);
    let before = view.get(&grant.node).unwrap().clone();

    assert!(matches!(view.release(&grant.node, &allocation), Err(ViewError::BeyondTotal { .. })));
    assert_eq!(view.get(&grant.node), Some(&before));
    view.allocate(&grant.node, &allocation).unwrap();
    let after = view.get(&grant.node).unwrap().clone();
    let again = view.allocate(&grant.node, &allocation).unwrap_err();
    assert_eq!(
        again.to_string(),
        "node a1 cannot give 48 GiB and 60 % of compute of GPU-a1-0: 32 GiB and 40 % of compute is free"
    );
    let too_much = Allocation { cpu: CpuMilli::cores(64), ..Allocation::default() };
    assert!(matches!(view.allocate(&grant.node, &too_much), Err(ViewError::NotFree { .. })));
    let twice = Allocation { slices: vec![grant.slices[0].clone(); 2], ..Allocation::default() };
    assert!(matches!(view.release(&grant.node, &twice), Err(ViewError::DuplicateDevice { .. })));
    assert_eq!(view.get(&grant.node), Some(&after));
    view.release(&grant.node, &allocation).unwrap();
    assert_eq!(view.get(&grant.node), Some(&before));

    assert!(matches!(view.insert(before.clone()), Err(ViewError::DuplicateNode { .. })));
    let unknown = NodeView { name: name_of("zz"), ..before };
    assert!(matches!(view.replace(unknown), Err(ViewError::UnknownNode { .. })));
}

#[test]
fn a_replaced_node_keeps_its_turn_and_brings_its_new_hardware() {
    let mut view = view([node("a1", 1), node("b2", 1)]);
    view.replace(node("a1", 4)).unwrap();

    assert_eq!(place(&whole(4), &view).node, name_of("a1"));
    let names: Vec<&str> = view.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a1", "b2"]);
    view.remove(&name_of("a1")).unwrap();
    assert!(refuse(&whole(4), &view).impossible.is_some());
}

#[test]
fn a_policy_has_one_name_everywhere() {
    for policy in Policy::ALL {
        assert_eq!(policy.to_string().parse(), Ok(policy));
        assert_eq!(serde_json::to_string(&policy).unwrap(), format!("\"{policy}\""));
    }
    assert_eq!(Policy::default(), Policy::Fragmentation);
    assert_eq!(
        "fifo".parse::<Policy>().unwrap_err().to_string(),
        "no placement policy is called `fifo`: use random, binpack, spread, best-fit, dot-product, fgd, fragmentation"
    );
}

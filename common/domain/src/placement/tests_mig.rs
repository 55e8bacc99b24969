//! MIG instances: who gets them, which is taken, and that others notice nothing of them.

use super::testing::*;
use super::*;
use crate::slice::{GpuAmount, GpuRequest, Grant, Isolation, Slice, SliceError, UnitPolicy};
use crate::units::Fgpu;
use std::num::NonZeroU32;

fn instances(profile: &str, count: u32) -> Request {
    let count = NonZeroU32::new(count).unwrap();
    let gpu = GpuRequest::mig(profile.parse().unwrap(), count);
    Request { gpu: Some(gpu), ..cpu_only(1) }
}

/// The cards of the instances granted: `a1/0` for the first partitioned card of node `a1`.
fn cards(grant: &Grant) -> Vec<String> {
    let card = |slice: &Slice| {
        let parts: Vec<&str> = slice.device.as_str().split('-').collect();
        format!("{}/{}", parts[1], parts[2])
    };
    grant.slices.iter().map(card).collect()
}

#[test]
fn an_instance_is_given_whole_and_counts_for_its_part_of_the_card() {
    let view = view([partitioned("a", 0, &[&[SMALL, LARGE]])]);

    let grant = place(&instances("1G.10GB", 1), &view);

    assert_eq!(grant.isolation, Isolation::Mig);
    let slice = &grant.slices[0];
    assert_eq!(slice.memory, MemoryBytes::gib(10));
    assert_eq!(slice.compute.0, 1000);
    assert_eq!(slice.fgpu, Fgpu(1250), "an eighth of a card of 10 fGPU");
}

#[test]
fn the_parts_of_a_card_never_count_for_more_than_the_card() {
    for (policy, capacity) in [
        (UnitPolicy::default(), 10_000),
        (
            UnitPolicy {
                default: crate::slice::UnitRule::UnitMemory(MemoryBytes::gib(8)),
                ..UnitPolicy::default()
            },
            10_000,
        ),
    ] {
        let part = |gib| {
            policy.units_of_instance("H100", MemoryBytes::gib(80), MemoryBytes::gib(gib)).capacity.0
        };
        assert_eq!(part(80), capacity);
        assert_eq!(part(40), capacity / 2);
        assert!(part(11) * 7 <= capacity, "{}", part(11));
        assert_eq!(part(200), capacity, "whatever the driver says");
        assert_eq!(part(0), 1, "and nothing is for nothing");
    }
}

#[test]
fn without_a_profile_no_request_lands_on_an_instance() {
    let view = view([partitioned("a", 0, &[&[SMALL, LARGE]])]);

    for request in [fgpu(100), whole(1), Request { isolation: Some(Isolation::Mig), ..whole(1) }] {
        let refused = refuse(&request, &view);
        let block = DeviceBlock::MigEnabled;
        assert_eq!(refused.reason("a"), Some(&Reason::DeviceBlocked { devices: 1, block }));
        let instead = match request.gpu.as_ref().unwrap().amount {
            GpuAmount::Fgpu(_) => {
                vec![Hint::Mig { profile: SMALL.into(), count: 1, node: name_of("a") }]
            }
            _ => Vec::new(),
        };
        assert_eq!(refused.would_fit, instead);
    }
}

#[test]
fn the_fullest_card_is_taken_first_so_that_others_stay_whole() {
    for policy in [Policy::Fragmentation, Policy::BestFit, Policy::Fgd, Policy::DotProduct] {
        let mut view = view([
            partitioned("a", 1, &[&[SMALL; 3]]),
            partitioned("b", 1, &[&[SMALL; 3], &[SMALL; 3]]),
        ]);
        let mut placer = Placer::new(policy, 0);
        let mut given = Vec::new();
        let mut give = |view: &mut View, request: &Request| {
            let grant = placer.place(request, view).unwrap().grant;
            view.allocate(&grant.node, &Allocation::of(request, &grant)).unwrap();
            given.push(cards(&grant).join(" "));
            grant
        };
        let on_b = on_node(instances(SMALL, 1), "b");
        give(&mut view, &on_b);
        for _ in 0..2 {
            give(&mut view, &instances(SMALL, 1));
        }
        let pair = give(&mut view, &instances(SMALL, 2));
        assert_eq!(pair.slices.len(), 2);
        // On node b: all that are left for two, there is one card with three.
        assert_eq!(given[..3], ["b/0", "b/0", "b/0"], "{policy:?}");
        assert_eq!(given[3], "b/1 b/1", "{policy:?}: the node that is in use already");
    }
}

#[test]
fn what_is_equal_but_for_the_cards_of_its_instances_is_not_equal() {
    // Two of four instances are taken on both nodes: of one card on b, of two on a.
    let mut view = view([
        partitioned("a", 0, &[&[SMALL; 2], &[SMALL; 2]]),
        partitioned("b", 0, &[&[SMALL; 2], &[SMALL; 2]]),
    ]);
    let mut take = |node: &str, slots: [usize; 2]| {
        let devices = &view.get(&name_of(node)).unwrap().devices;
        let slices = slots.map(|at| {
            let device = &devices[2 + at];
            device.units.slice(device.uuid.clone(), crate::slice::Part::Whole)
        });
        let allocation = Allocation { slices: slices.to_vec(), ..Allocation::default() };
        view.allocate(&name_of(node), &allocation).unwrap();
    };
    take("a", [0, 1]);
    take("b", [0, 2]);

    let grant = place(&instances(SMALL, 1), &view);

    assert_eq!(cards(&grant), ["b/0"], "its card is half full already, that of a is empty");
}

#[test]
fn several_instances_lie_on_one_node_and_a_node_without_enough_is_passed_over() {
    let view = view([
        partitioned("a", 0, &[&[SMALL; 2]]),
        partitioned("b", 0, &[&[SMALL; 2], &[SMALL; 1]]),
    ]);

    let grant = place(&instances(SMALL, 3), &view);
    assert_eq!((grant.node.as_str(), grant.slices.len()), ("b", 3));

    let refused = refuse(&instances(SMALL, 4), &view);
    let said = refused.impossible.unwrap().to_string();
    assert_eq!(said, "4 MIG instances of 1g.10gb is more than any node has: the most is 3");
}

#[test]
fn an_unknown_profile_is_refused_with_those_there_are() {
    let there = view([
        partitioned("a", 0, &[&[SMALL; 2]]),
        partitioned("b", 0, &[&[SMALL; 2]]),
        partitioned("c", 1, &[&[LARGE, SMALL]]),
        node("d", 1),
    ]);

    let refused = feasible_when_empty(&instances("7g.80gb", 1), &there).unwrap_err();
    let NeverFits::Slice(SliceError::NoSuchProfile { wanted, available }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(wanted.as_str(), "7g.80gb");
    assert_eq!(
        available,
        "1g.10gb of NVIDIA H100 80GB HBM3 on 3 nodes, 3g.40gb of NVIDIA H100 80GB HBM3 on 1 node"
    );
    let none = feasible_when_empty(&instances(SMALL, 1), &view([node("d", 1)])).unwrap_err();
    assert!(none.to_string().contains("no MIG instance at all"), "{none}");
    let other_model =
        GpuRequest { models: vec!["A100".to_owned()], ..instances(SMALL, 1).gpu.unwrap() };
    let refused = feasible_when_empty(&gpu_of(other_model), &there).unwrap_err();
    assert!(matches!(refused, NeverFits::Slice(SliceError::NoSuchProfile { .. })), "{refused:?}");
}

fn gpu_of(gpu: GpuRequest) -> Request {
    Request { gpu: Some(gpu), ..cpu_only(1) }
}

#[test]
fn what_waits_is_told_how_many_are_free_and_which_others() {
    let mut view = view([partitioned("a", 1, &[&[SMALL, SMALL, LARGE]]), node("b", 1)]);
    fill(&instances(SMALL, 1), &mut view);

    let refused = refuse(&instances(SMALL, 2), &view);
    let profile = || SMALL.parse().unwrap();
    let missing = Reason::MigInstances { profile: profile(), wanted: 2, free: 1, total: 2 };
    assert_eq!(refused.closest, Some((name_of("a"), missing.clone())));
    assert_eq!(missing.to_string(), "needs 2 MIG instances of 1g.10gb, 1 of 2 are free");
    let without = Reason::MigProfile { wanted: profile(), has: String::new() };
    assert_eq!(refused.reason("b"), Some(&without));
    assert_eq!(without.to_string(), "needs a MIG instance of 1g.10gb, has no MIG instance");
    let fewer = Hint::Mig { profile: SMALL.into(), count: 1, node: name_of("a") };
    assert_eq!(refused.would_fit, [fewer]);

    fill(&instances(SMALL, 1), &mut view);
    let refused = refuse(&instances(SMALL, 1), &view);
    let larger = Hint::Mig { profile: LARGE.into(), count: 1, node: name_of("a") };
    assert_eq!(larger.to_string(), "`--mig 3g.40gb` would start now on node a");
    assert_eq!(refused.would_fit, [larger]);

    let other = refuse(&instances("2g.20gb", 1), &view);
    let has = "2 1g.10gb of NVIDIA H100 80GB HBM3, 1 3g.40gb of NVIDIA H100 80GB HBM3";
    let wanted = "2g.20gb".parse().unwrap();
    assert_eq!(other.reason("a"), Some(&Reason::MigProfile { wanted, has: has.into() }));
}

#[test]
fn a_card_still_held_as_a_whole_is_not_given_in_instances_as_well() {
    let mut node = partitioned("a", 0, &[&[SMALL]]);
    let card = &mut node.devices[0];
    (card.free, card.sessions) = (crate::slice::Demand::default(), 1);
    let slice = card.units.slice(card.uuid.clone(), crate::slice::Part::Whole);
    let mut view = view([node]);

    let refused = refuse(&instances(SMALL, 1), &view);
    assert!(matches!(refused.reason("a"), Some(Reason::MigInstances { free: 0, total: 1, .. })));

    let held = Allocation { slices: vec![slice], ..Allocation::default() };
    view.release(&name_of("a"), &held).unwrap();
    assert_eq!(cards(&place(&instances(SMALL, 1), &view)), ["a/0"]);
}

#[test]
fn what_waits_for_a_part_of_a_device_is_told_of_an_instance_that_is_large_enough() {
    let mut view = view([partitioned("a", 1, &[&[SMALL, LARGE]])]);
    fill(&whole(1), &mut view);
    let hint = |request: &Request, view: &View| refuse(request, view).would_fit;
    let of =
        |profile: &str| vec![Hint::Mig { profile: profile.into(), count: 1, node: name_of("a") }];

    assert_eq!(hint(&fgpu(1_200), &view), of(SMALL));
    assert_eq!(hint(&fgpu(1_300), &view), of(LARGE), "more than an eighth of a card");
    assert_eq!(hint(&fgpu(6_000), &view), [], "more than half of one");
    fill(&instances(SMALL, 1), &mut view);
    assert_eq!(hint(&fgpu(1_200), &view), of(LARGE));
}

#[test]
fn a_blocked_instance_takes_nothing_and_says_why() {
    let mut view = view([partitioned("a", 0, &[&[SMALL]])]);
    let uuid = view.get(&name_of("a")).unwrap().devices[1].uuid.clone();
    view.set_blocked(&name_of("a"), &uuid, Some(DeviceBlock::Cordoned)).unwrap();

    let refused = refuse(&instances(SMALL, 1), &view);

    let block = DeviceBlock::Cordoned;
    assert_eq!(refused.reason("a"), Some(&Reason::DeviceBlocked { devices: 1, block }));
}

#[test]
fn weaker_isolation_than_whole_is_good_enough_and_whole_never_is() {
    let view = view([partitioned("a", 0, &[&[SMALL]])]);
    let with = |isolation| Request { isolation: Some(isolation), ..instances(SMALL, 1) };

    for accepted in [Isolation::Mig, Isolation::Driver, Isolation::Shared] {
        assert_eq!(place(&with(accepted), &view).isolation, Isolation::Mig);
    }
    for policy in Policy::ALL {
        assert_eq!(Placer::new(policy, 0).find(&with(Isolation::Whole), &view), None, "{policy:?}");
    }
    let refused = refuse(&with(Isolation::Whole), &view);
    let (wanted, offers) = (Isolation::Whole, Isolation::Mig);
    assert_eq!(refused.reason("a"), Some(&Reason::Isolation { wanted, offers }));
}

/// What is placed where of a row of ordinary requests, with requests for instances between them.
fn places(policy: Policy, instances_between: bool) -> Vec<(Option<Grant>, i64)> {
    let plain = |name: &str| node(name, 3);
    let nodes = match instances_between {
        false => [plain("a"), plain("b"), plain("c")],
        true => {
            // The last card of every node is partitioned; it is left out on the others.
            ["a", "b", "c"].map(|name| partitioned(name, 3, &[&[SMALL; 4], &[SMALL, LARGE]]))
        }
    };
    let mut view = view(nodes);
    let mut placer = Placer::new(policy, 0);
    let mut found = Vec::new();
    for round in 0..60_u64 {
        let request = match round % 4 {
            0 => fgpu(4_700),
            1 => fgpu(3_200),
            2 => whole(1),
            _ => fgpu(1_900),
        };
        // Little of the node, so that CPU and memory tell nothing.
        let request = Request { cpu: CpuMilli(10), memory: MemoryBytes::mib(1), ..request };
        placer.arrived(&request);
        let placement = placer.find(&request, &view);
        if let Some(Placement { grant, .. }) = &placement {
            view.allocate(&grant.node, &Allocation::of(&request, grant)).unwrap();
        }
        let score = placement.as_ref().map_or(0, |placement| placement.score);
        found.push((placement.map(|placement| placement.grant), score));
        if instances_between {
            for _ in 0..3 {
                let request = Request {
                    cpu: CpuMilli::ZERO,
                    memory: MemoryBytes::ZERO,
                    ..instances(SMALL, 1)
                };
                placer.arrived(&request);
                if let Some(Placement { grant, .. }) = placer.find(&request, &view) {
                    view.allocate(&grant.node, &Allocation::of(&request, &grant)).unwrap();
                }
            }
        }
    }
    found
}

#[test]
fn ordinary_requests_are_placed_as_if_there_were_no_instances() {
    for policy in [Policy::Fragmentation, Policy::Fgd, Policy::BestFit, Policy::DotProduct] {
        assert_eq!(places(policy, true), places(policy, false), "{policy:?}");
    }
}

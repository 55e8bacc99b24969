use super::*;
use crate::placement::{DeviceBlock, NodeState, Placer, Policy};
use crate::plans::testing::{
    cluster, device_of, fgpu, name_of, node, request, session_id, take, view, whole,
};
use crate::units::Fgpu;
use proptest::prelude::*;

/// A session of `request` on one device of a node.
fn start(view: &mut View, movable: &mut Vec<MovableSession>, at: (&str, usize), request: &Request) {
    let mut only = view.clone();
    let node = only.get(&name_of(at.0)).unwrap().clone();
    for device in node.devices.iter().filter(|device| device.uuid != device_of(at.0, at.1)) {
        only.set_blocked(&node.name, &device.uuid, Some(DeviceBlock::Cordoned)).unwrap();
    }
    let here = Request { node: Some(node.name), ..request.clone() };
    let grant = Placer::new(Policy::BestFit, 0).find(&here, &only).unwrap().grant;
    take(view, request, &grant);
    movable.push(MovableSession {
        id: session_id(movable.len()),
        node: grant.node.clone(),
        request: request.clone(),
        allocation: Allocation::of(request, &grant),
        restarts: true,
    });
}

fn plan(view: &View, movable: &[MovableSession]) -> DefragPlan {
    plan_defrag(view, movable, DefragLimits::default())
}

/// Carries a plan out in order on a copy of the view, which refuses whatever is not free; returns
/// the cluster after each step.
fn carried_out(view: &View, plan: &DefragPlan) -> Vec<Fragmentation> {
    let mut view = view.clone();
    let step = |step: &DefragStep| {
        for moved in &step.moves {
            view.allocate(&moved.to.node, &moved.takes).unwrap();
            view.release(&moved.from, &moved.gives_back).unwrap();
        }
        fragmentation(&view)
    };
    plan.steps.iter().map(step).collect()
}

#[test]
fn two_half_used_devices_become_a_full_and_a_free_one() {
    let mut view = view([node("a", 2)]);
    let mut movable = Vec::new();
    start(&mut view, &mut movable, ("a", 0), &fgpu(6_000));
    start(&mut view, &mut movable, ("a", 1), &fgpu(4_000));

    let plan = plan(&view, &movable);

    let [step] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert_eq!(step.frees, Freed::Device { node: name_of("a"), device: device_of("a", 1) });
    assert_eq!(step.moves[0].session, session_id(1));
    assert_eq!((plan.before.free_devices, plan.after.free_devices), (0, 1));
    assert_eq!((plan.before.largest_fgpu, plan.after.largest_fgpu), (Fgpu(6_000), Fgpu(10_000)));
    assert_eq!((plan.before.scattered_milli, plan.after.scattered_milli), (1_000, 0));
    assert_eq!((plan.cost.sessions, plan.cost.restarts), (1, 1));
    assert_eq!(plan.cost.gpu_memory, movable[1].allocation.slices[0].memory);
}

#[test]
fn nothing_moves_where_nothing_is_gained() {
    let mut view = view([node("a", 2)]);
    let mut movable = Vec::new();
    start(&mut view, &mut movable, ("a", 0), &fgpu(6_000));
    start(&mut view, &mut movable, ("a", 1), &fgpu(6_000));

    let plan = plan(&view, &movable);

    assert!(plan.steps.is_empty());
    assert_eq!(plan.before, plan.after);
    assert_eq!(plan.cost, DefragCost::default());
}

#[test]
fn a_session_that_may_not_be_moved_keeps_its_device() {
    let mut view = view([node("a", 2)]);
    let mut movable = Vec::new();
    start(&mut view, &mut movable, ("a", 0), &fgpu(1_000));
    start(&mut view, &mut movable, ("a", 0), &fgpu(1_000));
    start(&mut view, &mut movable, ("a", 1), &fgpu(4_000));
    movable.remove(0);

    let plan = plan(&view, &movable);

    // Not the device with less to move: one of its sessions must stay.
    assert_eq!(plan.steps.len(), 1);
    let frees = Freed::Device { node: name_of("a"), device: device_of("a", 1) };
    assert_eq!(plan.steps[0].frees, frees);
}

#[test]
fn one_session_makes_room_for_another() {
    let mut view = view([node("a", 3)]);
    let mut movable = Vec::new();
    // 5 does not fit beside 4 + 2, nor beside 8: the 2 goes to the 8 first.
    start(&mut view, &mut movable, ("a", 0), &fgpu(5_000));
    start(&mut view, &mut movable, ("a", 1), &fgpu(4_000));
    start(&mut view, &mut movable, ("a", 1), &fgpu(2_000));
    start(&mut view, &mut movable, ("a", 2), &fgpu(8_000));
    // The 4 and the 8 are not to be moved, so the device of the 5 is the only one to free.
    movable.remove(3);
    movable.remove(1);

    let plan = plan(&view, &movable);

    let [step] = plan.steps.as_slice() else { panic!("{plan:?}") };
    let moved: Vec<_> = step.moves.iter().map(|moved| moved.session.clone()).collect();
    assert_eq!(moved, [session_id(2), session_id(0)]);
    assert_eq!(carried_out(&view, &plan), [plan.after]);
}

#[test]
fn a_node_is_emptied_into_the_free_devices_of_nodes_in_use() {
    let mut view = view([node("a", 4), node("b", 4), node("c", 4)]);
    let mut movable = Vec::new();
    for device in 0..2 {
        start(&mut view, &mut movable, ("a", device), &whole(1));
    }
    start(&mut view, &mut movable, ("b", 0), &whole(1));

    let plan = plan(&view, &movable);

    let [step] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert_eq!(step.frees, Freed::Node { node: name_of("b") });
    assert_eq!((plan.before.free_nodes, plan.after.free_nodes), (1, 2));
    assert_eq!(plan.before.free_devices, plan.after.free_devices);
}

#[test]
fn a_session_moves_only_to_where_its_request_is_met() {
    let mut view = view([node("a", 2)]);
    let mut movable = Vec::new();
    start(&mut view, &mut movable, ("a", 0), &fgpu(6_000));
    start(&mut view, &mut movable, ("a", 1), &fgpu(4_000));
    for session in &mut movable {
        session.request.node = Some(name_of("b"));
    }

    assert!(plan(&view, &movable).steps.is_empty());
}

#[test]
fn nodes_and_devices_out_of_service_are_neither_emptied_nor_filled() {
    let mut view = view([node("a", 2), node("b", 2)]);
    let mut movable = Vec::new();
    for name in ["a", "b"] {
        start(&mut view, &mut movable, (name, 0), &fgpu(6_000));
        start(&mut view, &mut movable, (name, 1), &fgpu(4_000));
    }
    view.set_state(&name_of("a"), NodeState::Cordoned).unwrap();
    view.set_blocked(&name_of("b"), &device_of("b", 1), Some(DeviceBlock::Cordoned)).unwrap();

    let plan = plan(&view, &movable);

    assert!(plan.steps.is_empty(), "{plan:?}");
    assert_eq!(plan.before.free_devices, 0);
}

#[test]
fn limits_bound_the_plan() {
    let mut view = view([node("a", 4)]);
    let mut movable = Vec::new();
    for device in 0..4 {
        start(&mut view, &mut movable, ("a", device), &fgpu(2_000));
    }

    let moves =
        |moves, tries| plan_defrag(&view, &movable, DefragLimits { moves, tries }).cost.sessions;

    assert_eq!([moves(10, 100), moves(2, 100), moves(10, 1), moves(10, 0)], [3, 2, 1, 0]);
}

#[test]
fn a_session_that_does_not_hold_what_was_said_is_not_moved() {
    let mut view = view([node("a", 2)]);
    let mut movable = Vec::new();
    start(&mut view, &mut movable, ("a", 0), &fgpu(6_000));
    start(&mut view, &mut movable, ("a", 1), &fgpu(4_000));
    for session in &mut movable {
        session.allocation.cpu = crate::units::CpuMilli::cores(65);
    }

    assert!(plan(&view, &movable).steps.is_empty());
}

proptest! {
    #[test]
    fn a_plan_can_be_carried_out_in_order_and_every_step_gains(
        mut view in cluster(6),
        load in proptest::collection::vec((request(), any::<bool>(), 0_u8..8), 0..30),
        ended in proptest::collection::vec(0_usize..30, 0..20),
        limits in (0_usize..20, 0_usize..200)
            .prop_map(|(moves, tries)| DefragLimits { moves, tries }),
    ) {
        let mut placer = Placer::new(Policy::Spread, 0);
        let mut movable: Vec<(MovableSession, bool)> = Vec::new();
        for (at, (request, restarts, stays)) in load.into_iter().enumerate() {
            let Some(placement) = placer.find(&request, &view) else { continue };
            take(&mut view, &request, &placement.grant);
            let allocation = Allocation::of(&request, &placement.grant);
            let (id, node) = (session_id(at), placement.grant.node);
            movable.push((MovableSession { id, node, request, allocation, restarts }, stays == 0));
        }
        for at in ended {
            if !movable.is_empty() {
                let (gone, _) = movable.swap_remove(at % movable.len());
                view.release(&gone.node, &gone.allocation).unwrap();
            }
        }
        let movable: Vec<MovableSession> = movable
            .into_iter()
            .filter(|(_, stays)| !stays)
            .map(|(session, _)| session)
            .collect();
        let plan = plan_defrag(&view, &movable, limits);

        prop_assert_eq!(&plan, &plan_defrag(&view, &movable, limits), "same input, same plan");
        prop_assert_eq!(plan.before, fragmentation(&view));
        let mut before = plan.before;
        for (after, step) in carried_out(&view, &plan).into_iter().zip(&plan.steps) {
            prop_assert!(after.no_worse_than(&before), "{before:?} to {after:?}");
            match &step.frees {
                Freed::Device { .. } => prop_assert!(after.free_devices > before.free_devices),
                Freed::Node { .. } => prop_assert!(after.free_nodes > before.free_nodes),
            }
            before = after;
        }
        prop_assert_eq!(plan.after, before);
        let moves: usize = plan.steps.iter().map(|step| step.moves.len()).sum();
        prop_assert_eq!(plan.cost.sessions, moves);
        prop_assert!(plan.cost.sessions <= limits.moves);
        let mut moved: Vec<_> =
            plan.steps.iter().flat_map(|step| &step.moves).map(|moved| &moved.session).collect();
        moved.sort();
        prop_assert!(moved.windows(2).all(|pair| pair[0] != pair[1]), "one moves twice");
        for moved in plan.steps.iter().flat_map(|step| &step.moves) {
            let session = movable.iter().find(|session| session.id == moved.session).unwrap();
            prop_assert_eq!((&moved.from, &moved.gives_back), (&session.node, &session.allocation));
        }
    }
}

use super::*;
use crate::ids::NodeName;
use crate::placement::{Allocation, Placer, Policy, Request};
use crate::plans::testing::{
    cluster, coming, crowd, end, fgpu, fits_on, name_of, node, request, session_id, take, view,
    whole,
};
use proptest::prelude::*;

const NOW: UnixMillis = UnixMillis(100_000_000);

/// Starts a session of `priority` on a node; it has run for `minutes`.
fn start(
    view: &mut View,
    running: &mut Vec<RunningSession>,
    node: &str,
    request: &Request,
    priority: i32,
    minutes: u64,
) {
    let request = Request { node: Some(name_of(node)), ..request.clone() };
    let grant = Placer::new(Policy::BestFit, 0).find(&request, view).unwrap().grant;
    take(view, &request, &grant);
    let held = vec![(grant.node.clone(), Allocation::of(&request, &grant))];
    running.push(RunningSession {
        id: session_id(running.len()),
        held,
        priority,
        started_at: UnixMillis(NOW.0 - minutes * 60_000),
        ends_at: None,
        preemptible: true,
        min_run_over: true,
        grace_ms: 0,
        stopping: false,
    });
}

fn plan(
    request: &Request,
    priority: i32,
    view: &View,
    running: &[RunningSession],
) -> Result<Preemption, NoPreemption> {
    plan_preemption(&GangRequest::one(request.clone()), priority, view, running, NOW)
}

fn victims(plan: &Preemption) -> Vec<&str> {
    plan.victims.iter().map(SessionId::as_str).collect()
}

/// Nodes `a` and `b` of two devices, filled by sessions of one device with these priorities.
fn full(priorities: [i32; 4]) -> (View, Vec<RunningSession>) {
    let mut view = view([node("a", 2), node("b", 2)]);
    let mut running = Vec::new();
    for (at, priority) in priorities.into_iter().enumerate() {
        let node = if at < 2 { "a" } else { "b" };
        let minutes = 10 * (u64::try_from(at).unwrap() + 1);
        start(&mut view, &mut running, node, &whole(1), priority, minutes);
    }
    (view, running)
}

#[test]
fn nobody_goes_where_the_request_fits_as_it_is() {
    let mut view = view([node("a", 2)]);
    let mut running = Vec::new();
    start(&mut view, &mut running, "a", &whole(1), 0, 1);

    let plan = plan(&whole(1), 9, &view, &running).unwrap();

    assert!(plan.victims.is_empty());
    assert_eq!(plan.grants[0].node, name_of("a"));
}

#[test]
fn only_a_lower_priority_goes() {
    let (view, running) = full([5, 5, 5, 5]);

    let refused = plan(&whole(1), 5, &view, &running).unwrap_err();

    let NoPreemption::NotEnough { eligible: 0, not_lower: 4, fit: 0, .. } = refused else {
        panic!("{refused:?}")
    };
}

#[test]
fn a_class_that_is_never_preempted_and_a_young_session_stay() {
    let (view, mut running) = full([0, 0, 9, 9]);
    running[0].preemptible = false;
    running[1].min_run_over = false;

    let refused = plan(&whole(1), 5, &view, &running).unwrap_err();

    let NoPreemption::NotEnough { class: 1, young: 1, not_lower: 2, .. } = refused else {
        panic!("{refused:?}")
    };
}

#[test]
fn the_lowest_priority_goes_before_fewer_sessions_do() {
    let (view, running) = full([1, 1, 0, 2]);

    assert_eq!(victims(&plan(&whole(1), 5, &view, &running).unwrap()), ["session0002"]);
    // Two of priority 1 rather than one of 0 and one of 2.
    assert_eq!(
        victims(&plan(&whole(2), 5, &view, &running).unwrap()),
        ["session0000", "session0001"]
    );
}

#[test]
fn fewer_sessions_go_before_less_work_is_lost() {
    let mut view = view([node("a", 1), node("b", 1)]);
    let mut running = Vec::new();
    start(&mut view, &mut running, "a", &fgpu(5_000), 0, 1);
    start(&mut view, &mut running, "a", &fgpu(5_000), 0, 1);
    start(&mut view, &mut running, "b", &whole(1), 0, 500);

    assert_eq!(victims(&plan(&whole(1), 5, &view, &running).unwrap()), ["session0002"]);
}

#[test]
fn of_equals_the_one_that_loses_the_least_work_goes() {
    let (view, running) = full([0, 0, 0, 0]);

    assert_eq!(victims(&plan(&whole(1), 5, &view, &running).unwrap()), ["session0000"]);
}

#[test]
fn fewer_sessions_go_from_one_device_than_across_devices() {
    let mut view = view([node("a", 2)]);
    let mut running = Vec::new();
    for _ in 0..2 {
        start(&mut view, &mut running, "a", &fgpu(2_500), 0, 100);
    }
    for _ in 0..2 {
        start(&mut view, &mut running, "a", &fgpu(2_500), 0, 1);
    }
    // The first device is full of four small ones; the second holds one large one.
    start(&mut view, &mut running, "a", &fgpu(9_000), 0, 10);

    let plan = plan(&fgpu(8_000), 5, &view, &running).unwrap();

    assert_eq!(victims(&plan), ["session0004"]);
}

#[test]
fn a_victim_that_turns_out_unneeded_stays() {
    let mut view = view([node("a", 1)]);
    let mut running = Vec::new();
    start(&mut view, &mut running, "a", &fgpu(2_000), 0, 1);
    start(&mut view, &mut running, "a", &fgpu(8_000), 0, 5);

    let plan = plan(&fgpu(7_000), 5, &view, &running).unwrap();

    assert_eq!(victims(&plan), ["session0001"]);
}

#[test]
fn a_gang_gets_room_on_several_nodes_or_nobody_goes() {
    let (view, running) = full([0, 7, 1, 7]);
    let gang = |members| GangRequest { members: vec![whole(1); members], ..GangRequest::default() };

    let plan = plan_preemption(&gang(2), 5, &view, &running, NOW).unwrap();
    assert_eq!(victims(&plan), ["session0000", "session0002"]);
    let refused = plan_preemption(&gang(3), 5, &view, &running, NOW).unwrap_err();
    assert!(matches!(refused, NoPreemption::NotEnough { members: 3, fit: 2, .. }), "{refused}");
}

#[test]
fn a_gang_that_must_go_anyway_makes_room_on_all_its_nodes() {
    let mut view = view([node("a", 1), node("b", 1), node("c", 1)]);
    let mut running = Vec::new();
    for (name, minutes) in [("a", 10), ("b", 30), ("c", 10)] {
        start(&mut view, &mut running, name, &whole(1), 0, minutes);
    }
    // The sessions on a and c are one gang.
    let other = running.pop().unwrap();
    running[0].held.extend(other.held);
    let gang = GangRequest { members: vec![whole(1); 2], ..GangRequest::default() };

    let plan = plan_preemption(&gang, 5, &view, &running, NOW).unwrap();

    assert_eq!(victims(&plan), ["session0000"]);
    let nodes: Vec<&NodeName> = plan.grants.iter().map(|grant| &grant.node).collect();
    assert_eq!(nodes, [&name_of("a"), &name_of("c")]);
}

#[test]
fn what_no_node_could_hold_stops_nobody() {
    let (view, running) = full([0, 0, 0, 0]);

    let refused = plan(&whole(3), 5, &view, &running).unwrap_err();

    assert!(matches!(refused, NoPreemption::Never(_)), "{refused}");
}

fn may_go(session: &RunningSession, priority: i32) -> bool {
    session.priority < priority && session.preemptible && session.min_run_over
}

/// The view once those sessions have ended.
fn once_gone<'a>(view: &View, gone: impl Iterator<Item = &'a RunningSession>) -> View {
    let mut view = view.clone();
    gone.for_each(|session| end(&mut view, session));
    view
}

proptest! {
    #[test]
    fn victims_are_lower_allowed_and_needed_and_make_room(
        mut view in cluster(5),
        coming in proptest::collection::vec(coming(), 0..25),
        blocked in request(),
        priority in 0..5,
    ) {
        let running = crowd(&mut view, &coming);
        let answer = plan(&blocked, priority, &view, &running);

        prop_assert_eq!(&answer, &plan(&blocked, priority, &view, &running));
        let find = |view: &View| Placer::new(Policy::BestFit, 0).find(&blocked, view);
        let of_lower = |bound: i32| {
            once_gone(&view, running.iter().filter(|session| {
                may_go(session, priority) && session.priority < bound
            }))
        };
        match answer {
            Ok(plan) => {
                let chosen: Vec<&RunningSession> =
                    running.iter().filter(|session| plan.victims.contains(&session.id)).collect();
                prop_assert_eq!(chosen.len(), plan.victims.len());
                prop_assert!(chosen.iter().all(|session| may_go(session, priority)));
                prop_assert_eq!(chosen.is_empty(), find(&view).is_some());
                take(&mut once_gone(&view, chosen.iter().copied()), &blocked, &plan.grants[0]);
                let node = &plan.grants[0].node;
                for kept in &chosen {
                    let others = chosen.iter().copied().filter(|session| session.id != kept.id);
                    prop_assert!(!fits_on(&blocked, node, &once_gone(&view, others)), "{kept:?}");
                }
                if let Some(highest) = chosen.iter().map(|session| session.priority).max() {
                    prop_assert!(find(&of_lower(highest)).is_none(), "lower ones were enough");
                }
            }
            Err(NoPreemption::NotEnough { fit, members, .. }) => {
                prop_assert_eq!((fit, members), (0, 1));
                prop_assert!(find(&of_lower(priority)).is_none(), "it would have helped");
            }
            Err(NoPreemption::Never(_)) => prop_assert!(find(&of_lower(priority)).is_none()),
        }
    }

    #[test]
    fn a_gang_preempts_for_all_its_members_or_for_none(
        mut view in cluster(5),
        coming in proptest::collection::vec(coming(), 0..25),
        members in prop_oneof![
            (request(), 2_usize..5).prop_map(|(request, members)| vec![request; members]),
            proptest::collection::vec(request(), 2..4),
        ],
        priority in 0..5,
    ) {
        let running = crowd(&mut view, &coming);
        let gang = GangRequest { members, ..GangRequest::default() };
        let answer = plan_preemption(&gang, priority, &view, &running, NOW);

        prop_assert_eq!(&answer, &plan_preemption(&gang, priority, &view, &running, NOW));
        let Ok(plan) = answer else { return Ok(()) };
        prop_assert_eq!(plan.grants.len(), gang.members.len());
        let chosen: Vec<&RunningSession> =
            running.iter().filter(|session| plan.victims.contains(&session.id)).collect();
        prop_assert!(chosen.iter().all(|session| may_go(session, priority)));
        let mut after = once_gone(&view, chosen.iter().copied());
        for (request, grant) in gang.members.iter().zip(&plan.grants) {
            take(&mut after, request, grant);
        }
        let used = |session: &RunningSession| {
            session.held.iter().any(|(node, _)| plan.grants.iter().any(|g| g.node == *node))
        };
        prop_assert!(chosen.iter().all(|session| used(session)), "a victim nowhere near");
    }
}

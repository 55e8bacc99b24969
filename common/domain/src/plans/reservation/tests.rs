use super::*;
use crate::placement::{Placer, Policy, Request};
use crate::plans::testing::{fgpu, name_of, node, session_id, take, view, whole};

const NOW: UnixMillis = UnixMillis(1_000);
const PATIENCE: u64 = 500;

fn start(
    view: &mut View,
    running: &mut Vec<RunningSession>,
    node: &str,
    request: &Request,
    ends_at: Option<u64>,
) {
    let held = vec![give(view, node, request)];
    running.push(RunningSession {
        id: session_id(running.len()),
        held,
        priority: 0,
        started_at: UnixMillis(0),
        ends_at: ends_at.map(UnixMillis),
        preemptible: true,
        min_run_over: true,
        grace_ms: 0,
        stopping: false,
    });
}

fn give(view: &mut View, node: &str, request: &Request) -> (NodeName, Allocation) {
    let found = would_take(view, node, request);
    view.allocate(&found.0, &found.1).unwrap();
    found
}

fn would_take(view: &View, node: &str, request: &Request) -> (NodeName, Allocation) {
    let request = Request { node: Some(name_of(node)), ..request.clone() };
    let grant = Placer::new(Policy::BestFit, 0).find(&request, view).unwrap().grant;
    (grant.node.clone(), Allocation::of(&request, &grant))
}

fn head(at: usize, members: usize, request: &Request) -> Head {
    Head {
        session: session_id(at),
        gang: GangRequest { members: vec![request.clone(); members], ..GangRequest::default() },
        by_age: false,
        waiting_since: NOW,
        priority: 0,
        takes: None,
    }
}

/// Nodes `a` and `b` of four devices: on `a` two devices are busy until 2,000 and one until 3,000,
/// on `b` all until 5,000.
fn busy() -> (View, Vec<RunningSession>) {
    let mut view = view([node("a", 4), node("b", 4)]);
    let mut running = Vec::new();
    start(&mut view, &mut running, "a", &whole(2), Some(2_000));
    start(&mut view, &mut running, "a", &whole(1), Some(3_000));
    start(&mut view, &mut running, "b", &whole(4), Some(5_000));
    (view, running)
}

fn plan(heads: &[Head], view: &View, running: &[RunningSession]) -> Backfill {
    Backfill::plan(heads, view, running, NOW, PATIENCE)
}

fn until(ends_at: Option<u64>, session: &SessionId) -> Candidate<'_> {
    Candidate { session, priority: 0, ends_at: ends_at.map(UnixMillis) }
}

fn allows(
    backfill: &Backfill,
    allocations: &[(NodeName, Allocation)],
    ends_at: Option<u64>,
) -> Result<(), Delay> {
    backfill.allows(&until(ends_at, &session_id(77)), allocations)
}

fn promised(backfill: &Backfill) -> Vec<(Option<u64>, Vec<&str>)> {
    let all = backfill.reservations().map(|reservation| {
        let nodes = reservation.grants.iter().map(|grant| grant.node.as_str());
        (reservation.at.map(|at| at.0), nodes.collect())
    });
    all.collect()
}

#[test]
fn a_head_is_promised_the_earliest_time_at_which_it_fits() {
    let (view, running) = busy();

    assert_eq!(
        promised(&plan(&[head(9, 1, &whole(3))], &view, &running)),
        [(Some(2_000), vec!["a"])]
    );
    assert_eq!(
        promised(&plan(&[head(9, 1, &whole(4))], &view, &running)),
        [(Some(3_000), vec!["a"])]
    );
    let gang = plan(&[head(9, 2, &whole(4))], &view, &running);
    assert_eq!(promised(&gang), [(Some(5_000), vec!["a", "b"])]);
}

#[test]
fn what_is_past_its_end_is_expected_any_moment() {
    let (view, mut running) = busy();
    running[2].ends_at = Some(UnixMillis(7));

    let backfill = plan(&[head(9, 1, &whole(4))], &view, &running);

    assert_eq!(promised(&backfill), [(Some(NOW.0), vec!["b"])]);
}

#[test]
fn a_candidate_on_a_reserved_node_must_end_in_time_or_leave_room() {
    let (view, running) = busy();
    let backfill = plan(&[head(9, 1, &whole(3))], &view, &running);
    let one = |request: &Request| vec![would_take(&view, "a", request)];

    assert_eq!(allows(&backfill, &one(&whole(1)), Some(2_000)), Ok(()));
    let late = Delay::Promised { head: session_id(9), node: name_of("a"), at: UnixMillis(2_000) };
    assert_eq!(allows(&backfill, &one(&whole(1)), Some(2_001)), Err(late.clone()));
    assert_eq!(allows(&backfill, &one(&fgpu(100)), None), Err(late));
    let cpu = Request { gpu: None, ..whole(1) };
    assert_eq!(allows(&backfill, &one(&cpu), None), Ok(()));
}

#[test]
fn nodes_that_no_head_waits_for_are_open() {
    let (mut view, mut running) = busy();
    let ended = running.pop().unwrap();
    view.release(&ended.held[0].0, &ended.held[0].1).unwrap();
    start(&mut view, &mut running, "b", &whole(1), None);
    let backfill = plan(&[head(9, 1, &whole(4))], &view, &running);

    assert_eq!(promised(&backfill), [(Some(3_000), vec!["a"])]);
    assert_eq!(allows(&backfill, &[would_take(&view, "b", &whole(3))], None), Ok(()));
}

#[test]
fn candidates_do_not_count_on_the_same_room_twice() {
    let mut view = view([node("a", 4)]);
    let mut running = Vec::new();
    start(&mut view, &mut running, "a", &whole(2), Some(2_000));
    // At 2,000 all four are free and the head takes three: one device is left over.
    let mut backfill = plan(&[head(9, 1, &whole(3))], &view, &running);

    let first = give(&mut view, "a", &whole(1));
    assert_eq!(allows(&backfill, std::slice::from_ref(&first), None), Ok(()));
    assert!(backfill.took(&until(None, &session_id(77)), &[first]));
    let second = would_take(&view, "a", &whole(1));
    assert!(allows(&backfill, &[second], None).is_err());
}

#[test]
fn a_second_head_is_promised_what_the_first_leaves() {
    let (view, running) = busy();
    let heads = [head(8, 1, &whole(3)), head(9, 1, &whole(2))];

    let backfill = plan(&heads, &view, &running);

    // The fourth device of `a` is busy until 3,000, and then only one is left beside the head.
    assert_eq!(promised(&backfill), [(Some(2_000), vec!["a"]), (Some(5_000), vec!["b"])]);
}

/// Both nodes held by sessions nobody knows the end of, three on `a` and one on `b`.
fn endless() -> (View, Vec<RunningSession>) {
    let mut view = view([node("a", 4), node("b", 4)]);
    let mut running = Vec::new();
    for _ in 0..3 {
        start(&mut view, &mut running, "a", &whole(1), None);
    }
    start(&mut view, &mut running, "b", &whole(2), None);
    (view, running)
}

#[test]
fn without_known_ends_a_node_is_closed_only_once_patience_is_over() {
    let (view, running) = endless();
    let late = UnixMillis(NOW.0 + PATIENCE);
    let heads = [head(9, 1, &whole(4))];
    let one = [would_take(&view, "b", &whole(1))];
    let other = [would_take(&view, "a", &whole(1))];

    let patient = Backfill::plan(&heads, &view, &running, NOW, PATIENCE);
    assert_eq!(promised(&patient), [(None, vec![])]);
    assert_eq!(allows(&patient, &one, None), Ok(()));
    let closed = Backfill::plan(&heads, &view, &running, late, PATIENCE);
    assert_eq!(
        allows(&closed, &one, Some(late.0 + 1)),
        Err(Delay::Closed { head: session_id(9), node: name_of("b") })
    );
    assert_eq!(allows(&closed, &other, None), Ok(()));
}

#[test]
fn a_closed_node_still_takes_what_leaves_room_for_the_head() {
    let (view, running) = endless();
    let closed =
        Backfill::plan(&[head(9, 1, &whole(3))], &view, &running, UnixMillis(9_000), PATIENCE);

    assert_eq!(promised(&closed), [(None, vec!["b"])]);
    assert_eq!(allows(&closed, &[would_take(&view, "b", &whole(1))], None), Ok(()));
    assert!(allows(&closed, &[would_take(&view, "b", &whole(2))], None).is_err());
}

#[test]
fn a_head_that_waits_beside_a_closed_node_closes_another() {
    let (view, running) = endless();
    let heads = [head(8, 1, &whole(4)), head(9, 1, &whole(4))];

    let closed = Backfill::plan(&heads, &view, &running, UnixMillis(9_000), PATIENCE);

    assert_eq!(promised(&closed), [(None, vec!["b"]), (None, vec!["a"])]);
}

#[test]
fn what_no_node_could_hold_is_promised_nothing() {
    let (view, running) = busy();

    assert_eq!(plan(&[head(9, 1, &whole(5))], &view, &running).reservations().count(), 0);
}

#[test]
fn a_head_that_fits_now_is_promised_now() {
    let mut view = view([node("a", 1)]);
    let request = whole(1);
    let backfill = plan(&[head(9, 1, &request)], &view, &[]);

    let reservation = backfill.reservations().next().unwrap();
    assert_eq!(reservation.at, Some(NOW));
    take(&mut view, &request, &reservation.grants[0]);
}

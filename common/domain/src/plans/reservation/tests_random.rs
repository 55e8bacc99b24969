//! Random clusters, heads and candidates, played forward in time.

use super::*;
use crate::placement::{Placer, Policy, Request};
use crate::plans::gang::Spread;
use crate::plans::testing::{Coming, cluster, coming, crowd, end, request, session_id, take};
use proptest::prelude::*;

const NOW: UnixMillis = UnixMillis(1_000);

#[derive(Debug, Clone)]
struct Offered {
    request: Request,
    ends_at: Option<u64>,
}

fn candidate() -> impl Strategy<Value = Offered> {
    let end = proptest::option::weighted(0.7, 1_001_u64..2_500);
    (request(), end).prop_map(|(request, ends_at)| Offered { request, ends_at })
}

fn head() -> impl Strategy<Value = Head> {
    let members = prop_oneof![3 => Just(1_usize), 1 => 2_usize..4];
    let spread = prop_oneof![
        3 => Just(Spread::Pack),
        1 => Just(Spread::Nodes),
        1 => Just(Spread::Label("rack".to_owned())),
    ];
    let lie = (spread, any::<bool>());
    (request(), members, 0_u64..1_000, lie).prop_map(|(request, members, since, lie)| Head {
        session: session_id(900),
        gang: GangRequest {
            members: vec![request; members],
            spread: lie.0,
            topology: ["rack", "zone"].iter().filter(|_| lie.1).map(|&it| it.to_owned()).collect(),
            ..GangRequest::default()
        },
        by_age: false,
        waiting_since: UnixMillis(since),
        priority: 0,
        takes: None,
    })
}

/// Where a head lies if it starts now.
fn starts_now(view: &View, head: &Head) -> Option<Vec<Grant>> {
    crate::plans::gang::place_gang(&head.gang, view).ok().map(|placed| placed.grants)
}

/// Starts every candidate that has room and delays no head, as a manager would.
fn backfilled(
    view: &mut View,
    backfill: &mut Backfill,
    candidates: &[Offered],
) -> Vec<RunningSession> {
    let mut placer = Placer::new(Policy::BestFit, 0);
    let mut started = Vec::new();
    for (at, candidate) in candidates.iter().enumerate() {
        let Some(placement) = placer.find(&candidate.request, view) else { continue };
        let allocation = Allocation::of(&candidate.request, &placement.grant);
        let held = vec![(placement.grant.node.clone(), allocation)];
        let ends_at = candidate.ends_at.map(UnixMillis);
        let id = session_id(500 + at);
        let asking = Candidate { session: &id, priority: 0, ends_at };
        if backfill.allows(&asking, &held).is_err() {
            continue;
        }
        // What concerns no head need not be told.
        if backfill.concerns(&id, || held.iter().map(|(node, _)| node)) {
            assert!(backfill.took(&asking, &held));
        }
        take(view, &candidate.request, &placement.grant);
        started.push(RunningSession {
            id,
            held,
            priority: 0,
            started_at: NOW,
            ends_at,
            preemptible: false,
            min_run_over: false,
            grace_ms: 0,
            stopping: false,
        });
    }
    started
}

/// Ends what has ended by `at`.
fn pass(view: &mut View, running: &mut Vec<RunningSession>, at: UnixMillis) {
    running.retain(|session| {
        let over = session.ends_at.is_some_and(|end| end <= at);
        if over {
            end(view, session);
        }
        !over
    });
}

fn crowded() -> impl Strategy<Value = (View, Vec<Coming>)> {
    (cluster(5), proptest::collection::vec(coming(), 0..25))
}

proptest! {
    #[test]
    fn backfill_never_delays_a_promise(
        (mut view, coming) in crowded(),
        heads in proptest::collection::vec(head(), 1..4),
        candidates in proptest::collection::vec(candidate(), 0..30),
        patience in 0_u64..1_500,
    ) {
        let mut running = crowd(&mut view, &coming);
        let mut backfill = Backfill::plan(&heads, &view, &running, NOW, patience);
        let again = Backfill::plan(&heads, &view, &running, NOW, patience);
        prop_assert!(backfill.reservations().eq(again.reservations()), "same input, same plan");

        let first = backfill.held.first().map(|held| held.reservation.clone());
        running.extend(backfilled(&mut view, &mut backfill, &candidates));
        if let Some(first) = first.filter(|first| first.at.is_some()) {
            // Asked again, the first head is promised no later time than before.
            let later = Backfill::plan(&heads, &view, &running, NOW, patience);
            let later = later.reservations().next().unwrap().at;
            prop_assert!(later.is_some() && later <= first.at, "{later:?} after {first:?}");
        }

        // Heads start when they were promised to, in the order of time, and stay.
        let requests = |session: &Held| {
            let members = session.shadows.iter().flat_map(|shadow| &shadow.members);
            let mut members: Vec<_> = members.cloned().collect();
            members.sort_by_key(|(member, _)| *member);
            members
        };
        let mut timed: Vec<&Held> =
            backfill.held.iter().filter(|held| held.reservation.at.is_some()).collect();
        timed.sort_by_key(|held| held.reservation.at);
        for held in timed {
            pass(&mut view, &mut running, held.reservation.at.unwrap());
            for ((_, settled), grant) in requests(held).iter().zip(&held.reservation.grants) {
                // Refused by the view itself when anything of it is not free.
                view.allocate(&grant.node, &settled.allocation(grant)).unwrap();
            }
        }
    }

    #[test]
    fn a_promise_is_the_earliest_time_and_the_place_that_is_then_taken(
        (mut view, coming) in crowded(),
        head in head(),
    ) {
        let mut running = crowd(&mut view, &coming);
        let backfill = Backfill::plan(std::slice::from_ref(&head), &view, &running, NOW, 0);
        let Some(reservation) = backfill.reservations().next() else { return Ok(()) };

        let mut times: Vec<UnixMillis> =
            running.iter().filter_map(|session| session.ends_at).collect();
        times.push(NOW);
        times.sort_unstable();
        let mut first = None;
        for at in times {
            pass(&mut view, &mut running, at);
            if let Some(grants) = starts_now(&view, &head) {
                first = Some((at, grants));
                break;
            }
        }
        let nodes = |grants: &[Grant]| {
            grants.iter().map(|grant| grant.node.clone()).collect::<Vec<_>>()
        };
        prop_assert_eq!(reservation.at, first.as_ref().map(|(at, _)| *at));
        if let Some((_, grants)) = first.filter(|(_, grants)| grants.len() > 1) {
            prop_assert_eq!(nodes(&reservation.grants), nodes(&grants), "as it is to lie");
        }
    }

    #[test]
    fn a_head_without_a_known_time_starts_once_those_it_waits_for_have_ended(
        (mut view, coming) in crowded(),
        head in head(),
        rounds in proptest::collection::vec(proptest::collection::vec(candidate(), 0..6), 1..8),
    ) {
        let mut running = crowd(&mut view, &coming);
        running.iter_mut().for_each(|session| session.ends_at = None);
        let backfill = Backfill::plan(std::slice::from_ref(&head), &view, &running, NOW, 0);
        let Some(first) = backfill.reservations().next().cloned() else { return Ok(()) };
        if first.at.is_some() {
            return Ok(());
        }
        prop_assert_eq!(first.binding, !first.grants.is_empty());
        // Sessions on the nodes kept for it end one by one in any order; all the while others are
        // offered the room.
        let kept: Vec<NodeName> = first.grants.iter().map(|grant| grant.node.clone()).collect();
        let mut started = Vec::new();
        let mut rounds = rounds.into_iter().cycle();
        let mut backfill = backfill;
        for session in std::mem::take(&mut running) {
            started.extend(backfilled(&mut view, &mut backfill, &rounds.next().unwrap()));
            if session.held.iter().any(|(node, _)| kept.contains(node)) {
                end(&mut view, &session);
            }
        }
        // No candidate ever ended, and yet:
        let members = backfill.held[0].shadows.iter().flat_map(|shadow| &shadow.members);
        for (member, settled) in members {
            let grant = &backfill.held[0].reservation.grants[*member];
            view.allocate(&grant.node, &settled.allocation(grant)).unwrap();
        }
    }
}

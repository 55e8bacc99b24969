//! Places taken for the first in the queue whose class allows that.

use super::tests::*;
use super::tests_projects::*;
use super::tests_promises::*;
use super::*;
use crate::check::check;
use crate::class::OnPreempt;
use crate::session::{Members, Phase, ReportState, SessionSpec, StopReason};
use proptest::prelude::*;

const MINUTE: u64 = 60 * 1000;

fn of_class(class: &str, spec: SessionSpec) -> SessionSpec {
    SessionSpec { class: Some(class.parse().unwrap()), ..spec }
}

fn start_at(cluster: &mut Cluster, number: usize, spec: SessionSpec, now: UnixMillis) -> SessionId {
    let id = create_at(cluster, number, spec, Members::One, now);
    tell(cluster, &id, ReportState::Running { at: now, ports: Vec::new() }, now);
    id
}

fn put_class(cluster: &mut Cluster, class: PriorityClass) {
    cluster.apply(Input::PutClass { class: Box::new(class) }, T0).unwrap();
}

/// Sessions that were told to go to make room for others, with for whom.
fn leaving(cluster: &Cluster) -> Vec<(SessionId, SessionId)> {
    let told = cluster.sessions().values().filter(|session| {
        matches!(session.phase, Phase::Stopping { reason: StopReason::Preempted, .. })
    });
    told.map(|s| (s.id.clone(), s.stopped_for.clone().unwrap())).collect()
}

#[test]
fn a_session_of_a_class_that_may_takes_the_place_that_hurts_least() {
    let mut cluster = cluster_of(&[("n1", 1), ("n2", 1)]);
    let normal = start_at(&mut cluster, 1, spec(10_000), T0);
    let low = start_at(&mut cluster, 2, of_class("low", spec(10_000)), T0);
    let later = T0.plus(MINUTE);

    let high = create_at(&mut cluster, 3, of_class("high", spec(10_000)), Members::One, later);

    assert_eq!(leaving(&cluster), [(low.clone(), high.clone())]);
    tell(&mut cluster, &low, gone(143), later);
    assert_eq!([name(&cluster, &high), name(&cluster, &low)], ["scheduled", "pending"]);
    let why = &cluster.session(&low).unwrap().attempts[0].reason;
    assert!(why.contains(high.as_str()), "{why}");
    assert_eq!(name(&cluster, &normal), "running");
    check(&cluster).unwrap();
}

#[test]
fn the_own_priority_of_a_session_takes_no_places() {
    let mut cluster = cluster_of(&[("n1", 1)]);
    start_at(&mut cluster, 1, of_class("low", spec(10_000)), T0);
    create(&mut cluster, 2, SessionSpec { priority: 500, ..spec(10_000) });
    assert_eq!(leaving(&cluster), []);
    let sinks = SessionSpec { priority: -500, ..of_class("high", spec(10_000)) };
    create(&mut cluster, 3, sinks);
    assert_eq!(leaving(&cluster).len(), 1);
}

#[test]
fn a_place_is_held_for_the_minimum_of_its_class_and_taken_when_that_is_over() {
    let mut cluster = cluster_of(&[("n1", 1)]);
    let low = PriorityClass {
        preemptible: true,
        min_run_ms: 10 * MINUTE,
        grace_ms: Some(7_000),
        ..PriorityClass::new("low".parse().unwrap(), -100)
    };
    put_class(&mut cluster, low);
    let low = start_at(&mut cluster, 1, of_class("low", spec(10_000)), T0);
    create(&mut cluster, 2, of_class("high", spec(10_000)));
    assert_eq!(leaving(&cluster), []);

    let over = T0.plus(10 * MINUTE);
    assert_eq!(cluster.next_plan(), Some(over));
    cluster.tick(UnixMillis(over.0 - 1));
    cluster.schedule(UnixMillis(over.0 - 1));
    assert_eq!(leaving(&cluster), []);
    cluster.tick(over);
    cluster.schedule(over);
    assert_eq!(leaving(&cluster).len(), 1);
    assert_eq!(cluster.session(&low).unwrap().stop_grace_ms, Some(7_000));
}

#[test]
fn nobody_goes_for_one_that_starts_soon_anyway() {
    let mut cluster = cluster_of(&[("n1", 1)]);
    let ends = SessionSpec { time_limit_ms: Some(MINUTE), ..spec(10_000) };
    start_at(&mut cluster, 1, of_class("low", ends), T0);
    create(&mut cluster, 2, of_class("high", spec(10_000)));
    assert_eq!(leaving(&cluster), []);
}

#[test]
fn what_is_freed_for_one_is_not_taken_by_another() {
    let mut cluster = cluster_of(&[("n1", 2)]);
    let first = start_at(&mut cluster, 1, of_class("low", spec(10_000)), T0);
    let second = start_at(&mut cluster, 2, of_class("low", spec(10_000)), T0);
    let head = create(&mut cluster, 3, of_class("high", spec(20_000)));
    assert_eq!(leaving(&cluster).len(), 2);

    tell(&mut cluster, &first, gone(143), T0);
    let sneaks = create(&mut cluster, 4, spec(1_000));
    assert_eq!([name(&cluster, &sneaks), name(&cluster, &head)], ["pending", "pending"]);
    tell(&mut cluster, &second, gone(143), T0);
    assert_eq!(name(&cluster, &head), "scheduled");
}

#[test]
fn each_of_two_takes_places_of_its_own() {
    let mut cluster = cluster_of(&[("n1", 1), ("n2", 1), ("n3", 1)]);
    for n in 1..=3 {
        start_at(&mut cluster, n, of_class("low", spec(10_000)), T0);
    }
    create(&mut cluster, 4, of_class("high", spec(10_000)));
    assert_eq!(leaving(&cluster).len(), 1);
    create(&mut cluster, 5, of_class("high", spec(10_000)));
    let heads: Vec<SessionId> = leaving(&cluster).into_iter().map(|(_, head)| head).collect();
    assert_eq!(heads.len(), 2);
    assert_ne!(heads[0], heads[1]);
}

#[derive(Debug, Clone)]
struct Crowd {
    fgpu: u64,
    class: usize,
    members: u32,
    started: u64,
    limit: Option<u64>,
}

const CLASSES: [&str; 4] = ["low", "lower", "normal", "high"];

fn crowd() -> impl Strategy<Value = Vec<Crowd>> {
    let one =
        (1_u64..21, 0_usize..4, 1_u32..4, 0_u64..30, proptest::option::weighted(0.3, 1_u64..40));
    let one = one.prop_map(|(tenths, class, members, started, limit)| Crowd {
        fgpu: tenths * 1_000,
        class,
        members: if members == 3 { 2 } else { 1 },
        started: started * MINUTE,
        limit: limit.map(|minutes| minutes * MINUTE),
    });
    proptest::collection::vec(one, 0..14)
}

fn members(size: u32) -> Members {
    if size > 1 { gang(size) } else { Members::One }
}

/// Three nodes of two devices with a crowd on them, and the time at which all have come.
fn crowded(crowd: &[Crowd], requeue: bool) -> (Cluster, UnixMillis) {
    let mut cluster = cluster_of(&[("n1", 2), ("n2", 2), ("n3", 2)]);
    for (name, priority, min_run) in [("low", -100, 10), ("lower", -200, 0)] {
        let on_preempt = if requeue { OnPreempt::Requeue } else { OnPreempt::Stop };
        put_class(
            &mut cluster,
            PriorityClass {
                preemptible: true,
                min_run_ms: min_run * MINUTE,
                on_preempt,
                ..PriorityClass::new(name.parse().unwrap(), priority)
            },
        );
    }
    let mut crowd: Vec<(usize, &Crowd)> = crowd.iter().enumerate().collect();
    crowd.sort_by_key(|(_, one)| one.started);
    for (number, one) in crowd {
        let now = T0.plus(one.started);
        cluster.tick(now);
        let spec = SessionSpec { time_limit_ms: one.limit, ..spec(one.fgpu) };
        let spec = of_class(CLASSES[one.class], spec);
        create_at(&mut cluster, number, spec, members(one.members), now);
        run_all(&mut cluster, now);
    }
    (cluster, T0.plus(30 * MINUTE))
}

/// Agents start what was placed.
fn run_all(cluster: &mut Cluster, now: UnixMillis) {
    let placed = cluster.sessions().values();
    let placed = placed.filter(|session| matches!(session.phase, Phase::Scheduled { .. }));
    for id in placed.map(|session| session.id.clone()).collect::<Vec<_>>() {
        tell(cluster, &id, ReportState::Running { at: now, ports: Vec::new() }, now);
    }
}

/// Agents stop what is to stop, and start what comes then, until nothing more follows.
fn end_all(cluster: &mut Cluster, now: UnixMillis) {
    loop {
        cluster.tick(now);
        cluster.schedule(now);
        run_all(cluster, now);
        let stopping = cluster.sessions().values();
        let mut stopping = stopping.filter(|s| matches!(s.phase, Phase::Stopping { .. }));
        let Some(id) = stopping.next().map(|session| session.id.clone()) else { return };
        tell(cluster, &id, gone(143), now);
    }
}

/// What was told to go between `before` and now, and that it was allowed.
fn check_victims(
    before: &Cluster,
    after: &Cluster,
    now: UnixMillis,
) -> Result<usize, TestCaseError> {
    let known = leaving(before);
    let mut new = 0;
    for (id, head) in leaving(after).into_iter().filter(|victim| !known.contains(victim)) {
        new += 1;
        let was = before.session(&id).unwrap();
        let class = before.class_of(&was.spec);
        let head = after.session(&head).unwrap();
        let taker = after.class_of(&head.spec);
        prop_assert!(taker.may_preempt && class.preemptible, "{id} for {}", head.id);
        prop_assert!(class.priority < taker.priority, "only downwards");
        let Phase::Running { since, .. } = was.phase else {
            return Err(TestCaseError::fail(format!("{id} did not run")));
        };
        prop_assert!(now.since(since) >= class.min_run_ms, "{id} is young");
        for member in after.members_of(&id) {
            let gone = matches!(member.phase, Phase::Stopping { .. } | Phase::Ended(_));
            prop_assert!(gone, "a gang goes as a whole: {}", member.id);
        }
    }
    Ok(new)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn places_are_taken_only_downwards_and_once_and_the_one_they_are_for_starts(
        crowd in crowd(),
        fgpu in 1_u64..21,
        size in 1_u32..4,
        requeue in any::<bool>(),
        order in proptest::collection::vec(any::<usize>(), 30),
    ) {
        let (mut cluster, now) = crowded(&crowd, requeue);
        end_all(&mut cluster, now);
        let before = Cluster::restore(at_once(), cluster.records()).unwrap();
        let spec = SessionSpec { priority: 300, ..of_class("high", spec(fgpu * 1_000)) };
        let head = create_at(&mut cluster, 50, spec, members(size), now);
        check_victims(&before, &cluster, now)?;
        check(&cluster).unwrap();

        let mine: Vec<_> = leaving(&cluster).into_iter().filter(|(_, h)| *h == head).collect();
        // Asked again while they stop, nobody else goes for it.
        for ms in [1, 10, 100] {
            cluster.tick(now.plus(ms));
            cluster.schedule(now.plus(ms));
            let again: Vec<_> = leaving(&cluster).into_iter().filter(|(_, h)| *h == head).collect();
            prop_assert_eq!(&again, &mine);
        }
        if mine.is_empty() {
            return Ok(());
        }
        let mut left: Vec<SessionId> = mine.into_iter().map(|(id, _)| id).collect();
        for at in order {
            // A gang may give back more than was needed, part by part.
            if left.is_empty() || name(&cluster, &head) != "pending" {
                break;
            }
            let id = left.swap_remove(at % left.len());
            tell(&mut cluster, &id, gone(143), now.plus(100));
            check(&cluster).unwrap();
        }
        if left.is_empty() {
            prop_assert_eq!(name(&cluster, &head), "scheduled");
        }
    }
}

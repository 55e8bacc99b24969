//! Room kept for the first in the queue that find none.

use super::tests::*;
use super::tests_projects::*;
use super::*;
use crate::check::check;
use crate::session::{Members, Report, ReportState, SessionSpec, StopReason};
use proptest::prelude::*;

const HOUR: u64 = 60 * 60 * 1000;
const MINUTE: u64 = 60 * 1000;

pub(super) fn at_once() -> Settings {
    Settings { plan_pause_ms: 0, start_timeout_ms: MINUTE, ..settings() }
}

pub(super) fn cluster_of(nodes: &[(&str, u32)]) -> Cluster {
    let mut cluster = Cluster::new(at_once());
    for (node, devices) in nodes {
        register(&mut cluster, node, *devices, Vec::new());
    }
    cluster
}

fn limited(fgpu: u64, limit_ms: u64) -> SessionSpec {
    SessionSpec { time_limit_ms: Some(limit_ms), stop_grace_ms: 0, ..spec(fgpu) }
}

pub(super) fn create_at(
    cluster: &mut Cluster,
    number: usize,
    spec: SessionSpec,
    members: Members,
    now: UnixMillis,
) -> SessionId {
    let id = session_id(number);
    let (spec, owner) = (Box::new(spec), "me".parse().unwrap());
    let input = Input::Create { id: id.clone(), spec, owner, request_id: None, members };
    cluster.apply(input, now).unwrap();
    cluster.schedule(now);
    id
}

/// Reports how a session stands on the node it is on.
pub(super) fn tell(cluster: &mut Cluster, id: &SessionId, state: ReportState, now: UnixMillis) {
    let session = cluster.session(id).unwrap();
    let (generation, grant) = session.held().next().unwrap();
    let node = grant.node.clone();
    let report = Report { session: id.clone(), generation, state, grant: None };
    let input = Input::Reports { node, reports: vec![report], full: false };
    cluster.apply(input, now).unwrap();
    cluster.schedule(now);
}

fn starts(cluster: &mut Cluster, number: usize, spec: SessionSpec) {
    let id = create_at(cluster, number, spec, Members::One, T0);
    tell(cluster, &id, running(), T0);
}

pub(super) fn name(cluster: &Cluster, id: &SessionId) -> &'static str {
    phase(cluster, id).name()
}

/// Two nodes of two devices; one device of each is busy, for one hour and for two.
fn half_full() -> Cluster {
    let mut cluster = cluster_of(&[("n1", 2), ("n2", 2)]);
    starts(&mut cluster, 1, SessionSpec { node: Some(node_name("n1")), ..limited(10_000, HOUR) });
    let other = SessionSpec { node: Some(node_name("n2")), ..limited(10_000, 2 * HOUR) };
    starts(&mut cluster, 2, other);
    cluster
}

#[test]
fn a_large_session_that_finds_no_room_is_promised_when_and_where_it_will() {
    let mut cluster = half_full();
    let large = create(&mut cluster, 3, spec(20_000));

    let promised = cluster.explain(&large).unwrap().reservation.unwrap();

    assert_eq!(promised.at, Some(T0.plus(HOUR)));
    assert_eq!(promised.grants[0].node, node_name("n1"));
    check(&cluster).unwrap();
}

#[test]
fn what_comes_behind_starts_beside_the_promise_or_ends_before_it() {
    let mut cluster = half_full();
    create(&mut cluster, 3, spec(20_000));

    // Only the device of the other node is left to one that nobody knows the end of.
    let endless = create(&mut cluster, 4, spec(10_000));
    assert_eq!(phase(&cluster, &endless).grant().unwrap().node, node_name("n2"));
    let long = create(&mut cluster, 5, limited(5_000, HOUR));
    assert_eq!(name(&cluster, &long), "pending");
    let short = create(&mut cluster, 6, limited(5_000, HOUR / 2));
    assert_eq!(phase(&cluster, &short).grant().unwrap().node, node_name("n1"));
}

#[test]
fn a_session_of_a_higher_class_need_not_leave_room() {
    let mut cluster = half_full();
    create(&mut cluster, 3, spec(20_000));
    let high = SessionSpec {
        class: Some("high".parse().unwrap()),
        node: Some(node_name("n1")),
        ..spec(5_000)
    };

    let high = create(&mut cluster, 4, high);

    assert_eq!(name(&cluster, &high), "scheduled");
}

#[test]
fn the_promise_ends_with_the_one_it_was_made_to() {
    let mut cluster = half_full();
    let large = create(&mut cluster, 3, spec(20_000));
    let small = SessionSpec { node: Some(node_name("n1")), ..spec(5_000) };
    let small = create(&mut cluster, 4, small);
    assert_eq!(name(&cluster, &small), "pending");

    let stop = Input::Stop { id: large, reason: StopReason::Requested, grace_ms: None };
    cluster.apply(stop, T0).unwrap();
    cluster.schedule(T0);

    assert_eq!(name(&cluster, &small), "scheduled");
}

#[test]
fn without_known_ends_nodes_are_closed_once_patience_is_over() {
    let mut cluster = cluster_of(&[("n1", 2)]);
    starts(&mut cluster, 1, spec(10_000));
    let large = create(&mut cluster, 2, spec(20_000));
    let before = create(&mut cluster, 3, spec(5_000));
    assert_eq!(name(&cluster, &before), "scheduled", "it is patient");
    tell(&mut cluster, &before, running(), T0);

    let later = T0.plus(cluster.settings().reservation_patience_ms);
    assert_eq!(cluster.next_plan(), Some(later));
    cluster.tick(later);
    cluster.schedule(later);
    let behind = create_at(&mut cluster, 4, spec(5_000), Members::One, later);
    assert_eq!(name(&cluster, &behind), "pending");
    assert!(cluster.explain(&large).unwrap().reservation.unwrap().binding);

    tell(&mut cluster, &session_id(1), gone(0), later);
    tell(&mut cluster, &before, gone(0), later);
    assert_eq!(name(&cluster, &large), "scheduled");
}

#[test]
fn a_restored_cluster_keeps_the_same_promises_before_its_nodes_have_spoken() {
    let mut cluster = half_full();
    let large = create(&mut cluster, 3, spec(20_000));
    let small = SessionSpec { node: Some(node_name("n1")), ..spec(5_000) };
    let small = create(&mut cluster, 4, small);
    let promised = cluster.explain(&large).unwrap().reservation;
    // Nothing is planned anew while nodes come back.
    let slow = Settings { plan_pause_ms: 1000, ..at_once() };

    let mut restored = Cluster::restore(slow, cluster.records()).unwrap();
    restored.schedule(T0);
    for node in ["n1", "n2"] {
        let input = Input::Liveness { node: node_name(node), liveness: Liveness::Live };
        restored.apply(input, T0).unwrap();
        restored.schedule(T0);
    }

    assert_eq!(restored.explain(&large).unwrap().reservation, promised);
    assert_eq!(name(&restored, &small), "pending");
}

#[test]
fn planning_waits_for_its_pause_and_is_asked_for_as_a_deadline() {
    let mut cluster = Cluster::new(Settings { plan_pause_ms: 1000, ..at_once() });
    register(&mut cluster, "n1", 2, Vec::new());
    starts(&mut cluster, 1, limited(10_000, HOUR));
    let first = create(&mut cluster, 2, spec(20_000));
    assert!(cluster.explain(&first).unwrap().reservation.is_some());
    let second = create(&mut cluster, 3, spec(19_000));
    assert!(cluster.explain(&second).unwrap().reservation.is_none());

    let later = T0.plus(1000);
    assert_eq!(cluster.next_deadline(), Some(later));
    cluster.schedule(later);
    assert!(cluster.explain(&second).unwrap().reservation.is_some());
    assert!(cluster.next_deadline() > Some(later));
}

/// A cluster on which small sessions never cease to come.
struct Endless {
    cluster: Cluster,
    now: UnixMillis,
    limit_ms: Option<u64>,
    /// Small ones with when they end.
    running: Vec<(UnixMillis, SessionId)>,
    waiting: Vec<SessionId>,
    next: usize,
}

impl Endless {
    fn new(limit_ms: Option<u64>) -> Self {
        let cluster = cluster_of(&[("n1", 2), ("n2", 2)]);
        Self { cluster, now: T0, limit_ms, running: vec![], waiting: vec![], next: 100 }
    }

    /// Small ones come, and what started runs for `lasts`.
    fn fill(&mut self, lasts: u64) {
        while self.waiting.len() < 3 {
            let spec = SessionSpec { time_limit_ms: self.limit_ms, ..limited(5_000, 0) };
            self.next += 1;
            self.waiting.push(create_at(
                &mut self.cluster,
                self.next,
                spec,
                Members::One,
                self.now,
            ));
        }
        self.cluster.tick(self.now);
        self.cluster.schedule(self.now);
        let now = self.now;
        let (started, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|id| self.cluster.session(id).unwrap().phase.grant().is_some());
        self.waiting = waiting;
        for id in started {
            let state = ReportState::Running { at: now, ports: Vec::new() };
            tell(&mut self.cluster, &id, state, now);
            self.running.push((now.plus(lasts), id));
        }
    }

    fn end_one(&mut self) {
        self.running.sort();
        let (at, id) = self.running.remove(0);
        self.now = self.now.max(at);
        tell(&mut self.cluster, &id, gone(0), self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_large_starves_behind_endless_small_ones(
        lasts in proptest::collection::vec(1..HOUR, 400),
        limited in any::<bool>(),
        is_gang in any::<bool>(),
    ) {
        let mut world = Endless::new(limited.then_some(HOUR));
        for lasts in lasts.iter().take(20) {
            world.fill(*lasts);
        }
        let (large, members) =
            if is_gang { (spec(20_000), gang(2)) } else { (spec(20_000), Members::One) };
        let large = create_at(&mut world.cluster, 1, large, members, world.now);
        let since = world.now;
        for lasts in &lasts {
            if name(&world.cluster, &large) != "pending" {
                break;
            }
            world.end_one();
            world.fill(*lasts);
        }
        prop_assert!(name(&world.cluster, &large) != "pending", "it never started");
        let waited = world.now.since(since);
        // The small ones that came before it go first; then it is promised the time at which all
        // that run have ended, or has patience first where nobody knows that.
        let patience = if limited { 0 } else { world.cluster.settings().reservation_patience_ms };
        prop_assert!(waited <= patience + 2 * (HOUR + MINUTE), "{waited} ms");
        check(&world.cluster).unwrap();
    }
}

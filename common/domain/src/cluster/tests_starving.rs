//! Room kept for what has waited longest.

use super::starving::STARVES_AFTER;
use super::tests::*;
use super::tests_projects::*;
use super::tests_promises::{at_once, create_at, name, tell};
use super::*;
use crate::check::check;
use crate::node::Cordon;
use crate::project::{Project, Quota};
use crate::session::{Members, Phase, ReportState, SessionSpec};
use proptest::prelude::*;
use std::collections::BTreeMap;

const MINUTE: u64 = 60 * 1000;
const HOUR: u64 = 60 * MINUTE;
const WEEK: u64 = 7 * 24 * HOUR;
/// After which time age counts here.
const TOO_LONG: u64 = STARVES_AFTER * MINUTE;
/// Time runs in such steps.
const STEP: u64 = 5 * MINUTE;
/// What a session takes to start, and what it runs longer as time runs in steps.
const SLACK: u64 = MINUTE + 3 * STEP;

fn settings_of_minutes() -> Settings {
    Settings { reservation_patience_ms: MINUTE, ..at_once() }
}

/// A cluster that one project, `rich`, has held for a week.
struct World {
    cluster: Cluster,
    now: UnixMillis,
    created: usize,
    limited: bool,
    /// How long each session runs.
    runs: BTreeMap<SessionId, u64>,
    rich: Vec<SessionId>,
}

impl World {
    fn new(nodes: usize, limited: bool, weights: &[u32]) -> Self {
        let mut cluster = Cluster::new(settings_of_minutes());
        for node in 0..nodes {
            register(&mut cluster, &format!("n{node}"), 2, Vec::new());
        }
        for (name, weight) in ["rich", "a", "b", "c"].iter().zip(weights) {
            put_project(&mut cluster, Project { weight: *weight, ..project(name) });
        }
        let (created, runs, rich) = (0, BTreeMap::new(), Vec::new());
        let mut world = Self { cluster, now: T0, created, limited, runs, rich };
        for _ in 0..2 * nodes {
            let id = world.create("rich", 10_000, WEEK + HOUR, Members::One);
            world.rich.push(id);
        }
        world.tell_what_started();
        world.now = T0.plus(WEEK);
        world
    }

    fn create(&mut self, project: &str, fgpu: u64, run: u64, members: Members) -> SessionId {
        let time_limit_ms = self.limited.then_some(run);
        let spec = SessionSpec { time_limit_ms, stop_grace_ms: 0, ..spec(fgpu) };
        let id = session_id(self.created);
        self.created += 100;
        self.runs.insert(id.clone(), run);
        create_at(
            &mut self.cluster,
            self.created - 100,
            in_project(project, spec),
            members,
            self.now,
        )
    }

    fn end(&mut self, id: &SessionId) {
        tell(&mut self.cluster, id, gone(0), self.now);
        self.tell_what_started();
    }

    fn waiting(&self, project: &str) -> usize {
        let of = self.cluster.sessions().values();
        of.filter(|it| {
            it.spec.project().as_str() == project && name(&self.cluster, &it.id) == "pending"
        })
        .count()
    }

    fn such(&self, such: impl Fn(&SessionId, &Phase) -> bool) -> Vec<SessionId> {
        let sessions = self.cluster.sessions().values();
        sessions.filter(|it| such(&it.id, &it.phase)).map(|it| it.id.clone()).collect()
    }

    fn tell_what_started(&mut self) {
        for id in self.such(|_, phase| matches!(phase, Phase::Scheduled { .. })) {
            let state = ReportState::Running { at: self.now, ports: Vec::new() };
            tell(&mut self.cluster, &id, state, self.now);
        }
    }

    /// A step of time, after which what has run for as long as it shall is gone.
    fn step(&mut self) {
        self.tell_what_started();
        self.now = self.now.plus(STEP);
        let over = |id: &SessionId, phase: &Phase| match (phase, self.runs.get(id)) {
            (Phase::Running { since, .. }, Some(run)) => since.plus(*run) <= self.now,
            _ => false,
        };
        for id in self.such(over) {
            tell(&mut self.cluster, &id, gone(0), self.now);
        }
        self.cluster.tick(self.now);
        self.cluster.schedule(self.now);
        self.tell_what_started();
    }

    fn pass(&mut self, time: u64) {
        self.now = self.now.plus(time);
        self.cluster.tick(self.now);
        self.cluster.schedule(self.now);
    }

    /// For whom room is kept, and for whom of them for its age.
    fn rooms(&self) -> Vec<(SessionId, bool)> {
        let waiting = self.such(|_, phase| matches!(phase, Phase::Pending { .. }));
        let kept = waiting.iter().filter_map(|id| {
            let promise = self.cluster.explain(id).unwrap().reservation?;
            Some((id.clone(), promise.by_age))
        });
        kept.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// A gang of all there is, of a project that has had all there was for a week, against projects
    /// that always ask for more: it starts once it has waited for 144 times the patience and then for
    /// what runs by then, whatever their weights are and whether sessions say how long they take.
    #[test]
    fn a_project_far_above_its_share_starves_for_a_bounded_time(
        nodes in 1_usize..4,
        limited in any::<bool>(),
        weight in 1_u32..200,
        others in proptest::collection::vec(200_u32..10_000, 1..4),
        runs in proptest::collection::vec((10..120 * MINUTE, prop_oneof![Just(5_000_u64), Just(10_000)]), 8),
    ) {
        let weights: Vec<u32> = std::iter::once(weight).chain(others).collect();
        let mut world = World::new(nodes, limited, &weights);
        let members = gang(u32::try_from(nodes).unwrap());
        let large = world.create("rich", 20_000, HOUR, members);
        let longest = runs.iter().map(|(run, _)| *run).max().unwrap();
        let latest = world.now.plus(TOO_LONG + longest + SLACK);
        let others = ["a", "b", "c"].iter().zip(&weights[1..]).map(|(name, _)| *name);
        let others: Vec<&str> = others.collect();
        let mut drawn = 0;
        while name(&world.cluster, &large) == "pending" {
            prop_assert!(world.now <= latest, "still waits at {:?}", world.now);
            for other in &others {
                for _ in world.waiting(other)..6 {
                    let (run, fgpu) = runs[drawn % runs.len()];
                    world.create(other, fgpu, run, Members::One);
                    drawn += 1;
                }
            }
            for id in std::mem::take(&mut world.rich) {
                world.end(&id);
            }
            world.step();
        }
        check(&world.cluster).unwrap();
    }
}

/// Four devices: `a` runs on all of them, and both projects have waited for longer than too long,
/// `rich` the longest.
fn old_backlog() -> (World, Vec<SessionId>, Vec<SessionId>, Vec<SessionId>) {
    let mut world = World::new(2, false, &[100, 10_000]);
    let one = |world: &mut World, project| world.create(project, 10_000, WEEK, Members::One);
    let running: Vec<SessionId> = (0..4).map(|_| one(&mut world, "a")).collect();
    for id in std::mem::take(&mut world.rich) {
        world.end(&id);
    }
    let rich: Vec<SessionId> = (0..4).map(|_| one(&mut world, "rich")).collect();
    let others: Vec<SessionId> = (0..6).map(|_| one(&mut world, "a")).collect();
    world.pass(TOO_LONG);
    (world, running, rich, others)
}

#[test]
fn where_all_have_waited_too_long_one_room_goes_by_age_and_the_others_by_share() {
    let (world, _, rich, others) = old_backlog();

    let rooms = world.rooms();

    let by_age: Vec<&SessionId> = rooms.iter().filter(|room| room.1).map(|room| &room.0).collect();
    let by_share: Vec<&SessionId> =
        rooms.iter().filter(|room| !room.1).map(|room| &room.0).collect();
    assert_eq!(by_age, [&rich[0]]);
    assert_eq!(by_share, others[..3].iter().collect::<Vec<_>>());
    check(&world.cluster).unwrap();
}

#[test]
fn while_one_holds_its_place_by_age_all_that_is_given_back_goes_by_share() {
    let (mut world, running, rich, others) = old_backlog();
    let is = |world: &World, id: &SessionId| name(&world.cluster, id);
    world.end(&running[0]);
    assert_eq!((is(&world, &rich[0]), is(&world, &others[0])), ("running", "pending"));
    assert!(world.cluster.session(&rich[0]).unwrap().by_age);

    world.end(&running[1]);
    world.end(&running[2]);

    let started = [&others[0], &others[1], &rich[1]].map(|id| is(&world, id));
    assert_eq!(started, ["running", "running", "pending"]);
    assert!(!world.cluster.session(&others[0]).unwrap().by_age);
    assert!(world.rooms().iter().all(|(_, by_age)| !by_age));
    // With the one that was the oldest gone, it is the turn of the next.
    world.end(&rich[0]);
    assert_eq!((is(&world, &rich[1]), is(&world, &others[2])), ("running", "pending"));
    world.end(&others[0]);
    assert_eq!(is(&world, &others[2]), "running");
    check(&world.cluster).unwrap();
}

#[test]
fn a_place_by_age_that_is_held_for_too_long_keeps_no_other_from_one() {
    let (mut world, running, rich, _) = old_backlog();
    world.end(&running[0]);
    assert_eq!(world.cluster.next_plan(), Some(world.now.plus(TOO_LONG)));

    world.pass(TOO_LONG - 1);
    assert!(world.rooms().iter().all(|(_, by_age)| !by_age));
    world.pass(1);
    assert!(world.rooms().contains(&(rich[1].clone(), true)));
}

#[test]
fn who_waits_for_a_quota_or_for_hardware_that_is_away_leaves_the_room_to_the_next() {
    let mut world = World::new(2, false, &[100, 10_000]);
    let cordon = Input::Cordon { node: node_name("n1"), cordon: Cordon::Cordoned };
    world.cluster.apply(cordon, world.now).unwrap();
    let quota = Quota { sessions: Some(1), ..Quota::default() };
    put_project(&mut world.cluster, Project { quota, ..project("b") });
    let held = world.create("b", 10_000, WEEK, Members::One);
    world.end(&world.rich[0].clone());
    assert_eq!(name(&world.cluster, &held), "running");
    // It was promised a place on the other node while that was in service.
    let away = world.create("rich", 20_000, WEEK, gang(2));
    let over = world.create("b", 10_000, WEEK, Members::One);
    let oldest = world.create("rich", 10_000, WEEK, Members::One);
    for _ in 0..6 {
        world.create("a", 10_000, WEEK, Members::One);
    }

    world.pass(TOO_LONG);

    let rooms = world.rooms();
    let by_age: Vec<&SessionId> = rooms.iter().filter(|room| room.1).map(|room| &room.0).collect();
    assert_eq!(by_age, [&oldest]);
    assert!(rooms.iter().all(|(id, _)| *id != over && *id != away));
}

#[test]
fn time_held_back_until_a_start_time_is_no_waiting() {
    let mut world = World::new(1, false, &[100, 10_000]);
    let start_at = Some(world.now.plus(TOO_LONG));
    let later = SessionSpec { start_at, ..in_project("rich", spec(10_000)) };
    let later = create_at(&mut world.cluster, 900, later, Members::One, world.now);
    for _ in 0..6 {
        world.create("a", 10_000, WEEK, Members::One);
    }
    let by_age = |world: &World| -> Vec<SessionId> {
        world.rooms().into_iter().filter(|room| room.1).map(|room| room.0).collect()
    };

    world.pass(TOO_LONG);
    assert!(!by_age(&world).contains(&later) && !by_age(&world).is_empty());
    for id in by_age(&world).into_iter().chain(world.such(|id, _| *id != later)) {
        let stop =
            Input::Stop { id, reason: crate::session::StopReason::Requested, grace_ms: None };
        let _ = world.cluster.apply(stop, world.now);
    }
    world.pass(0);
    assert_eq!(by_age(&world), []);
}

#[test]
fn a_restored_cluster_keeps_room_for_the_same_oldest_wherever_it_is_in_the_order() {
    let (mut world, running, rich, _) = old_backlog();
    // More in front of it than a restored cluster tries.
    for kind in 0..300 {
        world.create("a", 10_000 - 100 * (kind % 50), WEEK, Members::One);
    }
    let rooms = world.rooms();
    assert!(rooms.contains(&(rich[0].clone(), true)));

    let mut restored = Cluster::restore(settings_of_minutes(), world.cluster.records()).unwrap();
    restored.schedule(world.now);
    for node in ["n0", "n1"] {
        let input = Input::Liveness { node: node_name(node), liveness: Liveness::Live };
        restored.apply(input, world.now).unwrap();
        restored.schedule(world.now);
    }
    let (cluster, created, rich_runs) = (restored, world.created, world.rich.clone());
    let mut again = World { cluster, created, rich: rich_runs, runs: BTreeMap::new(), ..world };
    assert_eq!(again.rooms(), rooms);

    again.end(&running[0]);
    assert_eq!(name(&again.cluster, &rich[0]), "running");
    check(&again.cluster).unwrap();
}

use super::tests::*;
use super::tests_projects::*;
use super::*;
use crate::check::check;
use crate::class::PriorityClass;
use crate::project::{Project, Quota};
use crate::session::{Condition, Dependency, Members, Phase, Report, SessionSpec};

const HOUR: u64 = 60 * 60 * 1000;

/// Creates a session of `project` and `user` without placing anything.
fn wait(cluster: &mut Cluster, number: usize, project: &str, user: &str, spec: SessionSpec) {
    let input = Input::Create {
        id: session_id(number),
        spec: Box::new(in_project(project, spec)),
        owner: user.parse().unwrap(),
        request_id: None,
        members: Members::One,
    };
    cluster.apply(input, T0).unwrap();
}

/// A cluster that is full but for nothing, with two projects.
fn two_projects(weight: u32) -> Cluster {
    let mut cluster = cluster(&[]);
    put_project(&mut cluster, Project { weight, ..project("a") });
    put_project(&mut cluster, project("b"));
    cluster
}

/// Which of the sessions 1 to `last` have a place.
fn placed(cluster: &Cluster, last: usize) -> Vec<usize> {
    (1..=last).filter(|n| phase(cluster, &session_id(*n)).name() != "pending").collect()
}

fn end(cluster: &mut Cluster, node: &str, number: usize) {
    report(cluster, node, &session_id(number), gone(0));
}

#[test]
fn projects_of_equal_weight_share_evenly_whoever_asked_first() {
    let mut cluster = two_projects(100);
    for n in 1..=4 {
        wait(&mut cluster, n, "a", "ann", spec(10_000));
        wait(&mut cluster, n + 4, "b", "bob", spec(10_000));
    }
    register(&mut cluster, "n1", 4, Vec::new());
    cluster.schedule(T0);
    assert_eq!(placed(&cluster, 8), [1, 2, 5, 6]);
}

#[test]
fn a_project_of_three_times_the_weight_gets_three_times_as_much() {
    let mut cluster = two_projects(300);
    for n in 1..=8 {
        wait(&mut cluster, n, "b", "bob", spec(10_000));
    }
    for n in 9..=16 {
        wait(&mut cluster, n, "a", "ann", spec(10_000));
    }
    register(&mut cluster, "n1", 8, Vec::new());
    cluster.schedule(T0);
    let placed = placed(&cluster, 16);
    assert_eq!(placed.iter().filter(|n| **n > 8).count(), 6, "{placed:?}");
}

#[test]
fn who_used_much_lately_waits_behind_who_did_not() {
    let mut cluster = two_projects(100);
    register(&mut cluster, "n1", 1, Vec::new());
    wait(&mut cluster, 1, "a", "ann", spec(10_000));
    cluster.schedule(T0);
    report(&mut cluster, "n1", &session_id(1), running());
    wait(&mut cluster, 2, "a", "ann", spec(10_000));
    wait(&mut cluster, 3, "b", "bob", spec(10_000));
    let gone = Report { session: session_id(1), generation: 1, state: gone(0), grant: None };
    let reports = Input::Reports { node: node_name("n1"), reports: vec![gone], full: false };
    cluster.apply(reports, T0.plus(HOUR)).unwrap();
    cluster.schedule(T0.plus(HOUR));
    assert_eq!(placed(&cluster, 3), [1, 3]);
}

#[test]
fn users_of_one_project_share_it_evenly() {
    let mut cluster = two_projects(100);
    for n in 1..=4 {
        wait(&mut cluster, n, "a", "ann", spec(10_000));
    }
    wait(&mut cluster, 5, "a", "bob", spec(10_000));
    register(&mut cluster, "n1", 2, Vec::new());
    cluster.schedule(T0);
    assert_eq!(placed(&cluster, 5), [1, 5]);
}

#[test]
fn a_class_counts_before_fair_share_and_follows_its_record() {
    let mut cluster = two_projects(100);
    let class = |name: &str| SessionSpec { class: Some(name.parse().unwrap()), ..spec(10_000) };
    wait(&mut cluster, 1, "a", "ann", class("low"));
    wait(&mut cluster, 2, "a", "ann", spec(10_000));
    wait(&mut cluster, 3, "a", "ann", class("high"));
    assert_eq!(cluster.explain(&session_id(1)).unwrap().queue_position, Some(3));

    let raised = PriorityClass::new("low".parse().unwrap(), 500);
    cluster.apply(Input::PutClass { class: Box::new(raised) }, T0).unwrap();
    register(&mut cluster, "n1", 1, Vec::new());
    cluster.schedule(T0);
    assert_eq!(placed(&cluster, 3), [1]);
    check(&cluster).unwrap();
}

#[test]
fn the_position_shown_is_the_order_in_which_sessions_start() {
    let mut cluster = two_projects(200);
    for n in 1..=4 {
        wait(&mut cluster, n, "a", if n == 4 { "amy" } else { "ann" }, spec(10_000));
        wait(&mut cluster, n + 4, "b", "bob", spec(10_000));
    }
    for turn in 1..=8 {
        let position = |n: &usize| cluster.explain(&session_id(*n)).unwrap().queue_position;
        let mut waiting: Vec<usize> =
            (1..=8).filter(|n| phase(&cluster, &session_id(*n)).name() == "pending").collect();
        waiting.sort_by_key(position);
        let positions: Vec<_> = waiting.iter().filter_map(position).collect();
        assert_eq!(positions, (1..=9 - turn).collect::<Vec<_>>());

        register(&mut cluster, &format!("n{turn}"), 1, Vec::new());
        cluster.schedule(T0);
        assert_eq!(phase(&cluster, &session_id(waiting[0])).name(), "scheduled", "turn {turn}");
    }
}

#[test]
fn a_dry_run_is_placed_behind_what_a_create_would_be_behind() {
    let mut cluster = two_projects(100);
    for n in 1..=3 {
        wait(&mut cluster, n, "a", "ann", spec(10_000));
    }
    let position = |cluster: &Cluster, project: &str, user: &str| {
        let spec = in_project(project, spec(10_000));
        cluster.dry_run(&spec, &user.parse().unwrap()).unwrap().queue_position
    };
    register(&mut cluster, "n1", 1, Vec::new());
    // Of equal shares the older goes first; then the other project has less.
    assert_eq!(position(&cluster, "b", "bob"), Some(2));
    assert_eq!(position(&cluster, "a", "ann"), Some(4));
    assert_eq!(position(&cluster, "a", "amy"), Some(2));
}

#[test]
fn sessions_that_cannot_start_cost_no_search_until_something_changes_for_them() {
    let mut cluster = two_projects(100);
    register(&mut cluster, "n1", 1, Vec::new());
    register(&mut cluster, "n2", 1, Vec::new());
    wait(&mut cluster, 1, "a", "ann", spec(10_000));
    wait(&mut cluster, 2, "a", "ann", spec(9_500));
    cluster.schedule(T0);
    for n in 3..=202 {
        let user = format!("user{}", n % 7);
        wait(&mut cluster, n, if n % 2 == 0 { "a" } else { "b" }, &user, spec(10_000));
    }
    cluster.schedule(T0);
    let searches = cluster.searches();

    // A small session comes and goes where none of the others fits.
    wait(&mut cluster, 300, "b", "bob", spec(500));
    cluster.schedule(T0);
    assert_eq!(phase(&cluster, &session_id(300)).name(), "scheduled");
    end(&mut cluster, "n2", 300);
    cluster.schedule(T0);
    assert_eq!(cluster.searches(), searches + 1);

    // A device is given back: one starts, and the next finds no room for all the rest.
    end(&mut cluster, "n1", 1);
    assert_eq!(cluster.searches(), searches + 3);
    check(&cluster).unwrap();
}

#[test]
fn sessions_that_wait_for_a_quota_cost_no_search() {
    let mut cluster = cluster(&[("n1", 4)]);
    let quota = Quota { sessions: Some(1), ..Quota::default() };
    put_project(&mut cluster, Project { quota, ..project("a") });
    for n in 1..=50 {
        wait(&mut cluster, n, "a", "ann", spec(1_000));
    }
    cluster.schedule(T0);
    wait(&mut cluster, 60, "default", "bob", spec(1_000));
    cluster.schedule(T0);
    assert_eq!(cluster.searches(), 2);
    let why = cluster.explain(&session_id(2)).unwrap();
    assert_eq!(why.quota.unwrap().kind, "sessions");
    assert!(why.summary.contains("quota of project a is 1"), "{}", why.summary);
}

fn after(number: usize, condition: Condition) -> SessionSpec {
    let after = vec![Dependency { session: session_id(number), condition }];
    SessionSpec { after, ..spec(0) }
}

#[test]
fn a_session_starts_once_those_it_follows_have_ended_as_it_asked() {
    let mut cluster = cluster(&[("n1", 1)]);
    create(&mut cluster, 1, spec(0));
    create(&mut cluster, 2, after(1, Condition::Ok));
    create(&mut cluster, 3, after(1, Condition::Any));
    let held = cluster.explain(&session_id(2)).unwrap();
    assert_eq!(held.hold, Some(Hold::After { sessions: vec![session_id(1)] }));
    assert_eq!(held.queue_position, None);

    end(&mut cluster, "n1", 1);
    assert_eq!(placed(&cluster, 3), [1, 2, 3]);
}

#[test]
fn when_one_to_follow_fails_so_do_its_followers_one_after_another() {
    let mut cluster = cluster(&[("n1", 1)]);
    create(&mut cluster, 1, spec(0));
    create(&mut cluster, 2, after(1, Condition::Ok));
    create(&mut cluster, 3, after(2, Condition::Ok));
    create(&mut cluster, 4, after(2, Condition::Any));
    report(&mut cluster, "n1", &session_id(1), gone(3));

    for n in [2, 3] {
        let Phase::Ended(ended) = phase(&cluster, &session_id(n)) else { panic!("{n}") };
        assert_eq!(ended.code, "DEPENDENCY_FAILED");
        assert!(ended.message.contains(&session_id(n - 1).to_string()), "{}", ended.message);
    }
    assert_eq!(phase(&cluster, &session_id(4)).name(), "scheduled");
    let refused = try_create(&mut cluster, 5, after(1, Condition::Ok), None).unwrap_err();
    assert_eq!(refused.code(), "DEPENDENCY_FAILED");
    let refused = try_create(&mut cluster, 5, after(77, Condition::Any), None).unwrap_err();
    assert_eq!(refused.code(), "DEPENDENCY_NOT_FOUND");
}

#[test]
fn one_to_follow_may_be_forgotten_once_it_has_ended() {
    let mut cluster = cluster(&[("n1", 1)]);
    create(&mut cluster, 1, spec(0));
    create(&mut cluster, 2, spec(0));
    let both = [1, 2].map(|n| Dependency { session: session_id(n), condition: Condition::Ok });
    create(&mut cluster, 3, SessionSpec { after: both.to_vec(), ..spec(0) });
    end(&mut cluster, "n1", 1);
    cluster.apply(Input::Remove { id: session_id(1) }, T0).unwrap();
    cluster.schedule(T0);
    assert_eq!(phase(&cluster, &session_id(3)).name(), "pending");
    end(&mut cluster, "n1", 2);
    assert_eq!(phase(&cluster, &session_id(3)).name(), "scheduled");
}

#[test]
fn a_session_waits_for_its_start_time() {
    let mut cluster = cluster(&[("n1", 1)]);
    let at = T0.plus(HOUR);
    let id = create(&mut cluster, 1, SessionSpec { start_at: Some(at), ..spec(0) });
    assert_eq!(phase(&cluster, &id).name(), "pending");
    assert_eq!(cluster.explain(&id).unwrap().hold, Some(Hold::Until { at }));
    assert_eq!(cluster.next_deadline(), Some(at));

    cluster.schedule(UnixMillis(at.0 - 1));
    assert_eq!(phase(&cluster, &id).name(), "pending");
    cluster.tick(at);
    cluster.schedule(at);
    assert_eq!(phase(&cluster, &id).name(), "scheduled");
}

#[test]
fn a_session_gives_up_after_its_pending_timeout_counted_from_its_start_time() {
    let mut cluster = cluster(&[("n1", 1)]);
    create(&mut cluster, 1, spec(10_000));
    let patient = SessionSpec { pending_timeout_ms: Some(5_000), ..spec(10_000) };
    let timed = SessionSpec { start_at: Some(T0.plus(HOUR)), ..patient.clone() };
    let first = create(&mut cluster, 2, patient);
    let second = create(&mut cluster, 3, timed);

    cluster.tick(T0.plus(5_000));
    let Phase::Ended(ended) = phase(&cluster, &first) else { panic!("it waits") };
    assert_eq!(ended.code, "PENDING_TIMEOUT");
    cluster.tick(T0.plus(HOUR));
    assert_eq!(phase(&cluster, &second).name(), "pending");
    cluster.tick(T0.plus(HOUR + 5_000));
    assert_eq!(phase(&cluster, &second).name(), "ended");
}

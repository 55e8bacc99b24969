use super::tests::*;
use super::tests_projects::*;
use super::*;
use crate::plans::would_fit::WouldFit;
use crate::project::Quota;
use crate::session::{Members, SessionSpec};

fn dry(cluster: &Cluster, spec: &SessionSpec, members: Members) -> Explanation {
    cluster.dry_run_members(spec, &"me".parse().unwrap(), members).unwrap()
}

#[test]
fn a_gang_that_all_hardware_could_not_hold_is_refused_with_numbers() {
    let mut cluster = cluster(&[("n1", 2), ("n2", 1)]);
    create(&mut cluster, 1, spec(10_000));
    cluster.take_changes();
    let refused = try_create_members(&mut cluster, 2, spec(10_000), None, gang(4)).unwrap_err();
    assert_eq!((refused.code(), refused.field()), ("UNSATISFIABLE", Some("--size")));
    assert_eq!(refused, Refusal::GangNeverFits { size: 4, most: 3 });
    assert!(cluster.take_changes().is_empty());

    // What does not fit now, but would when all is empty, waits.
    try_create_members(&mut cluster, 3, spec(10_000), None, gang(3)).unwrap();
    assert_eq!(cluster.queue_length(), 3);
    // Where nothing has registered, nodes may still come.
    let mut empty = Cluster::new(settings());
    try_create_members(&mut empty, 1, spec(10_000), None, gang(100)).unwrap();
}

#[test]
fn a_dry_run_of_a_gang_judges_all_of_it() {
    let cluster = cluster(&[("n1", 2), ("n2", 2)]);
    let all = dry(&cluster, &spec(10_000), gang(4));
    assert_eq!((all.members, all.starts.len()), (4, 4));
    assert_eq!(all.summary, "all 4 members would start now on nodes n1 (2), n2 (2)");
    assert_eq!(all.grant, all.starts.first().cloned());

    let mut busy = cluster;
    create(&mut busy, 1, spec(10_000));
    let waits = dry(&busy, &spec(10_000), gang(4));
    assert_eq!((waits.members, waits.starts.len(), waits.grant), (4, 0, None));
    assert!(waits.summary.contains("3 of 4 members find room"), "{}", waits.summary);
    let fewer = |change: &WouldFit| matches!(change, WouldFit::Members { members: 3, .. });
    assert!(waits.would_fit.iter().any(fewer), "{:?}", waits.would_fit);
}

#[test]
fn a_dry_run_of_an_array_says_how_many_start_and_what_keeps_the_others() {
    let mut cluster = cluster(&[("n1", 2)]);
    let part = dry(&cluster, &spec(5_000), array("1-10"));
    assert_eq!((part.members, part.starts.len()), (10, 4));
    let summary = &part.summary;
    assert!(summary.starts_with("4 of 10 members would start now on node n1 (4)"), "{summary}");
    assert!(part.refused.is_some() && part.would_fit.is_empty());

    let few = dry(&cluster, &spec(1_000), array("1-10%3"));
    assert_eq!(few.starts.len(), 3);
    assert!(few.summary.ends_with("the others wait: 3 may hold a place at once"), "{few:?}");
    let all = dry(&cluster, &spec(1_000), array("1-10"));
    assert_eq!(all.summary, "all 10 members would start now on node n1 (10)");

    let quota = Quota { sessions: Some(2), ..Quota::default() };
    put_project(&mut cluster, Project { quota, ..project("a") });
    let limited = dry(&cluster, &in_project("a", spec(1_000)), array("1-10"));
    assert_eq!(limited.starts.len(), 2);
    assert_eq!(limited.quota.unwrap().kind, "sessions");
}

#[test]
fn what_waits_is_told_what_would_start_instead() {
    let mut cluster = cluster(&[("n1", 2)]);
    let mut large = spec(1_000);
    large.resources.cpu = CpuMilli::cores(40);
    create(&mut cluster, 1, large.clone());
    let id = create(&mut cluster, 2, large);
    let why = cluster.explain(&id).unwrap();
    let node = node_name("n1");
    assert!(why.would_fit.contains(&WouldFit::Cpu { cpu: CpuMilli::cores(24), node }), "{why:?}");

    create(&mut cluster, 3, spec(6_000));
    create(&mut cluster, 4, spec(6_000));
    let id = create(&mut cluster, 5, spec(6_000));
    let texts = cluster.explain(&id).unwrap().would_fit;
    let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|text| text.contains("`--devices 2 --split even`")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("`--fgpu 4`")), "{texts:?}");
}

#[test]
fn what_a_session_waits_for_is_known_without_looking_anew() {
    let mut cluster = cluster(&[("n1", 1)]);
    let quota = Quota { sessions: Some(1), ..Quota::default() };
    put_project(&mut cluster, Project { quota, ..project("a") });
    create(&mut cluster, 5, in_project("a", spec(0)));
    let running = create(&mut cluster, 1, spec(10_000));
    let room = create(&mut cluster, 2, spec(10_000));
    let quota = create(&mut cluster, 3, in_project("a", SessionSpec { priority: 9, ..spec(0) }));
    let at = Some(T0.plus(1_000));
    let timed = create(&mut cluster, 4, SessionSpec { start_at: at, ..spec(0) });
    let searches = cluster.searches();

    assert_eq!(cluster.waits_for(&running), None);
    assert_eq!(cluster.waits_for(&room), Some(WaitsFor::Room));
    assert_eq!(cluster.waits_for(&quota), Some(WaitsFor::Quota));
    assert_eq!(cluster.waits_for(&timed), Some(WaitsFor::StartAt));
    assert_eq!(cluster.searches(), searches);
}

#[test]
fn what_only_finds_room_that_is_kept_for_another_is_told_for_whom() {
    let mut cluster = Cluster::new(Settings { plan_pause_ms: 0, ..settings() });
    register(&mut cluster, "n1", 2, Vec::new());
    let limited = SessionSpec { time_limit_ms: Some(1_000), ..spec(10_000) };
    let holds = create(&mut cluster, 1, limited);
    report(&mut cluster, "n1", &holds, running());
    let head = create(&mut cluster, 2, spec(20_000));
    let behind = create(&mut cluster, 3, spec(1_000));

    assert_eq!(cluster.waits_for(&head), Some(WaitsFor::Room));
    assert_eq!(cluster.waits_for(&behind), Some(WaitsFor::Reserved));
    let why = cluster.explain(&behind).unwrap();
    assert!(why.grant.is_none() && why.starts.is_empty() && why.kept.is_some(), "{why:?}");
    assert!(why.summary.contains(head.as_str()), "{}", why.summary);
    let waits = dry(&cluster, &spec(1_000), Members::One);
    assert!(waits.kept.is_some() && waits.starts.is_empty(), "{waits:?}");
}

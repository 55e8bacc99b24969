use super::tests::*;
use super::tests_projects::*;
use super::*;
use crate::check::check;
use crate::project::{Project, Quota};
use crate::session::{Members, Phase, Report, SessionSpec};
use crate::slice::{GpuAmount, GpuRequest};
use crate::units::Fgpu;
use std::num::NonZeroU32;

const HOUR: u64 = 60 * 60 * 1000;

fn fgpu_quota(whole: u64) -> Quota {
    Quota { fgpu: Some(Fgpu::whole(whole)), ..Quota::default() }
}

fn ml() -> ProjectName {
    "ml".parse().unwrap()
}

fn with_quota(quota: Quota) -> Cluster {
    let mut cluster = cluster(&[("a1", 4)]);
    put_project(&mut cluster, Project { quota, ..project("ml") });
    cluster
}

fn refused(cluster: &mut Cluster, spec: SessionSpec, members: Members) -> Refusal {
    try_create_members(cluster, 99, spec, None, members).unwrap_err()
}

#[test]
fn what_could_never_fit_its_quota_is_refused_with_the_numbers() {
    let mut cluster = with_quota(fgpu_quota(8));
    create(&mut cluster, 1, in_project("ml", spec(3_000)));

    let refusal = refused(&mut cluster, in_project("ml", spec(9_000)), Members::One);
    assert_eq!(refusal.code(), "QUOTA_EXCEEDED");
    assert_eq!(refusal.to_string(), "the fgpu quota of project ml is 8: 3 in use, 9 asked for");
    let gpus = GpuRequest::new(GpuAmount::Whole(NonZeroU32::MIN));
    let mut whole = in_project("ml", spec(0));
    whole.resources.gpu = Some(gpus);
    assert_eq!(refused(&mut cluster, whole, Members::One).code(), "QUOTA_EXCEEDED");
    let four = in_project("ml", spec(4_000));
    assert_eq!(refused(&mut cluster, four.clone(), gang(3)).code(), "QUOTA_EXCEEDED");
    assert!(try_create_members(&mut cluster, 5, four, None, array("1-3")).is_ok());
}

#[test]
fn what_would_exceed_its_quota_now_waits_and_starts_when_enough_is_given_back() {
    let mut cluster = with_quota(fgpu_quota(8));
    let first = create(&mut cluster, 1, in_project("ml", spec(5_000)));
    let second = create(&mut cluster, 2, in_project("ml", spec(5_000)));
    let other = create(&mut cluster, 3, spec(5_000));
    assert_eq!(phase(&cluster, &second).name(), "pending", "there is room, but no quota");
    assert_eq!(phase(&cluster, &other).name(), "scheduled");
    assert_eq!(cluster.held_by_project(&ml()).fgpu, Fgpu::whole(5));

    report(&mut cluster, "a1", &first, gone(0));
    assert_eq!(phase(&cluster, &second).name(), "scheduled");
    check(&cluster).unwrap();
}

#[test]
fn a_raised_quota_lets_waiting_sessions_start() {
    let mut cluster = with_quota(Quota { sessions: Some(1), ..Quota::default() });
    create(&mut cluster, 1, in_project("ml", spec(0)));
    let second = create(&mut cluster, 2, in_project("ml", spec(0)));
    assert_eq!(phase(&cluster, &second).name(), "pending");

    put_project(&mut cluster, project("ml"));
    cluster.schedule(T0);
    assert_eq!(phase(&cluster, &second).name(), "scheduled");
}

#[test]
fn more_waiting_sessions_than_the_quota_allows_are_refused() {
    let mut cluster = with_quota(Quota { pending: Some(2), ..Quota::default() });
    let refusal = refused(&mut cluster, in_project("ml", spec(0)), array("1-3"));
    assert_eq!(refusal.code(), "QUOTA_EXCEEDED");
    assert!(refusal.to_string().contains("pending quota"), "{refusal}");
    try_create_members(&mut cluster, 1, in_project("ml", spec(0)), None, array("1-2")).unwrap();
    assert_eq!(
        refused(&mut cluster, in_project("ml", spec(0)), Members::One).code(),
        "QUOTA_EXCEEDED"
    );
}

#[test]
fn a_user_has_the_quota_of_all_users_or_one_of_his_own() {
    let mut cluster = cluster(&[("a1", 4)]);
    let mut shared = Project { user_quota: fgpu_quota(2), ..project("ml") };
    put_project(&mut cluster, shared.clone());
    let three = in_project("ml", spec(3_000));
    let refusal = refused(&mut cluster, three.clone(), Members::One);
    assert!(refusal.to_string().contains("user me in project ml"), "{refusal}");

    shared.users.insert("me".parse().unwrap(), fgpu_quota(5));
    put_project(&mut cluster, shared);
    let id = create(&mut cluster, 1, three);
    assert_eq!(phase(&cluster, &id).name(), "scheduled");
}

#[test]
fn what_a_silent_node_may_still_run_counts_against_the_quota() {
    use crate::session::{OnDisconnect, OnLost};
    let mut cluster = with_quota(fgpu_quota(8));
    let fenced =
        SessionSpec { on_disconnect: OnDisconnect::Stop, on_lost: OnLost::Fail, ..spec(5_000) };
    let lost = create(&mut cluster, 1, in_project("ml", fenced));
    report(&mut cluster, "a1", &lost, running());
    register(&mut cluster, "b2", 1, Vec::new());
    liveness(&mut cluster, "a1", Liveness::Lost);
    assert!(matches!(phase(&cluster, &lost), Phase::Ended(_)));

    let next = create(&mut cluster, 2, in_project("ml", spec(5_000)));
    assert_eq!(phase(&cluster, &next).name(), "pending");
    report_generation(&mut cluster, "a1", &lost, 1, gone(137));
    assert_eq!(phase(&cluster, &next).name(), "scheduled");
}

#[test]
fn history_is_written_at_most_once_in_five_minutes_and_read_back_exactly() {
    let mut cluster = cluster(&[("a1", 4)]);
    put_project(&mut cluster, project("ml"));
    let first = create(&mut cluster, 1, in_project("ml", spec(5_000)));
    create(&mut cluster, 2, in_project("ml", spec(1_000)));
    report(&mut cluster, "a1", &first, running());
    cluster.take_changes();
    let mut writes = 0;
    for minute in 1..=60 {
        cluster.tick(T0.plus(minute * 60_000));
        let puts = cluster.take_changes().puts;
        writes += puts.iter().filter(|record| matches!(record, Record::Usage(_))).count();
    }
    assert_eq!(writes, 12);
    let generation = cluster.session(&first).unwrap().generation;
    let ended = Report { session: first, generation, state: gone(0), grant: None };
    let reports = Input::Reports { node: node_name("a1"), reports: vec![ended], full: false };
    cluster.apply(reports, T0.plus(HOUR + 90_000)).unwrap();

    let mut restored = Cluster::restore(settings(), cluster.records()).unwrap();
    assert_eq!(restored.index.accounts.projects, cluster.index.accounts.projects);
    let later = T0.plus(3 * HOUR);
    cluster.tick(later);
    restored.tick(later);
    assert_eq!(restored.usage(), cluster.usage());
    assert_eq!(restored.share_of_project(&ml()), cluster.share_of_project(&ml()));
}

#[test]
fn use_counts_half_as_much_after_seven_days() {
    let mut cluster = cluster(&[("a1", 4)]);
    put_project(&mut cluster, project("ml"));
    let id = create(&mut cluster, 1, in_project("ml", spec(10_000)));
    let gone = Report { session: id, generation: 1, state: gone(0), grant: None };
    let reports = Input::Reports { node: node_name("a1"), reports: vec![gone], full: false };
    let week = 7 * 24 * HOUR;
    let start = UnixMillis(T0.0);
    cluster.apply(reports, start.plus(week)).unwrap();
    // A quarter of the cluster for one half-life, of which half is forgotten.
    let at_end = cluster.share_of_project(&ml());
    assert!((124_900..=125_100).contains(&at_end), "{at_end}");
    cluster.tick(start.plus(2 * week));
    let later = cluster.share_of_project(&ml());
    assert!(later.abs_diff(at_end / 2) <= 2, "{later}");
}

#[test]
fn a_project_that_is_removed_leaves_no_history() {
    let mut cluster = cluster(&[("a1", 4)]);
    put_project(&mut cluster, project("ml"));
    let id = create(&mut cluster, 1, in_project("ml", spec(10_000)));
    cluster.tick(T0.plus(HOUR));
    assert_eq!(cluster.usage().len(), 1);
    report(&mut cluster, "a1", &id, gone(0));
    cluster.take_changes();

    cluster.apply(Input::RemoveProject { name: ml() }, T0.plus(HOUR)).unwrap();
    assert_eq!((cluster.usage().len(), cluster.share_of_project(&ml())), (0, 0));
    let changes = cluster.take_changes();
    assert_eq!(changes.deletes.len(), 2, "{:?}", changes.deletes);
    let accounts = cluster.index.accounts.projects.len();
    cluster.rollback(changes);
    assert_eq!(cluster.index.accounts.projects.len(), accounts + 1);
    assert!(cluster.share_of_project(&ml()) > 0);
}

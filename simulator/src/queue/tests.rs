use super::job::{Job, Standing};
use super::meter::jain;
use super::*;
use crate::generate::{Replay, Source, Timed};
use fgpu_domain::check::check;

const HEAD: &str = r#"{"kind":"replay","version":2,"name":"made"}
{"kind":"node","name":"a","cpu_milli":64000,"memory_mib":65536,"num_gpu":2,"gpu_model":"A"}
"#;

/// A line for a pod that takes `gpus` whole GPUs.
fn pod(name: &str, gpus: u32, more: &str) -> String {
    let milli = if gpus > 0 { 1000 } else { 0 };
    format!(
        r#"{{"kind":"pod","name":"{name}","cpu_milli":1000,"memory_mib":1024,"num_gpu":{gpus},"gpu_milli":{milli},{more}}}"#
    )
}

fn world(text: &str, options: QueueOptions) -> Result<World, SimulateError> {
    let mut reader = Reader::new(text.as_bytes());
    reader.header_line()?;
    read(options, &mut reader)
}

fn ran(text: &str) -> World {
    let mut world = world(text, QueueOptions::default()).unwrap();
    while world.step().unwrap() {}
    world
}

fn of(lines: &[String]) -> String {
    format!("{HEAD}{}\n", lines.join("\n"))
}

fn report_of(text: &str, options: QueueOptions) -> Result<QueueReport, SimulateError> {
    let mut reader = Reader::new(text.as_bytes());
    let header = reader.header_line()?;
    simulate(options, header.name, &mut reader, &mut |_, _| {})
}

fn times(world: &World) -> Vec<(Option<u64>, Option<u64>)> {
    world.jobs.iter().map(|job| (job.started_ms, job.ended_ms)).collect()
}

const PLAIN: QueueOptions =
    QueueOptions { policy: Policy::BestFit, seed: 0, plain: true, no_reservations: false };

fn generated(timed: Timed) -> String {
    let source = Source { nodes: Some(8), list_seed: 3, ..Source::default() };
    let mut bytes = Vec::new();
    Replay::timed(&source, &timed).unwrap().write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn timed(load_milli: u64) -> Timed {
    Timed {
        seed: 5,
        jobs: 300,
        load_milli,
        median_ms: 600_000,
        projects: 3,
        high_share: 10,
        low_share: 20,
        gang_share: 0,
        time_limits: true,
    }
}

#[test]
fn waits_of_a_small_schedule_are_those_worked_out_by_hand() {
    let world = ran(&of(&[
        pod("one", 1, r#""arrival_s":0,"duration_s":10"#),
        pod("both", 2, r#""arrival_s":1,"duration_s":5"#),
        pod("urgent", 2, r#""arrival_s":2,"duration_s":1,"priority":5"#),
    ]));

    // `urgent` overtakes `both`, and each needs what `one` holds.
    let expected =
        [(Some(0), Some(10_000)), (Some(11_000), Some(16_000)), (Some(10_000), Some(11_000))];
    assert_eq!(times(&world), expected);
    let report = report::report(&world, String::new(), (String::new(), 0, false));
    assert_eq!(report.wait.all, Distribution::of(vec![0, 8_000, 10_000]));
    assert_eq!((report.makespan_ms, report.arriving_ms), (16_000, 2_000));
    // One GPU for ten seconds and two for six, of two for sixteen.
    assert!((report.whole_time.gpu_pct - 100.0 * 22.0 / 32.0).abs() < 1e-9);
    // One waits from 1 to 2, two to 10, one to 11: over sixteen seconds.
    assert!((report.whole_time.queue - 18.0 / 16.0).abs() < 1e-9);
}

#[test]
fn a_time_limit_ends_what_runs_longer_and_lets_the_next_begin() {
    let world = ran(&of(&[
        pod("long", 2, r#""arrival_s":0,"duration_s":10,"time_limit_s":4"#),
        pod("next", 2, r#""arrival_s":1,"duration_s":2,"time_limit_s":2"#),
    ]));

    assert_eq!(times(&world), [(Some(0), Some(4_000)), (Some(4_000), Some(6_000))]);
    let standings: Vec<Standing> = world.jobs.iter().map(Job::standing).collect();
    // One that ends at its very limit has had its time.
    assert_eq!(standings, [Standing::Stopped, Standing::Completed]);
}

#[test]
fn what_never_ends_runs_on_and_who_waits_for_it_is_counted_as_waiting() {
    let world = ran(&of(&[
        pod("service", 2, r#""arrival_s":0"#),
        pod("behind", 1, r#""arrival_s":3,"duration_s":1"#),
        pod("huge", 3, r#""arrival_s":3,"duration_s":1"#),
        pod("cpu", 0, r#""arrival_s":5,"duration_s":7"#),
    ]));

    let report = report::report(&world, String::new(), (String::new(), 0, false));
    let counts =
        Counts { arrived: 4, completed: 1, stopped: 0, refused: 1, waiting: 1, running: 1 };
    assert_eq!(report.pods, counts);
    assert_eq!(report.refused_by_code, [("UNSATISFIABLE".to_owned(), 1)].into());
    assert_eq!(report.wait.by_kind.keys().collect::<Vec<_>>(), ["cpu_only", "multi_gpu"]);
    assert_eq!(report.makespan_ms, 12_000);
}

#[test]
fn nothing_is_over_committed_nothing_is_lost_and_what_is_measured_is_what_runs() {
    for load in [700, 900, 1_100] {
        for policy in Policy::ALL {
            let options = QueueOptions { policy, ..PLAIN };
            let mut world = world(&generated(timed(load)), options).unwrap();
            let mut steps = 0_u32;
            while world.step().unwrap() {
                check(&world.cluster).unwrap();
                let running = |job: &&Job| job.standing() == Standing::Running;
                let held: u64 =
                    world.jobs.iter().filter(running).map(|job| job.line.gpu_demand()).sum();
                let point = world.meter.series.last().unwrap();
                assert_eq!((point.gpu_milli, point.at_ms), (held, world.now));
                let waiting = usize::try_from(point.waiting).unwrap();
                assert_eq!(waiting, world.cluster.queue_length());
                steps += 1;
            }
            assert!(steps > 300, "{steps}");
            let report = report::report(&world, String::new(), (String::new(), 0, true));
            let pods = report.pods;
            assert_eq!((pods.arrived, pods.waiting, pods.running), (300, 0, 0));
            assert_eq!(pods.completed + pods.stopped + pods.refused, 300);
            assert_eq!(world.cluster.sessions().len(), 0);
            assert_eq!(world.meter.series.last().unwrap().gpu_milli, 0);
        }
    }
}

#[test]
fn more_load_means_more_use_and_longer_waits() {
    let reports = [300, 1_500].map(|load| report_of(&generated(timed(load)), PLAIN).unwrap());
    let [calm, full] = reports;
    assert!(calm.while_arriving.gpu_pct < full.while_arriving.gpu_pct);
    assert!(calm.wait.all.mean_ms < full.wait.all.mean_ms);
}

#[test]
fn the_same_replay_gives_the_same_report() {
    let text = generated(timed(900));
    let reports = [(); 2].map(|()| report_of(&text, PLAIN).unwrap());
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0].plot(), reports[1].plot());
}

#[test]
fn waits_and_shares_are_told_by_class_and_project() {
    let report = report_of(&generated(timed(1_100)), PLAIN).unwrap();
    assert_eq!(report.wait.by_class.keys().collect::<Vec<_>>(), ["high", "low", "normal"]);
    assert_eq!(report.wait.by_project.len(), 3);
    let shares: f64 = report.fairness.projects.values().map(|share| share.share_pct).sum();
    assert!((shares - 100.0).abs() < 1e-6);
    assert!(report.fairness.jain > 0.3 && report.fairness.jain <= 1.0);
    let table = report.table();
    for part in ["class high", "project project-3", "Jain's index", "plain queue"] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
}

#[test]
fn parts_of_the_time_have_the_means_of_the_whole() {
    let report = report_of(&generated(timed(900)), PLAIN).unwrap();
    let count = report.series.len() as f64;
    let mean = report.series.iter().map(|bin| bin.gpu_pct).sum::<f64>() / count;
    // The last part may be shorter than the others.
    assert!((mean - report.whole_time.gpu_pct).abs() < 1.0, "{mean}");
    assert!((400.0..=402.0).contains(&count));
}

#[test]
fn jains_index_is_one_where_all_have_alike_and_falls_to_one_part() {
    for (shares, index) in
        [(&[2.0, 2.0, 2.0][..], 1.0), (&[1.0, 0.0], 0.5), (&[0.0, 0.0], 1.0), (&[1.0, 3.0], 0.8)]
    {
        assert!((jain(shares) - index).abs() < 1e-12, "{shares:?}");
    }
}

#[test]
fn percentiles_are_values_that_occurred() {
    let distribution = Distribution::of((1..=200).collect());
    let found = (distribution.p50_ms, distribution.p95_ms, distribution.p99_ms);
    assert_eq!(found, (100, 190, 198));
    assert_eq!((distribution.count, distribution.mean_ms, distribution.max_ms), (200, 100, 200));
    assert_eq!(Distribution::of(Vec::new()), Distribution::default());
}

#[test]
fn a_gang_starts_together_and_the_plain_queue_knows_no_quota_and_no_class() {
    let gang = ran(&of(&[
        pod("first", 1, r#""arrival_s":0,"duration_s":5"#),
        pod("gang", 1, r#""arrival_s":1,"duration_s":2,"size":2"#),
    ]));
    assert_eq!(times(&gang), [(Some(0), Some(5_000)), (Some(5_000), Some(7_000))]);

    let one = r#"{"kind":"project","name":"one","quota":{"gpu_milli":1000}}"#.to_owned();
    let run = r#""arrival_s":0,"duration_s":2,"project":"one","class":"high""#;
    let text = of(&[one, pod("a", 1, run), pod("b", 1, run)]);
    let waits = |options| {
        let mut world = world(&text, options).unwrap();
        while world.step().unwrap() {}
        times(&world).into_iter().map(|(started, _)| started).collect::<Vec<_>>()
    };
    assert_eq!(waits(QueueOptions::default()), [Some(0), Some(2_000)]);
    assert_eq!(waits(PLAIN), [Some(0), Some(0)]);
}

#[test]
fn a_user_the_domain_does_not_know_how_to_write_is_named_with_the_pod() {
    let text = of(&[pod("p", 1, r#""user":"two words""#)]);
    let refused = report_of(&text, QueueOptions::default()).unwrap_err();
    assert!(matches!(&refused, SimulateError::PodName { pod, .. } if pod == "p"), "{refused}");
}

/// Every element is closed in order, and no text or attribute holds what must be written otherwise.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains('>'), "{text}");
        for entity in text.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "quot;"];
            assert!(known.iter().any(|name| entity.starts_with(name)), "{text}");
        }
        let end = at + rest[at..].find('>').unwrap();
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
        if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}

#[test]
fn a_plot_is_well_formed_whatever_the_names_and_however_little_happened() {
    let named = generated(timed(1_100)).replace("catalogue", "a < b & \\\"c\\\"");
    let svg = report_of(&named, PLAIN).unwrap().plot();
    assert_well_formed(&svg);
    for part in ["a &lt; b &amp; &quot;c&quot;", "shared gpu", "last arrival", "Pods that wait"] {
        assert!(svg.contains(part), "{part}");
    }
    assert_well_formed(&report_of(HEAD, PLAIN).unwrap().plot());
    let one = of(&[pod("p", 1, r#""arrival_s":0"#)]);
    assert_well_formed(&report_of(&one, PLAIN).unwrap().plot());
}

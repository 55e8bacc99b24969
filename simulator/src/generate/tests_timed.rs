use super::*;
use crate::replay::{Line, Reader};

const TIMED: Timed = Timed {
    seed: 42,
    jobs: 2_000,
    load_milli: 900,
    median_ms: 600_000,
    projects: 4,
    high_share: 10,
    low_share: 20,
    gang_share: 25,
    time_limits: true,
};

fn source() -> Source {
    Source { nodes: Some(12), list_seed: 1, ..Source::default() }
}

fn jobs(timed: Timed) -> Vec<JobLine> {
    Replay::timed(&source(), &timed).unwrap().jobs
}

fn text(timed: Timed) -> String {
    let mut bytes = Vec::new();
    Replay::timed(&source(), &timed).unwrap().write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_work_that_comes_is_the_load_that_is_wanted() {
    for load_milli in [700, 900, 1100] {
        let replay = Replay::timed(&source(), &Timed { load_milli, ..TIMED }).unwrap();
        let work: u64 =
            replay.jobs.iter().map(|job| job.gpu_demand() * job.held_ms().unwrap()).sum();
        let span = replay.jobs.last().unwrap().arrival_ms;
        let load = 1000 * (work / replay.header.gpu_capacity_milli) / span;
        // The last to come is one gap before the end of the span.
        assert!((load_milli..load_milli + load_milli / 50).contains(&load), "{load}");
    }
}

#[test]
fn classes_gangs_limits_and_projects_are_as_often_as_they_are_wanted() {
    let jobs = jobs(TIMED);
    let share = |counts: &dyn Fn(&&JobLine) -> bool, of: &dyn Fn(&&JobLine) -> bool| {
        let of: Vec<&JobLine> = jobs.iter().filter(of).collect();
        let all = of.len();
        100.0 * of.into_iter().filter(counts).count() as f64 / all as f64
    };
    let every = |_: &&JobLine| true;
    let class = |name: &'static str| move |job: &&JobLine| job.class.as_deref() == Some(name);
    let whole = |job: &&JobLine| job.pod.gpu_milli == 1000;
    let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 3.0, "{found} {wanted}");
    close(share(&class("high"), &every), 10.0);
    close(share(&class("low"), &every), 20.0);
    close(share(&|job| job.size > 1, &whole), 25.0);
    close(share(&|job| job.project.as_deref() == Some("project-3"), &every), 25.0);
    close(share(&|job| job.time_limit_ms < job.duration_ms, &every), 3.0);
    assert!(jobs.iter().all(|job| job.size == 1 || whole(&job)));
}

#[test]
fn without_options_there_are_only_times() {
    let plain = Timed {
        projects: 0,
        high_share: 0,
        low_share: 0,
        gang_share: 0,
        time_limits: false,
        ..TIMED
    };
    for job in jobs(plain) {
        assert_eq!((job.class, job.project, job.user, job.size), (None, None, None, 1));
        assert_eq!((job.time_limit_ms, job.priority), (None, 0));
    }
}

#[test]
fn a_seed_gives_the_same_bytes_whose_beginning_is_known() {
    let one = text(TIMED);
    assert_eq!(one, text(TIMED));
    assert_ne!(one, text(Timed { seed: 43, ..TIMED }));
    // Times that would differ if anything but integers came in.
    let pods: Vec<&str> = one.lines().filter(|line| line.contains("arrival_ms")).take(2).collect();
    assert_eq!(pods, KNOWN, "{pods:#?}");
}

const KNOWN: [&str; 2] = [
    r#"{"kind":"pod","name":"pod-000000","cpu_milli":8000,"memory_mib":32768,"num_gpu":1,"gpu_milli":1000,"gpu_spec":[],"arrival_ms":0,"duration_ms":7320600,"time_limit_ms":14641200,"class":"low","project":"project-1","user":"user-1-2"}"#,
    r#"{"kind":"pod","name":"pod-000001","cpu_milli":32000,"memory_mib":196608,"num_gpu":4,"gpu_milli":1000,"gpu_spec":[],"arrival_ms":92480,"duration_ms":556800,"time_limit_ms":2227200,"class":"normal","project":"project-4","user":"user-4-2"}"#,
];

#[test]
fn what_is_generated_is_read_back_as_it_was() {
    let replay = Replay::timed(&source(), &TIMED).unwrap();
    let text = text(TIMED);
    let mut reader = Reader::new(text.as_bytes());
    let (mut jobs, mut projects) = (Vec::new(), Vec::new());
    while let Some(line) = reader.next_line().unwrap() {
        match line {
            Line::Job(job) => jobs.push(*job),
            Line::Project(project) => projects.push(project),
            Line::Header(_) | Line::Node(_) | Line::Class(_) => {}
            Line::Pod(pod) => panic!("a pod without time: {pod:?}"),
        }
    }
    reader.check_counts().unwrap();
    assert_eq!(jobs, replay.jobs);
    assert_eq!(projects, replay.projects);
}

#[test]
fn shares_beyond_all_are_refused() {
    let over = Timed { high_share: 60, low_share: 50, ..TIMED };
    let refused = Replay::timed(&source(), &over).unwrap_err();
    assert!(refused.to_string().contains("--low-share 110"), "{refused}");
}

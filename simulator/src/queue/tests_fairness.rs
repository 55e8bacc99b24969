//! What projects and users hold while all of them have something waiting.

use super::tests::{ran, report_of};
use super::*;
use std::collections::BTreeMap;

/// GPUs of the only node.
const GPUS: u32 = 12;
/// Sessions each user asks for at once.
const SESSIONS: u64 = 200;

/// Three projects of weights 1, 2 and 3 with two users each, who all ask at once for more than the
/// node does in days.
fn backlogged() -> String {
    let mut lines = vec![
        r#"{"kind":"replay","version":2,"name":"backlog"}"#.to_owned(),
        format!(
            r#"{{"kind":"node","name":"a","cpu_milli":640000,"memory_mib":655360,"num_gpu":{GPUS},"gpu_model":"A"}}"#
        ),
    ];
    for project in 1..=3 {
        let weight = 100 * project;
        lines.push(format!(r#"{{"kind":"project","name":"p{project}","weight":{weight}}}"#));
    }
    for number in 0..SESSIONS {
        for project in 1..=3 {
            for user in 1..=2 {
                // From ten minutes to an hour, so that ends do not come together.
                let duration = 600 + (number * 7 + user * 3 + project * 5) % 11 * 300;
                lines.push(format!(
                    r#"{{"kind":"pod","name":"{project}-{user}-{number}","cpu_milli":1000,"memory_mib":1024,"num_gpu":1,"gpu_milli":1000,"arrival_s":0,"duration_s":{duration},"project":"p{project}","user":"u{project}{user}"}}"#
                ));
            }
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn projects_that_all_wait_hold_the_cluster_by_their_weights() {
    let report = report_of(&backlogged(), QueueOptions::default()).unwrap();
    assert!(report.fairness.all_wait_pct > 50.0, "{:?}", report.fairness);
    for (name, share) in &report.fairness.projects {
        let off = share.share_all_wait_pct - share.weight_pct;
        assert!(off.abs() < 2.0, "{name}: {share:?}");
    }
}

#[test]
fn users_of_a_project_who_all_wait_hold_the_same() {
    let world = ran(&backlogged());
    // Until the first of them has nothing left to wait for.
    let last_start = |user: &str| {
        let jobs = world.jobs.iter().filter(|job| job.line.user.as_deref() == Some(user));
        jobs.filter_map(|job| job.started_ms).max().unwrap()
    };
    let users = ["u11", "u12", "u21", "u22", "u31", "u32"];
    let until = users.map(last_start).into_iter().min().unwrap();
    let mut held: BTreeMap<&str, u64> = BTreeMap::new();
    for job in &world.jobs {
        let (from, to) = (job.started_ms.unwrap().min(until), job.ended_ms.unwrap().min(until));
        *held.entry(job.line.user.as_deref().unwrap()).or_default() += to - from;
    }
    for pair in users.chunks(2) {
        let (one, other) = (held[pair[0]] as f64, held[pair[1]] as f64);
        assert!((one / other - 1.0).abs() < 0.05, "{pair:?}: {one} and {other}");
    }
}

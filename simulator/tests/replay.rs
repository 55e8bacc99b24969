//! Small replays made by hand: what goes where, and what is refused.
#![allow(clippy::unwrap_used)]

use fgpu_domain::placement::Policy;
use fgpu_simulator::{SimulateError, SimulateOptions, run, stdio};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const SMALL: &str = include_str!("data/small.jsonl");
/// What best-fit makes of it: the fullest device that fits, on the node with the least left.
const ANSWERS: &str = r#"{"pod":"p0","node":"Node_A","gpus":[0]}
{"pod":"p1","node":"Node_A","gpus":[0]}
{"pod":"p2","node":null,"gpus":[]}
{"pod":"p3","node":"Node_B","gpus":[0,1]}
{"pod":"p4","node":"Node_B","gpus":[0]}
{"pod":"p5","node":"Node_B","gpus":[2]}
{"pod":"p6","node":"Node_C","gpus":[]}
{"pod":"p7","node":"Node_B","gpus":[1]}
{"pod":"p8","node":null,"gpus":[]}
{"pod":"p9","node":null,"gpus":[]}
"#;

fn options(trace: &Path) -> SimulateOptions {
    SimulateOptions::new(trace.to_path_buf(), Policy::BestFit)
}

fn asked(policy: Policy, replay: &str) -> Result<String, SimulateError> {
    let mut answers = Vec::new();
    stdio(policy, 1, replay.as_bytes(), &mut answers)?;
    Ok(String::from_utf8(answers).unwrap())
}

/// A replay with `lines` behind a first line and one node.
fn with_lines(lines: &str) -> String {
    let head = r#"{"kind":"replay","version":1}"#;
    let node = r#"{"kind":"node","name":"a","cpu_milli":1000,"memory_mib":1000,"num_gpu":1}"#;
    format!("{head}\n{node}\n{lines}\n")
}

/// The error and its causes, as a person would see them.
fn refusal(replay: &str) -> String {
    let error = asked(Policy::BestFit, replay).unwrap_err();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

fn temporary(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn pods_are_answered_one_by_one_with_the_names_of_the_replay() {
    assert_eq!(asked(Policy::BestFit, SMALL).unwrap(), ANSWERS);
}

#[test]
fn a_file_gives_the_same_placements_and_a_report() {
    let trace = temporary("small.jsonl");
    let log = temporary("small-log.jsonl");
    fs::write(&trace, SMALL).unwrap();
    let mut out = Vec::new();
    let mut seen = Vec::new();
    let options = SimulateOptions { placements: Some(log.clone()), ..options(&trace) };

    let outcome = run(&options, &mut out, &mut |done, total| seen.push((done, total))).unwrap();
    let report = outcome.filled().unwrap();

    assert_eq!(fs::read_to_string(log).unwrap(), ANSWERS);
    assert_eq!(seen, (1..=10).map(|done| (done, 10)).collect::<Vec<_>>());
    assert_eq!((report.pods, report.failed_pods), (10, 3));
    // 4.0 of 4 GPUs are given out in the end; 5.4 had been asked for.
    assert!((report.final_alloc_pct - 100.0).abs() < 1e-9, "{report:?}");
    assert!((report.final_arrived_pct - 135.0).abs() < 1e-9, "{report:?}");
    // The first refusal is p2, with which 1.1 of 4 GPUs have arrived.
    assert_eq!(report.first_failure_at_pct, Some(27.5));
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "small, policy best-fit, seed 0
       arrived%         alloc%   unalloc GPUs    failed pods    failed GPU%           cpu%           mem%
            110         100.00            0.0              2          10.00           35.7           12.5
  3 of 10 pods failed: cpu only 0, part of a GPU 2, one GPU 1, several 0
"
    );
}

#[test]
fn the_report_as_json_has_the_figures_of_the_table() {
    let trace = temporary("small-json.jsonl");
    fs::write(&trace, SMALL).unwrap();
    let mut out = Vec::new();
    let options = SimulateOptions { json: true, timing: true, ..options(&trace) };

    run(&options, &mut out, &mut |_, _| {}).unwrap();

    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(report["policy"], "best-fit");
    assert_eq!(report["levels"]["110"]["failed_pods"], 2);
    assert_eq!(report["failed_by_kind"]["shared_gpu"], 2);
    assert!(report["timing"]["decisions_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn every_policy_answers_every_pod_and_repeats_itself() {
    for policy in Policy::ALL {
        let answers = asked(policy, SMALL).unwrap();
        assert_eq!(answers.lines().count(), 10, "{policy}");
        assert_eq!(answers, asked(policy, SMALL).unwrap(), "{policy}");
    }
}

#[test]
fn an_answer_comes_before_the_next_pod_is_read() {
    /// Hands out one line per read, and remembers how much was answered before each.
    struct Lines<'a> {
        lines: std::str::SplitInclusive<'a, char>,
        now: &'a [u8],
        answered: &'a std::cell::RefCell<Vec<u8>>,
        before: Vec<usize>,
    }
    impl std::io::Read for Lines<'_> {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("only whole lines are read"))
        }
    }
    impl std::io::BufRead for Lines<'_> {
        fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
            if self.now.is_empty() {
                let answered = self.answered.borrow().iter().filter(|b| **b == b'\n').count();
                self.before.push(answered);
                self.now = self.lines.next().unwrap_or_default().as_bytes();
            }
            Ok(self.now)
        }
        fn consume(&mut self, count: usize) {
            self.now = &self.now[count..];
        }
    }
    /// Keeps what is written only once it is flushed.
    struct Flushed<'a>(Vec<u8>, &'a std::cell::RefCell<Vec<u8>>);
    impl std::io::Write for Flushed<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.1.borrow_mut().append(&mut self.0);
            Ok(())
        }
    }
    let answered = std::cell::RefCell::new(Vec::new());
    let lines = SMALL.split_inclusive('\n');
    let mut input = Lines { lines, now: &[], answered: &answered, before: Vec::new() };

    stdio(Policy::BestFit, 0, &mut input, Flushed(Vec::new(), &answered)).unwrap();

    // Six lines before the first pod, then one answer per pod, then the end.
    let expected: Vec<usize> = [0; 6].into_iter().chain(0..=10).collect();
    assert_eq!(input.before, expected);
}

#[test]
fn what_the_format_does_not_allow_is_refused_with_its_line() {
    let pod = r#"{"kind":"pod","name":"p","cpu_milli":1,"memory_mib":1,"num_gpu":1,"gpu_milli":5}"#;
    let cases = [
        (String::new(), "the replay is empty: it must begin with a line of kind `replay`"),
        (
            r#"{"kind":"replay","version":3}"#.to_owned(),
            "line 1: version 3 of the format is unknown, this reader knows 1 and 2",
        ),
        (r#"{"kind":"replay"}"#.to_owned(), "missing field `version`"),
        (pod.to_owned(), "line 1: a pod line cannot stand here"),
        (with_lines(r#"{"kind":"rack"}"#), "line 3: unknown kind `rack`"),
        (with_lines(r#"{"name":"x"}"#), "line 3: not a replay line: missing field `kind`"),
        (with_lines("nonsense"), "line 3: not a replay line: expected"),
        (with_lines(r#"{"kind":"replay","version":1}"#), "line 3: a replay line cannot stand here"),
        (
            with_lines(r#"{"kind":"node","name":"a","cpu_milli":1,"memory_mib":1}"#),
            "line 3: the node a was there before",
        ),
        (with_lines(&format!("{pod}\n{pod}")), "line 4: the pod p was there before"),
        (
            with_lines(&format!(
                "{pod}\n{}",
                r#"{"kind":"class","cpu_milli":1,"num_gpu":0,"weight":1}"#
            )),
            "line 4: a class line cannot stand here",
        ),
        (
            with_lines(r#"{"kind":"pod","name":"p","cpu_milli":-1,"memory_mib":1}"#),
            "line 3: not a pod line: invalid value: integer `-1`",
        ),
        (
            with_lines(r#"{"kind":"pod","name":"p","cpu_milli":1.5,"memory_mib":1}"#),
            "line 3: not a pod line: invalid type: floating point `1.5`",
        ),
        (with_lines(r#"{"kind":"pod","name":"p","memory_mib":1}"#), "missing field `cpu_milli`"),
        (
            with_lines(&pod.replace(":5}", ":1001}")),
            "line 3: pod p asks for 1001 milli of each of 1 GPUs: it must be 1 to 1000",
        ),
        (with_lines(&pod.replace(":5}", ":0}")), "it must be 1 to 1000"),
        (with_lines(&pod.replace("\"num_gpu\":1", "\"num_gpu\":0")), "without a GPU it must be 0"),
        (
            with_lines(pod).replace("\"version\":1", "\"version\":1,\"nodes\":2"),
            "the replay says 2 node lines, 1 are there",
        ),
        (
            with_lines(&format!(
                r#"{{"kind":"node","name":"b","cpu_milli":1,"memory_mib":1,"num_gpu":{}}}"#,
                1000
            )),
            "line 3: node b cannot be simulated: node n1 has 1000 devices: at most 128",
        ),
    ];
    for (replay, expected) in cases {
        let refused = refusal(&replay);
        assert!(refused.contains(expected), "{replay}\ngave    {refused}\nwanted  {expected}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_refused_and_one_that_is_not_there_named() {
    let trace = temporary("cut.jsonl");
    let kept: Vec<&str> = SMALL.lines().take(10).collect();
    fs::write(&trace, kept.join("\n")).unwrap();

    let refused = run(&options(&trace), &mut Vec::new(), &mut |_, _| {}).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the replay says 10 pod lines, 4 are there: is the file cut off?"
    );
    let missing = temporary("no-such-file.jsonl");
    let refused = run(&options(&missing), &mut Vec::new(), &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("no-such-file.jsonl"), "{refused}");

    fs::write(&trace, with_lines("").replace("\"num_gpu\":1", "\"num_gpu\":0")).unwrap();
    let empty = run(&options(&trace), &mut Vec::new(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(empty, SimulateError::NoGpu), "{empty}");
}

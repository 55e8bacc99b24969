//! The binary replays real workload traces, both ways of asking, and the scorer accepts it.

use fgpu_integration::cli::text;
use fgpu_integration::process::fgpu;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with the traces and their tools, if this machine has them.
fn traces() -> Option<PathBuf> {
    let folder = std::env::var_os("FGPU_TRACES").map(PathBuf::from);
    match folder {
        Some(folder) if folder.join("score.py").is_file() => Some(folder),
        Some(folder) => panic!("FGPU_TRACES is {} and has no score.py", folder.display()),
        None => {
            eprintln!("skipped: FGPU_TRACES does not name a folder with traces and their scorer");
            None
        }
    }
}

fn python(folder: &Path, script: &str, arguments: &[&str]) -> String {
    let output = Command::new("python3").arg(folder.join(script)).args(arguments).output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{script} {arguments:?}: {said}{}", text(&output.stderr));
    said
}

/// The allocation at a load, from the scorer's table.
fn allocation(table: &str, load: &str) -> f64 {
    let row = table.lines().find(|line| line.split_whitespace().next() == Some(load)).unwrap();
    row.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn every_policy_replays_the_trace_both_ways_and_the_scorer_accepts_it() {
    let Some(folder) = traces() else { return };
    let work = tempfile::tempdir().unwrap();
    let file = |name: &str| work.path().join(name).display().to_string();
    let (trace, log) = (file("trace.jsonl"), file("placements.jsonl"));
    python(&folder, "csv2jsonl.py", &["--seed", "42", "-o", &trace]);
    for policy in ["random", "binpack", "spread", "best-fit"] {
        let output = Command::new(fgpu())
            .args(["simulate", "--trace", &trace, "--policy", policy, "--seed", "42"])
            .args(["--placements", &log])
            .output()
            .unwrap();
        assert!(output.status.success(), "{policy}: {}", text(&output.stderr));
        let table = python(&folder, "score.py", &["--trace", &trace, "--placements", &log]);
        assert!(table.contains("feasible"), "{table}");
        let command = format!("{} simulate --stdio --policy {policy} --seed 42", fgpu().display());
        let asked = python(&folder, "score.py", &["--trace", &trace, "--exec", &command]);
        assert_eq!(allocation(&asked, "130"), allocation(&table, "130"), "both ways, {policy}");
        if policy == "best-fit" {
            let found = allocation(&table, "130");
            assert!((92.5..=93.5).contains(&found), "best-fit at 130: {found}");
        }
    }
}

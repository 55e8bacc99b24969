//! One machine, one command: the demonstration, and `up` as a new user would meet it.

use fgpu_integration::cli::{Cli, text};
use fgpu_integration::process::{Process, fgpu};
use fgpu_integration::wait::until;
use fgpu_integration::world::{AgentOptions, ManagerOptions, PATIENCE, World, free_port};
use std::fs;
use std::process::Command;

#[test]
fn the_demonstration_shows_what_it_claims_and_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(fgpu())
        .args(["demo", "--runtime", "process"])
        .env("HOME", folder.path())
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();

    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    let said = format!("{out}{err}").to_lowercase();
    for word in ["simulated", "10 fgpu", "running", "wait", "device"] {
        assert!(said.contains(word), "the demonstration does not speak of `{word}`:\n{out}\n{err}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "it left {left:?}");
}

#[test]
fn up_makes_a_cluster_whose_own_context_works_and_which_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let listen = format!("127.0.0.1:{port}");
    let start = || {
        let mut command = Command::new(fgpu());
        command
            .args(["up", "--listen", &listen, "--runtime", "process"])
            .args(["--accelerator", "sim:2xH100-80GB", "--data-dir"])
            .arg(folder.path().join("data"))
            .env("HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path().join("config"));
        Process::start("up", &mut command, &folder.path().join("up.log"))
    };
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(fgpu());
        command
            .args(arguments)
            .env("HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path().join("config"));
        command.output().unwrap()
    };
    let mut up = start();
    until("a node that is ready", PATIENCE, || {
        let nodes = text(&ask(&["node", "list", "-o", "json"]).stdout);
        if nodes.contains("\"ready\"") { Ok(()) } else { Err(format!("{nodes}{}", up.log())) }
    });

    let run = ask(&["run", "--fgpu", "2.5", "--", "sh", "-c", "echo $FGPU_MEMORY_BYTES; exit 3"]);
    assert_eq!(run.status.code(), Some(3), "{}", text(&run.stderr));
    assert_eq!(text(&run.stdout).trim(), (20_u64 << 30).to_string());
    let id = text(&ask(&["run", "-d", "-q", "--fgpu", "10", "--", "sleep", "600"]).stdout);
    let id = id.trim();

    up.terminate();
    up = start();
    until("the session still running", PATIENCE, || {
        let session = text(&ask(&["get", id, "-o", "json"]).stdout);
        if session.contains("\"running\"") { Ok(()) } else { Err(format!("{session}{}", up.log())) }
    });
    let stopped = ask(&["stop", id]);
    assert!(stopped.status.success(), "{}", text(&stopped.stderr));
}

#[test]
fn output_exit_code_and_end_of_a_plain_process_are_exact() {
    let mut world = World::new(ManagerOptions::embedded());
    world.add_agent(AgentOptions::simulated("a1", "2xH100-80GB"));
    let cli: Cli = world.cli();

    let script = "echo out; echo err >&2; exit 7";
    let run = cli.run(&["run", "--fgpu", "0.1", "--name", "talks", "--", "sh", "-c", script]);
    assert_eq!(run.status.code(), Some(7));
    assert_eq!(text(&run.stdout), "out\n");
    assert!(text(&run.stderr).contains("err\n"), "{}", text(&run.stderr));

    let sessions = cli.json(&["ps", "--all"]);
    let id = sessions[0]["id"].as_str().unwrap();
    assert_eq!(cli.ok(&["logs", id]).lines().next(), Some("out"), "logs outlive the session");
    assert_eq!(sessions[0]["outcome"], "failed");
    assert_eq!(sessions[0]["exit_code"], 7);
    cli.ok(&["rm", id]);
    assert_eq!(cli.json(&["ps", "--all"]), serde_json::json!([]));
}

//! What bad input gets: one clear error with code, value and next step, and nothing changes.

use crate::stage::{IMAGE, PATIENCE, Stage, await_phase};
use fgpu_integration::process::{Process, fgpu};
use fgpu_integration::wait::until;
use fgpu_integration::world::{AgentOptions, ManagerOptions, World};
use std::fs;
use std::process::Command;

/// A world without Docker: refusals do not need it.
fn world() -> World {
    let mut world = World::new(ManagerOptions::embedded());
    world.add_agent(AgentOptions::simulated("a1", "2xH100-80GB"));
    world
}

#[test]
fn amounts_that_cannot_be_granted_are_refused_with_their_numbers() {
    let world = world();
    let cli = world.cli();
    let cases: [(&[&str], &[&str]); 10] = [
        (&["--fgpu", "7.93"], &["7.93", "0.1", "7.9", "8"]),
        (&["--fgpu", "30"], &["30 fGPU", "20 fGPU"]),
        (&["--fgpu", "0"], &["--fgpu"]),
        (&["--fgpu", "-1"], &["-1"]),
        (&["--gpus", "3"], &["3 whole devices"]),
        (&["--gpu-memory", "10"], &["10", "GiB"]),
        (&["--gpu-memory", "1TiB"], &["1 TiB"]),
        (&["--gpu-model", "A100", "--fgpu", "1"], &["A100", "H100"]),
        (&["--cpu", "100000", "--fgpu", "1"], &["100000"]),
        (&["--node", "nowhere", "--fgpu", "1"], &["nowhere", "fgpu node list"]),
    ];
    for (flags, words) in cases {
        let mut arguments = vec!["run", "--detach"];
        arguments.extend(flags);
        arguments.extend(["--", "true"]);
        let said = cli.refused(&arguments);
        assert!(said.starts_with("error: "), "{flags:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{flags:?} does not name {word}: {said}");
        }
    }
    assert_eq!(cli.json(&["ps", "--all"]), serde_json::json!([]), "nothing was created");
}

#[test]
fn ten_gb_and_ten_gib_both_mean_what_they_say() {
    let world = world();
    let cli = world.cli();
    let granted = |size: &str| {
        let id = cli.ok(&["run", "-d", "-q", "--gpu-memory", size, "--", "sleep", "600"]);
        cli.json(&["get", &id])["grant"]["slices"][0]["memory_bytes"].as_u64().unwrap()
    };
    assert_eq!(granted("10GB"), 10_000_000_000);
    assert_eq!(granted("10 GiB"), 10 << 30);
}

#[test]
fn a_name_in_use_and_a_cordoned_node_are_refused_with_the_way_out() {
    let world = world();
    let cli = world.cli();
    cli.ok(&["run", "-d", "--name", "job", "--fgpu", "1", "--", "sleep", "600"]);
    let said = cli.refused(&["run", "-d", "--name", "job", "--fgpu", "1", "--", "true"]);
    assert!(said.contains("job") && said.contains("hint:"), "{said}");

    cli.ok(&["node", "cordon", "a1"]);
    let said = cli.refused(&["run", "-d", "--node", "a1", "--fgpu", "1", "--", "true"]);
    assert!(said.contains("cordoned") && said.contains("fgpu node uncordon a1"), "{said}");
}

#[test]
fn images_that_cannot_run_end_with_the_reason_and_leave_nothing() {
    let stage = Stage::new(false, |options| options);
    let cli = stage.cli();
    // A registry that is not there, an image that ends at once, a command that does not exist.
    let absent = cli.ok(&["run", "-d", "-q", "--image", "localhost:1/none:1", "--", "true"]);
    let brief = cli.ok(&["run", "-d", "-q", "--image", IMAGE, "--", "sh", "-c", "exit 4"]);
    let missing = cli.ok(&["run", "-d", "-q", "--image", IMAGE, "--", "/no/such/program"]);

    let session = await_phase(&cli, &absent, "ended");
    assert_eq!(session["outcome"], "failed");
    assert_eq!(session["reason_code"], "REGISTRY_UNREACHABLE", "{session}");
    let session = await_phase(&cli, &brief, "ended");
    assert_eq!((&session["outcome"], &session["exit_code"]), (&"failed".into(), &4.into()));
    let session = await_phase(&cli, &missing, "ended");
    assert_eq!(session["reason_code"], "COMMAND_NOT_FOUND", "{session}");
    assert!(session["reason"].as_str().unwrap().contains("/no/such/program"), "{session}");
    for id in [&absent, &brief, &missing] {
        assert!(stage.find_container(id).is_none(), "no container is left");
    }
}

#[test]
fn a_second_agent_of_the_same_name_is_refused_and_says_so() {
    let mut world = world();
    let state = world.path("another");
    let mut command = Command::new(fgpu());
    command
        .arg("agent")
        .env("FGPU_AGENT_MANAGERS", world.address())
        .env("FGPU_AGENT_NODE", "a1")
        .env("FGPU_AGENT_TOKEN_FILE", world.path("agent.token"))
        .env("FGPU_AGENT_STATE_DIR", &state)
        .env("FGPU_AGENT_ACCELERATOR", "sim:1xT4-16GB")
        .env("FGPU_AGENT_RUNTIME", "process");
    let mut second = Process::start("second a1", &mut command, &world.path("second.log"));
    let code = until("the second agent gives up", PATIENCE, || {
        second.ended().ok_or_else(|| "it runs".to_owned())
    });
    assert_ne!(code, 0);
    assert!(second.log().contains("a1") && second.log().contains("--node"), "{}", second.log());
    world.await_node(0, "ready");
}

#[test]
fn a_manager_beyond_loopback_without_tls_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(fgpu())
        .args(["manager", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("0.0.0.0") && said.to_lowercase().contains("tls"), "{said}");
}

#[test]
fn a_corrupt_embedded_file_is_refused_with_its_place_and_a_corrupt_ledger_is_set_aside() {
    let mut world = world();
    let cli = world.cli();
    let id = cli.ok(&["run", "-d", "-q", "--fgpu", "10", "--", "sleep", "600"]);
    await_phase(&cli, &id, "running");

    world.kill_agent(0);
    fs::write(world.agent_folder(0).join("ledger.json"), "{ not json").unwrap();
    world.start_agent(0);
    world.await_node(0, "ready");
    assert_eq!(await_phase(&cli, &id, "running")["generation"], 1, "nothing was lost");
    cli.ok(&["stop", &id]);

    world.kill_manager();
    let store = world.path("manager/store.fgpu");
    let mut bytes = fs::read(&store).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&store, &bytes).unwrap();
    let output = Command::new(fgpu())
        .args(["manager", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(world.path("manager"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("store.fgpu"), "{said}");
    assert_eq!(fs::read(&store).unwrap(), bytes, "the file is left as it was");
}

//! The main job on real parts: what a session is granted, what its container gets, and what every
//! list says of it are one and the same; and an agent that is killed changes nothing.

use crate::stage::{PATIENCE, Stage, await_phase, cgroup_file};
use fgpu_integration::cli::text;
use fgpu_integration::wait::{until, until_true};
use serde_json::{Value, json};
use std::path::PathBuf;

/// 10 fGPU of an H100 of 81,559 MiB: ten times 8,155 MiB.
const TEN_FGPU_BYTES: u64 = 81_550 << 20;

#[test]
fn what_is_granted_is_what_runs_and_what_every_list_says() {
    let stage = Stage::new(false, |options| options);
    let cli = stage.cli();
    let id =
        stage.sleeping(&["--fgpu", "10", "--cpu", "1.5", "--memory", "64MiB", "--shm", "16MiB"]);

    let session = cli.json(&["get", &id]);
    let grant = &session["grant"];
    let slice = &grant["slices"][0];
    assert_eq!(slice["memory_bytes"], TEN_FGPU_BYTES);
    assert_eq!(slice["compute_milli"], 1000);
    assert_eq!(slice["fgpu_milli"], 10_000);
    assert_eq!(grant["isolation"], "whole");

    let container = stage.container(&id);
    check_inspect(&container, &id, grant);
    check_cgroup(container["State"]["Pid"].as_u64().unwrap());
    let file: Value =
        serde_json::from_str(&cli.ok(&["exec", &id, "--", "cat", "/run/fgpu/slice.json"])).unwrap();
    assert_eq!(file["devices"][0]["uuid"], slice["device_uuid"]);
    assert_eq!(file["devices"][0]["memory_bytes"], TEN_FGPU_BYTES);
    assert_eq!(file["devices"][0]["compute_milli"], 1000);
    assert_eq!(file["session"], id.as_str());
    check_map(&cli.json(&["device", "list"]), &id, slice);

    cli.ok(&["stop", &id]);
    let session = await_phase(&cli, &id, "ended");
    assert_eq!(session["outcome"], "cancelled");
    assert!(stage.find_container(&id).is_none(), "the container is removed");
    for controller in ["memory", "cpu", "pids"] {
        let parent = PathBuf::from(format!("/sys/fs/cgroup/{controller}/fgpu/{id}"));
        until_true("its cgroup is removed", PATIENCE, || !parent.exists());
    }
    let devices = cli.json(&["device", "list"]);
    assert!(devices.as_array().unwrap().iter().all(|device| device["slices"] == json!([])));
}

/// What the engine says agrees with the grant, and the container is confined.
fn check_inspect(container: &Value, id: &str, grant: &Value) {
    let host = &container["HostConfig"];
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["MemorySwap"], 64 << 20, "no swap on top");
    assert_eq!(host["ShmSize"], 16 << 20);
    let by_nano = host["NanoCpus"] == 1_500_000_000_u64;
    let by_quota = host["CpuQuota"].as_f64().unwrap() / host["CpuPeriod"].as_f64().unwrap() == 1.5;
    assert!(by_nano || by_quota, "1.5 cores: {host}");
    assert!(host["PidsLimit"].as_i64().unwrap() > 0);
    assert_eq!(host["Privileged"], false);
    assert!(host["SecurityOpt"].to_string().contains("no-new-privileges"));
    assert!(host["CapDrop"].to_string().contains("ALL"));
    let labels = &container["Config"]["Labels"];
    assert_eq!(labels["io.fgpu.session"], id);
    let labelled: Value = serde_json::from_str(labels["io.fgpu.slice"].as_str().unwrap()).unwrap();
    assert!(labelled.to_string().contains(grant["slices"][0]["device_uuid"].as_str().unwrap()));
    let environment = container["Config"]["Env"].to_string();
    assert!(environment.contains(&format!("FGPU_MEMORY_BYTES={TEN_FGPU_BYTES}")), "{environment}");
    assert!(environment.contains("NVIDIA_VISIBLE_DEVICES=void"), "{environment}");
}

/// What the kernel enforces agrees with what was asked for.
fn check_cgroup(pid: u64) {
    assert_eq!(cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    let quota = cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
    let quota: f64 = quota.split_whitespace().next().unwrap().parse().unwrap();
    let period = cgroup_file(pid, "cpu", "cpu.cfs_period_us", "cpu.max");
    let period: f64 = period.split_whitespace().last().unwrap().parse().unwrap();
    assert_eq!(quota / period, 1.5);
    let pids = cgroup_file(pid, "pids", "pids.max", "pids.max");
    assert!(pids.parse::<u64>().is_ok(), "a number of processes: {pids}");
}

/// The map shows the slice on its device, and nothing anywhere else.
fn check_map(devices: &Value, id: &str, slice: &Value) {
    let devices = devices.as_array().unwrap();
    assert_eq!(devices.len(), 16);
    for device in devices {
        if device["uuid"] != slice["device_uuid"] {
            assert_eq!(device["slices"], json!([]));
            assert_eq!(device["free_fgpu_milli"], 10_000);
            continue;
        }
        let held = &device["slices"][0];
        assert_eq!(held["session_id"], id);
        assert_eq!(held["memory_bytes"], slice["memory_bytes"]);
        assert_eq!(held["compute_milli"], slice["compute_milli"]);
        assert_eq!(device["free_fgpu_milli"], 0);
        assert_eq!(device["leftover_memory_bytes"], 9 << 20);
    }
}

#[test]
fn a_killed_agent_comes_back_to_an_untouched_container() {
    let mut stage = Stage::new(false, |options| options);
    let cli = stage.cli();
    let id = stage.sleeping(&["--fgpu", "2.5", "--node", "a1"]);
    let (container, session) = (stage.container(&id), cli.json(&["get", &id]));

    stage.world.kill_agent(0);
    stage.world.start_agent(0);
    stage.world.await_node(0, "ready");
    let back = await_phase(&cli, &id, "running");

    let same = stage.container(&id);
    assert_eq!(same["Id"], container["Id"]);
    assert_eq!(same["State"]["StartedAt"], container["State"]["StartedAt"]);
    assert_eq!(back["started_at_ms"], session["started_at_ms"]);
    assert_eq!(back["generation"], 1);
    assert_eq!(back["grant"], session["grant"]);
    // And it is still in hand: it can be talked to and stopped.
    let answer = until("the agent connected again", PATIENCE, || {
        let output = cli.run(&["exec", &id, "--", "echo", "here"]);
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    });
    assert_eq!(answer.trim(), "here");
    cli.ok(&["stop", &id, "--grace", "1s"]);
    await_phase(&cli, &id, "ended");
    assert!(stage.find_container(&id).is_none());
}

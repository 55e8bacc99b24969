//! MIG instances from the command line to the process that runs in one.

use crate::stage::{IMAGE, PATIENCE, await_phase};
use fgpu_integration::cli::Cli;
use fgpu_integration::wait::until;
use fgpu_integration::world::{AgentOptions, ManagerOptions, World};
use fgpu_testkit::docker::{DockerEngine, DockerOptions};
use fgpu_testkit::nvml::FakeNvml;
use fgpu_testkit::nvml::config::{Config, DeviceConfig, MigConfig, MigInstanceConfig};
use std::collections::BTreeSet;

/// Two ordinary cards, and one in two instances of 1g.10gb and one of 3g.40gb.
const DEVICES: &str = r#"
[[devices]]
model = "H100-80GB"
count = 2

[[devices]]
model = "H100-80GB"

[[devices.mig_instances]]
profile = "1g.10gb"

[[devices.mig_instances]]
profile = "1g.10gb"

[[devices.mig_instances]]
profile = "3g.40gb"
"#;

fn world(folder: &tempfile::TempDir) -> World {
    let path = folder.path().join("devices.toml");
    std::fs::write(&path, DEVICES).unwrap();
    let mut world = World::new(ManagerOptions::embedded());
    world.add_agent(AgentOptions::simulated("a1", &path.display().to_string()));
    world
}

fn create(cli: &Cli, flags: &[&str], script: &str) -> String {
    let small = ["run", "-d", "-q", "--cpu", "0.1", "--memory", "64MiB"];
    cli.ok(&[&small, flags, &["--", "sh", "-c", script]].concat())
}

/// The device a session says it sees, and how it is kept apart.
fn seen(cli: &Cli, session: &str) -> (String, String) {
    let said = until("what the session sees", PATIENCE, || {
        let said = cli.ok(&["logs", session]);
        let words: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
        <[String; 3]>::try_from(words).map_err(|words| format!("{words:?}"))
    });
    let [device, visible, isolation] = said;
    assert_eq!(device, visible);
    (device, isolation)
}

#[test]
fn an_instance_is_given_whole_to_one_session_and_comes_back_when_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder);
    let cli = world.cli();
    let say = "echo $FGPU_DEVICES $CUDA_VISIBLE_DEVICES $FGPU_ISOLATION; sleep 600";

    let held: Vec<String> = (0..2).map(|_| create(&cli, &["--mig", "1g.10gb"], say)).collect();
    let devices: BTreeSet<String> = held
        .iter()
        .map(|session| {
            let (device, isolation) = seen(&cli, session);
            assert!(device.starts_with("MIG-"), "{device}");
            assert_eq!(isolation, "mig");
            device
        })
        .collect();
    assert_eq!(devices.len(), 2, "each has one of its own");
    let session = cli.json(&["get", &held[0]]);
    let slice = &session["grant"]["slices"][0];
    assert_eq!(slice["memory_bytes"], 10_u64 << 30, "{session}");
    // An eighth of the memory of a card that is 10 fGPU.
    assert_eq!(slice["fgpu_milli"], 1250, "{session}");

    let third = create(&cli, &["--mig", "1g.10gb"], say);
    let why = cli.ok(&["explain", &third]);
    assert!(why.contains("needs 1 MIG instance of 1g.10gb, 0 of 2 are free"), "{why}");
    assert!(why.contains("--mig 3g.40gb"), "{why}");
    let listed = cli.ok(&["device", "list"]);
    assert!(listed.contains("MIG 1g.10gb") && listed.contains("partitioned by MIG"), "{listed}");

    cli.ok(&["stop", &held[0]]);
    await_phase(&cli, &held[0], "ended");
    let (device, _) = seen(&cli, &third);
    assert!(devices.contains(&device), "the one that was given back");
}

#[test]
fn only_who_asks_for_an_instance_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder);
    let cli = world.cli();
    let say = "echo $FGPU_DEVICES $CUDA_VISIBLE_DEVICES $FGPU_ISOLATION; sleep 600";

    for _ in 0..2 {
        let (device, isolation) = seen(&cli, &create(&cli, &["--gpus", "1"], say));
        assert!(device.starts_with("SIM-"), "{device}");
        assert_eq!(isolation, "whole");
    }
    let waiting = create(&cli, &["--fgpu", "1"], "true");
    let session = cli.json(&["get", &waiting]);
    assert_eq!(session["phase"], "pending", "three instances are free: {session}");

    let (device, isolation) = seen(&cli, &create(&cli, &["--mig", "3G.40GB"], say));
    assert!(device.starts_with("MIG-") && isolation == "mig", "{device} {isolation}");

    let unknown = cli.refused(&["run", "-d", "--mig", "7g.80gb", "--", "true"]);
    assert!(unknown.contains("1g.10gb of H100-80GB on 1 node"), "{unknown}");
    let many = cli.refused(&["run", "-d", "--mig", "1g.10gb:3", "--", "true"]);
    assert!(many.contains("the most is 2"), "{many}");
    let place = cli.ok(&["run", "--dry-run", "--mig", "1g.10gb:2", "--", "true"]);
    assert!(place.contains("MIG-"), "{place}");
}

#[test]
fn a_container_is_told_of_the_instance_that_nvml_lists() {
    let engine = DockerEngine::start(DockerOptions::default());
    engine.import_busybox(IMAGE);
    let mut devices = vec![DeviceConfig::h100(0), DeviceConfig::h100(1)];
    devices[1].mig = MigConfig::Enabled(vec![MigInstanceConfig {
        uuid: "MIG-0f1e2d3c".to_owned(),
        profile: None,
        memory_mib: 9_856,
        memory_used: 64 << 20,
        multiprocessors: 16,
        slices: 1,
    }]);
    let nvml = FakeNvml::new(&Config::with_devices(devices));
    let mut world = World::new(ManagerOptions::embedded());
    world.add_agent(AgentOptions::docker("a1", &nvml, &engine));
    let cli = world.cli();

    // What `nvidia-smi` would call it, although this driver does not say.
    let flags = ["--mig", "1g.10gb", "--image", IMAGE];
    let script = "echo $FGPU_DEVICES $CUDA_VISIBLE_DEVICES $FGPU_ISOLATION; \
                  grep -c MIG /run/fgpu/slice.json >/dev/null && sleep 600";
    let session = create(&cli, &flags, script);

    let (device, isolation) = seen(&cli, &session);
    assert_eq!((device.as_str(), isolation.as_str()), ("MIG-0f1e2d3c", "mig"));
    await_phase(&cli, &session, "running");
    until("what the instance is measured to hold", PATIENCE, || {
        let devices = cli.json(&["device", "list"]);
        let found = devices.as_array().unwrap().iter().find(|d| d["uuid"] == "MIG-0f1e2d3c");
        let used = &found.ok_or_else(|| devices.to_string())?["usage"]["memory_used_bytes"];
        if *used == 64 << 20 { Ok(()) } else { Err(devices.to_string()) }
    });
    cli.ok(&["stop", &session]);
    await_phase(&cli, &session, "ended");
}

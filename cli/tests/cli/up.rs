//! The whole of it on this machine: `fgpu up` with simulated devices and plain processes, and the
//! verbs against it.

use crate::tool::{Ran, Tool, finish};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr};

/// A cluster that runs until it is told to stop.
struct Up {
    data: PathBuf,
    child: Option<Child>,
    err: Lines<BufReader<ChildStderr>>,
    said: String,
}

impl Up {
    /// Starts a cluster in the tool's home and waits until it is ready.
    async fn start(tool: &Tool, more: &str) -> Self {
        let data = tool.home().join("data");
        let line = format!(
            "up --listen 127.0.0.1:0 --node t1 --accelerator sim:2xH100-80GB --runtime process \
             --data-dir {} {more}",
            data.display()
        );
        let mut child = tool.command(&line).stderr(Stdio::piped()).spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut up = Self { data, child: Some(child), err, said: String::new() };
        up.until_said("try: fgpu run").await;
        up
    }

    async fn until_said(&mut self, what: &str) {
        let read = async {
            while let Some(line) = self.err.next_line().await.unwrap() {
                self.said.push_str(&line);
                self.said.push('\n');
                if line.contains(what) {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(Duration::from_secs(120), read).await;
        assert!(matches!(found, Ok(true)), "`{what}` was not said: {}", self.said);
    }

    /// Interrupts it and waits for its end.
    async fn stop(mut self) -> Ran {
        let child = self.child.take().unwrap();
        let id = child.id().unwrap().to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(sent.success());
        let rest = async {
            while let Some(line) = self.err.next_line().await.unwrap() {
                self.said.push_str(&line);
                self.said.push('\n');
            }
        };
        tokio::time::timeout(Duration::from_secs(120), rest).await.expect("`up` did not stop");
        let mut ran = finish(child, "up").await;
        ran.err.clone_from(&self.said);
        ran
    }
}

impl Drop for Up {
    /// A test that failed in the middle leaves no session behind: each process of one names the
    /// folder of its cluster.
    fn drop(&mut self) {
        if self.child.take().is_none() {
            return;
        }
        let folder = self.data.as_os_str().as_encoded_bytes();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let named = ["cmdline", "environ"].iter().any(|file| {
                let text = std::fs::read(entry.path().join(file)).unwrap_or_default();
                text.windows(folder.len()).any(|part| part == folder)
            });
            let pid = entry.file_name().into_string().unwrap_or_default();
            if named && pid.parse::<u32>().is_ok() {
                let _ = std::process::Command::new("kill").args(["-KILL", &pid]).status();
            }
        }
    }
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
}

#[tokio::test]
async fn a_session_runs_prints_and_gives_its_exit_code() {
    let tool = Tool::new();
    let up = Up::start(&tool, "").await;
    assert!(up.said.contains("SIMULATED"), "{}", up.said);

    let mut command = tool.command("run --fgpu 10 --cpu 0.1 --memory 64MiB --name job -- sh -c");
    command.arg("echo out; echo err >&2; echo $FGPU_AMOUNT; exit 7");
    let ran = finish(command.spawn().unwrap(), "run").await;

    assert_eq!((ran.code, ran.out.as_str()), (7, "out\n10\n"), "{}", ran.err);
    assert!(ran.err.contains("err\n"), "{}", ran.err);
    let ps = json(&tool.run("ps -a -o json").await);
    assert_eq!((&ps[0]["name"], &ps[0]["exit_code"]), (&"job".into(), &7.into()));
    let id = ps[0]["id"].as_str().unwrap().to_owned();
    let logs = tool.run(&format!("logs {id}")).await;
    assert_eq!(logs.out, "out\n10\n", "{}", logs.err);
    assert_eq!(tool.run(&format!("wait {id}")).await.code, 7);
    assert_eq!(tool.run(&format!("rm {id}")).await.out, format!("{id}\n"));
    assert_eq!(tool.run("ps -a -q").await.out, "");
    let ran = up.stop().await;
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[tokio::test]
async fn an_interactive_session_takes_input_and_is_gone_afterwards() {
    let tool = Tool::new();
    let up = Up::start(&tool, "").await;

    let line = "run -i --fgpu 1 --cpu 0.1 --memory 64MiB -- cat";
    let ran = tool.run_with_input(line, "through").await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "through"), "{}", ran.err);
    let ids = tool.run("ps -a -q").await.out;
    let waited = tool.run(&format!("wait {}", ids.trim())).await;
    assert!(waited.out.contains("cancelled"), "{}{}", waited.out, waited.err);
    up.stop().await;
}

#[tokio::test]
async fn what_cannot_be_given_is_refused_with_numbers_and_leaves_nothing() {
    let tool = Tool::new();
    let up = Up::start(&tool, "").await;

    for (line, said) in [
        ("run --fgpu 7.93 -- true", "7.93"),
        ("run --fgpu 21 -- true", "21"),
        ("run --gpus 3 -- true", "3"),
        ("run --fgpu 1 --node nowhere -- true", "nowhere"),
        ("run --gpu-model T4 --fgpu 1 -- true", "T4"),
        ("run --fgpu 1 --on-lost replace -- true", "--on-disconnect stop"),
        ("get nothing", "nothing"),
        ("explain nothing", "nothing"),
        ("logs nothing", "nothing"),
        ("node get nowhere", "nowhere"),
        ("device cordon GPU-none", "GPU-none"),
        ("token revoke nothing", "nothing"),
    ] {
        let ran = tool.run(line).await;
        let expected = if line.starts_with("run") { 125 } else { 1 };
        assert_eq!(ran.code, expected, "`{line}`: {}{}", ran.out, ran.err);
        assert!(ran.err.starts_with("error: ") && ran.err.contains(said), "`{line}`: {}", ran.err);
        assert!(ran.err.contains("\n  code: "), "`{line}`: {}", ran.err);
    }
    assert_eq!(tool.run("ps -a -q").await.out, "");
    up.stop().await;
}

#[tokio::test]
async fn one_waits_says_why_and_starts_when_there_is_room() {
    let tool = Tool::new();
    let up = Up::start(&tool, "").await;
    let hold = "--cpu 0.1 --memory 64MiB -d -q -- sleep 1000";
    let both = tool.run(&format!("run --gpus 2 --name holds {hold}")).await;
    assert_eq!(both.code, 0, "{}", both.err);
    assert_eq!(tool.run(&format!("run --fgpu 2.5 --name waits {hold}")).await.code, 0);

    let dry = tool.run("run --dry-run --fgpu 1 -o json -- true").await;
    assert_eq!(json(&dry)["grant"], Value::Null, "{}", dry.out);
    let why = json(&tool.run("explain waits -o json").await);
    assert_eq!(why["queue_position"], 1, "{why}");
    assert!(tool.run("explain waits").await.out.contains("node t1: "));
    let in_use = tool.run(&format!("run --fgpu 1 --name waits {hold}")).await;
    assert!(in_use.code == 125 && in_use.err.contains("NAME_IN_USE"), "{}", in_use.err);

    assert_eq!(tool.run("stop holds --grace 1s").await.out, both.out);
    let running = || async { json(&tool.run("get waits -o json").await)["phase"] == "running" };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !running().await {
        assert!(tokio::time::Instant::now() < deadline, "{}", tool.run("get waits").await.out);
    }
    let map = json(&tool.run("device list -o json").await);
    let slices: Vec<_> =
        map.as_array().unwrap().iter().flat_map(|d| d["slices"].as_array().unwrap()).collect();
    assert_eq!(slices.len(), 1, "{map}");
    assert_eq!(slices[0]["fgpu_milli"], 2500);
    let exec = tool.run("exec waits -- printenv FGPU_AMOUNT").await;
    assert_eq!((exec.code, exec.out.as_str()), (0, "2.5\n"), "{}", exec.err);
    let mut command = tool.command("exec waits -- sh -c");
    let failed = finish(command.arg("exit 9").spawn().unwrap(), "exec").await;
    assert_eq!(failed.code, 9, "{}", failed.err);
    let piped = tool.run_with_input("exec -i waits -- cat", "through").await;
    assert_eq!((piped.code, piped.out.as_str()), (0, "through"), "{}", piped.err);
    let removed = tool.run(&format!("rm -f waits {}", both.out.trim())).await;
    assert_eq!(removed.code, 0, "{}", removed.err);
    assert_eq!(tool.run("ps -a -q").await.out, "");
    up.stop().await;
}

/// The devices without any slice.
async fn free_devices(tool: &Tool) -> usize {
    let map = json(&tool.run("device list -o json").await);
    let slices = |device: &Value| device["slices"].as_array().unwrap().len();
    map.as_array().unwrap().iter().filter(|device| slices(device) == 0).count()
}

#[tokio::test]
async fn a_scattered_cluster_is_put_in_order_after_it_was_shown_how() {
    let tool = Tool::new();
    let up = Up::start(&tool, "").await;
    let hold = "--cpu 0.1 --memory 64MiB -d -q -- sleep 1000";
    for (name, more) in [("one", "3 --movable"), ("filler", "7"), ("other", "3 --movable")] {
        let ran = tool.run(&format!("run --name {name} --fgpu {more} {hold}")).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let running = async |name: &str| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let got = json(&tool.run(&format!("get {name} -o json")).await);
            if got["phase"] == "running" {
                break got;
            }
            assert!(tokio::time::Instant::now() < deadline, "{got}");
        }
    };
    running("one").await;
    running("other").await;
    assert_eq!(tool.run("stop filler --grace 1s").await.code, 0);
    assert_eq!(free_devices(&tool).await, 0);

    let shown = tool.run("defrag --plan").await;
    assert!(shown.out.contains("free devices 0 -> 1"), "{}{}", shown.out, shown.err);
    let plan = json(&tool.run("defrag --plan -o json").await);
    let id = plan["steps"][0]["moves"][0]["session_id"].as_str().unwrap().to_owned();
    let unasked = tool.run("defrag").await;
    assert!(unasked.code == 1 && unasked.err.contains("--yes"), "{}", unasked.err);
    assert_eq!(free_devices(&tool).await, 0, "nothing has moved");

    let done = tool.run("defrag --yes -o json").await;
    let moved = json(&done);
    assert_eq!((&moved["moved"], &moved["stopped"]), (&1.into(), &Value::Null), "{moved}");
    assert!(done.err.contains(&format!("session {id} runs on node t1")), "{}", done.err);
    assert_eq!(free_devices(&tool).await, 1);
    for name in ["one", "other"] {
        let got = running(name).await;
        let moves = usize::from(got["id"] == id.as_str());
        assert_eq!(got["attempts"].as_array().unwrap().len(), moves, "{got}");
    }
    let again = tool.run("defrag").await;
    assert!(again.code == 0 && again.err.contains("nothing can be freed"), "{}", again.err);
    up.stop().await;
}

#[tokio::test]
async fn sessions_outlive_the_cluster_process_and_are_found_again() {
    let tool = Tool::new();
    let up = Up::start(&tool, "").await;
    let run = "run --fgpu 1 --cpu 0.1 --memory 64MiB --name stays -d -q -- sleep 1000";
    let id = tool.run(run).await.out;
    let running = || async { json(&tool.run("get stays -o json").await)["phase"] == "running" };
    let until_running = async |what: &str| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !running().await {
            let last = tool.run("get stays").await;
            assert!(tokio::time::Instant::now() < deadline, "{what}: {}{}", last.out, last.err);
        }
    };
    until_running("first").await;
    let ran = up.stop().await;
    assert!(ran.err.contains("1 session is left running"), "{}", ran.err);

    let up = Up::start(&tool, "--stop-sessions").await;

    until_running("after the restart").await;
    assert_eq!(tool.run("ps -q").await.out, id);
    let generation = json(&tool.run("get stays -o json").await)["generation"].clone();
    assert_eq!(generation, 1, "it was placed anew");
    let ran = up.stop().await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("stopping the sessions: 1"), "{}", ran.err);
}

#[tokio::test]
async fn administrators_look_after_nodes_devices_and_tokens() {
    let tool = Tool::new();
    let up = Up::start(&tool, "").await;

    assert_eq!(tool.run("node cordon t1").await.code, 0);
    assert_eq!(json(&tool.run("node get t1 -o json").await)["cordoned"], true);
    assert_eq!(tool.run("node uncordon t1").await.code, 0);
    assert_eq!(tool.run("node label t1 rack=r1").await.code, 0);
    assert_eq!(tool.run("node list -q --label rack=r1").await.out, "t1\n");
    assert_eq!(tool.run("node label t1 rack-").await.code, 0);
    assert_eq!(tool.run("node list -q --label rack=r1").await.out, "");
    let uuids = tool.run("device list -q").await.out;
    let uuid = uuids.lines().next().unwrap();
    assert_eq!(tool.run(&format!("device cordon {uuid}")).await.code, 0);
    assert_eq!(json(&tool.run("device list -o json").await)[0]["cordoned"], true);
    assert_eq!(tool.run(&format!("device uncordon {uuid}")).await.code, 0);

    let created = json(&tool.run("token create ann --lifetime 1d -o json").await);
    let (id, secret) = (created["id"].as_str().unwrap(), created["secret"].as_str().unwrap());
    let list = tool.run("token list").await.out;
    assert!(list.contains(id) && !list.contains(secret), "{list}");
    let mut command = tool.command("cluster -o json");
    let who = finish(command.env("FGPU_TOKEN", secret).spawn().unwrap(), "cluster").await;
    assert_eq!((&json(&who)["user"], &json(&who)["role"]), (&"ann".into(), &"member".into()));
    let mut command = tool.command("node cordon t1");
    let denied = finish(command.env("FGPU_TOKEN", secret).spawn().unwrap(), "cordon").await;
    assert!(denied.code == 1 && denied.err.contains("PERMISSION_DENIED"), "{}", denied.err);
    assert_eq!(tool.run(&format!("token revoke {id}")).await.code, 0);
    let mut command = tool.command("ps");
    let revoked = finish(command.env("FGPU_TOKEN", secret).spawn().unwrap(), "ps").await;
    assert!(revoked.code == 1 && revoked.err.contains("UNAUTHENTICATED"), "{}", revoked.err);

    let doctor = tool.run("doctor -o json --accelerator sim:1xH100-80GB").await;
    let checks: Value = serde_json::from_str(&doctor.out).unwrap();
    let manager = checks.as_array().unwrap().iter().find(|check| check["name"] == "manager");
    assert_eq!(manager.unwrap()["level"], "ok", "{}", doctor.out);
    up.stop().await;
}

#[tokio::test]
async fn the_demo_shows_what_it_says_and_leaves_nothing() {
    let tool = Tool::new();
    let mut command = tool.command("demo --accelerator sim:2xH100-80GB");
    let ran = finish(command.env("TMPDIR", tool.home()).spawn().unwrap(), "demo").await;

    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    for said in ["SIMULATED", "this process holds 10 fGPU", "position 1 in the queue", "cleaned up"]
    {
        assert!(ran.out.contains(said), "`{said}`: {}", ran.out);
    }
    let left: Vec<_> = std::fs::read_dir(tool.home()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_interrupted_demo_cleans_up_too() {
    let tool = Tool::new();
    let mut command = tool.command("demo --accelerator sim:2xH100-80GB --keep");
    let mut child = command.env("TMPDIR", tool.home()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.contains("2 nodes"), "{first}");
    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let drain = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

    let ran = finish(child, "demo").await;

    drain.await.unwrap();
    assert_eq!(ran.code, 130, "{}", ran.err);
    let left: Vec<_> = std::fs::read_dir(tool.home()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn configurations_are_checked_printed_and_faulted_all_at_once() {
    let tool = Tool::new();

    let printed = tool.run("manager --print-config --timings-lost 90s").await;
    assert!(printed.out.contains("timings.lost = \"90s\""), "{}{}", printed.out, printed.err);
    let path = tool.home().join("manager.toml");
    std::fs::write(&path, &printed.out).unwrap();
    let again = tool.run(&format!("manager --check --config {}", path.display())).await;
    assert_eq!(again.code, 0, "{}", again.err);

    let exposed = tool.run("manager --listen 0.0.0.0:7070 --policy best --check").await;
    assert_eq!(exposed.code, 2, "{}", exposed.err);
    for said in ["faults", "TLS", "--policy", "best-fit"] {
        assert!(exposed.err.contains(said), "`{said}`: {}", exposed.err);
    }

    let mut command = tool.command("agent --check --accelerator rocm");
    command.env("FGPU_AGENT_RUNTIME", "podman");
    let agent = finish(command.spawn().unwrap(), "agent").await;
    assert_eq!(agent.code, 2, "{}", agent.err);
    assert!(agent.err.contains("env FGPU_AGENT_RUNTIME"), "{}", agent.err);
    assert!(agent.err.contains("--accelerator"), "{}", agent.err);
}

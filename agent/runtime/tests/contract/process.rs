//! The contract on the process runtime, and what it adds: its shims outlive everything.

use std::io::BufRead;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fgpu_runtime::process::{ProcessConfig, ProcessRuntime};
use fgpu_runtime::{
    ContainerRuntime, ContainerState, LimitSupport, LogOptions, Owner, RuntimeError,
};

use crate::bench::{Bench, unique, until};
use crate::suite::contract;

const SHIM: &str = env!("CARGO_BIN_EXE_fgpu-process-shim");

contract!(bench);

fn bench() -> Bench {
    bench_with(|_| ())
}

fn bench_with(change: fn(&mut ProcessConfig)) -> Bench {
    let (owner, root) = unique();
    let folder = tempfile::tempdir().unwrap();
    let (state, cgroup_root) = (folder.path().to_owned(), root.clone());
    Bench::new(owner, root, "none".to_owned(), Some(folder), move |owner| {
        let mut config = ProcessConfig::new(owner, vec![SHIM.into()], &state);
        config.cgroup_root.clone_from(&cgroup_root);
        change(&mut config);
        Arc::new(ProcessRuntime::new(config).unwrap())
    })
}

#[tokio::test]
async fn limits_hold_where_cgroups_are_writable() {
    let bench = bench();
    let info = bench.runtime.info().await.unwrap();
    assert_eq!(info.limits, LimitSupport::Enforced, "run the tests as root");
    bench.finish().await;
}

#[tokio::test]
async fn a_command_is_needed_and_mounts_are_not_made() {
    let bench = bench();
    assert!(!bench.runtime.mounts_supported());
    let refused = async |change: fn(&mut fgpu_runtime::ContainerSpec)| {
        let mut spec = bench.script("s1", "exit 0");
        change(&mut spec);
        match bench.runtime.create(&spec).await {
            Err(RuntimeError::InvalidSpec { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|spec| spec.command.clear()).await, "command");
    let mount = |spec: &mut fgpu_runtime::ContainerSpec| {
        spec.mounts = vec![fgpu_runtime::Mount {
            source: "/tmp".into(),
            target: "/tmp".into(),
            read_only: true,
        }];
    };
    assert_eq!(refused(mount).await, "mounts");
    bench.finish().await;
}

/// An agent in a process of its own that starts a script and is then killed.
async fn killed_agent(folder: &std::path::Path, owner: &Owner, root: &str, script: &str) -> String {
    let mut agent = Command::new(SHIM)
        .arg("agent")
        .arg(folder)
        .args([&owner.cluster, &owner.node, root, script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    std::io::BufReader::new(agent.stdout.take().unwrap()).read_line(&mut id).unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    id.trim().to_owned()
}

#[tokio::test]
async fn what_ends_while_the_agent_is_away_has_its_exact_code() {
    let (owner, root) = unique();
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let script = format!(
        "echo before; while [ ! -e {0} ]; do sleep 0.05; done; echo after; exit 42",
        go.display()
    );
    let id = killed_agent(folder.path(), &owner, &root, &script).await;

    let mut config = ProcessConfig::new(owner, vec![SHIM.into()], folder.path());
    config.cgroup_root = root;
    let runtime = ProcessRuntime::new(config.clone()).unwrap();
    let found = runtime.list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, id);
    assert!(found[0].state.is_running(), "{found:?}");
    drop(runtime);

    std::fs::write(&go, "").unwrap();
    let runtime = ProcessRuntime::new(config).unwrap();
    let code = until("the end", async || {
        let state = runtime.inspect(&id).await.unwrap().state;
        state.exit_code().ok_or(state)
    })
    .await;
    assert_eq!(code, 42);
    let output = runtime.logs(&id, LogOptions::default()).await.unwrap();
    assert_eq!(crate::bench::text(output).await, "before\nafter\n");
    runtime.remove(&id).await.unwrap();
}

#[tokio::test]
async fn what_the_main_process_leaves_behind_ends_with_it() {
    let bench = bench();
    let script = "(setsid sleep 1000 </dev/null >/dev/null 2>&1 &) ; sleep 1000 & exit 0";
    let id = bench.started(&bench.script("s1", script)).await;
    assert_eq!(bench.ended(&id).await.exit_code(), Some(0));
    assert_eq!(bench.cgroups().processes("s1"), Vec::<u32>::new());
    bench.finish().await;
}

#[tokio::test]
async fn without_the_shim_the_exit_code_is_unknown_and_said_to_be() {
    let bench = bench();
    let id = bench.started(&bench.script("s1", "sleep 1000")).await;
    let ContainerState::Running { pid, .. } = bench.runtime.inspect(&id).await.unwrap().state
    else {
        panic!("not running");
    };
    let parent = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent: i32 = parent.split_whitespace().nth(3).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent), nix::sys::signal::SIGKILL).unwrap();

    // The command itself runs on and can still be stopped.
    assert!(bench.runtime.inspect(&id).await.unwrap().state.is_running());
    bench.runtime.stop(&id, Duration::ZERO).await.unwrap();
    let state = bench.runtime.inspect(&id).await.unwrap().state;
    let ContainerState::Exited { code: 255, error: Some(error), .. } = state else {
        panic!("{state:?}");
    };
    assert!(error.contains("unknown"), "{error}");
    bench.finish().await;
}

#[tokio::test]
async fn output_is_rotated_and_followed_across_files() {
    let bench = bench_with(|config| {
        config.log_file_bytes = 2_000;
        config.log_files = 3;
    });
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; sleep 0.003; done";
    let id = bench.started(&bench.script("s1", script)).await;
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let followed = bench.all_output(&id, follow).await;
    let wanted: String = (1..=300).map(|i| format!("line {i}\n")).collect();
    assert_eq!(followed, wanted);

    let kept = bench.all_output(&id, LogOptions::default()).await;
    assert!(kept.len() < 6_000 && kept.ends_with("line 300\n"), "{kept}");
    bench.finish().await;
}

#[tokio::test]
async fn where_cgroups_cannot_be_written_sessions_run_without_limits() {
    let (owner, root) = unique();
    let folder = tempfile::tempdir().unwrap();
    let mut config = ProcessConfig::new(owner, vec![SHIM.into()], folder.path());
    config.cgroup_root = root;
    let runtime = ProcessRuntime::without_cgroups(config, "the test says so").unwrap();
    let info = runtime.info().await.unwrap();
    assert!(matches!(info.limits, LimitSupport::NotEnforced { .. }), "{info:?}");

    let mut spec = fgpu_runtime::ContainerSpec::new("a", "none", "s1");
    spec.command = ["sh", "-c", "sleep 1000 & sleep 1000"].map(str::to_owned).to_vec();
    spec.limits.memory_bytes = Some(64 << 20);
    let id = runtime.create(&spec).await.unwrap();
    runtime.start(&id).await.unwrap();
    let pids = until("both commands", async || {
        let stats = runtime.stats(&id).await.unwrap();
        match stats.host_pids.len() >= 3 {
            true => Ok(stats.host_pids),
            false => Err(stats),
        }
    })
    .await;
    runtime.stop(&id, Duration::ZERO).await.unwrap();
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
    runtime.remove(&id).await.unwrap();
}

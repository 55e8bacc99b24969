//! Limits, use, and what a container may not do.

use std::time::Duration;

use fgpu_runtime::{ContainerState, Limits, RuntimeError};

use crate::bench::{Bench, until};

pub(crate) async fn limits_are_in_force_and_their_cgroups_go_with_the_container(bench: &Bench) {
    let mut spec = bench.script("s-1", "sleep 1000");
    spec.limits = Limits {
        cpu_milli: Some(250),
        memory_bytes: Some(96 << 20),
        pids: 61,
        cpuset: Some("0".to_owned()),
        shm_bytes: None,
    };
    let id = bench.started(&spec).await;
    let cgroups = bench.cgroups();
    let reading = cgroups.read("s-1").unwrap();
    assert_eq!(reading.cpu_milli, Some(250));
    assert_eq!(reading.memory_bytes, Some(96 << 20));
    assert_eq!(reading.swap_bytes.unwrap_or(0), 0);
    assert_eq!(reading.pids, Some(61));
    assert_eq!(reading.cpuset.as_deref(), Some("0"));
    let ContainerState::Running { pid, .. } = bench.runtime.inspect(&id).await.unwrap().state
    else {
        panic!("not running");
    };
    assert!(cgroups.processes("s-1").contains(&pid));

    let other = bench.started(&bench.script("s2", "sleep 1000")).await;
    bench.runtime.remove(&id).await.unwrap();
    assert!(!cgroups.exists("s-1"));
    assert!(cgroups.exists("s2"));
    bench.runtime.remove(&other).await.unwrap();
    // Even that of all sessions is gone, in every hierarchy.
    assert!(!cgroups.exists(""));
}

pub(crate) async fn lack_of_memory_is_told(bench: &Bench) {
    let mut spec = bench.script("s1", "tail /dev/zero; exit 0");
    spec.command = vec!["tail".to_owned(), "/dev/zero".to_owned()];
    spec.limits.memory_bytes = Some(24 << 20);
    let id = bench.started(&spec).await;
    let state = bench.ended(&id).await;
    let ContainerState::Exited { code, oom_killed, .. } = state else {
        panic!("{state:?}");
    };
    assert_eq!((code, oom_killed), (137, true), "{state:?}");
}

pub(crate) async fn use_is_measured(bench: &Bench) {
    let mut spec = bench.script("s1", "(while :; do :; done) & sleep 1000");
    spec.limits.memory_bytes = Some(128 << 20);
    let id = bench.started(&spec).await;
    let stats = until("use of the CPU", async || {
        let stats = bench.runtime.stats(&id).await.unwrap();
        match stats.cpu_usage_ns > 50_000_000 && stats.host_pids.len() >= 3 {
            true => Ok(stats),
            false => Err(stats),
        }
    })
    .await;
    assert!(stats.memory_bytes > 0 && stats.memory_bytes < 128 << 20, "{stats:?}");
    assert_eq!(stats.memory_limit_bytes, Some(128 << 20));
    assert!(stats.pids >= 3, "{stats:?}");
    let ContainerState::Running { pid, .. } = bench.runtime.inspect(&id).await.unwrap().state
    else {
        panic!("not running");
    };
    assert!(stats.host_pids.contains(&pid), "{stats:?}");

    bench.runtime.stop(&id, Duration::ZERO).await.unwrap();
    let refused = bench.runtime.stats(&id).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::NotRunning { .. }), "{refused:?}");
}

pub(crate) async fn new_privileges_are_forbidden_and_another_user_has_no_capabilities(
    bench: &Bench,
) {
    let script = "grep -E 'NoNewPrivs|CapEff|CapPrm|CapAmb' /proc/self/status; id -u; id -g";
    let mut spec = bench.script("s1", script);
    spec.user = Some("65534:65534".to_owned());
    let output = bench.output_of(&spec).await;
    let words: Vec<&str> = output.split_whitespace().collect();
    assert!(words.windows(2).any(|pair| pair == ["NoNewPrivs:", "1"]), "{output}");
    for set in ["CapEff:", "CapPrm:", "CapAmb:"] {
        assert!(words.windows(2).any(|pair| pair == [set, "0000000000000000"]), "{output}");
    }
    assert!(output.ends_with("65534\n65534\n"), "{output}");
}

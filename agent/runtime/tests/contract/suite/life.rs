//! The life of a container: made, started, ended, removed, found again, told apart.

use std::time::Duration;

use fgpu_runtime::{
    ContainerSpec, ContainerState, ExecSpec, LABEL_GENERATION, LABEL_NODE, LogOptions, PullPhase,
    PullPolicy, RuntimeError,
};

use crate::bench::{Bench, LONG_GRACE};

pub(crate) async fn a_command_runs_and_its_exit_code_is_exact(bench: &Bench) {
    let spec = bench.script("s1", "read x; exit 7");
    let spec = ContainerSpec { open_stdin: true, ..spec };
    let id = bench.runtime.create(&spec).await.unwrap();
    let made = bench.runtime.inspect(&id).await.unwrap();
    assert_eq!(made.state, ContainerState::Created);
    assert_eq!((made.name, made.image), (spec.name.clone(), bench.image.clone()));

    bench.runtime.start(&id).await.unwrap();
    let running = bench.runtime.inspect(&id).await.unwrap().state;
    let ContainerState::Running { started_at_unix_ms, pid } = running else {
        panic!("{running:?}");
    };
    assert!(started_at_unix_ms > 1_600_000_000_000, "{started_at_unix_ms}");
    assert!(pid > 1);
    bench.runtime.stop(&id, Duration::ZERO).await.unwrap();

    for code in [0, 7, 255] {
        let spec = bench.script(&format!("c{code}"), &format!("exit {code}"));
        let id = bench.started(&spec).await;
        let state = bench.ended(&id).await;
        let ContainerState::Exited { code: seen, oom_killed, finished_at_unix_ms, error, .. } =
            state
        else {
            panic!("{state:?}");
        };
        assert_eq!((seen, oom_killed, error), (code, false, None));
        assert!(finished_at_unix_ms > 1_600_000_000_000);
    }
}

pub(crate) async fn a_command_ends_by_itself_within_its_grace(bench: &Bench) {
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let id = bench.started(&bench.script("s1", script)).await;
    bench.said(&id, "ready").await;

    bench.runtime.stop(&id, LONG_GRACE).await.unwrap();

    let state = bench.runtime.inspect(&id).await.unwrap().state;
    assert_eq!(state.exit_code(), Some(3), "{state:?}");
}

pub(crate) async fn a_command_that_ignores_term_is_killed_after_its_grace(bench: &Bench) {
    let script = "trap '' TERM; (trap '' TERM; sleep 1000) & echo ready; wait; sleep 1000";
    let id = bench.started(&bench.script("s1", script)).await;
    bench.said(&id, "ready").await;
    let pids = bench.runtime.stats(&id).await.unwrap().host_pids;
    assert!(pids.len() >= 2, "{pids:?}");

    bench.runtime.stop(&id, Duration::from_secs(1)).await.unwrap();

    let state = bench.runtime.inspect(&id).await.unwrap().state;
    assert_eq!(state.exit_code(), Some(137), "{state:?}");
    assert_eq!(bench.cgroups().processes("s1"), Vec::<u32>::new());
}

pub(crate) async fn stop_and_remove_and_start_may_be_repeated(bench: &Bench) {
    let id = bench.started(&bench.script("s1", "sleep 1000")).await;
    let before = bench.runtime.inspect(&id).await.unwrap();
    bench.runtime.start(&id).await.unwrap();
    assert_eq!(bench.runtime.inspect(&id).await.unwrap(), before);
    for _ in 0..2 {
        bench.runtime.stop(&id, Duration::ZERO).await.unwrap();
    }
    for _ in 0..2 {
        bench.runtime.remove(&id).await.unwrap();
    }
    // One that still runs is removed, too.
    let id = bench.started(&bench.script("s2", "sleep 1000")).await;
    bench.runtime.remove(&id).await.unwrap();
    assert_eq!(bench.find(&id).await, None);
}

pub(crate) async fn create_is_repeatable_and_another_generation_is_refused(bench: &Bench) {
    let mut spec = bench.script("s1", "exit 0");
    let id = bench.runtime.create(&spec).await.unwrap();
    assert_eq!(bench.runtime.create(&spec).await.unwrap(), id);
    let (one, other) = tokio::join!(bench.runtime.create(&spec), bench.runtime.create(&spec));
    assert_eq!((one.unwrap(), other.unwrap()), (id.clone(), id.clone()));
    assert_eq!(bench.runtime.list().await.unwrap().len(), 1);

    spec.labels.insert(LABEL_GENERATION.to_owned(), "2".to_owned());
    let refused = bench.runtime.create(&spec).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::NameInUse { .. }), "{refused:?}");

    bench.runtime.remove(&id).await.unwrap();
    let next = bench.runtime.create(&spec).await.unwrap();
    assert_ne!(next, id);
}

pub(crate) async fn owners_do_not_see_each_other(bench: &Bench) {
    let mut spec = bench.script("s1", "sleep 1000");
    // A label that claims another node does not help.
    spec.labels.insert(LABEL_NODE.to_owned(), "n2".to_owned());
    let id = bench.started(&spec).await;
    let stranger = bench.stranger();

    assert_eq!(stranger.list().await.unwrap(), []);
    let absent = |error: RuntimeError| {
        assert!(matches!(error, RuntimeError::NoSuchContainer { .. }), "{error:?}");
    };
    absent(stranger.inspect(&id).await.unwrap_err());
    absent(stranger.start(&id).await.unwrap_err());
    absent(stranger.stop(&id, Duration::ZERO).await.unwrap_err());
    absent(stranger.stats(&id).await.unwrap_err());
    absent(stranger.logs(&id, LogOptions::default()).await.err().unwrap());
    absent(stranger.exec(&id, ExecSpec::default()).await.unwrap_err());
    stranger.remove(&id).await.unwrap();
    let refused = stranger.create(&spec).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::NameInUse { .. }), "{refused:?}");

    let ours = bench.runtime.inspect(&id).await.unwrap();
    assert!(ours.state.is_running(), "{ours:?}");
}

pub(crate) async fn a_restarted_agent_finds_its_containers(bench: &Bench) {
    let running = bench.started(&bench.script("s1", "sleep 1000")).await;
    let ended = bench.started(&bench.script("s2", "exit 9")).await;
    bench.ended(&ended).await;
    let before = bench.runtime.list().await.unwrap();

    let again = bench.again();

    let after = again.list().await.unwrap();
    assert_eq!(after, before);
    assert_eq!(after.iter().map(|each| each.session()).collect::<Vec<_>>(), ["s1", "s2"]);
    assert!(after.iter().any(|each| each.id == running && each.state.is_running()));
    assert!(after.iter().any(|each| each.state.exit_code() == Some(9)));
    again.stop(&running, Duration::ZERO).await.unwrap();
}

pub(crate) async fn a_missing_command_is_told(bench: &Bench) {
    let mut spec = bench.script("s1", "");
    spec.command = vec!["/no/such/program".to_owned()];
    let id = bench.runtime.create(&spec).await.unwrap();
    // Behind an init process the engine starts that, which then finds nothing to run.
    match bench.runtime.start(&id).await {
        Ok(()) => {
            let state = bench.ended(&id).await;
            assert!(
                matches!(state, ContainerState::Exited { command_missing: true, .. }),
                "{state:?}"
            );
        }
        Err(RuntimeError::CommandNotFound { command, .. }) => {
            assert_eq!(command, "/no/such/program");
        }
        Err(other) => panic!("{other:?}"),
    }
    assert_eq!(bench.ended(&id).await.exit_code(), Some(127));
}

pub(crate) async fn what_cannot_be_carried_out_is_refused(bench: &Bench) {
    let mut spec = bench.script("s1", "exit 0");
    spec.limits.pids = 0;
    let refused = bench.runtime.create(&spec).await.unwrap_err();
    assert!(
        matches!(refused, RuntimeError::InvalidSpec { field: "limits.pids", .. }),
        "{refused:?}"
    );
    assert!(!refused.is_retryable());
    assert_eq!(bench.runtime.list().await.unwrap(), []);
}

pub(crate) async fn an_image_that_is_there_needs_no_pull(bench: &Bench) {
    let (sender, mut progress) = tokio::sync::mpsc::channel(8);
    bench.runtime.ensure_image(&bench.image, PullPolicy::IfNotPresent, sender).await.unwrap();
    assert_eq!(progress.recv().await.unwrap().phase, PullPhase::Done);
    assert_eq!(progress.recv().await, None);
}

pub(crate) async fn a_container_that_is_absent_is_told(bench: &Bench) {
    for id in ["0123456789abcdef", "no-such"] {
        let error = bench.runtime.inspect(id).await.unwrap_err();
        assert!(matches!(error, RuntimeError::NoSuchContainer { .. }), "{error:?}");
        bench.runtime.remove(id).await.unwrap();
    }
}

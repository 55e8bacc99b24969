//! The supervisor by its rules, on a clock that is moved by hand.

use crate::bench::{Bench, FENCE, gone, id, order, run, running, stop, with_image};
use crate::fake_runtime::FIRST_START_MS;
use fgpu_agent::ends;
use fgpu_agent::inject::SliceFile;
use fgpu_agent::logs::read::{ReadOptions, read};
use fgpu_agent::supervisor::StandingState;
use fgpu_domain::session::{OnDisconnect, Progress};
use fgpu_domain::time::UnixMillis;
use fgpu_runtime::{LogStream, Owner};
use std::time::Duration;
use tokio::time::Instant;

const A: &str = "aaaaaaaa";
const B: &str = "bbbbbbbb";
const NAME_A: &str = "fgpu-aaaaaaaa-1";
const NAME_B: &str = "fgpu-bbbbbbbb-1";

#[tokio::test(start_paused = true)]
async fn a_session_is_started_reported_and_put_away_with_its_exact_exit_code() {
    let bench = Bench::new().await;
    let mut order = order(&["GPU-1"]);
    order.spec.publish = vec![8080];
    bench.desire(1, vec![(id(A, 1), run(order))]).await;

    let started = bench.runs(&id(A, 1)).await;
    assert_eq!(started.at, UnixMillis(FIRST_START_MS));
    assert_eq!((started.ports[0].host.as_str(), started.ports[0].host_port), ("10.0.0.1", 40_000));
    let slice = std::fs::read_to_string(bench.paths().slice_file(&id(A, 1))).unwrap();
    let slice: SliceFile = serde_json::from_str(&slice).unwrap();
    assert_eq!(slice.devices[0].uuid.as_str(), "GPU-1");
    let spec = bench.engine.spec(NAME_A);
    assert_eq!(spec.env["FGPU_DEVICES"], "GPU-1");
    assert_eq!(spec.labels["io.fgpu.owner"], "ann");

    bench.engine.exit(NAME_A, 3);

    let end = bench.gone(&id(A, 1)).await;
    assert_eq!((end.exit_code, end.code.as_str()), (Some(3), ""));
    assert!(bench.engine.names().is_empty(), "its container is removed");
    assert!(!bench.paths().slice_file(&id(A, 1)).exists(), "and its slice file");

    bench.desire(2, vec![]).await;
    bench.forgotten(&id(A, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_is_never_started_again_and_told_again_when_asked() {
    let bench = Bench::new().await;
    let wanted = || vec![(id(A, 1), run(order(&[])))];
    bench.desire(1, wanted()).await;
    bench.runs(&id(A, 1)).await;
    bench.engine.exit(NAME_A, 0);
    bench.gone(&id(A, 1)).await;
    let before = bench.handle().snapshot().placements[&id(A, 1)].resend;

    bench.desire(2, wanted()).await;

    let told = bench.wait("told again", |s| s.placements[&id(A, 1)].resend > before).await;
    assert_eq!(gone(&told, &id(A, 1)).unwrap().exit_code, Some(0));
    assert_eq!(bench.engine.count(&format!("start {NAME_A}")), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_told_to_stop_gets_its_grace_and_its_container_goes() {
    let bench = Bench::new().await;
    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;
    bench.runs(&id(A, 1)).await;

    bench.desire(2, vec![(id(A, 1), stop(order(&[]), 2500))]).await;

    let end = bench.gone(&id(A, 1)).await;
    assert_eq!(end.exit_code, Some(143));
    assert_eq!(bench.engine.count(&format!("stop {NAME_A} 2500")), 1);
    assert!(bench.engine.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_told_to_stop_that_was_never_here_is_reported_gone() {
    let bench = Bench::new().await;

    bench.desire(1, vec![(id(A, 1), stop(order(&["GPU-1"]), 0))]).await;

    let end = bench.gone(&id(A, 1)).await;
    assert_eq!((end.exit_code, end.code.as_str()), (None, ""));
    assert!(bench.engine.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_what_runs_and_learns_how_the_rest_ended() {
    let mut bench = Bench::new().await;
    let wanted = || vec![(id(A, 1), run(order(&["GPU-1"]))), (id(B, 1), run(order(&["GPU-2"])))];
    bench.desire(1, wanted()).await;
    let before = bench.runs(&id(A, 1)).await;
    bench.runs(&id(B, 1)).await;

    bench.end().await;
    bench.engine.exit(NAME_B, 42);
    let calls = bench.engine.calls();
    bench.start().await;

    assert_eq!(
        running(&bench.handle().snapshot(), &id(A, 1)),
        Some(before.clone()),
        "from the ledger"
    );
    let end = bench.gone(&id(B, 1)).await;
    assert_eq!(end.exit_code, Some(42));
    bench.desire(1, wanted()).await;
    let after = bench.runs(&id(A, 1)).await;
    assert_eq!(after, before, "same container, start and ports");
    let new: Vec<String> = bench.engine.calls().split_off(calls.len());
    assert_eq!(new, [format!("remove {NAME_B}")], "nothing else was touched");
}

#[tokio::test(start_paused = true)]
async fn what_the_manager_does_not_want_is_stopped_only_once_it_was_heard() {
    let mut bench = Bench::new().await;
    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;
    bench.runs(&id(A, 1)).await;
    let stranger = Owner { cluster: "cluster-2".to_owned(), node: "a1".to_owned() };
    let other = bench.engine.runtime(stranger);
    let foreign = fgpu_runtime::ContainerSpec::new("fgpu-other-1", "image", "other");
    let foreign = other.create(&foreign).await.unwrap();
    other.start(&foreign).await.unwrap();

    bench.restart().await;
    bench.wait("observed", |snapshot| snapshot.observed).await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(bench.engine.state(NAME_A).is_running(), "no manager was heard yet");

    bench.welcome().await;
    bench.desire(2, vec![]).await;
    bench.forgotten(&id(A, 1)).await;
    assert_eq!(bench.engine.names(), ["fgpu-other-1"]);
    assert!(bench.engine.state("fgpu-other-1").is_running(), "not ours");
}

#[tokio::test(start_paused = true)]
async fn an_older_desired_state_is_refused_also_after_a_restart() {
    let mut bench = Bench::new().await;
    let wanted = || vec![(id(A, 1), run(order(&[])))];
    bench.desire_in(5, 7, wanted()).await.unwrap();
    bench.runs(&id(A, 1)).await;

    assert!(bench.desire_in(4, 99, vec![]).await.is_err(), "an older epoch");
    assert!(bench.desire_in(5, 6, vec![]).await.is_err(), "an older generation");
    assert!(bench.desire_in(5, 7, wanted()).await.is_ok(), "a repeat");
    bench.restart().await;
    let refused = bench.desire_in(4, 99, vec![]).await.unwrap_err();

    assert_eq!((refused.offered, refused.taken), ((4, 99), (5, 7)));
    assert!(bench.engine.state(NAME_A).is_running());
}

#[tokio::test(start_paused = true)]
async fn cut_off_past_the_fence_time_only_what_says_so_is_stopped() {
    let bench = Bench::new().await;
    let mut stopping = order(&[]);
    stopping.spec.on_disconnect = OnDisconnect::Stop;
    let wanted = || vec![(id(A, 1), run(stopping.clone())), (id(B, 1), run(order(&[])))];
    bench.desire(1, wanted()).await;
    bench.runs(&id(A, 1)).await;
    bench.runs(&id(B, 1)).await;
    // The lease counts from when an answered heartbeat was sent, not from its answer.
    let sent = Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.handle().acked(sent).await.unwrap();

    tokio::time::sleep_until(sent + FENCE - Duration::from_secs(1)).await;
    assert!(bench.engine.state(NAME_A).is_running(), "not yet");
    let end = bench.gone(&id(A, 1)).await;

    assert_eq!((end.exit_code, end.code.as_str()), (Some(143), ends::DISCONNECTED));
    assert!(bench.engine.state(NAME_B).is_running(), "keep keeps");
    bench.welcome().await;
    bench.desire(2, wanted()).await;
    bench.wait("told again", |snapshot| snapshot.placements[&id(A, 1)].resend > 0).await;
    assert_eq!(bench.engine.count(&format!("start {NAME_A}")), 1, "it does not start again");
}

#[tokio::test(start_paused = true)]
async fn answered_heartbeats_keep_the_fence_away() {
    let bench = Bench::new().await;
    let mut stopping = order(&[]);
    stopping.spec.on_disconnect = OnDisconnect::Stop;
    bench.desire(1, vec![(id(A, 1), run(stopping))]).await;
    bench.runs(&id(A, 1)).await;

    for _ in 0..20 {
        let sent = Instant::now();
        tokio::time::sleep(Duration::from_secs(14)).await;
        bench.handle().acked(sent).await.unwrap();
    }

    assert!(bench.engine.state(NAME_A).is_running());
}

#[tokio::test(start_paused = true)]
async fn while_the_engine_is_away_the_node_says_so_and_starts_wait() {
    let bench = Bench::new().await;
    bench.wait("observed", |snapshot| snapshot.observed).await;
    bench.engine.go_away();
    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;

    let away = bench.wait("away", |snapshot| !snapshot.condition.is_empty()).await;
    assert!(away.condition.contains("unix:///fake.sock"), "{}", away.condition);
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.engine.come_back();

    bench.runs(&id(A, 1)).await;
    bench.wait("well", |snapshot| snapshot.condition.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stays_away_ends_a_start_with_its_reason() {
    let bench = Bench::new().await;
    bench.engine.go_away();
    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;

    let end = bench.gone(&id(A, 1)).await;

    assert_eq!(end.code, ends::ENGINE_UNAVAILABLE);
    assert!(end.message.contains("300 s"), "{}", end.message);
}

#[tokio::test(start_paused = true)]
async fn what_survives_an_outage_of_the_engine_is_left_alone() {
    let bench = Bench::new().await;
    bench.engine.set_live_restore(true);
    bench.desire(1, vec![(id(A, 1), run(order(&[]))), (id(B, 1), run(order(&[])))]).await;
    let before = bench.runs(&id(A, 1)).await;
    bench.runs(&id(B, 1)).await;

    bench.engine.go_away();
    bench.wait("away", |snapshot| !snapshot.condition.is_empty()).await;
    bench.engine.exit(NAME_B, 9);
    bench.engine.come_back();

    let end = bench.gone(&id(B, 1)).await;
    assert_eq!((end.exit_code, end.code.as_str()), (Some(9), ""), "it ended by itself");
    assert_eq!(running(&bench.handle().snapshot(), &id(A, 1)), Some(before));
}

#[tokio::test(start_paused = true)]
async fn what_dies_with_the_engine_ends_with_that_reason() {
    let bench = Bench::new().await;
    bench.desire(1, vec![(id(A, 1), run(order(&[]))), (id(B, 1), run(order(&[])))]).await;
    bench.runs(&id(A, 1)).await;
    bench.runs(&id(B, 1)).await;

    bench.engine.go_away();
    bench.wait("away", |snapshot| !snapshot.condition.is_empty()).await;
    bench.engine.take_containers_down();
    bench.engine.remove_by_hand(NAME_B);
    bench.engine.come_back();

    let killed = bench.gone(&id(A, 1)).await;
    assert_eq!((killed.exit_code, killed.code.as_str()), (Some(137), ends::ENGINE_RESTARTED));
    let vanished = bench.gone(&id(B, 1)).await;
    assert_eq!((vanished.exit_code, vanished.code.as_str()), (None, ends::ENGINE_RESTARTED));
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_hangs_holds_up_nobody_else_and_can_be_given_up() {
    let bench = Bench::new().await;
    let wanted = |a| vec![(id(A, 1), a), (id(B, 1), run(order(&[])))];
    bench.desire(1, wanted(run(with_image("hung")))).await;

    bench.runs(&id(B, 1)).await;
    let half = StandingState::Preparing(Progress::Pulling { done: 5, total: 10 });
    bench.wait("pulling", |snapshot| snapshot.placements[&id(A, 1)].state == half).await;
    bench.desire(2, wanted(stop(with_image("hung"), 0))).await;

    let end = bench.gone(&id(A, 1)).await;
    assert_eq!((end.exit_code, end.code.as_str()), (None, ""));
}

#[tokio::test(start_paused = true)]
async fn every_way_a_start_fails_has_its_own_code_and_leaves_nothing() {
    let mut command = order(&[]);
    command.spec.command = vec!["nope".to_owned()];
    let mut mount = order(&[]);
    let source = "/etc".to_owned();
    let target = "/host".to_owned();
    mount.spec.mounts = vec![fgpu_domain::session::Mount { source, target, read_only: true }];
    let cases = [
        (with_image("missing"), ends::IMAGE_NOT_FOUND),
        (with_image("denied"), ends::IMAGE_ACCESS_DENIED),
        (with_image("unreachable"), ends::REGISTRY_UNREACHABLE),
        (command, ends::COMMAND_NOT_FOUND),
        (mount, ends::MOUNT_NOT_ALLOWED),
        (order(&["GPU-9"]), ends::DEVICE_UNKNOWN),
    ];
    let bench = Bench::new().await;
    for (generation, (order, code)) in (1..).zip(cases) {
        bench.desire(generation, vec![(id(A, generation), run(order))]).await;

        let end = bench.gone(&id(A, generation)).await;

        assert_eq!(end.code, code);
        assert!(!end.message.is_empty() && end.exit_code.is_none(), "{end:?}");
        assert!(bench.engine.names().is_empty(), "{code}");
        let left: Vec<_> = std::fs::read_dir(bench.paths().slices()).unwrap().collect();
        assert!(left.is_empty(), "{code}: {left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slices_that_overlap_are_refused_whatever_the_manager_says() {
    let bench = Bench::new().await;
    let c = "cccccccc";
    let wanted = [A, B, c].map(|session| (id(session, 1), run(order(&["GPU-1"]))));
    bench.desire(1, wanted.to_vec()).await;

    let end = bench.gone(&id(c, 1)).await;

    assert_eq!(end.code, ends::SLICE_CONFLICT);
    bench.runs(&id(A, 1)).await;
    bench.runs(&id(B, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_placement_of_a_session_starts_when_the_old_one_is_gone() {
    let bench = Bench::new().await;
    bench.desire(1, vec![(id(A, 1), run(order(&["GPU-1"])))]).await;
    bench.runs(&id(A, 1)).await;

    bench.desire(2, vec![(id(A, 2), run(order(&["GPU-1"])))]).await;

    bench.runs(&id(A, 2)).await;
    let calls = bench.engine.calls();
    let at = |call: &str| calls.iter().position(|made| made.starts_with(call)).unwrap();
    assert!(at(&format!("remove {NAME_A}")) < at("create fgpu-aaaaaaaa-2"), "{calls:?}");
    bench.forgotten(&id(A, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_removed_by_somebody_else_is_noticed() {
    let bench = Bench::new().await;
    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;
    bench.runs(&id(A, 1)).await;

    bench.engine.remove_by_hand(NAME_A);

    assert_eq!(bench.gone(&id(A, 1)).await.code, ends::CONTAINER_REMOVED);
}

#[tokio::test(start_paused = true)]
async fn a_session_killed_for_lack_of_memory_says_so() {
    let bench = Bench::new().await;
    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;
    bench.runs(&id(A, 1)).await;

    bench.engine.kill_for_memory(NAME_A);

    let end = bench.gone(&id(A, 1)).await;
    assert_eq!((end.exit_code, end.code.as_str()), (Some(137), ends::OOM_KILLED));
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_ledger_costs_nothing_that_runs() {
    let mut bench = Bench::new().await;
    let wanted = || vec![(id(A, 1), run(order(&["GPU-1"]))), (id(B, 1), run(order(&["GPU-2"])))];
    bench.desire(1, wanted()).await;
    let before = bench.runs(&id(A, 1)).await;
    bench.runs(&id(B, 1)).await;
    bench.end().await;
    bench.engine.exit(NAME_B, 5);
    std::fs::write(bench.folder.path().join("ledger.json"), b"\0garbage").unwrap();
    let calls = bench.engine.calls().len();

    bench.start().await;

    assert!(!bench.handle().snapshot().complete, "the labels were not read yet");
    let whole = bench.wait("complete", |snapshot| snapshot.complete).await;
    assert_eq!(running(&whole, &id(A, 1)).unwrap().at, before.at);
    let grant = whole.placements[&id(A, 1)].grant.clone();
    assert_eq!(grant, Some(order(&["GPU-1"]).grant), "what it holds is in its label");
    assert_eq!(bench.gone(&id(B, 1)).await.exit_code, Some(5));
    bench.welcome().await;
    bench.desire(1, wanted()).await;
    bench.runs(&id(A, 1)).await;
    let new: Vec<String> = bench.engine.calls().split_off(calls);
    assert_eq!(new, [format!("remove {NAME_B}")]);
    assert!(bench.folder.path().join("ledger.json.corrupt-1").exists());
}

#[tokio::test(start_paused = true)]
async fn the_end_outlives_the_agent_until_the_manager_has_taken_it() {
    let mut bench = Bench::new().await;
    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;
    bench.runs(&id(A, 1)).await;
    bench.engine.exit(NAME_A, 17);
    let before = bench.gone(&id(A, 1)).await;

    bench.restart().await;

    assert_eq!(gone(&bench.handle().snapshot(), &id(A, 1)), Some(before));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_was_interrupted_goes_on_in_the_next_agent() {
    let mut bench = Bench::new().await;
    let wanted = |image| vec![(id(A, 1), run(with_image(image)))];
    bench.desire(1, wanted("hung")).await;
    bench.wait("pulling", |snapshot| snapshot.placements.contains_key(&id(A, 1))).await;

    bench.restart().await;
    let told = bench.handle().snapshot();
    assert!(matches!(told.placements[&id(A, 1)].state, StandingState::Preparing(_)));
    bench.desire(1, wanted("image")).await;

    bench.runs(&id(A, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn output_is_kept_with_stream_and_time_after_the_container_is_gone() {
    let bench = Bench::new().await;
    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;
    bench.runs(&id(A, 1)).await;
    bench.engine.write(NAME_A, LogStream::Stdout, "one");
    bench.engine.write(NAME_A, LogStream::Stderr, "two");
    bench.engine.exit(NAME_A, 0);
    bench.gone(&id(A, 1)).await;

    let mut kept = Vec::new();
    let options = ReadOptions { timestamps: true, ..ReadOptions::default() };
    read(&bench.paths(), &id(A, 1), &options, |stream, data| {
        kept.push((stream, String::from_utf8(data).unwrap()));
        true
    })
    .unwrap();

    kept.sort_by_key(|(stream, _)| *stream == LogStream::Stderr);
    assert_eq!(kept[0], (LogStream::Stdout, "2027-01-15T08:00:00.000000000Z one\n".to_owned()));
    assert_eq!(kept[1], (LogStream::Stderr, "2027-01-15T08:00:00.001000000Z two\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_written_is_told_and_nothing_new_starts() {
    let bench = Bench::new().await;
    bench.wait("observed", |snapshot| snapshot.observed).await;
    // A file where the folder was: not even root can write below it.
    std::fs::remove_dir(bench.paths().slices()).unwrap();
    std::fs::write(bench.paths().slices(), "").unwrap();
    std::fs::create_dir(bench.folder.path().join("ledger.tmp")).unwrap();

    bench.desire(1, vec![(id(A, 1), run(order(&[])))]).await;

    assert_eq!(bench.gone(&id(A, 1)).await.code, ends::STATE_UNWRITABLE);
    bench.wait("told", |snapshot| snapshot.condition.contains("cannot write")).await;
}

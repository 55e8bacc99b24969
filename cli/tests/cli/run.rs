//! `fgpu run`: progress, output, exit codes, interrupts, lost connections.

use crate::fake::{self, Script, accepted, always, chunk, ended, session};
use crate::tool::{Tool, finish};
use fgpu_wire::v1::*;
use std::sync::Mutex;
use std::time::Duration;
use tonic::Status;

fn logs(pieces: &[(OutputStream, &str)]) -> Vec<Result<LogChunk, Status>> {
    pieces.iter().map(|(stream, text)| Ok(chunk(*stream, text.as_bytes()))).collect()
}

const OUT: OutputStream = OutputStream::Stdout;
const ERR: OutputStream = OutputStream::Stderr;

#[tokio::test]
async fn attached_output_goes_where_it_belongs_and_the_exit_code_is_the_session_s() {
    let script = Script {
        create: always(accepted()),
        watch: Mutex::new(
            [vec![session(Phase::Scheduled), session(Phase::Running), ended(7)]].into(),
        ),
        logs: Mutex::new([logs(&[(OUT, "to out\n"), (ERR, "to err\n")])].into()),
        ..Script::default()
    };
    let fake = fake::start(script).await;

    let ran = Tool::new().run(&format!("run --address {} --fgpu 1 -- true", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (7, "to out\n"), "{}", ran.err);
    assert!(ran.err.contains("to err\n"), "{}", ran.err);
    assert!(ran.err.contains("session train (abcd1234) is placed on"), "{}", ran.err);
}

#[tokio::test]
async fn quiet_leaves_only_the_session_s_own_output() {
    let script = Script {
        create: always(accepted()),
        watch: Mutex::new([vec![session(Phase::Running), ended(0)]].into()),
        logs: Mutex::new([logs(&[(OUT, "x")])].into()),
        ..Script::default()
    };
    let fake = fake::start(script).await;

    let ran = Tool::new().run(&format!("run -q --address {} -- true", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "x", ""));
}

#[tokio::test]
async fn a_session_that_never_ran_is_125_with_its_reason() {
    let failed = Session {
        outcome: Outcome::Failed.into(),
        reason_code: "IMAGE_NOT_FOUND".into(),
        reason: "image `nope` is not in the registry".into(),
        started_at_ms: 0,
        ..session(Phase::Ended)
    };
    let script = Script {
        create: always(accepted()),
        watch: Mutex::new([vec![session(Phase::Pulling), failed]].into()),
        ..Script::default()
    };
    let fake = fake::start(script).await;

    let ran = Tool::new().run(&format!("run --address {} --image nope", fake.address)).await;

    assert_eq!(ran.code, 125);
    assert!(ran.err.contains("image `nope` is not in the registry"), "{}", ran.err);
    assert!(ran.err.contains("IMAGE_NOT_FOUND"), "{}", ran.err);
}

#[tokio::test]
async fn detached_prints_the_id_and_a_request_id_is_always_sent() {
    let fake = fake::start(Script { create: always(accepted()), ..Script::default() }).await;
    let (tool, address) = (Tool::new(), &fake.address);

    let ran = tool.run(&format!("run -d -q --address {address} -- true")).await;
    let json =
        tool.run(&format!("run -d -o json --request-id my-own-id --address {address}")).await;

    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "abcd1234\n", ""));
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["id"], "abcd1234");
    let calls = fake.script.calls("create");
    assert!(calls[0].about.starts_with("run-") && calls[0].about.len() == 36, "{calls:?}");
    assert_eq!(calls[1].about, "my-own-id");
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_repeated_with_the_same_request_id() {
    let answers = Mutex::new([Err(Status::unavailable("gone")), accepted()].into());
    let fake = fake::start(Script { create: answers, ..Script::default() }).await;

    let ran = Tool::new().run(&format!("run -d --address {} -- true", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\n"), "{}", ran.err);
    let calls = fake.script.calls("create");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].about, calls[1].about);
}

#[tokio::test]
async fn output_cut_off_in_the_middle_goes_on_where_it_stopped() {
    let cut = vec![Ok(chunk(OUT, b"one\ntw")), Err(Status::unavailable("gone"))];
    let script = Script {
        create: always(accepted()),
        watch: Mutex::new(
            [vec![session(Phase::Running)], vec![session(Phase::Running), ended(0)]].into(),
        ),
        logs: Mutex::new([cut, logs(&[(OUT, "one\ntwo\n"), (OUT, "three\n")])].into()),
        ..Script::default()
    };
    let fake = fake::start(script).await;

    let ran = Tool::new().run(&format!("logs -f train --address {}", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "one\ntwo\nthree\n"), "{}", ran.err);
    assert_eq!(fake.script.calls("logs").len(), 2);
}

#[tokio::test]
async fn a_manager_that_goes_away_for_a_moment_is_waited_for() {
    let script = Script {
        create: always(accepted()),
        watch: Mutex::new(
            [vec![session(Phase::Scheduled)], vec![session(Phase::Running), ended(3)]].into(),
        ),
        broken_watches: Mutex::new(1),
        logs: Mutex::new([logs(&[(OUT, "x")])].into()),
        ..Script::default()
    };
    let fake = fake::start(script).await;

    let ran = Tool::new().run(&format!("run --address {} -- true", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (3, "x"), "{}", ran.err);
    assert!(ran.err.contains("trying again"), "{}", ran.err);
    assert!(ran.err.contains("connected to the manager again"), "{}", ran.err);
}

#[tokio::test]
async fn a_waiting_session_shows_its_place_and_why() {
    let answer = ExplainSessionResponse {
        summary: "no node has 10 fGPU free".into(),
        queue_position: 2,
        ..ExplainSessionResponse::default()
    };
    let script = Script {
        create: always(accepted()),
        explain: always(Ok(answer)),
        stop: always(Ok(session(Phase::Stopping))),
        after_stop: Mutex::new(Some(ended(143))),
        ..Script::default()
    };
    let fake = fake::start(script).await;
    let tool = Tool::new();
    let line = format!("run --address {} --fgpu 10 -- true", fake.address);
    let child = tool.command(&line).spawn().unwrap();
    eventually("the client asks why it waits", || !fake.script.calls("explain").is_empty()).await;

    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let ran = finish(child, &line).await;

    assert_eq!(ran.code, 143, "{}", ran.err);
    assert!(ran.err.contains("waits, position 2: no node has 10 fGPU free"), "{}", ran.err);
    assert!(ran.err.contains("stopping session train (abcd1234); interrupt again"), "{}", ran.err);
}

#[tokio::test]
async fn a_second_interrupt_leaves_the_session_alone() {
    let script = Script {
        create: always(accepted()),
        stop: always(Ok(session(Phase::Stopping))),
        ..Script::default()
    };
    let fake = fake::start(script).await;
    let tool = Tool::new();
    let line = format!("run --address {} -- true", fake.address);
    let child = tool.command(&line).spawn().unwrap();
    let interrupt = |id: u32| {
        let status = std::process::Command::new("kill").args(["-INT", &id.to_string()]).status();
        assert!(status.unwrap().success());
    };
    let id = child.id().unwrap();
    eventually("the client watches", || !fake.script.calls("watch").is_empty()).await;
    interrupt(id);
    eventually("the client asks for a stop", || !fake.script.calls("stop").is_empty()).await;
    interrupt(id);
    let ran = finish(child, &line).await;

    assert_eq!(ran.code, 130, "{}", ran.err);
    assert!(ran.err.contains("detached from session train (abcd1234)"), "{}", ran.err);
}

#[tokio::test]
async fn a_dry_run_creates_nothing() {
    let answer =
        ExplainSessionResponse { summary: "would start on a1".into(), ..Default::default() };
    let fake = fake::start(Script { explain: always(Ok(answer)), ..Script::default() }).await;

    let ran = Tool::new().run(&format!("run --dry-run --fgpu 1 --address {}", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "would start on a1\n"), "{}", ran.err);
    assert_eq!(fake.script.calls("create").len(), 0);
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

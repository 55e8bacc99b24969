//! Plain calls: errors, another leader, a manager that is away for a moment.

use crate::fake::{self, Script, always, ended, session};
use crate::tool::Tool;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1::*;
use std::sync::Mutex;
use tonic::Status;

fn one_session() -> Result<ListSessionsResponse, Status> {
    Ok(ListSessionsResponse {
        sessions: vec![session(Phase::Running)],
        next_page_token: String::new(),
    })
}

fn refusal(code: ErrorCode) -> Status {
    CallError::new(code, "not now").into()
}

#[tokio::test]
async fn nobody_there_is_one_error_with_the_address_and_the_next_step() {
    let tool = Tool::new();

    let ran = tool.run("ps --address http://127.0.0.1:1").await;

    assert_eq!(ran.code, 1);
    assert!(
        ran.err.starts_with("error: cannot reach a manager at http://127.0.0.1:1\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("refused"), "{}", ran.err);
    assert!(ran.err.contains("fgpu up"), "{}", ran.err);
    assert_eq!(tool.run("run --address http://127.0.0.1:1 true").await.code, 125);
}

#[tokio::test]
async fn a_refusal_is_shown_whole() {
    let error = CallError::field("--fgpu", "7.93", "multiples of 0.1")
        .with("quantum", "0.1")
        .hint("ask for 7.9 or 8");
    let script = Script { create: always(Err(error.into())), ..Script::default() };
    let fake = fake::start(script).await;

    let ran = Tool::new().run(&format!("run --address {} --fgpu 7.93 true", fake.address)).await;

    assert_eq!(ran.code, 125);
    assert_eq!(
        ran.err,
        "error: --fgpu `7.93`: multiples of 0.1\n  code: INVALID_ARGUMENT\nhint: ask for 7.9 or 8\n"
    );
}

#[tokio::test]
async fn a_manager_that_does_not_lead_names_the_one_that_does() {
    let leader = fake::start(Script { list: always(one_session()), ..Script::default() }).await;
    let error = CallError::new(ErrorCode::NotLeader, "not the leader")
        .with("leader_address", &leader.address);
    let follower =
        fake::start(Script { list: always(Err(error.into())), ..Script::default() }).await;

    let ran = Tool::new().run(&format!("ps -q --address {}", follower.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\n"), "{}", ran.err);
    assert_eq!(follower.script.calls("list").len(), 1);
    assert_eq!(leader.script.calls("list").len(), 1);
}

#[tokio::test]
async fn the_next_address_is_tried_where_one_does_not_answer() {
    let fake = fake::start(Script { list: always(one_session()), ..Script::default() }).await;

    let line = format!("ps -q --address http://127.0.0.1:1,{}", fake.address);
    let ran = Tool::new().run(&line).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\n"), "{}", ran.err);
}

#[tokio::test]
async fn a_read_is_repeated_while_the_store_is_away() {
    let away = || Err(refusal(ErrorCode::StoreUnavailable));
    let answers = Mutex::new([away(), away(), one_session()].into());
    let fake = fake::start(Script { list: answers, ..Script::default() }).await;

    let ran = Tool::new().run(&format!("ps -q --address {}", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\n"), "{}", ran.err);
    assert_eq!(fake.script.calls("list").len(), 3);
}

#[tokio::test]
async fn all_pages_of_a_list_are_printed() {
    let mut first = one_session().unwrap();
    first.next_page_token = "more".into();
    let answers = Mutex::new([Ok(first), one_session()].into());
    let fake = fake::start(Script { list: answers, ..Script::default() }).await;

    let ran = Tool::new().run(&format!("ps -o json --address {}", fake.address)).await;

    let sessions: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(sessions.as_array().unwrap().len(), 2);
    assert_eq!(sessions[0]["phase"], "running");
    assert_eq!(fake.script.calls("list")[1].about, "more");
}

#[tokio::test]
async fn wait_gives_the_exit_code_of_the_session() {
    let watch = Mutex::new([vec![session(Phase::Running), ended(7)]].into());
    let fake = fake::start(Script { watch, ..Script::default() }).await;

    let ran = Tool::new().run(&format!("wait train --address {}", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (7, "abcd1234 failed 7\n"), "{}", ran.err);
}

#[tokio::test]
async fn stop_waits_until_the_session_is_gone() {
    let script = Script {
        stop: always(Ok(session(Phase::Stopping))),
        after_stop: Mutex::new(Some(ended(143))),
        ..Script::default()
    };
    let fake = fake::start(script).await;

    let ran = Tool::new().run(&format!("stop train --address {}", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\n"), "{}", ran.err);
    assert_eq!(fake.script.calls("watch").len(), 1);
}

#[tokio::test]
async fn remove_by_force_stops_first() {
    let script = Script {
        get: always(Ok(session(Phase::Running))),
        stop: always(Ok(session(Phase::Stopping))),
        after_stop: Mutex::new(Some(ended(143))),
        ..Script::default()
    };
    let fake = fake::start(script).await;

    let ran = Tool::new().run(&format!("rm -f train --address {}", fake.address)).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\n"), "{}", ran.err);
    let names: Vec<_> = fake.script.calls.lock().unwrap().iter().map(|call| call.name).collect();
    assert_eq!(names, ["get", "stop", "watch", "remove"]);
}

#[tokio::test]
async fn one_failure_among_several_sessions_does_not_hide_the_others() {
    let answers =
        Mutex::new([Err(refusal(ErrorCode::SessionNotFound)), Ok(session(Phase::Stopping))].into());
    let fake = fake::start(Script { stop: answers, ..Script::default() }).await;

    let line = format!("stop --no-wait gone train --address {}", fake.address);
    let ran = Tool::new().run(&line).await;

    assert_eq!((ran.code, ran.out.as_str()), (1, "abcd1234\n"), "{}", ran.err);
    assert!(ran.err.contains("SESSION_NOT_FOUND"), "{}", ran.err);
}

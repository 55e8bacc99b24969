//! Projects, quotas, classes, arrays and gangs as people and scripts meet them.

use crate::fake::{self, Fake, Script, always, ended, session};
use crate::tool::{Ran, Tool};
use fgpu_wire::v1::create_session_request::Members;
use fgpu_wire::v1::*;
use std::sync::Mutex;

fn member(position: u32, of: Session) -> Session {
    let id = if position == 0 { of.id.clone() } else { format!("{}x{position}", of.id) };
    let kind = GroupKind::Array.into();
    let (index, at_once) = (position + 1, 0);
    let group = Group { id: of.id.clone(), index, size: 2, kind, at_once };
    Session { id, group: Some(group), ..of }
}

fn array_of_two() -> CreateSessionResponse {
    let members = vec![member(0, session(Phase::Pending)), member(1, session(Phase::Pending))];
    CreateSessionResponse { session: members.first().cloned(), existed: false, members }
}

async fn run(fake: &Fake, line: &str) -> Ran {
    Tool::new().run(&format!("{line} --address {}", fake.address)).await
}

/// Runs a verb against a fake; gives what it printed and what was asked of projects last.
async fn asked(line: &str) -> (Ran, String) {
    let fake = fake::start(Script::default()).await;
    let ran = run(&fake, line).await;
    let last = fake.script.projects.lock().unwrap().pop();
    (ran, last.unwrap_or_default())
}

#[tokio::test]
async fn an_array_is_created_detached_and_its_id_printed() {
    let fake =
        fake::start(Script { create: always(Ok(array_of_two())), ..Script::default() }).await;

    let line = format!("run -d --address {} --array 1-2 true", fake.address);
    let ran = Tool::new().run(&line).await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\n"), "{}", ran.err);
    assert!(ran.err.contains("fgpu ps --group abcd1234"), "{}", ran.err);
    let created = fake.script.created.lock().unwrap().clone().unwrap();
    let range = ArrayRange { first: 1, last: 2, step: 1, at_once: 0 };
    assert_eq!(created.members, Some(Members::Array(range)));

    let line = format!("run -d -o json --address {} --array 1-2 true", fake.address);
    let json: serde_json::Value = serde_json::from_str(&Tool::new().run(&line).await.out).unwrap();
    assert_eq!(json[1]["id"], "abcd1234x1");
    assert_eq!(json[1]["group"]["index"], 2);
}

#[tokio::test]
async fn there_is_no_one_session_of_an_array_to_stay_with() {
    let ran = Tool::new().run("run --address http://127.0.0.1:1 --array 1-2 true").await;
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("--detach"), "{}", ran.err);
}

#[tokio::test]
async fn a_session_counts_for_the_project_of_flag_environment_or_context() {
    let fake = fake::start(Script { create: always(fake::accepted()), ..Script::default() }).await;
    let tool = Tool::new();
    let project = || {
        let created = fake.script.created.lock().unwrap().take();
        created.unwrap().spec.unwrap().project
    };
    let set = format!("context set lab --project research --address {}", fake.address);
    assert_eq!(tool.run(&set).await.code, 0);
    assert!(tool.run("context list").await.out.contains("research"));

    assert_eq!(tool.run("run -d true").await.code, 0);
    assert_eq!(project(), "research");
    let mut command = tool.command("run -d true");
    command.env("FGPU_PROJECT", "other");
    crate::tool::finish(command.spawn().unwrap(), "run").await;
    assert_eq!(project(), "other");
    tool.run("run -d --project third true").await;
    assert_eq!(project(), "third");
    assert_eq!(tool.run("context set lab --project No!").await.code, 2);
}

#[tokio::test]
async fn a_wait_for_a_group_is_one_for_all_its_sessions() {
    let watch = Mutex::new([vec![member(0, ended(0))], vec![member(1, ended(7))]].into());
    let sessions = vec![member(0, ended(0)), member(1, ended(7))];
    let list = always(Ok(ListSessionsResponse { sessions, ..Default::default() }));
    let fake = fake::start(Script { watch, list, ..Script::default() }).await;

    let ran = run(&fake, "wait abcd1234").await;

    assert_eq!(ran.code, 7, "{}", ran.err);
    assert_eq!(ran.out, "abcd1234 completed 0\nabcd1234x1 failed 7\n");

    let watch = Mutex::new([vec![member(0, ended(0))]].into());
    let fake = fake::start(Script { watch, ..Script::default() }).await;
    let ran = run(&fake, "wait abcd1234/1").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234 completed 0\n"), "{}", ran.err);
}

#[tokio::test]
async fn a_stop_of_a_group_prints_every_session_it_stopped() {
    let script = Script {
        stop: always(Ok(member(0, session(Phase::Stopping)))),
        other_members: Mutex::new(vec![member(1, session(Phase::Stopping))]),
        ..Script::default()
    };
    let fake = fake::start(script).await;

    let ran = run(&fake, "stop --no-wait train").await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\nabcd1234x1\n"), "{}", ran.err);
}

#[tokio::test]
async fn removing_a_group_removes_all_its_sessions() {
    let sessions = vec![member(0, ended(0)), member(1, ended(0))];
    let list = always(Ok(ListSessionsResponse { sessions, ..Default::default() }));
    let get = always(Ok(member(0, ended(0))));
    let fake = fake::start(Script { get, list, ..Script::default() }).await;

    let ran = run(&fake, "rm train").await;

    assert_eq!((ran.code, ran.out.as_str()), (0, "abcd1234\nabcd1234x1\n"), "{}", ran.err);
}

#[tokio::test]
async fn projects_are_tables_for_people_and_json_for_programs() {
    let (ran, _) = asked("project list").await;
    assert_eq!(
        ran.out,
        "NAME      WEIGHT  MEMBERS  QUOTA    EACH USER\nresearch  300     ann      fgpu 40  -\n"
    );
    let (ran, _) = asked("project list -q").await;
    assert_eq!(ran.out, "research\n");
    let (ran, _) = asked("project get research -o json").await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["quota"]["fgpu_milli"], 40_000);
    let (ran, _) = asked("project get research").await;
    assert!(ran.out.contains("10 of 40 fgpu"), "{}", ran.out);
    let (ran, _) = asked("project get other").await;
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("PROJECT_NOT_FOUND") && ran.err.contains("project list"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn changes_of_projects_send_what_was_said_and_print_the_name() {
    let (ran, asked_for) = asked("project create research --weight 300 --member ann").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "research\n"), "{}", ran.err);
    assert!(asked_for.contains("weight: 300") && asked_for.contains("ann"), "{asked_for}");
    let (ran, asked_for) = asked("project set research --remove-member bob").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(asked_for.contains(r#"remove_members: ["bob"]"#), "{asked_for}");
    assert_eq!(asked("project set research").await.0.code, 2);
    let (ran, _) = asked("project rm research").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "research\n"), "{}", ran.err);
}

#[tokio::test]
async fn a_quota_is_shown_with_used_limit_and_percent() {
    let (ran, _) = asked("quota get --project research").await;
    assert_eq!(
        ran.out,
        "PROJECT   USER  OF        USED  LIMIT  PERCENT\n\
         research  -     fgpu      10    40     25 %\n\
         research  -     sessions  3     -      -\n\
         research  ann   fgpu      10    -      -\n\
         research  ann   sessions  3     -      -\n"
    );
    let (ran, _) = asked("quota get -o json").await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json[0]["users"][0]["held"]["fgpu_milli"], 10_000);
    let line = "quota set --project research --user ann --fgpu 20 --sessions none";
    let (ran, asked_for) = asked(line).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "research\n"), "{}", ran.err);
    for part in ["fgpu_milli: Some(20000)", "[Sessions]", r#"User("ann")"#] {
        assert!(asked_for.contains(part), "{part}: {asked_for}");
    }
}

#[tokio::test]
async fn a_class_is_changed_in_what_is_given() {
    let (ran, _) = asked("class list").await;
    assert!(ran.out.contains("low   -100"), "{}", ran.out);
    let (ran, asked_for) = asked("class set low --min-run 10m").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "low\n"), "{}", ran.err);
    assert!(asked_for.contains("UpdateClassRequest"), "{asked_for}");
    assert!(asked_for.contains("priority: None"), "{asked_for}");
    assert!(asked_for.contains("min_run_ms: Some(600000)"), "{asked_for}");
    let (ran, _) = asked("class rm low").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "low\n"), "{}", ran.err);
}

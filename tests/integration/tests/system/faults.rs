//! Parts that are killed, stopped and cut off while sessions run: nothing is lost, nothing doubled.

use crate::stage::{IMAGE, PATIENCE, Stage, await_phase};
use fgpu_integration::proxy::Proxy;
use fgpu_integration::wait::{holds_for, until, until_true};
use fgpu_wire::v1;
use fgpu_wire::v1::session_service_client::SessionServiceClient;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::Request;

/// Creates that are under way when the manager is killed.
const CREATES: usize = 200;

/// How long a part stays away.
const OUTAGE: Duration = Duration::from_secs(20);

#[test]
fn a_manager_killed_amid_creates_loses_none_and_doubles_none() {
    let mut stage = Stage::new(false, |options| options);
    let (address, token) = (stage.world.address(), stage.cli().token);
    let answered = Arc::new(AtomicUsize::new(0));
    let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
    for worker in 0..8 {
        let (address, token) = (address.clone(), token.clone());
        let (answered, acknowledged) = (answered.clone(), acknowledged.clone());
        stage.runtime.spawn(async move {
            for number in (worker..CREATES).step_by(8) {
                let id = create_until_acknowledged(&address, &token, number).await;
                acknowledged.lock().unwrap().insert(number, id);
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    until_true("a third of the creates", PATIENCE, || {
        answered.load(Ordering::SeqCst) > CREATES / 3
    });
    stage.world.kill_manager();
    let before = answered.load(Ordering::SeqCst);
    assert!(before < CREATES, "it was killed in the middle");
    stage.world.start_manager();
    until("every create acknowledged", PATIENCE, || {
        let count = answered.load(Ordering::SeqCst);
        if count == CREATES { Ok(()) } else { Err(format!("{count} of {CREATES}")) }
    });

    let sessions = stage.cli().json(&["ps", "--all"]);
    let mut by_name = BTreeMap::new();
    for session in sessions.as_array().unwrap() {
        let name = session["name"].as_str().unwrap().to_owned();
        let id = session["id"].as_str().unwrap().to_owned();
        assert!(by_name.insert(name, id).is_none(), "one session per request");
    }
    assert_eq!(by_name.len(), CREATES);
    for (number, id) in acknowledged.lock().unwrap().iter() {
        assert_eq!(by_name.get(&name(*number)), Some(id), "what was acknowledged is there");
    }
}

fn name(number: usize) -> String {
    format!("job-{number:03}")
}

/// Repeats one create, with the same request id, until some manager has acknowledged it.
async fn create_until_acknowledged(address: &str, token: &str, number: usize) -> String {
    let spec = v1::SessionSpec {
        name: name(number),
        image: IMAGE.to_owned(),
        command: vec!["sleep".into(), "3600".into()],
        cpu_milli: 100,
        memory_bytes: 32 << 20,
        // More than twice this fits no device: 16 run, the others wait.
        gpu: Some(v1::GpuRequest {
            amount: Some(v1::gpu_request::Amount::FgpuMilli(8_000)),
            ..v1::GpuRequest::default()
        }),
        ..v1::SessionSpec::default()
    };
    let request_id = format!("request-{number:04}");
    loop {
        let message = v1::CreateSessionRequest {
            spec: Some(spec.clone()),
            request_id: request_id.clone(),
            members: None,
        };
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.set_timeout(Duration::from_secs(5));
        if let Ok(mut client) = SessionServiceClient::connect(address.to_owned()).await
            && let Ok(answer) = client.create_session(request).await
        {
            return answer.into_inner().session.unwrap().id;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_store_that_is_away_stops_creates_and_nothing_else() {
    let mut stage = Stage::new(false, |options| options);
    let cli = stage.cli();
    let id = stage.sleeping(&["--fgpu", "10"]);
    let container = stage.container(&id);

    stage.runtime.block_on(stage.etcd.stop());
    let refused = cli.refused(&["run", "-d", "--image", IMAGE, "--fgpu", "1", "--", "true"]);
    assert!(!refused.is_empty(), "it says why");
    holds_for("the container", OUTAGE, || {
        let now = stage.container(&id);
        if now["State"]["Running"] == true { Ok(()) } else { Err(now["State"].to_string()) }
    });
    stage.runtime.block_on(stage.etcd.restart());

    let after = until("a create that works again", PATIENCE, || {
        let output =
            cli.run(&["run", "-d", "-q", "--image", IMAGE, "--fgpu", "1", "--", "sleep", "3600"]);
        let (out, err) = (output.stdout, output.stderr);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(out)) } else { Err(text(err)) }
    });
    await_phase(&cli, &after, "running");
    let session = await_phase(&cli, &id, "running");
    assert_eq!(session["generation"], 1);
    let same = stage.container(&id);
    assert_eq!(same["Id"], container["Id"]);
    assert_eq!(same["State"]["StartedAt"], container["State"]["StartedAt"]);
    let all = cli.json(&["ps", "--all"]);
    assert_eq!(all.as_array().unwrap().len(), 2, "the refused create left nothing: {all}");
}

#[test]
fn an_engine_that_restarts_with_live_restore_leaves_sessions_untouched() {
    let mut stage = Stage::new(true, |options| options);
    let cli = stage.cli();
    let id = stage.sleeping(&["--fgpu", "10"]);
    let container = stage.container(&id);

    engine_away(&mut stage);
    let session = await_phase(&cli, &id, "running");

    assert_eq!(session["generation"], 1);
    let same = stage.container(&id);
    assert_eq!(same["Id"], container["Id"]);
    assert_eq!(same["State"]["StartedAt"], container["State"]["StartedAt"]);
    assert_eq!(cli.ok(&["exec", &id, "--", "echo", "here"]), "here");
}

#[test]
fn an_engine_that_takes_containers_with_it_ends_their_sessions_with_the_reason() {
    let mut stage = Stage::new(false, |options| options);
    let cli = stage.cli();
    let id = stage.sleeping(&["--fgpu", "10"]);

    engine_away(&mut stage);
    let session = await_phase(&cli, &id, "ended");

    assert_eq!(session["outcome"], "failed");
    assert_eq!(session["reason_code"], "ENGINE_RESTARTED", "{session}");
    assert!(session["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    let again = stage.sleeping(&["--fgpu", "10"]);
    assert_ne!(again, id);
}

/// Stops the engine for a while; meanwhile its nodes say so and take nothing new.
fn engine_away(stage: &mut Stage) {
    stage.engine.stop();
    let cli = stage.cli();
    until("a node that says its engine is away", PATIENCE, || {
        let node = cli.json(&["node", "get", "a1"]);
        let condition = node["condition"].as_str().unwrap_or_default();
        if condition.is_empty() { Err(node["state"].to_string()) } else { Ok(()) }
    });
    holds_for("the nodes", OUTAGE, || {
        let node = cli.json(&["node", "get", "a1"]);
        if node["state"] == "ready" { Err("it calls itself ready".into()) } else { Ok(()) }
    });
    stage.engine.restart();
    for number in [0, 1] {
        stage.world.await_node(number, "ready");
    }
}

#[test]
fn an_agent_cut_off_past_the_fence_time_does_as_each_session_says() {
    let mut stage = Stage::without_agents(false, |options| {
        options
            .with("TIMINGS_HEARTBEAT", "500ms")
            .with("TIMINGS_SUSPECT", "2s")
            .with("TIMINGS_FENCE", "5s")
            .with("TIMINGS_LOST", "8s")
    });
    let proxy = Proxy::start(stage.world.socket_address());
    let options = stage.agent("a1").through(proxy.address());
    stage.world.add_agent(options);
    let cli = stage.cli();
    let keeps = stage.sleeping(&["--fgpu", "10"]);
    let moves =
        stage.sleeping(&["--fgpu", "10", "--on-disconnect", "stop", "--on-lost", "replace"]);
    let kept = stage.container(&keeps);
    let options = stage.agent("b2");
    stage.world.add_agent(options);

    proxy.cut();
    await_phase(&cli, &keeps, "lost");
    let moved = until("the other session on the other node", PATIENCE, || {
        let session = cli.json(&["get", &moves]);
        let there = session["grant"]["node"] == "b2" && session["phase"] == "running";
        if there { Ok(session) } else { Err(session.to_string()) }
    });
    assert_eq!(moved["generation"], 2);
    assert_eq!(moved["stranded"][0]["node"], "a1", "its first slice is not free yet");
    let one = stage.container(&moves);
    assert_eq!(one["Config"]["Labels"]["io.fgpu.node"], "b2", "the fenced one was stopped before");
    assert_eq!(stage.container(&keeps)["State"]["StartedAt"], kept["State"]["StartedAt"]);

    proxy.mend();
    stage.world.await_node(0, "ready");
    let back = await_phase(&cli, &keeps, "running");
    assert_eq!(back["generation"], 1);
    assert_eq!(stage.container(&keeps)["Id"], kept["Id"]);
    until("the first slice of the moved session free again", PATIENCE, || {
        let session = cli.json(&["get", &moves]);
        if session["stranded"] == serde_json::json!([]) { Ok(()) } else { Err(session.to_string()) }
    });
    assert_eq!(cli.json(&["get", &moves])["grant"]["node"], "b2");
}

//! How long a session takes from the accepted create until it is seen running, with Docker, beside
//! create and start of the same image over the engine's socket in the same run; then what the idle
//! agent costs.
//!
//! `./dev bench --bench latency [-- ROUNDS IDLE_SECONDS]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss
)]

use fgpu_integration::process::resources;
use fgpu_integration::world::{AgentOptions, ManagerOptions, World};
use fgpu_testkit::docker::{DockerEngine, DockerOptions};
use fgpu_testkit::etcd::EtcdServer;
use fgpu_testkit::nvml::FakeNvml;
use fgpu_testkit::nvml::config::{Config, DeviceConfig};
use fgpu_wire::v1;
use fgpu_wire::v1::session_service_client::SessionServiceClient;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tonic::Request;

const IMAGE: &str = "fgpu-bench:1";

fn main() {
    let arguments: Vec<u64> =
        std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let rounds = arguments.first().copied().unwrap_or(50);
    let idle_seconds = arguments.get(1).copied().unwrap_or(60);
    let runtime = Runtime::new().unwrap();
    let etcd = runtime.block_on(EtcdServer::start());
    let engine = DockerEngine::start(DockerOptions::default());
    engine.import_busybox(IMAGE);
    let devices = (0..8).map(DeviceConfig::h100).collect();
    let nvml = FakeNvml::new(&Config::with_devices(devices));
    let mut world = World::new(ManagerOptions::etcd(&etcd));
    let agent = world.add_agent(AgentOptions::docker("a1", &nvml, &engine));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        ours.push(runtime.block_on(session(&world, round)));
        bare.push(container(&engine, round));
    }
    report("create accepted to running seen", &mut ours);
    report("engine alone, create and start ", &mut bare);
    idle(&world, agent, idle_seconds);
}

/// Creates a session, waits until it is seen running, and stops it; the time in between.
async fn session(world: &World, round: u64) -> Duration {
    let token = format!("Bearer {}", world.cli().token);
    let mut client = SessionServiceClient::connect(world.address()).await.unwrap();
    let spec = v1::SessionSpec {
        image: IMAGE.to_owned(),
        command: vec!["sleep".into(), "3600".into()],
        gpu: Some(v1::GpuRequest {
            amount: Some(v1::gpu_request::Amount::FgpuMilli(2_500)),
            ..v1::GpuRequest::default()
        }),
        stop_grace_ms: 1,
        ..v1::SessionSpec::default()
    };
    let create = v1::CreateSessionRequest {
        spec: Some(spec),
        request_id: format!("bench-{round:06}"),
        members: None,
    };
    let mut watch = client
        .watch_sessions(with(&token, v1::WatchSessionsRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let created = client.create_session(with(&token, create)).await.unwrap().into_inner();
    let begin = Instant::now();
    let id = created.session.unwrap().id;
    wait_for(&mut watch, &id, v1::Phase::Running).await;
    let taken = begin.elapsed();
    let stop = v1::StopSessionRequest { session: id.clone(), grace_ms: 1 };
    client.stop_session(with(&token, stop)).await.unwrap();
    wait_for(&mut watch, &id, v1::Phase::Ended).await;
    taken
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    request
}

async fn wait_for(
    watch: &mut tonic::Streaming<v1::WatchSessionsResponse>,
    id: &str,
    phase: v1::Phase,
) {
    loop {
        let event = watch.next().await.expect("the watch goes on").unwrap().event;
        if let Some(v1::watch_sessions_response::Event::Changed(session)) = event
            && session.id == id
            && session.phase() == phase
        {
            return;
        }
    }
}

/// Creates and starts a container of the same image with nothing of ours in between.
fn container(engine: &DockerEngine, round: u64) -> Duration {
    let name = format!("bare-{round}");
    let body = format!(
        "{{\"Image\":\"{IMAGE}\",\"Cmd\":[\"sleep\",\"3600\"],\"HostConfig\":{{\"Init\":true}}}}"
    );
    let begin = Instant::now();
    let made = call(&engine.socket(), "POST", &format!("/containers/create?name={name}"), &body);
    assert!(made.contains(" 201 "), "{made}");
    let started = call(&engine.socket(), "POST", &format!("/containers/{name}/start"), "");
    assert!(started.contains(" 204 "), "{started}");
    let taken = begin.elapsed();
    call(&engine.socket(), "DELETE", &format!("/containers/{name}?force=true"), "");
    taken
}

fn call(socket: &Path, method: &str, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!("{what}  p50 {:.1} ms  p99 {:.1} ms  of {}", at(50), at(99), times.len());
}

/// What the agent costs when nothing runs.
fn idle(world: &World, agent: usize, seconds: u64) {
    let pid = world.agent(agent).pid();
    std::thread::sleep(Duration::from_secs(10));
    let begin = resources(pid);
    std::thread::sleep(Duration::from_secs(seconds));
    let end = resources(pid);
    let percent = (end.cpu_seconds - begin.cpu_seconds) / seconds as f64 * 100.0;
    println!("idle agent, Docker and 8 devices  {percent:.2} % of a core over {seconds} s");
    println!("                                  {:.1} MiB resident", end.resident_mib);
    let size = std::fs::metadata(fgpu_integration::process::fgpu()).unwrap().len();
    println!("the binary                        {:.1} MiB", size as f64 / f64::from(1 << 20));
}

//! What a thousand idle agents cost one manager: CPU and memory of the manager's process while
//! simulated agents, each on a connection of its own, heartbeat every 3 s over plaintext loopback.
//!
//! `cargo bench -p fgpu-integration --bench heartbeats [-- AGENTS SECONDS]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss
)]

use fgpu_integration::process::resources;
use fgpu_integration::world::{ManagerOptions, World};
use fgpu_wire::v1;
use fgpu_wire::v1::agent_service_client::AgentServiceClient;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

const DEVICES: u32 = 8;

#[tokio::main]
async fn main() {
    let arguments: Vec<u64> =
        std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let agents = arguments.first().copied().unwrap_or(1_000);
    let seconds = arguments.get(1).copied().unwrap_or(60);
    let world = World::new(ManagerOptions::embedded());
    let token = world.agent_token();
    let before = resources(world.manager().pid());
    let mut beating = Vec::new();
    for number in 0..agents {
        beating.push(tokio::spawn(agent(world.address(), token.clone(), number)));
        // A thousand at once would measure the reconnect, which is another figure.
        if number % 50 == 49 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let connected = world.cli().json(&["node", "list"]);
    let ready =
        connected.as_array().unwrap().iter().filter(|node| node["state"] == "ready").count();
    let begin = resources(world.manager().pid());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let end = resources(world.manager().pid());
    let alive = beating.iter().filter(|task| !task.is_finished()).count();
    let cores = (end.cpu_seconds - begin.cpu_seconds) / seconds as f64;
    println!("agents connected     {ready} (alive at the end {alive})");
    println!("manager CPU          {cores:.4} core over {seconds} s");
    println!("manager memory       {:.1} MiB resident", end.resident_mib);
    println!("                     {:.1} MiB before the first agent", before.resident_mib);
    for task in beating {
        task.abort();
    }
    assert_eq!(ready as u64, agents, "every agent is connected");
    assert_eq!(alive as u64, agents, "no agent was dropped");
}

/// One agent: registers, then heartbeats with the usage of its devices as often as it is told.
async fn agent(address: String, token: String, number: u64) {
    let channel =
        tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let mut client = AgentServiceClient::new(channel);
    let (sender, receiver) = mpsc::channel(4);
    sender.send(message(v1::agent_message::Message::Register(register(number)))).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut down = client.link(request).await.unwrap().into_inner();
    let welcome = match down.next().await.unwrap().unwrap().message {
        Some(v1::manager_message::Message::Welcome(welcome)) => welcome,
        other => panic!("no welcome: {other:?}"),
    };
    let mut beat = tokio::time::interval(Duration::from_millis(welcome.heartbeat_ms));
    let mut sequence = 0;
    loop {
        tokio::select! {
            _ = beat.tick() => {
                sequence += 1;
                let heartbeat = v1::Heartbeat {
                    sequence,
                    devices: (0..DEVICES).map(|index| usage(number, index)).collect(),
                    ..v1::Heartbeat::default()
                };
                sender.send(message(v1::agent_message::Message::Heartbeat(heartbeat))).await.unwrap();
            }
            answer = down.next() => { answer.expect("the manager keeps the stream").unwrap(); }
        }
    }
}

fn message(message: v1::agent_message::Message) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

fn uuid(node: u64, index: u32) -> String {
    format!("SIM-{node:05}-{index}")
}

fn register(number: u64) -> v1::Register {
    let device = |index| v1::DeviceInfo {
        uuid: uuid(number, index),
        index,
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_bytes: 80 << 30,
        multiprocessors: 132,
        simulated: true,
        ..v1::DeviceInfo::default()
    };
    v1::Register {
        protocol: fgpu_wire::PROTOCOL_VERSION,
        agent_version: "bench".to_owned(),
        node: format!("node-{number:05}"),
        agent_id: format!("agent-{number:05}"),
        inventory: Some(v1::NodeInventory {
            address: "127.0.0.1".to_owned(),
            cpu_milli: 64_000,
            memory_bytes: 512 << 30,
            devices: (0..DEVICES).map(device).collect(),
            runtime: Some(v1::NodeRuntime { kind: "process".into(), ..v1::NodeRuntime::default() }),
            ..v1::NodeInventory::default()
        }),
        sessions: Some(v1::SessionReports { sessions: Vec::new(), full: true }),
        ..v1::Register::default()
    }
}

fn usage(number: u64, index: u32) -> v1::DeviceUsage {
    v1::DeviceUsage {
        uuid: uuid(number, index),
        memory_used_bytes: 1 << 30,
        utilization_milli: Some(500),
        temperature_celsius: Some(50),
        power_milliwatts: Some(300_000),
        processes: Vec::new(),
    }
}

//! The whole agent once over real processes and simulated devices.

use crate::bench::{id, order};
use crate::fake_manager::{Manager, wanted};
use fgpu_agent::config::{AgentConfig, RuntimeChoice};
use fgpu_agent::facts::Machine;
use fgpu_agent::inject::SliceFile;
use fgpu_agent::order::Order;
use fgpu_agent::{Agent, AgentParts};
use fgpu_domain::ids::NodeName;
use fgpu_wire::v1;
use fgpu_wire::v1::channel_down::Message as Down;
use fgpu_wire::v1::open_channel::Purpose;
use std::path::Path;

const A: &str = "aaaaaaaa";

async fn agent(manager: &Manager, folder: &Path) -> Agent {
    let machine = Machine::read();
    let node: NodeName = "a1".parse().unwrap();
    let mut config = AgentConfig::local(node, &manager.url, folder, &machine);
    config.runtime = RuntimeChoice::Process;
    config.accelerator = "sim:2xH100-80GB".parse().unwrap();
    config.cgroup_root = format!("fgputest{}", std::process::id());
    let shim = vec![env!("CARGO_BIN_EXE_fgpu-agent-shim").into()];
    let parts = AgentParts::open(&config, shim, machine).await.unwrap();
    Agent::start(config, parts).await.unwrap()
}

/// `script` on half of the first device the node has told of.
fn on_first_device(manager: &Manager, script: &str) -> Order {
    let seen = manager.seen();
    let inventory = seen.registers[0].inventory.clone().unwrap();
    let mut order = order(&[inventory.devices[0].uuid.as_str()]);
    order.spec.image = String::new();
    order.spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    order
}

async fn logs(manager: &Manager) -> String {
    let request = v1::StreamLogsRequest { session: A.to_owned(), ..Default::default() };
    manager.open(Purpose::Logs(request)).await.rest().await.stdout
}

#[tokio::test]
async fn a_process_sees_its_slice_outlives_the_agent_and_ends_with_its_code() {
    let (manager, folder) = (Manager::start().await, tempfile::tempdir().unwrap());
    let first = agent(&manager, folder.path()).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    let go = folder.path().join("go");
    let script = format!(
        "echo $FGPU_AMOUNT; cat $FGPU_SLICE_FILE; while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        go.display()
    );
    let order = on_first_device(&manager, &script);
    manager.desire(vec![wanted(&id(A, 1), &order)]).await;
    let before = manager.runs(&id(A, 1)).await;

    first.stop().await.unwrap();
    let second = agent(&manager, folder.path()).await;
    manager.until("back", |seen| seen.registers.len() == 2).await;
    assert_eq!(manager.runs(&id(A, 1)).await, before, "adopted as it was");
    std::fs::write(&go, "").unwrap();

    let gone = manager.gone(&id(A, 1)).await;
    assert_eq!((gone.exit_code, gone.code.as_str()), (Some(7), ""));
    let output = logs(&manager).await;
    let (amount, slice) = output.split_once('\n').unwrap();
    let slice: SliceFile = serde_json::from_str(slice).unwrap();
    assert_eq!(amount, "5");
    assert!(slice.simulated);
    assert_eq!(slice.devices[0].uuid, order.grant.slices[0].device);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_command_beside_a_session_has_input_output_and_an_exit_code() {
    let (manager, folder) = (Manager::start().await, tempfile::tempdir().unwrap());
    let agent = agent(&manager, folder.path()).await;
    manager.until("registered", |seen| !seen.registers.is_empty()).await;
    let order = on_first_device(&manager, "exec sleep 600");
    manager.desire(vec![wanted(&id(A, 1), &order)]).await;
    manager.runs(&id(A, 1)).await;

    let start = v1::ExecStart {
        session: A.to_owned(),
        command: ["sh", "-c", "read line; echo got $line; echo bad >&2; exit 3"]
            .map(str::to_owned)
            .to_vec(),
        stdin: true,
        ..Default::default()
    };
    let mut channel = manager.open(Purpose::Exec(start)).await;
    channel.send(Down::Data(b"hello\n".to_vec())).await;
    channel.send(Down::Closed(true)).await;
    let received = channel.rest().await;

    assert_eq!(received.stdout, "got hello\n");
    assert_eq!(received.stderr, "bad\n");
    assert_eq!(received.exit_code, Some(3));
    manager.desire(vec![]).await;
    manager.gone(&id(A, 1)).await;
    agent.stop().await.unwrap();
}

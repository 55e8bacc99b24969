//! The shim of the process runtime as a program of its own, for tests of this crate. With the
//! argument `agent` it stands in for an agent instead: it starts a script and waits to be killed.

use std::io::Write;
use std::process::ExitCode;

use fgpu_runtime::process::{ProcessConfig, ProcessRuntime, shim_main};
use fgpu_runtime::{ContainerRuntime, ContainerSpec, Owner, RuntimeError};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [mode, state, cluster, node, root, script] if mode == "agent" => {
            let owner = Owner { cluster: cluster.clone(), node: node.clone() };
            match agent(owner, state, root, script) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        _ => shim_main(std::env::args_os().skip(1)),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn agent(owner: Owner, state: &str, root: &str, script: &str) -> Result<(), RuntimeError> {
    let shim = std::env::current_exe().unwrap_or_default();
    let mut config = ProcessConfig::new(owner, vec![shim.into()], state);
    root.clone_into(&mut config.cgroup_root);
    let runtime = ProcessRuntime::new(config)?;
    let mut spec = ContainerSpec::new("fgpu-s1", "none", "s1");
    spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let id = runtime.create(&spec).await?;
    runtime.start(&id).await?;
    // The test reads it; without one there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{id}");
    std::future::pending().await
}

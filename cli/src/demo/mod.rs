//! `fgpu demo`: a whole cluster for a minute, in a folder of its own, shown step by step. Every
//! step is checked; whatever is not as it says is exit code 1. Nothing is left behind.

mod image;
mod steps;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use fgpu_accelerator::AcceleratorSpec;
use fgpu_agent::config::RuntimeChoice;
use fgpu_domain::ids::NodeName;
use fgpu_service::logging::LogConfig;
use fgpu_wire::v1::ListSessionsRequest;

use crate::daemon::choose::{self, Chosen};
use crate::daemon::flags;
use crate::daemon::local::{Given, Local, LocalOptions};
use crate::daemon::{init_log, on_signals};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::output;
use crate::sessions;

/// What each of the two nodes gets where there are no devices.
const SIMULATED: &str = "sim:2xH100-80GB";
/// How long the end of all sessions may take.
const CLEANUP: Duration = Duration::from_secs(30);
/// How long the last process may take to go after its session has ended.
const LAST_PROCESS: Duration = Duration::from_secs(10);

/// `fgpu demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// What runs the sessions: `process`, or `docker` with an image made of this program
    #[arg(long, value_name = "KIND", default_value = "process")]
    runtime: RuntimeChoice,
    /// Devices: `auto` (NVML where there are any, else simulated), `nvml`, `sim:2xH100-80GB`
    #[arg(long, value_name = "SPEC", default_value = "auto")]
    accelerator: AcceleratorSpec,
    /// Leave the cluster running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// What is logged, e.g. `info`
    #[arg(long, value_name = "FILTER", default_value = "error", env = "FGPU_LOG")]
    log: String,
}

/// What the sessions of the demo run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Empty for plain processes.
    pub(crate) image: String,
    /// The command.
    pub(crate) command: Vec<String>,
}

/// Runs `fgpu demo`.
pub(crate) async fn run(args: DemoArgs) -> Result<(), Failure> {
    init_log(&LogConfig { filter: args.log.clone(), ..LogConfig::default() })?;
    let signals = on_signals()?;
    let scene = Scene::new(&args).await?;
    let mut local = None;
    let result = tokio::select! {
        result = scene.play(&mut local) => result,
        () = signals.cancelled() => {
            Err(Failure::new("interrupted; cleaning up").exit(EXIT_INTERRUPTED))
        }
    };
    if let (Some(local), true, Ok(())) = (&local, args.keep, &result) {
        output::line(keep_text(local))?;
        signals.cancelled().await;
    }
    let cleaned = scene.clean_up(local).await;
    result?;
    cleaned?;
    output::line("cleaned up: no process, no file and no cgroup of it is left")
}

/// Where it plays.
struct Scene {
    options: LocalOptions,
    /// Which devices, and why.
    devices: String,
    program: Program,
    /// The engine's socket, where an image was made.
    engine: Option<String>,
    cgroup_root: String,
}

impl Scene {
    async fn new(args: &DemoArgs) -> Result<Self, Failure> {
        let id = std::process::id();
        let cgroup_root = format!("fgpu_demo_{id}");
        let (devices, nodes) = stage(&args.accelerator)?;
        let yes = || "true".to_owned();
        let flag = |field: &'static str, value: String| ("fgpu demo".to_owned(), field, value);
        let manager: Given =
            vec![flag("listen", "127.0.0.1:0".to_owned()), flag("allow_shared", yes())];
        let agent: Given =
            vec![flag("allow_shared", yes()), flag("cgroup_root", cgroup_root.clone())];
        let options = LocalOptions {
            data_dir: std::env::temp_dir().join(format!("fgpu-demo-{id}")),
            nodes,
            accelerator: devices.value,
            runtime: args.runtime,
            manager_config: None,
            agent_config: None,
            manager,
            agent,
        };
        let (program, engine) = program(args.runtime).await?;
        Ok(Self { options, devices: devices.said, program, engine, cgroup_root })
    }

    /// Starts the cluster into `local`, so that it can be taken down whatever happens, and plays.
    async fn play(&self, local: &mut Option<Local>) -> Result<(), Failure> {
        let started = local.insert(Local::start(&self.options).await?);
        let nodes = started.ready(&self.options.nodes).await?;
        output::line(format!(
            "a cluster of {} nodes in this process, for this demo alone\n  devices: {}\n  \
             runtime: {}\n  isolation: shared slices are allowed here; nothing enforces a \
             simulated device\n",
            nodes.len(),
            self.devices,
            started.runtime.said
        ))?;
        steps::play(&started.link(), &self.program).await
    }

    /// Ends all sessions, stops the cluster and removes what was made; an error if anything stays.
    async fn clean_up(&self, local: Option<Local>) -> Result<(), Failure> {
        let ended = match &local {
            Some(local) => match tokio::time::timeout(CLEANUP, end_all(local)).await {
                Ok(ended) => ended,
                Err(_) => Err(Failure::new(format!(
                    "the sessions did not all end within {} s",
                    CLEANUP.as_secs()
                ))),
            },
            None => Ok(()),
        };
        let stopped = match local {
            Some(local) => local.stop().await,
            None => Ok(()),
        };
        let image = match &self.engine {
            Some(socket) => image::remove(socket, &self.program.image),
            None => Ok(()),
        };
        let processes = no_process_left(&self.options.data_dir).await;
        let folder = remove_folder(&self.options.data_dir);
        let cgroups = remove_cgroups(&self.cgroup_root);
        ended.and(stopped).and(processes).and(image).and(folder).and(cgroups)
    }
}

/// Which devices on which nodes: real ones on one node, or simulated ones on two.
fn stage(asked: &AcceleratorSpec) -> Result<(Chosen<AcceleratorSpec>, Vec<NodeName>), Failure> {
    let mut chosen = choose::choose_accelerator(asked, 1)?;
    let simulated = matches!(
        chosen.value,
        AcceleratorSpec::Simulated { .. } | AcceleratorSpec::SimulatedFile { .. }
    );
    let names: &[&str] = if simulated { &["demo-a", "demo-b"] } else { &["demo"] };
    let names: Result<Vec<_>, _> = names.iter().map(|name| NodeName::new(*name)).collect();
    if simulated && *asked == AcceleratorSpec::Auto {
        chosen.said = chosen.said.replace(choose::SIMULATED, SIMULATED);
        chosen.value = SIMULATED.parse().map_err(|error| Failure::of(&error))?;
    }
    Ok((chosen, names.map_err(|error| Failure::of(&error))?))
}

/// This very program prints the slice it sees, as a process or in a container of its own.
async fn program(runtime: RuntimeChoice) -> Result<(Program, Option<String>), Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::because("cannot tell where this program lies", &error))?;
    let words = |program: String| {
        [program.as_str(), "internal", "print-slice", "--stay"].map(str::to_owned).to_vec()
    };
    if runtime != RuntimeChoice::Docker {
        let command = words(own.display().to_string());
        return Ok((Program { image: String::new(), command }, None));
    }
    let socket = flags::lookup("FGPU_AGENT_DOCKER").unwrap_or_else(choose::machine_socket);
    choose::choose_runtime(runtime, &socket).await?;
    let name = format!("fgpu-demo:{}", std::process::id());
    image::make(&socket, &name, &own)?;
    output::line(format!("made the image {name} of this program"))?;
    Ok((Program { image: name, command: words("/fgpu".to_owned()) }, Some(socket)))
}

fn keep_text(local: &Local) -> String {
    format!(
        "the cluster stays until Ctrl-C; in another terminal:\n  \
         export FGPU_ADDRESS={} FGPU_TOKEN={}\n  fgpu device list",
        local.target.addresses.join(","),
        local.target.token.as_deref().unwrap_or_default()
    )
}

async fn end_all(local: &Local) -> Result<(), Failure> {
    let link = local.link();
    let live = sessions::list(&link, ListSessionsRequest::default()).await?;
    for session in &live {
        sessions::ask_to_stop(&link, &session.id, 2_000).await?;
    }
    for session in &live {
        sessions::until_ended(&link, &session.id).await?;
    }
    Ok(())
}

/// Every process of the demo names its folder: the shims on their command line, the sessions in
/// their environment.
async fn no_process_left(folder: &Path) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + LAST_PROCESS;
    loop {
        let left = processes_of(folder);
        if left.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Failure::new(format!("processes of the demo are left: {left:?}"))
                .hint("end them with `kill`"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn processes_of(folder: &Path) -> Vec<u32> {
    let own = std::process::id();
    let folder = folder.as_os_str().as_encoded_bytes();
    let names_it = |pid: &u32, file: &str| {
        let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.windows(folder.len()).any(|part| part == folder)
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && (names_it(pid, "cmdline") || names_it(pid, "environ")))
        .collect()
}

fn remove_folder(folder: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::because(format!("cannot remove `{}`", folder.display()), &error))
        }
        _ => Ok(()),
    }
}

/// Removes the cgroups of this name, which hold nothing any more, in every hierarchy.
fn remove_cgroups(root: &str) -> Result<(), Failure> {
    let base = PathBuf::from("/sys/fs/cgroup");
    let controllers = std::fs::read_dir(&base).into_iter().flatten().flatten();
    let places = controllers.map(|entry| entry.path()).chain([base]);
    for place in places {
        for name in [root.to_owned(), format!("{root}.slice")] {
            let path = place.join(name);
            if path.is_dir() {
                remove_cgroup(&path)?;
            }
        }
    }
    Ok(())
}

/// Removes a cgroup after those in it.
fn remove_cgroup(path: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::because(format!("cannot remove the cgroup `{}`", path.display()), &error))
        }
        _ => Ok(()),
    }
}

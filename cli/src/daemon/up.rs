//! `fgpu up`: a cluster on this machine, in one process.

use std::path::PathBuf;

use clap::Args;
use fgpu_accelerator::AcceleratorSpec;
use fgpu_agent::config::RuntimeChoice;
use fgpu_agent::facts::Machine;
use fgpu_agent::notify::Notifier;
use fgpu_domain::ids::NodeName;
use fgpu_service::logging::LogConfig;
use fgpu_wire::v1::{ListSessionsRequest, Node};

use super::local::{Given, Local, LocalOptions};
use crate::context::{self, Context, Contexts};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::output;
use crate::sessions;

/// Name of the context `up` writes.
const CONTEXT: &str = "local";

/// `fgpu up`
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Address and port to listen on; beyond loopback TLS is needed (FGPU_MANAGER_TLS_CERT, …_KEY)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070", env = "FGPU_UP_LISTEN")]
    listen: String,
    /// Folder for everything [default: ~/.local/share/fgpu, as root /var/lib/fgpu]
    #[arg(long, value_name = "FOLDER", env = "FGPU_UP_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Devices: `auto` (NVML where there are any, else simulated), `nvml`, `sim:8xH100-80GB`
    #[arg(long, value_name = "SPEC", default_value = "auto", env = "FGPU_UP_ACCELERATOR")]
    accelerator: AcceleratorSpec,
    /// What runs containers: `auto` (Docker where it answers, else processes), `docker`, `process`
    #[arg(long, value_name = "KIND", default_value = "auto", env = "FGPU_UP_RUNTIME")]
    runtime: RuntimeChoice,
    /// Container engine [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "SOCKET")]
    docker: Option<String>,
    /// How many nodes; more than one are simulated
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = crate::parse::count)]
    nodes: u32,
    /// Name of the node; of several: `NAME-1`, `NAME-2`, … [default: the host name]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// How nodes are chosen: fragmentation, binpack, spread, best-fit, dot-product, fgd or random [default: fragmentation]
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// One device is this many fGPU [default: 10]
    #[arg(long, value_name = "AMOUNT", conflicts_with = "unit_memory")]
    fgpu_per_device: Option<String>,
    /// One fGPU is this much device memory, e.g. `8GiB`
    #[arg(long, value_name = "SIZE")]
    unit_memory: Option<String>,
    /// Smallest step of a request, in fGPU [default: 0.1]
    #[arg(long, value_name = "AMOUNT")]
    quantum: Option<String>,
    /// How devices get into containers: auto, cdi, device-request, runtime or none
    #[arg(long, value_name = "HOW")]
    gpu_attach: Option<String>,
    /// Folders sessions may mount from, with commas [default: none]
    #[arg(long, value_name = "FOLDERS")]
    allowed_mounts: Option<String>,
    /// More settings of the manager, as `fgpu manager --config`
    #[arg(long, value_name = "FILE")]
    manager_config: Option<PathBuf>,
    /// More settings of the agents, as `fgpu agent --config`
    #[arg(long, value_name = "FILE")]
    agent_config: Option<PathBuf>,
    /// Stop all sessions when stopping; without it they keep running
    #[arg(long)]
    stop_sessions: bool,
    /// Do not write the context `local`
    #[arg(long)]
    no_context: bool,
    /// What is logged, e.g. `info`
    #[arg(long, value_name = "FILTER", default_value = "warn", env = "FGPU_LOG")]
    log: String,
}

/// Runs `fgpu up` until it is told to stop.
pub(crate) async fn run(args: UpArgs) -> Result<(), Failure> {
    super::init_log(&LogConfig { filter: args.log.clone(), ..LogConfig::default() })?;
    let signals = super::on_signals()?;
    let options = options(&args)?;
    output::say(format!("starting a cluster in {}", options.data_dir.display()));
    let starting = async {
        let local = Local::start(&options).await?;
        match local.ready(&options.nodes).await {
            Ok(nodes) => Ok((local, nodes)),
            Err(failure) => {
                let _ = local.stop().await;
                Err(failure)
            }
        }
    };
    let (mut local, nodes) = tokio::select! {
        started = starting => started?,
        () = signals.cancelled() => {
            return Err(Failure::new("interrupted while starting").exit(EXIT_INTERRUPTED));
        }
    };
    let context = if args.no_context { None } else { Some(write_context(&local)?) };
    output::say(banner(&local, &nodes, &options, context.as_deref()));
    Notifier::Systemd.ready("ready");
    let broken = tokio::select! {
        () = signals.cancelled() => None,
        failure = local.broken() => Some(failure),
    };
    Notifier::Systemd.stopping();
    if broken.is_none() {
        leave_sessions(&local, args.stop_sessions).await;
    }
    let stopped = local.stop().await;
    match broken {
        Some(failure) => Err(stopped.err().unwrap_or(failure)),
        None => stopped,
    }
}

fn options(args: &UpArgs) -> Result<LocalOptions, Failure> {
    let mut manager = Given::new();
    let mut agent = Given::new();
    let set = |given: &mut Given, flag: &str, field, value: &Option<String>| {
        if let Some(value) = value {
            given.push((flag.to_owned(), field, value.clone()));
        }
    };
    let yes = Some("true".to_owned());
    set(&mut manager, "--listen", "listen", &Some(args.listen.clone()));
    set(&mut manager, "--policy", "policy", &args.policy);
    set(&mut manager, "--fgpu-per-device", "units.fgpu_per_device", &args.fgpu_per_device);
    set(&mut manager, "--unit-memory", "units.unit_memory", &args.unit_memory);
    set(&mut manager, "--quantum", "units.quantum", &args.quantum);
    set(&mut manager, "fgpu up", "allow_shared", &yes);
    set(&mut agent, "fgpu up", "allow_shared", &yes);
    set(&mut agent, "--docker", "docker", &args.docker);
    set(&mut agent, "--gpu-attach", "gpu_attach", &args.gpu_attach);
    set(&mut agent, "--allowed-mounts", "allowed_mounts", &args.allowed_mounts);
    let data_dir = match &args.data_dir {
        Some(folder) => folder.clone(),
        None => default_data_dir()?,
    };
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    Ok(LocalOptions {
        data_dir,
        nodes: node_names(args.node.as_ref(), args.nodes)?,
        accelerator: args.accelerator.clone(),
        runtime: args.runtime,
        manager_config: args.manager_config.clone(),
        agent_config: args.agent_config.clone(),
        manager,
        agent,
    })
}

fn default_data_dir() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/fgpu"));
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    match folder {
        Some(folder) => Ok(folder.join("fgpu")),
        None => Err(Failure::new("there is no place for data: HOME is not set")
            .hint("name a folder with `--data-dir`")),
    }
}

fn node_names(name: Option<&NodeName>, count: u32) -> Result<Vec<NodeName>, Failure> {
    let base = match name {
        Some(name) => name.to_string(),
        None => {
            let host = Machine::read().hostname.to_lowercase();
            let host: String = host.chars().take_while(|c| *c != '.').collect();
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let host: String = host.chars().map(|c| if fine(c) { c } else { '-' }).collect();
            match host.trim_matches('-') {
                "" => "local".to_owned(),
                host => host.to_owned(),
            }
        }
    };
    let all = match count {
        1 => vec![base],
        count => (1..=count).map(|at| format!("{base}-{at}")).collect(),
    };
    let checked: Result<Vec<_>, _> = all.into_iter().map(NodeName::new).collect();
    checked.map_err(|error| Failure::of(&error).hint("name it with `--node`"))
}

/// Writes the context `local`; says how to use it.
fn write_context(local: &Local) -> Result<String, Failure> {
    let path = context::path()?;
    let mut contexts = Contexts::read(&path)?;
    let project = contexts.contexts.get(CONTEXT).and_then(|known| known.project.clone());
    let own = Context {
        project,
        address: local.target.addresses.join(","),
        token: local.target.token.clone(),
        ca: local.target.ca.clone(),
    };
    contexts.contexts.insert(CONTEXT.to_owned(), own);
    let current = contexts.current.get_or_insert_with(|| CONTEXT.to_owned()).clone();
    contexts.write(&path)?;
    Ok(match current == CONTEXT {
        true => format!("`{CONTEXT}` (current), in {}", path.display()),
        false => format!(
            "`{CONTEXT}`; `{current}` is the current one: use `--context {CONTEXT}`, or \
             `fgpu context use {CONTEXT}`"
        ),
    })
}

fn banner(local: &Local, nodes: &[Node], options: &LocalOptions, context: Option<&str>) -> String {
    let views: Vec<_> = nodes.iter().cloned().map(crate::view::NodeView::from).collect();
    let context = context.unwrap_or("not written; the token is in the data folder");
    let facts = output::fields(&[
        ("address", local.target.addresses.join(", ")),
        ("context", context.to_owned()),
        ("data", options.data_dir.display().to_string()),
        ("devices", local.accelerator.said.clone()),
        ("runtime", local.runtime.said.clone()),
        (
            "isolation",
            "shared slices are allowed: where nothing enforces a slice, it is only accounted"
                .to_owned(),
        ),
    ]);
    let table = crate::nodes::table(&views, output::now_ms()).render();
    format!(
        "ready\n{facts}\n{table}\n\
         try: fgpu run --fgpu 2.5 {}-- echo hello; fgpu device list\n\
         Ctrl-C stops the cluster, not its sessions{}",
        match local.runtime.value {
            RuntimeChoice::Docker => "--image busybox ",
            _ => "",
        },
        " (unless --stop-sessions)"
    )
}

/// Stops the sessions if that was asked for, and says what stays.
async fn leave_sessions(local: &Local, stop: bool) {
    let link = local.link();
    let Ok(live) = sessions::list(&link, ListSessionsRequest::default()).await else { return };
    if live.is_empty() {
        return;
    }
    if !stop {
        let count = live.len();
        let noun = if count == 1 { "session is" } else { "sessions are" };
        output::say(format!("{count} {noun} left running; `fgpu up` finds them again"));
        return;
    }
    output::say(format!("stopping the sessions: {}", live.len()));
    for session in &live {
        if let Err(failure) = sessions::ask_to_stop(&link, &session.id, 0).await {
            output::say(failure.to_string());
        }
    }
    for session in &live {
        if let Err(failure) = sessions::until_ended(&link, &session.id).await {
            output::say(failure.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_nodes_are_numbered() {
        let name = NodeName::new("a").unwrap();
        let names = node_names(Some(&name), 2).unwrap();
        assert_eq!(names, [NodeName::new("a-1").unwrap(), NodeName::new("a-2").unwrap()]);
        assert_eq!(node_names(Some(&name), 1).unwrap(), [name]);
        assert_eq!(node_names(None, 1).unwrap().len(), 1);
    }
}

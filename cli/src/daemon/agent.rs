//! `fgpu agent`

use std::path::PathBuf;

use clap::Args;
use fgpu_agent::facts::Machine;
use fgpu_agent::notify::Notifier;
use fgpu_agent::{AgentConfig, AgentError, AgentParts};
use fgpu_service::config::{ConfigFaults, format_duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::flags::{self, Flags, Setting, Settings};
use super::{DaemonArgs, toml_line};
use crate::failure::Failure;
use crate::output;

/// `fgpu agent`
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    #[command(flatten)]
    pub(crate) flags: Flags<AgentFlags>,
}

/// The settings of an agent.
#[derive(Debug, Clone)]
pub(crate) struct AgentFlags;

macro_rules! settings {
    ($(($field:literal, $value:literal, $help:literal),)*) => {
        &[$(Setting { field: $field, value: $value, help: $help },)*]
    };
}

impl Settings for AgentFlags {
    const PREFIX: &'static str = "FGPU_AGENT";
    const SWITCHES: &'static [&'static str] = &["allow_shared"];
    const ALL: &'static [Setting] = settings![
        (
            "managers",
            "URLS",
            "Managers to dial in turn, with commas [default: http://127.0.0.1:7070]"
        ),
        ("node", "NAME", "Name of this node in the cluster [default: the host name]"),
        ("token", "TOKEN", "Token to show; better in a file, see --token-file"),
        ("token_file", "FILE", "File with the token (`fgpu token create NODE --role agent`)"),
        ("tls.ca", "FILE", "Authority of the managers' certificates, PEM"),
        ("tls.cert", "FILE", "Certificate to show the managers, PEM"),
        ("tls.key", "FILE", "Its key, PEM"),
        ("tls.server_name", "NAME", "Name in the managers' certificate, if not the host dialled"),
        ("state_dir", "FOLDER", "Folder of its files [default: /var/lib/fgpu/agent]"),
        (
            "accelerator",
            "SPEC",
            "auto, nvml, nvml:/path/libnvidia-ml.so.1, sim:8xH100-80GB or sim:/path [default: auto]"
        ),
        ("runtime", "KIND", "auto, docker or process [default: auto]"),
        ("docker", "SOCKET", "Container engine [default: unix:///var/run/docker.sock]"),
        (
            "gpu_attach",
            "HOW",
            "How devices get into containers: auto, cdi, device-request, runtime or none \
             [default: auto]"
        ),
        (
            "advertise_address",
            "ADDRESS",
            "Where published ports are told to be reached [default: 127.0.0.1]"
        ),
        ("publish_address", "ADDRESS", "Where they listen [default: follows the advertised one]"),
        ("labels", "KEY=VALUE,…", "Labels of the node"),
        ("cpu", "CORES", "CPU to give [default: all of the machine]"),
        ("memory", "SIZE", "Memory to give [default: all of the machine]"),
        ("reserve_cpu", "CORES", "CPU kept back [default: 0]"),
        ("reserve_memory", "SIZE", "Memory kept back [default: 0]"),
        ("allow_shared", "true|false", "Take sessions that nothing keeps to their slice"),
        (
            "allowed_mounts",
            "FOLDERS",
            "Folders sessions may mount from, with commas [default: none]"
        ),
        ("cgroup_root", "NAME", "Cgroup that holds those of the sessions [default: fgpu]"),
        ("engine_patience", "DURATION", "How long a start waits for the engine [default: 5m]"),
        ("relist", "DURATION", "How often all containers are listed [default: 5s]"),
        ("logs.placement_size", "SIZE", "Output kept of each ended placement"),
        ("logs.total_size", "SIZE", "Output kept of all ended placements together"),
        ("logs.count", "COUNT", "Ended placements whose output is kept"),
        ("logs.age", "DURATION", "How long output is kept"),
        ("log.filter", "FILTER", "What is logged, e.g. info,fgpu_agent=debug [default: info]"),
        ("log.format", "text|json", "How log lines look [default: text]"),
    ];
}

/// Runs `fgpu agent` until it is told to stop.
pub(crate) async fn run(args: AgentArgs) -> Result<(), Failure> {
    let flags = args.flags.written();
    let config = load(args.daemon.config.as_ref(), &flags, &Machine::read())
        .map_err(|faults| super::faults(&faults))?;
    if args.daemon.print_config {
        return output::text(shown(&config));
    }
    if args.daemon.check {
        output::say("the configuration is complete");
        return Ok(());
    }
    super::init_log(&config.log)?;
    let shutdown = super::on_signals()?;
    let mut parts = parts(&config, Machine::read()).await?;
    parts.notifier = Notifier::Systemd;
    fgpu_agent::run(config, parts, shutdown).await.map_err(|error| failure(&error))
}

/// The configuration from file, environment and flags.
pub(crate) fn load(
    file: Option<&PathBuf>,
    flags: &[(String, &'static str, String)],
    machine: &Machine,
) -> Result<AgentConfig, ConfigFaults> {
    let flags: Vec<_> =
        flags.iter().map(|(flag, field, text)| (flag.as_str(), *field, text.clone())).collect();
    AgentConfig::load(file.map(PathBuf::as_path), flags::lookup, &flags, machine)
}

/// Devices and runtime of an agent.
async fn parts(config: &AgentConfig, machine: Machine) -> Result<AgentParts, Failure> {
    AgentParts::open(config, super::shim_command()?, machine)
        .await
        .map_err(|error| Failure::of(&error))
}

/// Starts an agent in a task of its own.
pub(crate) async fn start(
    config: AgentConfig,
    machine: Machine,
    shutdown: CancellationToken,
) -> Result<JoinHandle<Result<(), AgentError>>, Failure> {
    let parts = parts(&config, machine).await?;
    Ok(tokio::spawn(fgpu_agent::run(config, parts, shutdown)))
}

/// Why an agent did not start or stopped.
pub(crate) fn failure(error: &AgentError) -> Failure {
    Failure::of(error)
}

/// The configuration in the form of the file, secrets left out.
fn shown(config: &AgentConfig) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| text.push_str(&toml_line(key, &value));
    line("managers", config.managers.join(","));
    line("node", config.node.to_string());
    let files = [
        ("tls.ca", &config.tls.ca),
        ("tls.cert", &config.tls.identity.as_ref().map(|(cert, _)| cert.clone())),
        ("tls.key", &config.tls.identity.as_ref().map(|(_, key)| key.clone())),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            line(key, file.display().to_string());
        }
    }
    line("state_dir", config.state_dir.display().to_string());
    line("accelerator", config.accelerator.to_string());
    line("runtime", format!("{:?}", config.runtime).to_lowercase());
    line("docker", config.docker.clone());
    line("gpu_attach", config.gpu_attach.to_string());
    line("advertise_address", config.advertise.clone());
    line("publish_address", config.publish_on.to_string());
    line("labels", crate::sessions::pairs(&config.labels).replace(", ", ","));
    line("cpu", config.cpu.to_string());
    line("memory", config.memory.to_string());
    line("allow_shared", config.allow_shared.to_string());
    let mounts = config.allowed_mounts.iter().map(|path| path.display().to_string());
    line("allowed_mounts", mounts.collect::<Vec<_>>().join(","));
    line("cgroup_root", config.cgroup_root.clone());
    line("engine_patience", format_duration(config.engine_patience));
    line("relist", format_duration(config.relist));
    line("logs.placement_size", format!("{}B", config.logs.placement_bytes));
    line("logs.total_size", format!("{}B", config.logs.total_bytes));
    line("logs.count", config.logs.count.to_string());
    line("logs.age", format_duration(config.logs.age));
    line("log.filter", config.log.filter.clone());
    line("log.format", config.log.format.to_string());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_agent::config::FIELDS;
    use std::collections::BTreeSet;

    #[test]
    fn every_setting_of_the_agent_has_a_flag_and_no_flag_is_of_nothing() {
        let flags: BTreeSet<_> = AgentFlags::ALL.iter().map(|setting| setting.field).collect();
        let fields: BTreeSet<_> = FIELDS.iter().copied().collect();
        assert_eq!(flags, fields);
    }

    #[test]
    fn what_is_printed_can_be_read_back_is_the_same_and_holds_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        let secret = format!("fgpu_abcdef_{}", "s".repeat(40));
        let given = [
            ("--node".to_owned(), "node", "a1".to_owned()),
            ("--token".to_owned(), "token", secret.clone()),
            ("--accelerator".to_owned(), "accelerator", "sim:2xH100-80GB".to_owned()),
        ];
        let machine = Machine::read();
        let printed = shown(&load(None, &given, &machine).unwrap());
        std::fs::write(&path, &printed).unwrap();

        let again = load(Some(&path), &[], &machine).unwrap();

        assert_eq!(shown(&again), printed);
        assert!(printed.contains("sim:2xH100-80GB") && !printed.contains(&secret), "{printed}");
    }
}

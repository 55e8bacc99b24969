//! `fgpu manager`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use fgpu_agent::notify::Notifier;
use fgpu_manager::{ManagerConfig, ManagerError, Parts, StoreConfig};
use fgpu_service::clock::SystemClock;
use fgpu_service::config::{ConfigFaults, format_duration};
use tokio_util::sync::CancellationToken;

use super::flags::{self, Flags, Setting, Settings};
use super::{DaemonArgs, toml_line};
use crate::failure::Failure;
use crate::output;

/// `fgpu manager`
#[derive(Debug, Args)]
pub(crate) struct ManagerArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    #[command(flatten)]
    pub(crate) flags: Flags<ManagerFlags>,
}

/// The settings of a manager.
#[derive(Debug, Clone)]
pub(crate) struct ManagerFlags;

macro_rules! settings {
    ($(($field:literal, $value:literal, $help:literal),)*) => {
        &[$(Setting { field: $field, value: $value, help: $help },)*]
    };
}

impl Settings for ManagerFlags {
    const PREFIX: &'static str = "FGPU_MANAGER";
    const SWITCHES: &'static [&'static str] = &["allow_shared"];
    const ALL: &'static [Setting] = settings![
        ("listen", "ADDRESS", "Address and port to listen on [default: 127.0.0.1:7070]"),
        ("advertise", "URL", "How agents and clients reach it [default: as it listens]"),
        ("data_dir", "FOLDER", "Folder for store and first token [default: /var/lib/fgpu/manager]"),
        (
            "policy",
            "POLICY",
            "fragmentation, binpack, spread, best-fit, dot-product, fgd or random [default: fragmentation]"
        ),
        ("allow_shared", "true|false", "Give slices nothing enforces without being asked"),
        ("bootstrap_token_file", "FILE", "Where the first administrator's token is written"),
        (
            "store.path",
            "FILE",
            "File of the embedded store [default: store.fgpu in the data folder]"
        ),
        ("store.etcd", "URLS", "etcd members, with commas; then no file is used"),
        ("store.etcd_prefix", "PREFIX", "What every key in etcd is put under"),
        ("store.etcd_user", "USER", "etcd user"),
        ("store.etcd_password_file", "FILE", "File with the etcd user's password"),
        ("store.etcd_ca", "FILE", "Authority of etcd's certificates, PEM"),
        ("store.etcd_cert", "FILE", "Certificate to show etcd, PEM"),
        ("store.etcd_key", "FILE", "Its key, PEM"),
        ("units.fgpu_per_device", "AMOUNT", "One device is this many fGPU [default: 10]"),
        ("units.unit_memory", "SIZE", "One fGPU is this much device memory, e.g. 8GiB"),
        ("units.quantum", "AMOUNT", "Smallest step of a request [default: 0.1]"),
        ("defaults.cpu", "CORES", "CPU of a session that names none [default: 1]"),
        ("defaults.memory", "SIZE", "Memory of a session that names none [default: 2GiB]"),
        ("timings.heartbeat", "DURATION", "How often agents speak [default: 3s]"),
        ("timings.suspect", "DURATION", "Silence until a node gets nothing new [default: 10s]"),
        ("timings.fence", "DURATION", "Silence until an agent acts by itself [default: 30s]"),
        ("timings.lost", "DURATION", "Silence until a node is lost [default: 40s]"),
        (
            "timings.leader_ttl",
            "DURATION",
            "How long leadership outlives its holder [default: 10s]"
        ),
        ("timings.start_timeout", "DURATION", "From being placed to running [default: 30m]"),
        (
            "timings.reservation_patience",
            "DURATION",
            "How long the first of the queue waits before nodes are closed for it [default: 10m]"
        ),
        ("sessions.ended_retention", "DURATION", "How long ended sessions are kept [default: 7d]"),
        ("sessions.ended_limit", "COUNT", "How many of them at most [default: 10000]"),
        ("tls.cert", "FILE", "Certificate chain, PEM; needed beyond loopback"),
        ("tls.key", "FILE", "Its key, PEM"),
        ("tls.client_ca", "FILE", "Clients must show a certificate of this authority, PEM"),
        ("log.format", "text|json", "How log lines look [default: text]"),
        ("log.filter", "FILTER", "What is logged, e.g. info,fgpu_manager=debug [default: info]"),
    ];
}

/// Runs `fgpu manager` until it is told to stop.
pub(crate) async fn run(args: ManagerArgs) -> Result<(), Failure> {
    let config = load(args.daemon.config.as_ref(), &args.flags.written())
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
    let parts = parts(&config).await?;
    let manager = fgpu_manager::Manager::start(config, parts, shutdown)
        .await
        .map_err(|error| failure(&error))?;
    Notifier::Systemd.ready(&format!("listening on {}", manager.address));
    let alive = tokio::spawn(stay_alive());
    let result = manager.join().await.map_err(|error| failure(&error));
    alive.abort();
    Notifier::Systemd.stopping();
    result
}

/// Gives systemd its signs of life, where it wants any.
async fn stay_alive() {
    let mut watchdog = Notifier::Systemd.watchdog();
    loop {
        watchdog.due().await;
        Notifier::Systemd.alive();
    }
}

/// The configuration from file, environment and flags.
pub(crate) fn load(
    file: Option<&PathBuf>,
    flags: &[(String, &'static str, String)],
) -> Result<ManagerConfig, ConfigFaults> {
    let flags: Vec<_> =
        flags.iter().map(|(flag, field, text)| (flag.as_str(), *field, text.clone())).collect();
    ManagerConfig::load(file.map(PathBuf::as_path), flags::lookup, &flags)
}

/// Store and clock of a manager.
pub(crate) async fn parts(config: &ManagerConfig) -> Result<Parts, Failure> {
    super::local::make_folder(&config.data_dir)?;
    let store = fgpu_manager::open_store(config).await.map_err(|error| failure(&error))?;
    Ok(Parts { store, clock: Arc::new(SystemClock::new()) })
}

/// Starts a manager and waits until it leads.
pub(crate) async fn start_leading(
    config: ManagerConfig,
    shutdown: CancellationToken,
) -> Result<fgpu_manager::RunningManager, Failure> {
    let patience = config.timings.leader_ttl * 3;
    let parts = parts(&config).await?;
    let manager = fgpu_manager::Manager::start(config, parts, shutdown)
        .await
        .map_err(|error| failure(&error))?;
    match tokio::time::timeout(patience, manager.leading()).await {
        Ok(true) => Ok(manager),
        Ok(false) => Err(match manager.join().await {
            Err(error) => failure(&error),
            Ok(()) => Failure::new("the manager stopped before it led"),
        }),
        Err(_) => {
            let _ = manager.stop().await;
            Err(Failure::new("the manager was not elected within three leader terms")
                .hint("another manager uses this store: stop it, or name another `--data-dir`"))
        }
    }
}

/// Why a manager did not start or stopped.
pub(crate) fn failure(error: &ManagerError) -> Failure {
    Failure::of(error)
}

/// The configuration in the form of the file, secrets left out.
fn shown(config: &ManagerConfig) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| text.push_str(&toml_line(key, &value));
    line("listen", config.listen.to_string());
    if let Some(url) = &config.advertise {
        line("advertise", url.clone());
    }
    line("data_dir", config.data_dir.display().to_string());
    line("policy", config.policy.to_string());
    line("allow_shared", config.allow_shared.to_string());
    line("bootstrap_token_file", config.bootstrap.token_file.display().to_string());
    match &config.store {
        StoreConfig::Embedded { path } => line("store.path", path.display().to_string()),
        StoreConfig::Etcd(etcd) => {
            line("store.etcd", etcd.endpoints.join(","));
            line("store.etcd_prefix", etcd.prefix.clone());
        }
    }
    match config.units.default {
        fgpu_domain::slice::UnitRule::FgpuPerDevice(amount) => {
            line("units.fgpu_per_device", amount.to_string());
        }
        fgpu_domain::slice::UnitRule::UnitMemory(memory) => {
            line("units.unit_memory", memory.to_string());
        }
    }
    line("units.quantum", config.units.quantum.to_string());
    line("defaults.cpu", config.default_cpu.to_string());
    line("defaults.memory", config.default_memory.to_string());
    let timings = &config.timings;
    for (key, duration) in [
        ("timings.heartbeat", timings.heartbeat),
        ("timings.suspect", timings.suspect),
        ("timings.fence", timings.fence),
        ("timings.lost", timings.lost),
        ("timings.leader_ttl", timings.leader_ttl),
        ("timings.start_timeout", timings.start_timeout),
        ("timings.reservation_patience", timings.reservation_patience),
        ("sessions.ended_retention", timings.ended_retention),
    ] {
        line(key, format_duration(duration));
    }
    line("sessions.ended_limit", config.ended_limit.to_string());
    if let Some(tls) = &config.tls {
        line("tls.cert", tls.certificate.display().to_string());
        line("tls.key", tls.key.display().to_string());
        if let Some(ca) = &tls.client_ca {
            line("tls.client_ca", ca.display().to_string());
        }
    }
    line("log.format", config.log.format.to_string());
    line("log.filter", config.log.filter.clone());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_setting_of_the_manager_has_a_flag_and_no_flag_is_of_nothing() {
        let flags: BTreeSet<_> = ManagerFlags::ALL.iter().map(|setting| setting.field).collect();
        let fields: BTreeSet<_> = fgpu_manager::FIELDS.iter().copied().collect();
        assert_eq!(flags, fields);
    }

    #[test]
    fn what_is_printed_can_be_read_back_and_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manager.toml");
        let given = [
            ("--units-unit-memory".to_owned(), "units.unit_memory", "8GiB".to_owned()),
            ("--timings-lost".to_owned(), "timings.lost", "90s".to_owned()),
        ];
        let printed = shown(&load(None, &given).unwrap());
        std::fs::write(&path, &printed).unwrap();

        let again = load(Some(&path), &[]).unwrap();

        assert_eq!(shown(&again), printed);
        assert!(printed.contains("timings.lost = \"90s\""), "{printed}");
    }

    #[test]
    fn all_faults_are_said_at_once_with_where_they_came_from() {
        let given = [
            ("--listen".to_owned(), "listen", "nowhere".to_owned()),
            ("--policy".to_owned(), "policy", "best".to_owned()),
        ];
        let text = super::super::faults(&load(None, &given).unwrap_err()).to_string();
        assert!(text.contains("--listen") && text.contains("--policy"), "{text}");
    }
}

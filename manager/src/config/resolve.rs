//! From settings to a configuration, with every fault.

use super::settings::{ENDED_LIMIT, STORE_FILE, TOKEN_FILE, UnitRuleSettings};
use super::{BootstrapConfig, CommitLimits, ManagerConfig, ManagerSettings, StoreConfig, Timings};
use fgpu_domain::slice::{UnitPolicy, UnitRule};
use fgpu_domain::units::{CpuMilli, Fgpu, MemoryBytes};
use fgpu_service::config::{
    ConfigFaults, Origins, Resolver, Text, format_duration, parse_duration,
};
use fgpu_service::logging::{LogConfig, LogFormat, parse_filter};
use fgpu_service::secret::Token;
use fgpu_service::tls::ServerTlsFiles;
use fgpu_store::{EtcdConfig, EtcdTls};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7070);
const DEFAULT_DATA_DIR: &str = "/var/lib/fgpu/manager";
const TOKEN_VARIABLE: &str = "FGPU_BOOTSTRAP_TOKEN";
const AGENT_TOKEN_VARIABLE: &str = "FGPU_BOOTSTRAP_AGENT_TOKEN";
/// See [`CommitLimits`].
const BATCH_VARIABLE: &str = "FGPU_BENCH_MAX_BATCH";
const IN_FLIGHT_VARIABLE: &str = "FGPU_BENCH_IN_FLIGHT";

impl ManagerSettings {
    /// The configuration these settings describe; `lookup` reads the environment for the first
    /// tokens (`FGPU_BOOTSTRAP_TOKEN`, `FGPU_BOOTSTRAP_AGENT_TOKEN`), which have no place in files.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn resolve(
        &self,
        origins: &Origins,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<ManagerConfig, ConfigFaults> {
        let mut read = Resolver::new(origins);
        let data_dir = path(self.data_dir.as_ref()).unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        let listen = read.with("listen", self.listen.as_ref(), |text| {
            let rule = "an address and a port, such as `127.0.0.1:7070` or `0.0.0.0:7070`";
            text.parse().map_err(|_| rule.to_owned())
        });
        let config = ManagerConfig {
            listen: listen.unwrap_or(DEFAULT_LISTEN),
            advertise: read.with("advertise", self.advertise.as_ref(), url),
            store: self.store(&mut read, &data_dir),
            units: self.units(&mut read),
            policy: read.value("policy", self.policy.as_ref(), Default::default()),
            allow_shared: read
                .with("allow_shared", self.allow_shared.as_ref(), flag)
                .unwrap_or_default(),
            default_cpu: read.value("defaults.cpu", self.defaults.cpu.as_ref(), CpuMilli(1000)),
            default_memory: read.value(
                "defaults.memory",
                self.defaults.memory.as_ref(),
                MemoryBytes::gib(2),
            ),
            timings: self.timings(&mut read),
            ended_limit: read.value(
                "sessions.ended_limit",
                self.sessions.ended_limit.as_ref(),
                ENDED_LIMIT,
            ),
            commits: commits(&mut read, &lookup),
            tls: self.tls(&mut read),
            bootstrap: self.bootstrap(&mut read, &data_dir, lookup),
            log: self.log(&mut read),
            data_dir,
        };
        self.check_exposure(&config, &mut read);
        read.finish(config)
    }

    /// Nothing but loopback is served in plaintext.
    fn check_exposure(&self, config: &ManagerConfig, read: &mut Resolver<'_>) {
        if !config.listen.ip().is_loopback() && config.tls.is_none() {
            let rule = "reachable from other machines, so it needs TLS: set `tls.cert` and \
                        `tls.key`, or listen on 127.0.0.1";
            read.fault("listen", config.listen, rule);
        }
        if config.listen.ip().is_unspecified() && self.advertise.is_none() {
            let rule = "set it to the URL agents and other managers reach this one at, such as \
                        `https://manager.example:7070`, when listening on all addresses";
            read.fault("advertise", "", rule);
        }
    }

    fn store(&self, read: &mut Resolver<'_>, data_dir: &Path) -> StoreConfig {
        let settings = &self.store;
        let Some(endpoints) = settings.etcd.clone().filter(|list| !list.0.is_empty()) else {
            let file = path(settings.path.as_ref()).unwrap_or_else(|| data_dir.join(STORE_FILE));
            return StoreConfig::Embedded { path: file };
        };
        if let Some(Text(file)) = &settings.path {
            read.fault("store.path", file, "leave it out when `store.etcd` is set, or the reverse");
        }
        let mut config = EtcdConfig::new(endpoints.0);
        if let Some(Text(prefix)) = &settings.etcd_prefix {
            config.prefix.clone_from(prefix);
        }
        config.username = settings.etcd_user.clone().map(|Text(user)| user);
        config.password =
            read.with("store.etcd_password_file", settings.etcd_password_file.as_ref(), |file| {
                let read = std::fs::read_to_string(file);
                read.map(|text| text.trim().to_owned())
                    .map_err(|error| format!("cannot be read: {error}"))
            });
        if config.username.is_some() != settings.etcd_password_file.is_some() {
            let user = config.username.clone().unwrap_or_default();
            read.fault("store.etcd_user", user, "goes together with `store.etcd_password_file`");
        }
        config.tls = self.etcd_tls(read);
        StoreConfig::Etcd(config)
    }

    fn etcd_tls(&self, read: &mut Resolver<'_>) -> Option<EtcdTls> {
        let settings = &self.store;
        let (cert, key) = (path(settings.etcd_cert.as_ref()), path(settings.etcd_key.as_ref()));
        if cert.is_some() != key.is_some() {
            read.fault("store.etcd_cert", "", "goes together with `store.etcd_key`");
        }
        let identity = cert.zip(key);
        match path(settings.etcd_ca.as_ref()) {
            Some(ca) => Some(EtcdTls { ca, identity, server_name: None }),
            None if identity.is_some() => {
                read.fault("store.etcd_cert", "", "needs `store.etcd_ca` as well");
                None
            }
            None => None,
        }
    }

    fn units(&self, read: &mut Resolver<'_>) -> UnitPolicy {
        let settings = &self.units;
        let mut policy = UnitPolicy::default();
        let own = UnitRuleSettings {
            fgpu_per_device: settings.fgpu_per_device.clone(),
            unit_memory: settings.unit_memory.clone(),
        };
        if let Some(rule) = unit_rule(read, "units", &own) {
            policy.default = rule;
        }
        for (model, rule) in &settings.by_model {
            let field = format!("units.by_model.{model}");
            match unit_rule(read, &field, rule) {
                Some(rule) => drop(policy.by_model.insert(model.clone(), rule)),
                None if rule.fgpu_per_device.is_none() && rule.unit_memory.is_none() => {
                    read.fault(&field, "", "needs `fgpu_per_device` or `unit_memory`");
                }
                None => {}
            }
        }
        if let Some(quantum) = read.optional("units.quantum", settings.quantum.as_ref()) {
            policy.quantum = quantum;
        }
        if policy.quantum == Fgpu::ZERO {
            read.fault("units.quantum", policy.quantum, "more than zero");
        }
        policy
    }

    fn timings(&self, read: &mut Resolver<'_>) -> Timings {
        let (settings, sessions) = (&self.timings, &self.sessions);
        let fallback = Timings::default();
        let mut time = |field: &str, text: &Option<Text>, default: Duration| {
            read.with(field, text.as_ref(), parse_duration).unwrap_or(default)
        };
        let timings = Timings {
            heartbeat: time("timings.heartbeat", &settings.heartbeat, fallback.heartbeat),
            suspect: time("timings.suspect", &settings.suspect, fallback.suspect),
            fence: time("timings.fence", &settings.fence, fallback.fence),
            lost: time("timings.lost", &settings.lost, fallback.lost),
            leader_ttl: time("timings.leader_ttl", &settings.leader_ttl, fallback.leader_ttl),
            start_timeout: time(
                "timings.start_timeout",
                &settings.start_timeout,
                fallback.start_timeout,
            ),
            reservation_patience: time(
                "timings.reservation_patience",
                &settings.reservation_patience,
                fallback.reservation_patience,
            ),
            ended_retention: time(
                "sessions.ended_retention",
                &sessions.ended_retention,
                fallback.ended_retention,
            ),
        };
        check_timings(read, &timings);
        timings
    }

    fn tls(&self, read: &mut Resolver<'_>) -> Option<ServerTlsFiles> {
        let client_ca = path(self.tls.client_ca.as_ref());
        match (path(self.tls.cert.as_ref()), path(self.tls.key.as_ref())) {
            (Some(certificate), Some(key)) => Some(ServerTlsFiles { certificate, key, client_ca }),
            (None, None) => {
                if let Some(ca) = client_ca {
                    read.fault("tls.client_ca", ca.display(), "needs `tls.cert` and `tls.key`");
                }
                None
            }
            (Some(_), None) => {
                read.fault("tls.key", "", "goes together with `tls.cert`");
                None
            }
            (None, Some(_)) => {
                read.fault("tls.cert", "", "goes together with `tls.key`");
                None
            }
        }
    }

    fn bootstrap(
        &self,
        read: &mut Resolver<'_>,
        data_dir: &Path,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> BootstrapConfig {
        // The text is a secret: it is not shown even when it cannot be used.
        let mut token = |name: &str| -> Option<Token> {
            let text = lookup(name).filter(|text| !text.is_empty())?;
            text.trim().parse().map_err(|error| read.fault(name, "", format!("{error}"))).ok()
        };
        BootstrapConfig {
            token: token(TOKEN_VARIABLE),
            agent_token: token(AGENT_TOKEN_VARIABLE),
            token_file: path(self.bootstrap_token_file.as_ref())
                .unwrap_or_else(|| data_dir.join(TOKEN_FILE)),
        }
    }

    fn log(&self, read: &mut Resolver<'_>) -> LogConfig {
        let format: Option<LogFormat> = read.optional("log.format", self.log.format.as_ref());
        let filter = read.with("log.filter", self.log.filter.as_ref(), |text| {
            parse_filter(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
        });
        let fallback = LogConfig::default();
        LogConfig {
            format: format.unwrap_or(fallback.format),
            filter: filter.unwrap_or(fallback.filter),
        }
    }
}

fn check_timings(read: &mut Resolver<'_>, timings: &Timings) {
    let order = [
        ("timings.heartbeat", timings.heartbeat),
        ("timings.suspect", timings.suspect),
        ("timings.fence", timings.fence),
        ("timings.lost", timings.lost),
    ];
    for pair in order.windows(2) {
        let ((earlier, shorter), (later, longer)) = (pair[0], pair[1]);
        if shorter >= longer {
            let rule = format!(
                "must be longer than `{earlier}`, which is {}: heartbeat < suspect < fence < lost",
                format_duration(shorter)
            );
            read.fault(later, format_duration(longer), rule);
        }
    }
    if timings.heartbeat < Duration::from_millis(10) {
        read.fault("timings.heartbeat", format_duration(timings.heartbeat), "at least 10ms");
    }
    if timings.leader_ttl < Duration::from_secs(1) {
        read.fault("timings.leader_ttl", format_duration(timings.leader_ttl), "at least 1s");
    }
    if timings.start_timeout.is_zero() {
        read.fault("timings.start_timeout", "0s", "more than zero");
    }
}

fn unit_rule(
    read: &mut Resolver<'_>,
    field: &str,
    settings: &UnitRuleSettings,
) -> Option<UnitRule> {
    let per_device = format!("{field}.fgpu_per_device");
    let memory_field = format!("{field}.unit_memory");
    let count: Option<Fgpu> = read.optional(&per_device, settings.fgpu_per_device.as_ref());
    let memory: Option<MemoryBytes> = read.optional(&memory_field, settings.unit_memory.as_ref());
    match (count, memory) {
        (Some(_), Some(memory)) => {
            read.fault(&memory_field, memory, "leave it out, or `fgpu_per_device`");
            None
        }
        (Some(Fgpu::ZERO), None) => {
            read.fault(&per_device, 0, "more than zero");
            None
        }
        (None, Some(memory)) if memory < MemoryBytes::mib(1) => {
            read.fault(&memory_field, memory, "at least 1MiB");
            None
        }
        (Some(count), None) => Some(UnitRule::FgpuPerDevice(count)),
        (None, Some(memory)) => Some(UnitRule::UnitMemory(memory)),
        (None, None) => None,
    }
}

fn path(text: Option<&Text>) -> Option<PathBuf> {
    text.filter(|text| !text.0.is_empty()).map(|Text(text)| PathBuf::from(text))
}

fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "`true` or `false`".to_owned())
}

fn url(text: &str) -> Result<String, String> {
    let rule = "a URL such as `https://manager.example:7070`";
    let parsed: http::Uri = text.parse().map_err(|_| rule.to_owned())?;
    match (parsed.scheme_str(), parsed.host()) {
        (Some("http" | "https"), Some(_)) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(rule.to_owned()),
    }
}

fn commits(read: &mut Resolver<'_>, lookup: impl Fn(&str) -> Option<String>) -> CommitLimits {
    let most = CommitLimits::default();
    let mut lowered = |variable, most| match lookup(variable).filter(|text| !text.is_empty()) {
        None => most,
        Some(text) => match text.parse() {
            Ok(limit) if (1..=most).contains(&limit) => limit,
            _ => {
                read.fault(variable, text, format!("from 1 to {most}"));
                most
            }
        },
    };
    CommitLimits {
        batch: lowered(BATCH_VARIABLE, most.batch),
        in_flight: lowered(IN_FLIGHT_VARIABLE, most.in_flight),
    }
}

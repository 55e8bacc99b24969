//! From settings to a configuration, with every fault.

use super::settings::{
    AgentSettings, DEFAULT_ADVERTISE, DEFAULT_DOCKER, DEFAULT_MANAGER, DEFAULT_STATE_DIR,
    ENGINE_PATIENCE, Labels, RELIST,
};
use super::{AgentConfig, RuntimeChoice};
use crate::facts::{Machine, node_name_of};
use crate::logs::LogLimits;
use fgpu_accelerator::AcceleratorSpec;
use fgpu_domain::ids::NodeName;
use fgpu_domain::units::{CpuMilli, MemoryBytes};
use fgpu_service::config::{ConfigFaults, Origins, Resolver, Text, TextList, parse_duration};
use fgpu_service::logging::{LogConfig, LogFormat, parse_filter};
use fgpu_service::secret::{Secret, Token};
use fgpu_service::tls::ClientTlsFiles;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

impl AgentSettings {
    /// The complete configuration; `origins` says where each value came from.
    ///
    /// # Errors
    /// Every fault.
    pub fn resolve(
        &self,
        origins: &Origins,
        machine: &Machine,
    ) -> Result<AgentConfig, ConfigFaults> {
        let mut read = Resolver::new(origins);
        let advertise =
            text(self.advertise_address.as_ref()).unwrap_or_else(|| DEFAULT_ADVERTISE.to_owned());
        let config = AgentConfig {
            managers: self.managers(&mut read),
            node: self.node(&mut read, machine),
            token: self.token(&mut read),
            tls: self.tls(&mut read),
            state_dir: path(self.state_dir.as_ref())
                .unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR)),
            accelerator: read.value(
                "accelerator",
                self.accelerator.as_ref(),
                AcceleratorSpec::Auto,
            ),
            runtime: read.value("runtime", self.runtime.as_ref(), RuntimeChoice::Auto),
            docker: self.docker(&mut read),
            gpu_attach: read.value("gpu_attach", self.gpu_attach.as_ref(), Default::default()),
            publish_on: self.publish_on(&mut read, &advertise),
            advertise,
            labels: self.labels(&mut read),
            cpu: self.cpu(&mut read, machine),
            memory: self.memory(&mut read, machine),
            allow_shared: read.value("allow_shared", self.allow_shared.as_ref(), false),
            allowed_mounts: self.allowed_mounts(&mut read),
            cgroup_root: self.cgroup_root(&mut read),
            engine_patience: time(
                &mut read,
                "engine_patience",
                self.engine_patience.as_ref(),
                ENGINE_PATIENCE,
            ),
            relist: time(&mut read, "relist", self.relist.as_ref(), RELIST),
            logs: self.logs(&mut read),
            log: self.log(&mut read),
        };
        check_transport(&mut read, &config);
        read.finish(config)
    }

    fn managers(&self, read: &mut Resolver<'_>) -> Vec<String> {
        let given = self.managers.clone().unwrap_or_default().0;
        if given.is_empty() {
            return vec![DEFAULT_MANAGER.to_owned()];
        }
        for url in &given {
            let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            let host = host.map(|host| host.trim_end_matches('/'));
            let valid = host.is_some_and(|host| {
                let (name, port) = host.rsplit_once(':').unwrap_or((host, "443"));
                !name.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
            });
            if !valid {
                read.fault("managers", url, "a URL with scheme and port: `https://host:7070`");
            }
        }
        given.iter().map(|url| url.trim_end_matches('/').to_owned()).collect()
    }

    fn node(&self, read: &mut Resolver<'_>, machine: &Machine) -> NodeName {
        let host = node_name_of(&machine.hostname);
        let host = host.and_then(|name| name.parse().ok());
        if self.node.is_none() && host.is_none() {
            read.fault("node", &machine.hostname, "the host name makes no node name: set one");
        }
        // Never seen where it is a fault.
        let fallback = || NodeName::new("node").expect("four lower-case letters are a node name");
        read.optional("node", self.node.as_ref()).or(host).unwrap_or_else(fallback)
    }

    fn token(&self, read: &mut Resolver<'_>) -> Option<Secret> {
        let (given, file) = (self.token.as_ref(), self.token_file.as_ref());
        if given.is_some() && file.is_some() {
            read.fault("token_file", "", "leave it out when `token` is set, or the reverse");
        }
        let known = |text: &str| {
            let checked = text.trim().parse::<Token>().map_err(|error| error.to_string())?;
            Ok(checked.secret().clone())
        };
        if let Some(Text(text)) = given {
            // The text itself is not repeated: it may be a secret.
            return known(text).map_err(|rule: String| read.fault("token", "", rule)).ok();
        }
        read.with("token_file", file, |file| {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("cannot be read: {error}"))?;
            known(&text)
        })
    }

    fn tls(&self, read: &mut Resolver<'_>) -> ClientTlsFiles {
        let identity = match (path(self.tls.cert.as_ref()), path(self.tls.key.as_ref())) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                read.fault("tls.key", "", "goes together with `tls.cert`");
                None
            }
            (None, Some(_)) => {
                read.fault("tls.cert", "", "goes together with `tls.key`");
                None
            }
        };
        let (ca, server_name) = (path(self.tls.ca.as_ref()), text(self.tls.server_name.as_ref()));
        ClientTlsFiles { ca, identity, server_name }
    }

    fn docker(&self, read: &mut Resolver<'_>) -> String {
        let given = text(self.docker.as_ref()).unwrap_or_else(|| DEFAULT_DOCKER.to_owned());
        let socket = given.strip_prefix("unix://").unwrap_or(&given);
        if !socket.starts_with('/') {
            read.fault("docker", &given, "`unix:///path/of/socket`");
        }
        given
    }

    /// Where ports listen: on loopback where that is what is advertised, else where the advertised
    /// address is, or on all addresses where it is a name.
    fn publish_on(&self, read: &mut Resolver<'_>, advertise: &str) -> IpAddr {
        let follows = match advertise {
            "localhost" => IpAddr::from(Ipv4Addr::LOCALHOST),
            other => other.parse().unwrap_or(IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        };
        read.value("publish_address", self.publish_address.as_ref(), follows)
    }

    fn labels(&self, read: &mut Resolver<'_>) -> BTreeMap<String, String> {
        let pairs: Vec<(String, String)> = match &self.labels {
            None => Vec::new(),
            Some(Labels::Table(table)) => {
                table.iter().map(|(key, Text(value))| (key.clone(), value.clone())).collect()
            }
            Some(Labels::List(TextList(list))) => list
                .iter()
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (key.to_owned(), value.to_owned())
                })
                .collect(),
        };
        let fine = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
        for (key, value) in &pairs {
            if key.is_empty() || key.len() > 63 || !key.chars().all(fine) || value.len() > 255 {
                let rule = "`key=value`, the key 1 to 63 letters, digits or `-._/`, the value up \
                            to 255 bytes";
                read.fault("labels", format!("{key}={value}"), rule);
            }
        }
        pairs.into_iter().collect()
    }

    fn cpu(&self, read: &mut Resolver<'_>, machine: &Machine) -> CpuMilli {
        let all = read.value("cpu", self.cpu.as_ref(), machine.cpu);
        let kept = read.value("reserve_cpu", self.reserve_cpu.as_ref(), CpuMilli::ZERO);
        all.checked_sub(kept).filter(|left| !left.is_zero()).unwrap_or_else(|| {
            let rule = format!("leaves nothing of {all} to give");
            read.fault("reserve_cpu", kept, rule);
            all
        })
    }

    fn memory(&self, read: &mut Resolver<'_>, machine: &Machine) -> MemoryBytes {
        let all = read.value("memory", self.memory.as_ref(), machine.memory);
        let kept = read.value("reserve_memory", self.reserve_memory.as_ref(), MemoryBytes::ZERO);
        all.checked_sub(kept).filter(|left| !left.is_zero()).unwrap_or_else(|| {
            let rule = format!("leaves nothing of {all} to give");
            read.fault("reserve_memory", kept, rule);
            all
        })
    }

    fn allowed_mounts(&self, read: &mut Resolver<'_>) -> Vec<PathBuf> {
        let given = self.allowed_mounts.clone().unwrap_or_default().0;
        for folder in &given {
            if !folder.starts_with('/') {
                read.fault("allowed_mounts", folder, "an absolute path");
            }
        }
        given.into_iter().map(PathBuf::from).collect()
    }

    fn cgroup_root(&self, read: &mut Resolver<'_>) -> String {
        let default = || fgpu_runtime::cgroup::DEFAULT_ROOT.to_owned();
        let check = |name: &str| {
            let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
            match !name.is_empty() && name.len() <= 32 && name.chars().all(fine) {
                true => Ok(name.to_owned()),
                false => Err("1 to 32 letters, digits or `_`".to_owned()),
            }
        };
        read.with("cgroup_root", self.cgroup_root.as_ref(), check).unwrap_or_else(default)
    }

    fn logs(&self, read: &mut Resolver<'_>) -> LogLimits {
        let (settings, fallback) = (&self.logs, LogLimits::default());
        let mut size = |field: &str, text: &Option<Text>, default: u64| {
            read.value(field, text.as_ref(), MemoryBytes(default)).0
        };
        let placement_bytes =
            size("logs.placement_size", &settings.placement_size, fallback.placement_bytes);
        let total_bytes = size("logs.total_size", &settings.total_size, fallback.total_bytes);
        LogLimits {
            placement_bytes,
            total_bytes,
            count: read.value("logs.count", settings.count.as_ref(), fallback.count),
            age: read
                .with("logs.age", settings.age.as_ref(), parse_duration)
                .unwrap_or(fallback.age),
        }
    }

    fn log(&self, read: &mut Resolver<'_>) -> LogConfig {
        let fallback = LogConfig::default();
        let filter = read.with("log.filter", self.log.filter.as_ref(), |filter| {
            parse_filter(filter).map_err(|error| error.to_string())?;
            Ok(filter.to_owned())
        });
        LogConfig {
            format: read.value("log.format", self.log.format.as_ref(), LogFormat::Text),
            filter: filter.unwrap_or(fallback.filter),
        }
    }
}

/// Tokens travel encrypted, or not beyond this machine.
fn check_transport(read: &mut Resolver<'_>, config: &AgentConfig) {
    for url in &config.managers {
        let rule = match url.strip_prefix("http://") {
            None if url.starts_with("https://") && config.tls.ca.is_none() => {
                "needs `tls.ca`, the authority of its certificate"
            }
            Some(host) if config.token.is_some() && !is_loopback(host) => {
                "the token would travel in the clear: use `https://` and `tls.ca`"
            }
            _ => continue,
        };
        read.fault("managers", url, rule);
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_matches(['[', ']']);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn text(text: Option<&Text>) -> Option<String> {
    text.map(|Text(text)| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn path(given: Option<&Text>) -> Option<PathBuf> {
    text(given).map(PathBuf::from)
}

/// A duration that is not zero.
fn time(read: &mut Resolver<'_>, field: &str, text: Option<&Text>, default: Duration) -> Duration {
    let check = |text: &str| match parse_duration(text)? {
        Duration::ZERO => Err("more than zero".to_owned()),
        time => Ok(time),
    };
    read.with(field, text, check).unwrap_or(default)
}

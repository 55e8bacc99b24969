//! What a container of the engine is made with: a pure function from our specification.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, DeviceRequest, HostConfig, HostConfigLogConfig,
    Mount as EngineMount, MountBindOptions, MountType, PortBinding, PortMap, RestartPolicy,
    RestartPolicyNameEnum,
};

use super::DockerConfig;
use super::engine::EngineError;
use crate::cgroup::slice_of;
use crate::{CgroupDriver, ContainerSpec, GpuAttachment, Mount, RuntimeError, RuntimeInfo};

pub(super) const NANO_CPUS_PER_MILLI: u64 = 1_000_000;

/// The variable by which the NVIDIA runtime chooses devices, and the value that gives none.
const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";
const NO_DEVICES: &str = "void";
/// Mounts below it choose devices just as the variable does.
const DEVICES_BY_MOUNT: &str = "/var/run/nvidia-container-devices";
/// Sockets that would give a container the whole node, beside that of our own engine.
const ENGINE_SOCKETS: [&str; 4] = [
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
];

/// The body of the request that makes the container of `spec`.
pub(super) fn body(
    spec: &ContainerSpec,
    config: &DockerConfig,
    info: &RuntimeInfo,
) -> Result<ContainerCreateBody, RuntimeError> {
    let labels = config.owner.stamp(&spec.labels, &spec.session);
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(environment(spec)),
        labels: Some(labels.into_iter().collect()),
        working_dir: spec.workdir.clone(),
        user: spec.user.clone(),
        tty: Some(spec.tty),
        open_stdin: Some(spec.open_stdin),
        stop_signal: Some("SIGTERM".to_owned()),
        exposed_ports: Some(spec.ports.iter().map(port_key).collect()),
        host_config: Some(host(spec, config, info)?),
        ..ContainerCreateBody::default()
    })
}

fn host(
    spec: &ContainerSpec,
    config: &DockerConfig,
    info: &RuntimeInfo,
) -> Result<HostConfig, RuntimeError> {
    for mount in &spec.mounts {
        check_mount(mount, &config.endpoint)?;
    }
    let limits = &spec.limits;
    let memory = limits.memory_bytes.map(signed);
    Ok(HostConfig {
        nano_cpus: limits.cpu_milli.map(|milli| signed(milli.saturating_mul(NANO_CPUS_PER_MILLI))),
        memory,
        // Memory and swap together: the same number leaves no swap.
        memory_swap: memory,
        pids_limit: Some(i64::from(limits.pids)),
        cpuset_cpus: limits.cpuset.clone(),
        shm_size: limits.shm_bytes.map(signed),
        cgroup_parent: cgroup_parent(spec, config, info),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(config.capabilities.clone()),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        privileged: Some(false),
        ipc_mode: Some("private".to_owned()),
        network_mode: config.network.clone(),
        init: info.init_available.then_some(true),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(log_config(config)),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        port_bindings: Some(port_bindings(spec)),
        device_requests: device_request(&spec.gpu).map(|request| vec![request]),
        runtime: matches!(spec.gpu, GpuAttachment::NvidiaRuntime { .. })
            .then(|| "nvidia".to_owned()),
        ..HostConfig::default()
    })
}

/// The environment asked for, with the choice of devices taken out of the hands of image and user.
fn environment(spec: &ContainerSpec) -> Vec<String> {
    let mut env = spec.env.clone();
    let devices = match &spec.gpu {
        GpuAttachment::None | GpuAttachment::Cdi { .. } => NO_DEVICES.to_owned(),
        // The engine's device request works by the same variable: both must say the same.
        GpuAttachment::DeviceRequest { uuids } | GpuAttachment::NvidiaRuntime { uuids } => {
            uuids.join(",")
        }
    };
    env.insert(VISIBLE_DEVICES.to_owned(), devices);
    env.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn device_request(gpu: &GpuAttachment) -> Option<DeviceRequest> {
    match gpu {
        GpuAttachment::None | GpuAttachment::NvidiaRuntime { .. } => None,
        GpuAttachment::Cdi { names } => Some(DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(names.clone()),
            ..DeviceRequest::default()
        }),
        GpuAttachment::DeviceRequest { uuids } => Some(DeviceRequest {
            driver: Some("nvidia".to_owned()),
            device_ids: Some(uuids.clone()),
            capabilities: Some(vec![vec!["gpu".to_owned()]]),
            ..DeviceRequest::default()
        }),
    }
}

fn cgroup_parent(
    spec: &ContainerSpec,
    config: &DockerConfig,
    info: &RuntimeInfo,
) -> Option<String> {
    match info.cgroup_driver {
        CgroupDriver::Systemd => Some(slice_of(&config.cgroup_root, &spec.session)),
        CgroupDriver::Cgroupfs => Some(format!("/{}/{}", config.cgroup_root, spec.session)),
        CgroupDriver::None => None,
    }
}

fn log_config(config: &DockerConfig) -> HostConfigLogConfig {
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(HashMap::from([
            ("max-size".to_owned(), config.log_file_bytes.to_string()),
            ("max-file".to_owned(), config.log_files.max(1).to_string()),
        ])),
    }
}

fn port_key(port: &crate::PortSpec) -> String {
    format!("{}/{}", port.container_port, port.protocol.as_str())
}

fn port_bindings(spec: &ContainerSpec) -> PortMap {
    let mut bindings = PortMap::new();
    for port in &spec.ports {
        let binding = PortBinding {
            host_ip: Some(port.host_ip.to_string()),
            // Empty: the engine picks one that is free.
            host_port: Some(String::new()),
        };
        bindings
            .entry(port_key(port))
            .or_insert_with(|| Some(Vec::new()))
            .get_or_insert_with(Vec::new)
            .push(binding);
    }
    bindings
}

fn mount(mount: &Mount) -> EngineMount {
    EngineMount {
        source: Some(mount.source.to_string_lossy().into_owned()),
        target: Some(mount.target.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(mount.read_only),
        bind_options: Some(MountBindOptions {
            create_mountpoint: Some(false),
            ..MountBindOptions::default()
        }),
        ..EngineMount::default()
    }
}

/// Refuses a mount that would show the container the socket of an engine, or let it choose devices.
fn check_mount(mount: &Mount, endpoint: &str) -> Result<(), RuntimeError> {
    let source = &mount.source;
    let own = endpoint.split_once("://").map_or(endpoint, |(_, path)| path);
    for socket in ENGINE_SOCKETS.into_iter().chain([own]) {
        let socket = Path::new(socket);
        let shown = socket.starts_with(source) || resolved(socket).starts_with(resolved(source));
        if shown {
            return Err(RuntimeError::invalid(
                "mounts",
                format!(
                    "{} would give the container the engine's socket {}",
                    source.display(),
                    socket.display()
                ),
            ));
        }
    }
    let target = &mount.target;
    if target.starts_with(DEVICES_BY_MOUNT) || target.starts_with(&DEVICES_BY_MOUNT["/var".len()..])
    {
        return Err(RuntimeError::invalid(
            "mounts",
            format!("{} would choose GPUs outside the slice", target.display()),
        ));
    }
    Ok(())
}

/// `path` without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    for known in path.ancestors() {
        if let Ok(real) = known.canonicalize() {
            let rest = path.strip_prefix(known).unwrap_or(Path::new(""));
            // Joining an empty rest would add a slash, which does not matter to comparisons.
            return real.join(rest);
        }
    }
    path.to_owned()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Why making a container failed.
pub(super) fn error(error: EngineError, spec: &ContainerSpec) -> RuntimeError {
    let (status, message) = match error {
        EngineError::Answered { status, message } => (status, message),
        other => return other.into_runtime(String::new()),
    };
    let lower = message.to_lowercase();
    match status {
        404 if lower.contains("image") => RuntimeError::ImageNotFound { image: spec.image.clone() },
        409 => RuntimeError::NameInUse { name: spec.name.clone(), by: message },
        400 if lower.contains("cpus") || lower.contains("memory limit") => {
            RuntimeError::invalid("limits", message)
        }
        400 if lower.contains("mount") => RuntimeError::invalid("mounts", message),
        400 if lower.contains("runtime") || lower.contains("device") => {
            RuntimeError::invalid("gpu", message)
        }
        400 if lower.contains("no command specified") => RuntimeError::invalid("command", message),
        400 => RuntimeError::invalid("specification", message),
        _ => EngineError::Answered { status, message }
            .into_runtime(format!("create container {}", spec.name)),
    }
}

/// Why starting a container failed.
pub(super) fn start_error(error: EngineError, found: &ContainerInspectResponse) -> RuntimeError {
    let id = found.id.clone().unwrap_or_default();
    let EngineError::Answered { status, message } = error else {
        return error.into_runtime(String::new());
    };
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if status == 404 && says(&["no such container"]) {
        return RuntimeError::NoSuchContainer { id };
    }
    if says(&[
        "port is already allocated",
        "address already in use",
        "cannot assign requested address",
    ]) {
        return RuntimeError::PortUnavailable { id, reason: message };
    }
    if says(&["executable file not found", "exec: "]) {
        return RuntimeError::CommandNotFound {
            command: found.path.clone().unwrap_or_default(),
            reason: message,
        };
    }
    RuntimeError::StartFailed { id, reason: message }
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;

//! What an engine tells about itself and its containers, in our words.

use bollard::ClientVersion;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ImageSummary, PortMap, SystemInfo,
    SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum,
};

use super::DockerConfig;
use crate::cgroup::CgroupVersion;
use crate::time::parse_rfc3339_millis;
use crate::{
    CgroupDriver, Container, ContainerState, LABEL_SESSION, Labels, LimitSupport, NetworkKind,
    Protocol, PublishedPort, RuntimeInfo,
};

pub(super) fn labels(found: &ContainerInspectResponse) -> Labels {
    found
        .config
        .as_ref()
        .and_then(|config| config.labels.clone())
        .unwrap_or_default()
        .into_iter()
        .collect()
}

pub(super) fn session(found: &ContainerInspectResponse) -> String {
    labels(found).remove(LABEL_SESSION).unwrap_or_default()
}

pub(super) fn container(found: &ContainerInspectResponse) -> Container {
    let state = state(found);
    let ports = found
        .network_settings
        .as_ref()
        .and_then(|network| network.ports.as_ref())
        .filter(|_| state.is_running())
        .map(published)
        .unwrap_or_default();
    let name = found.name.clone().unwrap_or_default();
    Container {
        id: found.id.clone().unwrap_or_default(),
        name: name.trim_start_matches('/').to_owned(),
        labels: labels(found),
        image: found.config.as_ref().and_then(|config| config.image.clone()).unwrap_or_default(),
        state,
        ports,
    }
}

fn state(found: &ContainerInspectResponse) -> ContainerState {
    let state = found.state.clone().unwrap_or_default();
    let time =
        |text: &Option<String>| text.as_deref().and_then(parse_rfc3339_millis).unwrap_or_default();
    let error = state.error.clone().filter(|error| !error.is_empty());
    if state.running == Some(true) {
        return ContainerState::Running {
            started_at_unix_ms: time(&state.started_at),
            pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        };
    }
    // One that could not be started counts as made, but with an error: it will never run.
    if state.status == Some(ContainerStateStatusEnum::CREATED) && error.is_none() {
        return ContainerState::Created;
    }
    ContainerState::Exited {
        code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
        oom_killed: state.oom_killed.unwrap_or(false),
        finished_at_unix_ms: time(&state.finished_at),
        error,
        command_missing: false,
    }
}

/// Whether a container may have ended because its init could not run the command: only then the
/// engine tells of a failed start by nothing but an exit code.
pub(super) fn init_may_have_failed(found: &ContainerInspectResponse, seen: &Container) -> bool {
    let init = found.host_config.as_ref().and_then(|host| host.init) == Some(true);
    init && matches!(seen.state, ContainerState::Exited { code: 126 | 127, error: None, .. })
}

/// What the engine's init says when it cannot run the command, out of the last line of output.
pub(super) fn init_failure(last_line: &str) -> Option<String> {
    let (_, reason) = last_line.trim().strip_prefix("[FATAL tini (")?.split_once(")] ")?;
    reason.starts_with("exec ").then(|| reason.to_owned())
}

/// Names of images, the newest first; tags before digests, as that is what people write.
pub(super) fn image_names(mut images: Vec<ImageSummary>) -> Vec<String> {
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let tags = images.iter().flat_map(|image| &image.repo_tags);
    let digests = images.iter().flat_map(|image| &image.repo_digests);
    // What has lost its name is listed as `<none>`.
    tags.chain(digests).filter(|name| !name.contains("<none>")).cloned().collect()
}

fn published(ports: &PortMap) -> Vec<PublishedPort> {
    let mut found: Vec<PublishedPort> = Vec::new();
    for (key, bindings) in ports {
        let Some((port, protocol)) = key.split_once('/') else {
            continue;
        };
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => continue,
        };
        for binding in bindings.iter().flatten() {
            let parts = (
                port.parse(),
                binding.host_ip.as_deref().unwrap_or("").parse(),
                binding.host_port.as_deref().unwrap_or("").parse(),
            );
            if let (Ok(container_port), Ok(host_ip), Ok(host_port)) = parts {
                found.push(PublishedPort { container_port, protocol, host_ip, host_port });
            }
        }
    }
    found.sort_by_key(|port| (port.container_port, port.protocol.as_str(), port.host_ip));
    found
}

pub(super) fn info(
    told: SystemInfo,
    config: &DockerConfig,
    version: ClientVersion,
    endpoint: String,
) -> RuntimeInfo {
    let init_available = has_init(&told);
    let mut runtimes: Vec<_> = told.runtimes.unwrap_or_default().into_keys().collect();
    runtimes.sort();
    let held = told.memory_limit == Some(true)
        && told.cpu_cfs_quota == Some(true)
        && told.pids_limit == Some(true);
    tracing::debug!(node = config.owner.node, "engine described itself");
    RuntimeInfo {
        kind: "docker",
        endpoint,
        version: told.server_version.unwrap_or_default(),
        api_version: version.to_string(),
        cgroup_driver: match told.cgroup_driver {
            Some(SystemInfoCgroupDriverEnum::CGROUPFS) => CgroupDriver::Cgroupfs,
            Some(SystemInfoCgroupDriverEnum::SYSTEMD) => CgroupDriver::Systemd,
            _ => CgroupDriver::None,
        },
        cgroup_version: match told.cgroup_version {
            Some(SystemInfoCgroupVersionEnum::_1) => Some(CgroupVersion::V1),
            Some(SystemInfoCgroupVersionEnum::_2) => Some(CgroupVersion::V2),
            _ => None,
        },
        storage_driver: told.driver.unwrap_or_default(),
        runtimes,
        default_runtime: told.default_runtime.unwrap_or_default(),
        cdi_spec_dirs: told.cdi_spec_dirs.unwrap_or_default(),
        live_restore: told.live_restore_enabled.unwrap_or(false),
        security_options: told.security_options.unwrap_or_default(),
        init_available,
        limits: match held {
            true => LimitSupport::Enforced,
            false => LimitSupport::NotEnforced {
                reason: "the engine reports no support for limits of memory, CPU or pids: run it \
                         as root with those cgroup controllers"
                    .to_owned(),
            },
        },
        network: NetworkKind::Bridge,
        warnings: told.warnings.unwrap_or_default(),
    }
}

/// An engine that cannot run its init program reports its version as `N/A`; an empty one is that
/// of a program that ran but told no commit.
fn has_init(told: &SystemInfo) -> bool {
    let commit = told.init_commit.as_ref().map(|commit| commit.id.as_deref());
    let named = told.init_binary.as_deref().unwrap_or("");
    !named.is_empty() && commit.is_some_and(|id| id != Some("N/A"))
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState as EngineState;

    use super::*;

    fn seen(state: EngineState) -> ContainerState {
        container(&ContainerInspectResponse {
            state: Some(state),
            ..ContainerInspectResponse::default()
        })
        .state
    }

    #[test]
    fn one_that_could_not_be_started_has_ended() {
        let created = EngineState {
            status: Some(ContainerStateStatusEnum::CREATED),
            exit_code: Some(127),
            ..EngineState::default()
        };
        assert_eq!(seen(created.clone()), ContainerState::Created);
        let failed = EngineState { error: Some("exec failed".to_owned()), ..created };
        assert_eq!(seen(failed).exit_code(), Some(127));
    }

    #[test]
    fn only_the_words_of_the_init_tell_a_command_that_could_not_be_run() {
        let said = "[FATAL tini (7)] exec /no/such failed: No such file or directory\n";
        assert_eq!(
            init_failure(said).as_deref(),
            Some("exec /no/such failed: No such file or directory")
        );
        for other in ["", "sh: nope: not found", "[FATAL tini (7)] something else"] {
            assert_eq!(init_failure(other), None, "{other}");
        }
    }

    #[test]
    fn a_paused_one_still_runs() {
        let paused = EngineState {
            status: Some(ContainerStateStatusEnum::PAUSED),
            running: Some(true),
            pid: Some(7),
            started_at: Some("1970-01-01T00:00:01Z".to_owned()),
            ..EngineState::default()
        };
        assert_eq!(seen(paused), ContainerState::Running { started_at_unix_ms: 1_000, pid: 7 });
    }
}

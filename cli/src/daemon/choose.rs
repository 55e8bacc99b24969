//! Real devices or simulated ones, Docker or plain processes: decided once, and said.

use std::time::Duration;

use fgpu_accelerator::{AcceleratorError, AcceleratorSpec};
use fgpu_agent::config::RuntimeChoice;
use fgpu_runtime::docker::{DockerConfig, DockerRuntime};
use fgpu_runtime::{ContainerRuntime as _, Owner};

use crate::failure::Failure;

/// What to simulate where there are no devices.
pub(crate) const SIMULATED: &str = "sim:8xH100-80GB";
/// How long an engine may take to answer when asked whether it is there.
const ENGINE: Duration = Duration::from_secs(3);

/// A choice that was made, and why, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen<T> {
    pub(crate) value: T,
    pub(crate) said: String,
}

/// Decides between real devices and simulated ones.
pub(crate) fn choose_accelerator(
    asked: &AcceleratorSpec,
    nodes: usize,
) -> Result<Chosen<AcceleratorSpec>, Failure> {
    let simulated = |why: &str| {
        let value = SIMULATED.parse().map_err(|error| Failure::of(&error))?;
        Ok(Chosen { value, said: format!("SIMULATED ({SIMULATED}): {why}") })
    };
    match asked {
        AcceleratorSpec::Simulated { .. } | AcceleratorSpec::SimulatedFile { .. } => {
            Ok(Chosen { value: asked.clone(), said: format!("SIMULATED ({asked}), as asked") })
        }
        AcceleratorSpec::Nvml { .. } if nodes > 1 => {
            Err(Failure::usage("several nodes on one machine cannot share its real devices")
                .hint("use `--nodes 1`, or `--accelerator sim:8xH100-80GB`"))
        }
        AcceleratorSpec::Auto if nodes > 1 => simulated("several nodes on one machine"),
        AcceleratorSpec::Auto | AcceleratorSpec::Nvml { .. } => {
            match fgpu_accelerator::open(asked, "probe") {
                Ok(accelerator) => {
                    let info = accelerator.info();
                    let driver = info.driver_version.unwrap_or_else(|| "unknown".to_owned());
                    let value = match asked {
                        AcceleratorSpec::Auto => AcceleratorSpec::Nvml { library: None },
                        named => named.clone(),
                    };
                    Ok(Chosen { value, said: format!("real, through NVML (driver {driver})") })
                }
                Err(error) if *asked == AcceleratorSpec::Auto && is_absent(&error) => {
                    let text = error.to_string();
                    simulated(text.split(':').next().unwrap_or(&text))
                }
                Err(error) => Err(Failure::of(&error)
                    .hint(format!("to try fgpu without devices: `--accelerator {SIMULATED}`"))),
            }
        }
    }
}

/// Whether there is nothing, as opposed to something that does not work.
fn is_absent(error: &AcceleratorError) -> bool {
    matches!(
        error,
        AcceleratorError::LibraryNotFound { .. }
            | AcceleratorError::DriverNotLoaded
            | AcceleratorError::NoDevices
    )
}

/// Decides between Docker and plain processes.
pub(crate) async fn choose_runtime(
    asked: RuntimeChoice,
    socket: &str,
) -> Result<Chosen<RuntimeChoice>, Failure> {
    if asked == RuntimeChoice::Process {
        let said = "plain processes, as asked: no images, limits where cgroups can be written";
        return Ok(Chosen { value: asked, said: said.to_owned() });
    }
    match docker_version(socket).await {
        Ok(version) => Ok(Chosen {
            value: RuntimeChoice::Docker,
            said: format!("Docker {version} at {socket}"),
        }),
        Err(failure) if asked == RuntimeChoice::Auto => Ok(Chosen {
            value: RuntimeChoice::Process,
            said: format!("plain processes, no images: {}", failure.fact),
        }),
        Err(failure) => Err(failure
            .hint("start Docker, name its socket (FGPU_AGENT_DOCKER), or use `--runtime process`")),
    }
}

/// The engine's socket where nothing of ours names one: DOCKER_HOST, or the usual place.
pub(crate) fn machine_socket() -> String {
    fgpu_runtime::docker::default_endpoint(super::flags::lookup("DOCKER_HOST"))
}

/// The version of the engine at `socket`.
pub(crate) async fn docker_version(socket: &str) -> Result<String, Failure> {
    let owner = Owner { cluster: "probe".to_owned(), node: "probe".to_owned() };
    let config = DockerConfig { endpoint: socket.to_owned(), ..DockerConfig::new(owner) };
    let runtime = DockerRuntime::new(config).map_err(|error| Failure::of(&error))?;
    match tokio::time::timeout(ENGINE, runtime.info()).await {
        Ok(Ok(info)) => Ok(info.version),
        Ok(Err(error)) => Err(Failure::of(&error)),
        Err(_) => Err(Failure::new(format!("Docker at {socket} does not answer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulation_that_was_asked_for_is_said_and_real_devices_are_never_on_two_nodes() {
        let asked = "sim:2xH100-80GB".parse().unwrap();
        assert!(choose_accelerator(&asked, 2).unwrap().said.contains("SIMULATED"));
        let nvml = "nvml".parse().unwrap();
        assert_eq!(choose_accelerator(&nvml, 2).unwrap_err().exit, Some(2));
        let auto = choose_accelerator(&AcceleratorSpec::Auto, 2).unwrap();
        assert!(auto.said.contains("SIMULATED"), "{auto:?}");
    }

    #[tokio::test]
    async fn without_an_engine_auto_is_processes_and_docker_is_an_error() {
        let nowhere = "unix:///nowhere/docker.sock";
        let chosen = choose_runtime(RuntimeChoice::Auto, nowhere).await.unwrap();
        assert_eq!(chosen.value, RuntimeChoice::Process);
        let refused = choose_runtime(RuntimeChoice::Docker, nowhere).await.unwrap_err();
        assert!(refused.to_string().contains("--runtime process"), "{refused}");
    }
}

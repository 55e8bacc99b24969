//! What a container is to be: the wanted state the supervisor hands to a runtime.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Labels, RuntimeError};

/// The smallest CPU limit the kernel accepts, in thousandths of a core: a quota of 1 ms in 100 ms.
pub const MINIMUM_CPU_MILLI: u64 = 10;
/// The smallest memory limit accepted, in bytes: below it, engines refuse to start a container.
pub const MINIMUM_MEMORY_BYTES: u64 = 6 << 20;

/// What a container is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Name on the node, for example `fgpu-7f3c`: letters, digits and `_.-`, at most 128.
    pub name: String,
    /// Image to run. Without meaning for the process runtime, which only reports it.
    pub image: String,
    /// Replaces the entry point of the image; `None` keeps it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the command of the image; empty keeps it. The process runtime needs one here or
    /// in `entrypoint`.
    pub command: Vec<String>,
    /// Environment, on top of that of the image.
    pub env: BTreeMap<String, String>,
    /// Labels; those of owner and session are set by the runtime.
    pub labels: Labels,
    /// Host paths to mount. Only where [`crate::ContainerRuntime::mounts_supported`].
    pub mounts: Vec<Mount>,
    /// Working directory; `None` keeps that of the image (process runtime: `/`).
    pub workdir: Option<String>,
    /// User as `user`, `uid`, `user:group` or `uid:gid`; `None` keeps that of the image (process
    /// runtime: our own).
    pub user: Option<String>,
    /// Limits of CPU, memory and processes.
    pub limits: Limits,
    /// How the GPUs of the slice get into the container.
    pub gpu: GpuAttachment,
    /// Ports to publish on the node.
    pub ports: Vec<PortSpec>,
    /// Gives the main process a terminal.
    pub tty: bool,
    /// Keeps standard input of the main process open instead of at its end.
    pub open_stdin: bool,
    /// Session the container runs: letters, digits and `-`, at most 64. Names its cgroup.
    pub session: String,
}

impl ContainerSpec {
    /// The least a specification can say: everything else is empty, off or unlimited but for
    /// [`Limits::default`].
    pub fn new(
        name: impl Into<String>,
        image: impl Into<String>,
        session: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            entrypoint: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            labels: Labels::new(),
            mounts: Vec::new(),
            workdir: None,
            user: None,
            limits: Limits::default(),
            gpu: GpuAttachment::None,
            ports: Vec::new(),
            tty: false,
            open_stdin: false,
            session: session.into(),
        }
    }

    /// Checks what every runtime asks of a specification.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidSpec`] with the field at fault.
    pub fn check(&self) -> Result<(), RuntimeError> {
        check_name("name", &self.name, "_.-", 128)?;
        check_name("session", &self.session, "-", 64)?;
        check_strings(self)?;
        self.limits.check()?;
        for mount in &self.mounts {
            if !mount.source.is_absolute() || !mount.target.is_absolute() {
                return Err(RuntimeError::invalid(
                    "mounts",
                    format!(
                        "{} -> {}: both paths must be absolute",
                        mount.source.display(),
                        mount.target.display()
                    ),
                ));
            }
        }
        match self.ports.iter().find(|port| port.container_port == 0) {
            Some(_) => Err(RuntimeError::invalid("ports", "port 0 cannot be published")),
            None => Ok(()),
        }
    }
}

/// One host path seen in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the node; must exist.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// Limits of a container, for all its processes together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU time in thousandths of a core, at least [`MINIMUM_CPU_MILLI`]; `None` is unlimited.
    pub cpu_milli: Option<u64>,
    /// Memory in bytes, at least [`MINIMUM_MEMORY_BYTES`]; there is no swap on top.
    pub memory_bytes: Option<u64>,
    /// Processes and threads, at least 1.
    pub pids: u32,
    /// Cores the container may use, as `0-3,8`; `None` is all of them.
    pub cpuset: Option<String>,
    /// Size of `/dev/shm` in bytes; `None` leaves it to the engine (64 MiB for Docker). Without
    /// meaning for the process runtime, which shares that of the node.
    pub shm_bytes: Option<u64>,
}

impl Default for Limits {
    /// No limit but 4096 processes and threads.
    fn default() -> Self {
        Self { cpu_milli: None, memory_bytes: None, pids: 4096, cpuset: None, shm_bytes: None }
    }
}

impl Limits {
    /// Checks that the kernel can hold these limits.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidSpec`] with the value and the least that is possible.
    pub fn check(&self) -> Result<(), RuntimeError> {
        let below = |field, value: Option<u64>, least: u64| match value {
            Some(value) if value < least => Err(RuntimeError::invalid(
                field,
                format!("{value} is below the least possible, {least}"),
            )),
            _ => Ok(()),
        };
        below("limits.cpu_milli", self.cpu_milli, MINIMUM_CPU_MILLI)?;
        below("limits.memory_bytes", self.memory_bytes, MINIMUM_MEMORY_BYTES)?;
        below("limits.pids", Some(u64::from(self.pids)), 1)?;
        match &self.cpuset {
            Some(list) if !is_cpu_list(list) => Err(RuntimeError::invalid(
                "limits.cpuset",
                format!("`{list}` is not a list of cores such as 0-3,8"),
            )),
            _ => Ok(()),
        }
    }
}

/// How the GPUs of a slice get into a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GpuAttachment {
    /// No GPU, or simulated ones.
    #[default]
    None,
    /// By Container Device Interface names, for example `nvidia.com/gpu=GPU-…`.
    Cdi {
        /// Fully qualified CDI device names.
        names: Vec<String>,
    },
    /// By the engine's own device request (`--gpus device=…`).
    DeviceRequest {
        /// Device UUIDs.
        uuids: Vec<String>,
    },
    /// By the `nvidia` runtime and its environment.
    NvidiaRuntime {
        /// Device UUIDs.
        uuids: Vec<String>,
    },
}

/// A port of the container to publish on an ephemeral port of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Port in the container, 1 to 65535.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address of the node to listen on.
    pub host_ip: IpAddr,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The name engines use: `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

fn check_name(
    field: &'static str,
    name: &str,
    also: &str,
    most: usize,
) -> Result<(), RuntimeError> {
    let fits = name.len() <= most
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|each| each.is_ascii_alphanumeric() || also.contains(each));
    if fits {
        return Ok(());
    }
    Err(RuntimeError::invalid(
        field,
        format!(
            "`{name}` must be 1 to {most} letters, digits or {also}, the first a letter or digit"
        ),
    ))
}

/// No text may hold a NUL byte, and no variable name an `=`: neither can be handed to a process.
fn check_strings(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    let parts = spec.entrypoint.iter().flatten().chain(&spec.command);
    if parts.into_iter().any(|part| part.contains('\0')) {
        return Err(RuntimeError::invalid("command", "holds a NUL byte"));
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(RuntimeError::invalid(
                "env",
                format!("`{name}`: a name is not empty and holds no `=`, neither side a NUL byte"),
            ));
        }
    }
    Ok(())
}

fn is_cpu_list(list: &str) -> bool {
    list.split(',').all(|part| {
        let mut ends = part.split('-').map(str::parse::<u32>);
        match (ends.next(), ends.next(), ends.next()) {
            (Some(Ok(_)), None, _) => true,
            (Some(Ok(first)), Some(Ok(last)), None) => first <= last,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut ContainerSpec)) -> &'static str {
        let mut spec = ContainerSpec::new("fgpu-s1", "busybox", "s1");
        assert!(spec.check().is_ok());
        change(&mut spec);
        match spec.check() {
            Err(RuntimeError::InvalidSpec { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_field_that_cannot_be_carried_out_is_named() {
        assert_eq!(refused(|s| s.name = "../etc".to_owned()), "name");
        assert_eq!(refused(|s| s.name = String::new()), "name");
        assert_eq!(refused(|s| s.session = "a/b".to_owned()), "session");
        assert_eq!(refused(|s| s.session = "_shims".to_owned()), "session");
        assert_eq!(refused(|s| s.command = vec!["a\0".to_owned()]), "command");
        assert_eq!(refused(|s| drop(s.env.insert("A=B".to_owned(), String::new()))), "env");
        assert_eq!(refused(|s| s.limits.pids = 0), "limits.pids");
        assert_eq!(refused(|s| s.limits.cpu_milli = Some(9)), "limits.cpu_milli");
        assert_eq!(refused(|s| s.limits.memory_bytes = Some(1 << 20)), "limits.memory_bytes");
        assert_eq!(refused(|s| s.limits.cpuset = Some("3-1".to_owned())), "limits.cpuset");
    }

    #[test]
    fn a_relative_mount_is_refused() {
        let mount = |source: &str, target: &str| Mount {
            source: source.into(),
            target: target.into(),
            read_only: true,
        };
        assert_eq!(refused(|s| s.mounts = vec![mount("a", "/b")]), "mounts");
        assert_eq!(refused(|s| s.mounts = vec![mount("/a", "b")]), "mounts");
    }

    #[test]
    fn lists_of_cores_are_numbers_and_ranges() {
        for good in ["0", "0-3", "0-3,8", "1,2,5-7"] {
            assert!(is_cpu_list(good), "{good}");
        }
        for bad in ["", "a", "1-", "-1", "1-2-3", "1,,2", "2-1"] {
            assert!(!is_cpu_list(bad), "{bad}");
        }
    }
}

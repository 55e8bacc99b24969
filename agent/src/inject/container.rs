//! The whole specification of a session's container.

use super::attach::{AttachChoice, AttachError, AttachFacts};
use super::mounts::{MountError, MountRules};
use super::{SLICE_FILE, SliceFile, environment};
use crate::facts::cpuset_near;
use crate::labels::labels_of;
use crate::order::Order;
use crate::{ends, state_dir::Paths};
use fgpu_domain::device::Device;
use fgpu_domain::ids::ClusterId;
use fgpu_domain::reconcile::PlacementId;
use fgpu_runtime::{ContainerSpec, Limits, Mount, PortSpec, Protocol};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What a specification depends on besides the order.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The cluster.
    pub cluster: ClusterId,
    /// The devices of the node.
    pub devices: Vec<Device>,
    /// What the engine offers for GPUs.
    pub attach: AttachFacts,
    /// What the administrator chose.
    pub attach_choice: AttachChoice,
    /// What may be mounted.
    pub mounts: MountRules,
    /// Whether the runtime makes mounts.
    pub mounts_supported: bool,
    /// Where the agent's files lie.
    pub paths: Paths,
    /// Address published ports listen on.
    pub publish_on: IpAddr,
    /// Where the kernel tells which cores are near which device (`/sys`).
    pub sysfs: PathBuf,
}

/// Why a container cannot be specified.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// A mount breaks a rule.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The GPUs cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl InjectError {
    /// The stable code it ends a placement with.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Mount(_) => ends::MOUNT_NOT_ALLOWED,
            Self::Attach(_) => ends::GPU_ATTACH_UNAVAILABLE,
        }
    }
}

/// The name of the container of a placement.
#[must_use]
pub fn container_name(id: &PlacementId) -> String {
    format!("fgpu-{}-{}", id.session, id.generation)
}

/// The specification of the container of `order`, and the slice file it shall see.
///
/// # Errors
/// [`InjectError`] where a mount is not allowed or the GPUs cannot be attached.
pub fn container_spec(
    id: &PlacementId,
    order: &Order,
    facts: &Facts,
) -> Result<(ContainerSpec, SliceFile), InjectError> {
    let Order { spec: asked, grant, .. } = order;
    let slice = SliceFile::new(&facts.cluster, id, order, &facts.devices);
    let on_host = facts.paths.slice_file(id);
    let seen_at = match facts.mounts_supported {
        true => PathBuf::from(SLICE_FILE),
        false => on_host.clone(),
    };
    let mut spec =
        ContainerSpec::new(container_name(id), asked.image.clone(), id.session.to_string());
    spec.entrypoint = (!asked.entrypoint.is_empty()).then(|| asked.entrypoint.clone());
    spec.command.clone_from(&asked.command);
    spec.env =
        environment(&asked.env, &order.group_environment, &slice, &seen_at.to_string_lossy());
    spec.labels = labels_of(id, order);
    spec.mounts = mounts(order, facts, &on_host)?;
    spec.workdir.clone_from(&asked.workdir);
    spec.user.clone_from(&asked.user);
    spec.limits = limits(order, facts);
    spec.gpu = facts.attach.attachment(facts.attach_choice, grant, &facts.devices)?;
    spec.ports = asked.publish.iter().map(|port| published(*port, facts.publish_on)).collect();
    spec.tty = asked.tty;
    spec.open_stdin = asked.tty;
    Ok((spec, slice))
}

fn mounts(order: &Order, facts: &Facts, slice_file: &Path) -> Result<Vec<Mount>, InjectError> {
    let mut mounts = Vec::new();
    for mount in &order.spec.mounts {
        mounts.push(Mount {
            source: facts.mounts.resolve(&mount.source, &mount.target)?,
            target: PathBuf::from(&mount.target),
            read_only: mount.read_only,
        });
    }
    if facts.mounts_supported {
        let target = PathBuf::from(SLICE_FILE);
        mounts.push(Mount { source: slice_file.to_owned(), target, read_only: true });
    }
    Ok(mounts)
}

fn limits(order: &Order, facts: &Facts) -> Limits {
    let resources = &order.spec.resources;
    let used = order.grant.slices.iter().map(|slice| slice.device.clone()).collect();
    Limits {
        cpu_milli: (resources.cpu.0 > 0).then_some(resources.cpu.0),
        memory_bytes: (resources.memory.0 > 0).then_some(resources.memory.0),
        cpuset: cpuset_near(&facts.sysfs, &facts.devices, &used, resources.cpu),
        shm_bytes: resources.shm.map(|shm| shm.0),
        ..Limits::default()
    }
}

fn published(container_port: u16, host_ip: IpAddr) -> PortSpec {
    PortSpec { container_port, protocol: Protocol::Tcp, host_ip }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::{device, id};
    use crate::order::tests::order;
    use fgpu_domain::session;

    fn facts(mounts_supported: bool) -> Facts {
        Facts {
            cluster: ClusterId::new("cluster-1").unwrap(),
            devices: vec![device("GPU-1", 0)],
            attach: AttachFacts { containers: true, ..AttachFacts::default() },
            attach_choice: AttachChoice::Auto,
            mounts: MountRules::default(),
            mounts_supported,
            paths: Paths::new(Path::new("/var/lib/fgpu")),
            publish_on: IpAddr::from([127, 0, 0, 1]),
            sysfs: PathBuf::from("/nowhere"),
        }
    }

    #[test]
    fn a_container_gets_its_limits_labels_ports_and_slice_file() {
        let mut order = order(&["GPU-1"]);
        order.spec.publish = vec![8080];

        let (spec, _) = container_spec(&id("abcdef12", 3), &order, &facts(true)).unwrap();

        assert_eq!(spec.name, "fgpu-abcdef12-3");
        assert_eq!(spec.limits.cpu_milli, Some(1000));
        assert_eq!(spec.limits.memory_bytes, Some(1 << 30));
        assert_eq!(spec.ports[0].container_port, 8080);
        assert_eq!(spec.labels["io.fgpu.session"], "abcdef12");
        let mount = &spec.mounts[0];
        assert_eq!(mount.source, Path::new("/var/lib/fgpu/slices/abcdef12.3.json"));
        assert_eq!(mount.target, Path::new(SLICE_FILE));
        assert!(mount.read_only);
        assert_eq!(spec.env["FGPU_SLICE_FILE"], SLICE_FILE);
        assert!(spec.check().is_ok());
    }

    #[test]
    fn without_mounts_the_slice_file_is_named_where_it_lies_on_the_node() {
        let (spec, _) = container_spec(&id("abcdef12", 3), &order(&[]), &facts(false)).unwrap();

        assert!(spec.mounts.is_empty());
        assert_eq!(spec.env["FGPU_SLICE_FILE"], "/var/lib/fgpu/slices/abcdef12.3.json");
    }

    #[test]
    fn a_mount_that_is_not_allowed_has_its_code() {
        let mut order = order(&[]);
        let mount = session::Mount { source: "/etc".into(), target: "/e".into(), read_only: true };
        order.spec.mounts = vec![mount];

        let refused = container_spec(&id("abcdef12", 3), &order, &facts(true)).unwrap_err();

        assert_eq!(refused.code(), ends::MOUNT_NOT_ALLOWED);
    }
}

//! What a node may be and hold, and what is said where that is broken.

use super::node::{DeviceView, NodeView};
use crate::ids::{DeviceUuid, NodeName};
use crate::slice::Demand;
use crate::units::{CpuMilli, MemoryBytes};

/// Why a change does not agree with what the view holds. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The name is taken.
    #[error("node {node} is already in the view")]
    DuplicateNode {
        /// The node.
        node: NodeName,
    },
    /// No such node.
    #[error("node {node} is not in the view")]
    UnknownNode {
        /// The node.
        node: NodeName,
    },
    /// No such device there.
    #[error("node {node} has no device {device}")]
    UnknownDevice {
        /// The node.
        node: NodeName,
        /// The device.
        device: DeviceUuid,
    },
    /// A device, or an index, named twice.
    #[error("device {device} (or its index) is named twice on node {node}")]
    DuplicateDevice {
        /// The node.
        node: NodeName,
        /// The device.
        device: DeviceUuid,
    },
    /// More devices than a node may have.
    #[error("node {node} has {devices} devices: at most {most} are supported")]
    TooManyDevices {
        /// The node.
        node: NodeName,
        /// Its devices.
        devices: usize,
        /// The limit.
        most: usize,
    },
    /// More taken than is free.
    #[error("node {node} cannot give {wanted} of {what}: {free} is free")]
    NotFree {
        /// The node.
        node: NodeName,
        /// CPU, memory, or which device.
        what: String,
        /// The amount.
        wanted: String,
        /// What there is.
        free: String,
    },
    /// More free than there is, or given back than was taken.
    #[error("node {node} would have {free} of {what} free: it has {total}")]
    BeyondTotal {
        /// The node.
        node: NodeName,
        /// CPU, memory, or which device.
        what: String,
        /// What would be free.
        free: String,
        /// What there is.
        total: String,
    },
}

/// Devices a node may have: chosen ones are kept in the bits of a `u128`.
const MAX_DEVICES: usize = 128;

pub(super) fn check_node(node: &NodeView) -> Result<(), ViewError> {
    let devices = node.devices.len();
    if devices > MAX_DEVICES {
        let node = node.name.clone();
        return Err(ViewError::TooManyDevices { node, devices, most: MAX_DEVICES });
    }
    check_totals(node, node.cpu_free, node.memory_free)?;
    for (at, device) in node.devices.iter().enumerate() {
        let same = |other: &DeviceView| other.uuid == device.uuid || other.index == device.index;
        if node.devices[..at].iter().any(same) {
            let (node, device) = (node.name.clone(), device.uuid.clone());
            return Err(ViewError::DuplicateDevice { node, device });
        }
        check_device(node, device, device.free)?;
    }
    Ok(())
}

pub(super) fn check_totals(
    node: &NodeView,
    cpu: CpuMilli,
    memory: MemoryBytes,
) -> Result<(), ViewError> {
    let beyond = |what: &str, free: String, total: String| ViewError::BeyondTotal {
        node: node.name.clone(),
        what: what.to_owned(),
        free,
        total,
    };
    if cpu > node.cpu_total {
        return Err(beyond("cpu", cpu.to_string(), node.cpu_total.to_string()));
    }
    if memory > node.memory_total {
        return Err(beyond("memory", memory.to_string(), node.memory_total.to_string()));
    }
    Ok(())
}

pub(super) fn check_device(
    node: &NodeView,
    device: &DeviceView,
    free: Demand,
) -> Result<(), ViewError> {
    if free.fits(device.units.whole()) {
        return Ok(());
    }
    Err(ViewError::BeyondTotal {
        node: node.name.clone(),
        what: device.uuid.to_string(),
        free: shown(free),
        total: shown(device.units.whole()),
    })
}

pub(super) fn shown(demand: Demand) -> String {
    format!("{} and {} of compute", demand.memory, demand.compute)
}

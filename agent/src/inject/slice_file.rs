//! The slice file: what a session holds, for programs inside it to read.

use crate::order::Order;
use fgpu_domain::device::Device;
use fgpu_domain::ids::{ClusterId, DeviceUuid, NodeName, SessionId};
use fgpu_domain::reconcile::PlacementId;
use fgpu_domain::session::ComputePolicy;
use fgpu_domain::slice::Isolation;
use fgpu_domain::units::{ComputeMilli, Fgpu, MemoryBytes};
use serde::{Deserialize, Serialize};

/// Where the slice file lies in a container.
pub const SLICE_FILE: &str = "/run/fgpu/slice.json";

/// Format of the file. Fields are only ever added within a version.
const VERSION: u32 = 1;

/// The content of the slice file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceFile {
    /// Format.
    pub version: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeName,
    /// The session.
    pub session: SessionId,
    /// Which placement of it, from 1.
    pub generation: u64,
    /// What it holds of each device, in the order of the device index.
    pub devices: Vec<SliceDevice>,
    /// The sums.
    pub totals: SliceTotals,
    /// How the slice is kept to its limits.
    pub isolation: Isolation,
    /// What the compute share means while others are idle.
    pub compute_policy: ComputePolicy,
    /// True when a device exists only in a simulation.
    pub simulated: bool,
}

/// What a session holds of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceDevice {
    /// The device.
    pub uuid: DeviceUuid,
    /// Its position on the node; may change at reboot.
    pub index: u32,
    /// Its marketing name.
    pub model: String,
    /// Memory in bytes.
    pub memory_bytes: MemoryBytes,
    /// Thousandths of its compute; 0: what others leave.
    pub compute_milli: ComputeMilli,
    /// Thousandths of an fGPU.
    pub fgpu_milli: Fgpu,
}

/// The sums over the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SliceTotals {
    /// Memory in bytes.
    pub memory_bytes: MemoryBytes,
    /// Thousandths of a device.
    pub compute_milli: ComputeMilli,
    /// Thousandths of an fGPU.
    pub fgpu_milli: Fgpu,
}

impl SliceFile {
    /// The file of the placement `id` of `order`. Devices that are not in `devices` are told
    /// without a model.
    #[must_use]
    pub fn new(cluster: &ClusterId, id: &PlacementId, order: &Order, devices: &[Device]) -> Self {
        let known = |uuid: &DeviceUuid| devices.iter().find(|device| device.uuid == *uuid);
        let parts: Vec<SliceDevice> = order
            .grant
            .slices
            .iter()
            .map(|slice| SliceDevice {
                uuid: slice.device.clone(),
                index: known(&slice.device).map_or(0, |device| device.index),
                model: known(&slice.device).map_or_else(String::new, |d| d.model.clone()),
                memory_bytes: slice.memory,
                compute_milli: slice.compute,
                fgpu_milli: slice.fgpu,
            })
            .collect();
        let totals = parts.iter().fold(SliceTotals::default(), |sum, part| SliceTotals {
            memory_bytes: sum.memory_bytes.saturating_add(part.memory_bytes),
            compute_milli: sum.compute_milli.saturating_add(part.compute_milli),
            fgpu_milli: sum.fgpu_milli.saturating_add(part.fgpu_milli),
        });
        let simulated = parts.iter().filter_map(|part| known(&part.uuid)).any(|d| d.simulated);
        Self {
            version: VERSION,
            cluster: cluster.clone(),
            node: order.grant.node.clone(),
            session: id.session.clone(),
            generation: id.generation,
            devices: parts,
            totals,
            isolation: order.grant.isolation,
            compute_policy: order.spec.compute_policy,
            simulated,
        }
    }

    /// The file as it is written.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a slice has only string keys");
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::{device, id};
    use crate::order::tests::order;

    #[test]
    fn the_file_of_two_half_devices() {
        let cluster = ClusterId::new("cluster-1").unwrap();
        let devices = [device("GPU-1", 0), device("GPU-2", 1)];

        let file =
            SliceFile::new(&cluster, &id("abcdef12", 3), &order(&["GPU-1", "GPU-2"]), &devices);

        assert_eq!(file.to_json(), include_str!("slice_file.snapshot.json"));
        assert_eq!(serde_json::from_str::<SliceFile>(&file.to_json()).unwrap(), file);
    }
}

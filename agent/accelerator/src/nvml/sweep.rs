//! One look at every device the driver lists.

use super::failure;
use crate::error::AcceleratorError;
use fgpu_domain::device::Device;
use fgpu_domain::ids::DeviceUuid;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use std::collections::{BTreeMap, BTreeSet};

/// How a listed device answered.
pub(super) enum Seen<'nvml> {
    /// It said who it is.
    Present { index: u32, device: nvml_wrapper::Device<'nvml> },
    /// It did not; who it is follows from its place.
    Failed { error: NvmlError },
}

/// Every listed device whose identity is known.
pub(super) struct Sweep<'nvml> {
    seen: BTreeMap<DeviceUuid, Seen<'nvml>>,
    /// Listed devices of which nothing tells which ones they are: index and error.
    pub(super) unidentified: Vec<(u32, NvmlError)>,
}

impl<'nvml> Sweep<'nvml> {
    /// Looks at every device. One that does not answer is taken for the one in `known` with its
    /// index; if there is none, it is set aside, since nothing tells which device it is.
    ///
    /// # Errors
    /// [`AcceleratorError`] when the driver does not list devices at all.
    pub(super) fn of(
        nvml: &'nvml Nvml,
        known: &BTreeMap<DeviceUuid, Device>,
    ) -> Result<Self, AcceleratorError> {
        let count =
            nvml.device_count().map_err(|error| failure::calling("nvmlDeviceGetCount", error))?;
        let mut seen = BTreeMap::new();
        let (mut failed, mut unidentified) = (Vec::new(), Vec::new());
        for index in 0..count {
            match identify(nvml, index) {
                Ok((uuid, device)) => {
                    seen.insert(uuid, Seen::Present { index, device });
                }
                Err(error) => failed.push((index, error)),
            }
        }
        for (index, error) in failed {
            match known.values().find(|known| known.index == index) {
                Some(known) if !seen.contains_key(&known.uuid) => {
                    seen.insert(known.uuid.clone(), Seen::Failed { error });
                }
                _ => unidentified.push((index, error)),
            }
        }
        Ok(Self { seen, unidentified })
    }

    /// The devices that answered: index, UUID, handle.
    pub(super) fn present(
        &self,
    ) -> impl Iterator<Item = (u32, &DeviceUuid, &nvml_wrapper::Device<'nvml>)> {
        self.seen.iter().filter_map(|(uuid, seen)| match seen {
            Seen::Present { index, device } => Some((*index, uuid, device)),
            Seen::Failed { .. } => None,
        })
    }

    /// How the device `uuid` answered, if it is listed.
    pub(super) fn find(&self, uuid: &DeviceUuid) -> Option<&Seen<'nvml>> {
        self.seen.get(uuid)
    }

    /// The devices of `known` that did not answer, or are no longer listed.
    pub(super) fn absent<'known>(
        &self,
        known: &'known BTreeMap<DeviceUuid, Device>,
    ) -> impl Iterator<Item = &'known Device> {
        let present: BTreeSet<DeviceUuid> =
            self.present().map(|(_, uuid, _)| uuid.clone()).collect();
        known.values().filter(move |device| !present.contains(&device.uuid))
    }
}

fn identify(nvml: &Nvml, index: u32) -> Result<(DeviceUuid, nvml_wrapper::Device<'_>), NvmlError> {
    let device = nvml.device_by_index(index)?;
    // A UUID outside the rule is as good as none.
    let uuid = DeviceUuid::new(device.uuid()?).map_err(|_| NvmlError::Unknown)?;
    Ok((uuid, device))
}

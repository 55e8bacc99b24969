//! Which devices reach each other by NVLink.
//!
//! A link ends at another GPU, or at a switch. A GPU is found by its PCI address. Behind switches
//! every GPU may reach every other; whether it does is asked of the driver pair by pair.

use super::failure::optional;
use super::sweep::Sweep;
use fgpu_domain::device::Device;
use fgpu_domain::ids::DeviceUuid;
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus};
use nvml_wrapper::struct_wrappers::device::PciInfo;
use std::collections::{BTreeMap, BTreeSet};

/// Links asked about: more than any device has.
const MAX_LINKS: u32 = 64;

/// A PCI address without its function: a GPU answers under several.
type Address = (u32, u32, u32);

/// One device with what its links end at.
struct End<'a, 'nvml> {
    uuid: &'a DeviceUuid,
    device: &'a nvml_wrapper::Device<'nvml>,
    address: Address,
    remotes: BTreeSet<Address>,
}

/// Fills in the NVLink peers of `devices`, those that answered in `sweep`.
pub(super) fn connect(sweep: &Sweep<'_>, devices: &mut [Device]) {
    let ends: Vec<End<'_, '_>> = sweep
        .present()
        .filter_map(|(_, uuid, device)| {
            let address = address(&device.pci_info().ok()?);
            Some(End { uuid, device, address, remotes: remotes(device) })
        })
        .collect();
    let gpus: BTreeSet<Address> = ends.iter().map(|end| end.address).collect();
    let mut peers: BTreeMap<&DeviceUuid, Vec<DeviceUuid>> = BTreeMap::new();
    for one in &ends {
        let reached = ends.iter().filter(|two| one.uuid != two.uuid && joined(one, two, &gpus));
        peers.insert(one.uuid, reached.map(|two| two.uuid.clone()).collect());
    }
    for device in devices {
        device.nvlink_peers = peers.remove(&device.uuid).unwrap_or_default();
        device.nvlink_peers.sort();
    }
}

fn joined(one: &End<'_, '_>, two: &End<'_, '_>, gpus: &BTreeSet<Address>) -> bool {
    let switched = |end: &End<'_, '_>| !end.remotes.is_subset(gpus);
    one.remotes.contains(&two.address)
        || (switched(one) && switched(two) && reaches(one.device, two.device))
}

fn reaches(one: &nvml_wrapper::Device<'_>, two: &nvml_wrapper::Device<'_>) -> bool {
    matches!(one.p2p_status(two, P2pCapabilitiesIndex::NvLink), Ok(P2pStatus::Ok))
}

/// Where the active links of a device end. A link that it does not have is an error like any other,
/// and may stand before one that it has.
fn remotes(device: &nvml_wrapper::Device<'_>) -> BTreeSet<Address> {
    (0..MAX_LINKS)
        .map(|link| device.link_wrapper_for(link))
        .filter(|link| matches!(link.is_active(), Ok(true)))
        .filter_map(|link| optional("far end of an NVLink", link.remote_pci_info()))
        .map(|pci| address(&pci))
        .collect()
}

fn address(pci: &PciInfo) -> Address {
    (pci.domain, pci.bus, pci.device)
}

//! NVLink: state and far end of each link, and whether two devices reach each other by it.
#![allow(non_snake_case, reason = "the names are NVML's")]

use super::device::pci_info;
use super::put;
use crate::config::{DeviceConfig, NvLink, Remote};
use crate::state::{Answer, Target, answer, device_at, enter_device};
use nvml_wrapper_sys::bindings::{
    NVML_NVLINK_MAX_LINKS, nvmlDevice_t, nvmlEnableState_t, nvmlGpuP2PCapsIndex_t,
    nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_NOT_SUPPORTED as P2P_NOT_SUPPORTED,
    nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_OK as P2P_OK, nvmlGpuP2PStatus_t,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU as LINKED_GPU,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH as LINKED_SWITCH,
    nvmlIntNvLinkDeviceType_t, nvmlPciInfo_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_t,
};
use std::ffi::c_uint;

/// The link `link` of the device, as the library would look it up.
fn link_of(target: &Target, link: c_uint) -> Answer<&NvLink> {
    if link >= NVML_NVLINK_MAX_LINKS {
        return Err(INVALID_ARGUMENT);
    }
    let links = &target.device()?.nvlinks;
    let missing = if links.is_empty() { NOT_SUPPORTED } else { INVALID_ARGUMENT };
    links.get(link as usize).ok_or(missing)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    link: c_uint,
    out: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetNvLinkState", device)?;
        let active = link_of(&target, link)?.active;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, nvmlEnableState_t::from(active)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: nvmlDevice_t,
    link: c_uint,
    out: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetNvLinkRemotePciInfo_v2", device)?;
        let address = match &link_of(&target, link)?.remote {
            Remote::Switch(address) => address,
            Remote::Device(index) => {
                &device_at(&target.config, *index).ok_or(INVALID_ARGUMENT)?.pci_bus_id
            }
        };
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, pci_info(address)?) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetNvLinkRemoteDeviceType(
    device: nvmlDevice_t,
    link: c_uint,
    out: *mut nvmlIntNvLinkDeviceType_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetNvLinkRemoteDeviceType", device)?;
        let kind = match link_of(&target, link)?.remote {
            Remote::Device(_) => LINKED_GPU,
            Remote::Switch(_) => LINKED_SWITCH,
        };
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, kind) }
    })
}

/// Only the NVLink capability is looked at: linked directly, or both to some switch.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetP2PStatus(
    device: nvmlDevice_t,
    other: nvmlDevice_t,
    _capability: nvmlGpuP2PCapsIndex_t,
    out: *mut nvmlGpuP2PStatus_t,
) -> nvmlReturn_t {
    answer(|| {
        let one = enter_device("nvmlDeviceGetP2PStatus", device)?;
        let two = enter_device("nvmlDeviceGetP2PStatus", other)?;
        let direct = active(one.device()?).any(|far| *far == Remote::Device(two.index));
        let joined = direct || (switched(one.device()?) && switched(two.device()?));
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, if joined { P2P_OK } else { P2P_NOT_SUPPORTED }) }
    })
}

fn active(device: &DeviceConfig) -> impl Iterator<Item = &Remote> {
    device.nvlinks.iter().filter(|link| link.active).map(|link| &link.remote)
}

fn switched(device: &DeviceConfig) -> bool {
    active(device).any(|far| matches!(far, Remote::Switch(_)))
}

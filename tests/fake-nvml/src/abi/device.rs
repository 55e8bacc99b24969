//! Finding devices, their identity and what they measure.
#![allow(non_snake_case, reason = "the names are NVML's")]

use super::{count, device_getters, put, put_text, text};
use crate::config::{Config, DeviceConfig};
use crate::state::{Answer, answer, device_at, enter, enter_device, handle, injected, supported};
use nvml_wrapper_sys::bindings::{
    nvmlAffinityScope_t, nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t,
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND, nvmlReturn_t, nvmlTemperatureSensors_t,
    nvmlUtilization_t,
};
use std::ffi::{c_char, c_int, c_uint, c_ulong};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetCount_v2(out: *mut c_uint) -> nvmlReturn_t {
    answer(|| {
        let config = enter("nvmlDeviceGetCount_v2")?;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, count(config.devices.len())) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    out: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    answer(|| {
        let config = enter("nvmlDeviceGetHandleByIndex_v2")?;
        let found = found(&config, "nvmlDeviceGetHandleByIndex_v2", index)?;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, found) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetHandleByUUID(
    uuid: *const c_char,
    out: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    answer(|| {
        let config = enter("nvmlDeviceGetHandleByUUID")?;
        // SAFETY: the caller passes a C string, or null.
        let uuid = unsafe { text(uuid) }?;
        let index = position(&config, |device| device.uuid == uuid)?;
        let found = found(&config, "nvmlDeviceGetHandleByUUID", index)?;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, found) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(
    bus_id: *const c_char,
    out: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    answer(|| {
        let config = enter("nvmlDeviceGetHandleByPciBusId_v2")?;
        // SAFETY: the caller passes a C string, or null.
        let bus_id = unsafe { text(bus_id) }?;
        let index = position(&config, |device| device.pci_bus_id.eq_ignore_ascii_case(&bus_id))?;
        let found = found(&config, "nvmlDeviceGetHandleByPciBusId_v2", index)?;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, found) }
    })
}

fn position(config: &Config, matches: impl Fn(&DeviceConfig) -> bool) -> Answer<u32> {
    config.devices.iter().position(matches).map(count).ok_or(NOT_FOUND)
}

fn found(config: &Config, call: &str, index: u32) -> Answer<nvmlDevice_t> {
    let device = device_at(config, index).ok_or(INVALID_ARGUMENT)?;
    if device.lost {
        return Err(GPU_IS_LOST);
    }
    injected(config, call, Some(index))?;
    Ok(handle(index, None))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetName", device)?;
        let card = &target.device()?.name;
        let full = match target.instance()?.and_then(|instance| instance.profile.as_ref()) {
            Some(profile) => format!("{card} MIG {profile}"),
            None => card.clone(),
        };
        // SAFETY: the caller lends `length` bytes, or null.
        unsafe { put_text(name, length, &full) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetUUID", device)?;
        let own = match target.instance()? {
            Some(instance) => &instance.uuid,
            None => &target.device()?.uuid,
        };
        // SAFETY: the caller lends `length` bytes, or null.
        unsafe { put_text(uuid, length, own) }
    })
}

device_getters! {
    nvmlDeviceGetIndex -> c_uint = |target| Ok(target.index);
    nvmlDeviceGetMinorNumber -> c_uint = |target| Ok(target.index);
    nvmlDeviceGetPciInfo_v3 -> nvmlPciInfo_t = |target| pci_info(&target.device()?.pci_bus_id);
    nvmlDeviceGetMemoryInfo -> nvmlMemory_t = |target| {
        // The first version counts what the driver keeps as used.
        let device = target.device()?;
        let used = device.memory_used + device.memory_reserved;
        let total = device.memory_total;
        Ok(nvmlMemory_t { total, used, free: total.saturating_sub(used) })
    };
    nvmlDeviceGetUtilizationRates -> nvmlUtilization_t = |target| {
        let gpu = supported(target.device()?.utilization_percent)?;
        Ok(nvmlUtilization_t { gpu, memory: gpu / 2 })
    };
    nvmlDeviceGetPowerUsage -> c_uint = |target| supported(target.device()?.power_milliwatts);
    nvmlDeviceGetNumGpuCores -> c_uint = |target| supported(target.device()?.cores);
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    out: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetMemoryInfo_v2", device)?;
        if out.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, and the caller has set the version of the structure it lends.
        let version = unsafe { (*out).version };
        if version as usize != size_of::<nvmlMemory_v2_t>() | (2 << 24) {
            return Err(VERSION_MISMATCH);
        }
        let device = target.device()?;
        let (total, used, reserved) = match target.instance()? {
            Some(instance) => (instance.memory_mib << 20, instance.memory_used, 0),
            None => (device.memory_total, device.memory_used, device.memory_reserved),
        };
        let free = total.saturating_sub(used).saturating_sub(reserved);
        // SAFETY: as above; a structure of this version has this layout.
        unsafe { put(out, nvmlMemory_v2_t { version, total, reserved, free, used }) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    sensor: nvmlTemperatureSensors_t,
    out: *mut c_uint,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetTemperature", device)?;
        if sensor != 0 {
            return Err(INVALID_ARGUMENT);
        }
        let temperature = supported(target.device()?.temperature_celsius)?;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, temperature) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetCudaComputeCapability", device)?;
        let capability = supported(target.device()?.compute_capability)?;
        // SAFETY: the caller passes pointers it may write through, or null.
        unsafe {
            put(major, capability.0)?;
            put(minor, capability.1)
        }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetMemoryAffinity(
    device: nvmlDevice_t,
    size: c_uint,
    nodes: *mut c_ulong,
    _scope: nvmlAffinityScope_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetMemoryAffinity", device)?;
        let node = supported(target.device()?.numa_node)?;
        let (word, bit) = (node / c_ulong::BITS, node % c_ulong::BITS);
        if word >= size {
            return Err(INSUFFICIENT_SIZE);
        }
        for at in 0..size as usize {
            let value = if at == word as usize { 1 << bit } else { 0 };
            if nodes.is_null() {
                return Err(INVALID_ARGUMENT);
            }
            // SAFETY: the caller lends `size` words, and `at` is below that.
            unsafe { put(nodes.add(at), value)? };
        }
        Ok(())
    })
}

/// `DDDDDDDD:BB:DD.F` as NVML's structure.
pub(super) fn pci_info(bus_id: &str) -> Answer<nvmlPciInfo_t> {
    let fields: Vec<u32> = bus_id
        .split([':', '.'])
        .map(|field| u32::from_str_radix(field, 16))
        .collect::<Result<_, _>>()
        .map_err(|_| INVALID_ARGUMENT)?;
    let [domain, bus, device, _function] = fields[..] else { return Err(INVALID_ARGUMENT) };
    let mut info = nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain,
        bus,
        device,
        pciDeviceId: 0x2330_10de,
        pciSubSystemId: 0x16c1_10de,
        busId: [0; 32],
    };
    let full = format!("{domain:08X}:{bus:02X}:{device:02X}.0");
    let legacy = format!("{:04X}:{bus:02X}:{device:02X}.0", domain & 0xffff);
    for (to, from) in info.busId.iter_mut().zip(full.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    for (to, from) in info.busIdLegacy.iter_mut().zip(legacy.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Ok(info)
}

//! Which processes use a device.
#![allow(non_snake_case, reason = "the names are NVML's")]

use super::{count, put};
use crate::config::{DeviceConfig, Process};
use crate::state::{Answer, answer, enter_device, supported};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlProcessInfo_t,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT, nvmlReturn_t,
};
use std::ffi::c_uint;

/// NVML's "not available" for amounts and for instance ids.
const NO_AMOUNT: u64 = u64::MAX;
const NO_INSTANCE: u32 = u32::MAX;

macro_rules! process_lists {
    ($($name:ident = $field:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub(super) unsafe extern "C" fn $name(
            device: nvmlDevice_t,
            length: *mut c_uint,
            out: *mut nvmlProcessInfo_t,
        ) -> nvmlReturn_t {
            answer(|| {
                let target = enter_device(stringify!($name), device)?;
                let device: &DeviceConfig = target.device()?;
                let all = supported(device.$field.as_ref())?.iter();
                // A card tells the processes of all its instances.
                let own = target.mig.map(|mig| mig + 1);
                let here = |process: &&Process| own.is_none() || process.gpu_instance == own;
                let list: Vec<Process> = all.filter(here).cloned().collect();
                // SAFETY: the caller passes the length of what it lends at `out`.
                unsafe { put_list(&list, length, out) }
            })
        }
    )*};
}

process_lists! {
    nvmlDeviceGetComputeRunningProcesses_v3 = compute_processes;
    nvmlDeviceGetGraphicsRunningProcesses_v3 = graphics_processes;
    nvmlDeviceGetMPSComputeRunningProcesses_v3 = mps_processes;
}

/// Writes the list, or only its length where it does not fit.
///
/// # Safety
/// `length` is null or may be read and written; `out` is null or lends that many entries.
unsafe fn put_list(
    list: &[Process],
    length: *mut c_uint,
    out: *mut nvmlProcessInfo_t,
) -> Answer<()> {
    if length.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller promises that it may be read and written.
    let lent = unsafe { length.replace(count(list.len())) };
    if count(list.len()) > lent {
        return Err(INSUFFICIENT_SIZE);
    }
    for (at, process) in list.iter().enumerate() {
        if out.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let entry = nvmlProcessInfo_t {
            pid: process.pid,
            usedGpuMemory: process.memory.unwrap_or(NO_AMOUNT),
            gpuInstanceId: process.gpu_instance.unwrap_or(NO_INSTANCE),
            computeInstanceId: process.gpu_instance.map_or(NO_INSTANCE, |_| 0),
        };
        // SAFETY: `at` is below the number of entries the caller lends.
        unsafe { put(out.add(at), entry)? };
    }
    Ok(())
}

//! MIG: mode, instances, and what an instance has.
#![allow(non_snake_case, reason = "the names are NVML's")]

use super::{count, device_getters, put};
use crate::config::MigConfig;
use crate::state::{answer, enter_device, handle, supported};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlDeviceAttributes_t,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_t,
};
use std::ffi::c_uint;

/// How many MIG devices a card can have at most.
const MAX_INSTANCES: u32 = 7;

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetMigMode", device)?;
        let mode = match target.device()?.mig {
            MigConfig::Unsupported => return Err(NOT_SUPPORTED),
            MigConfig::Disabled => 0,
            MigConfig::Enabled(_) => 1,
        };
        // SAFETY: the caller passes pointers it may write through, or null.
        unsafe {
            put(current, mode)?;
            put(pending, mode)
        }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    out: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetMigDeviceHandleByIndex", device)?;
        let MigConfig::Enabled(instances) = &target.device()?.mig else {
            return Err(NOT_SUPPORTED);
        };
        if index >= MAX_INSTANCES {
            return Err(INVALID_ARGUMENT);
        }
        if index >= count(instances.len()) {
            return Err(NOT_FOUND);
        }
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, handle(target.index, Some(index))) }
    })
}

device_getters! {
    nvmlDeviceGetMaxMigDeviceCount -> c_uint = |target| Ok(match target.device()?.mig {
        MigConfig::Unsupported => 0,
        MigConfig::Disabled | MigConfig::Enabled(_) => MAX_INSTANCES,
    });
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle -> nvmlDevice_t = |target| {
        target.mig.map(|_| handle(target.index, None)).ok_or(INVALID_ARGUMENT)
    };
    nvmlDeviceIsMigDeviceHandle -> c_uint = |target| Ok(u32::from(target.mig.is_some()));
    nvmlDeviceGetGpuInstanceId -> c_uint = |target| supported(target.mig.map(|mig| mig + 1));
    nvmlDeviceGetComputeInstanceId -> c_uint = |target| supported(target.mig.map(|_| 0));
    nvmlDeviceGetAttributes_v2 -> nvmlDeviceAttributes_t = |target| {
        // Only a MIG handle has attributes; the library says so for a whole card.
        let instance = supported(target.instance()?)?;
        Ok(nvmlDeviceAttributes_t {
            multiprocessorCount: instance.multiprocessors,
            sharedCopyEngineCount: 1,
            sharedDecoderCount: 0,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: instance.slices,
            computeInstanceSliceCount: instance.slices,
            memorySizeMB: instance.memory_mib,
        })
    };
}

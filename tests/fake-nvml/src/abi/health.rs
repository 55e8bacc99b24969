//! ECC, page retirement and row remapping.
#![allow(non_snake_case, reason = "the names are NVML's")]

use super::{device_getters, put};
use crate::config::DeviceConfig;
use crate::state::{Answer, answer, enter_device, supported};
use nvml_wrapper_sys::bindings::field_id::{
    NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING,
};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEccCounterType_t, nvmlEnableState_t, nvmlFieldValue_t,
    nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_UNCORRECTED as UNCORRECTED,
    nvmlMemoryErrorType_t, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t, nvmlValue_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT as UNSIGNED_INT,
};
use std::ffi::{c_int, c_uint, c_ulonglong};

device_getters! {
    nvmlDeviceGetRetiredPagesPendingStatus -> nvmlEnableState_t = |target| {
        supported(target.device()?.retired_pages_pending).map(nvmlEnableState_t::from)
    };
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetEccMode(
    device: nvmlDevice_t,
    current: *mut nvmlEnableState_t,
    pending: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetEccMode", device)?;
        supported(target.device()?.ecc_uncorrected)?;
        // SAFETY: the caller passes pointers it may write through, or null.
        unsafe {
            put(current, 1)?;
            put(pending, 1)
        }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    kind: nvmlMemoryErrorType_t,
    _counter: nvmlEccCounterType_t,
    out: *mut c_ulonglong,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetTotalEccErrors", device)?;
        let uncorrected = supported(target.device()?.ecc_uncorrected)?;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, if kind == UNCORRECTED { uncorrected } else { 0 }) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetRemappedRows(
    device: nvmlDevice_t,
    corrected: *mut c_uint,
    uncorrected: *mut c_uint,
    pending: *mut c_uint,
    failed: *mut c_uint,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetRemappedRows", device)?;
        let rows = supported(target.device()?.remapped_rows)?;
        // SAFETY: the caller passes pointers it may write through, or null.
        unsafe {
            put(corrected, 0)?;
            put(uncorrected, c_uint::from(rows.pending || rows.failed))?;
            put(pending, c_uint::from(rows.pending))?;
            put(failed, c_uint::from(rows.failed))
        }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    length: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceGetFieldValues", device)?;
        let length = usize::try_from(length).map_err(|_| INVALID_ARGUMENT)?;
        if length == 0 || values.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        for at in 0..length {
            // SAFETY: the caller lends `length` values, none of them borrowed elsewhere.
            let value = unsafe { &mut *values.add(at) };
            fill(target.device()?, value);
        }
        Ok(())
    })
}

fn fill(device: &DeviceConfig, out: &mut nvmlFieldValue_t) {
    out.valueType = UNSIGNED_INT;
    match field(device, out.fieldId) {
        Ok(value) => {
            out.nvmlReturn = SUCCESS;
            out.value = nvmlValue_t { ullVal: u64::from(value) };
        }
        Err(code) => out.nvmlReturn = code,
    }
}

fn field(device: &DeviceConfig, id: c_uint) -> Answer<u32> {
    let rows = supported(device.remapped_rows)?;
    match id {
        NVML_FI_DEV_REMAPPED_PENDING => Ok(u32::from(rows.pending)),
        NVML_FI_DEV_REMAPPED_FAILURE => Ok(u32::from(rows.failed)),
        _ => Err(NOT_SUPPORTED),
    }
}

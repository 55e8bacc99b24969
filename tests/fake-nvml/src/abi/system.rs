//! Initialisation, versions, and the texts of errors.
#![allow(non_snake_case, reason = "the names are NVML's")]

use super::{put, put_text};
use crate::state::{Answer, answer, current, enter, state};
use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED, nvmlReturn_t,
};
use std::ffi::{CStr, c_char, c_int, c_uint};

fn initialise() -> Answer<()> {
    let config = current()?;
    if let Some(error) = config.init_error {
        return Err(error);
    }
    state().users += 1;
    Ok(())
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    answer(initialise)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlInit() -> nvmlReturn_t {
    answer(initialise)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    answer(initialise)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    answer(|| {
        let mut state = state();
        state.users = state.users.checked_sub(1).ok_or(UNINITIALIZED)?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlErrorString(code: nvmlReturn_t) -> *const c_char {
    error_text(code).as_ptr()
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlSystemGetDriverVersion(
    version: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    answer(|| {
        let config = enter("nvmlSystemGetDriverVersion")?;
        // SAFETY: the caller lends `length` bytes, or null.
        unsafe { put_text(version, length, &config.driver_version) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlSystemGetNVMLVersion(
    version: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    answer(|| {
        let config = enter("nvmlSystemGetNVMLVersion")?;
        // SAFETY: the caller lends `length` bytes, or null.
        unsafe { put_text(version, length, &config.nvml_version) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(
    version: *mut c_int,
) -> nvmlReturn_t {
    answer(|| {
        let config = enter("nvmlSystemGetCudaDriverVersion")?;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(version, config.cuda_version) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(
    version: *mut c_int,
) -> nvmlReturn_t {
    answer(|| {
        let config = enter("nvmlSystemGetCudaDriverVersion_v2")?;
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(version, config.cuda_version) }
    })
}

fn error_text(code: nvmlReturn_t) -> &'static CStr {
    match code {
        0 => c"The operation was successful",
        1 => c"NVML was not first initialized",
        2 => c"A supplied argument is invalid",
        3 => c"The operation is not supported on this device",
        4 => c"The current user has no permission for this operation",
        6 => c"The object was not found",
        7 => c"An input argument is not large enough",
        9 => c"The driver is not loaded",
        10 => c"The timeout passed",
        15 => c"The GPU has fallen off the bus or is otherwise inaccessible",
        16 => c"The GPU requires a reset",
        18 => c"Driver and library versions do not match",
        25 => c"The version of an argument is not known",
        _ => c"Unknown error",
    }
}

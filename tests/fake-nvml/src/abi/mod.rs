//! The exported functions, by subject, and how they write to their caller.
//!
//! Structures are those of `nvml-wrapper-sys`, so layouts are NVML's own; the tests assign every
//! function to the loader's own table, which checks each signature.

mod device;
mod event;
mod health;
mod mig;
mod nvlink;
mod process;
mod system;

use crate::state::Answer;
use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
};
use std::ffi::{CStr, c_char, c_uint};

/// Writes `value` to `out`.
///
/// # Safety
/// `out` is null or valid for writing a `T`.
unsafe fn put<T>(out: *mut T, value: T) -> Answer<()> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller promises that it may be written.
    unsafe { out.write(value) };
    Ok(())
}

/// Writes `text` and its end to the `length` bytes at `out`.
///
/// # Safety
/// `out` is null or valid for writing `length` bytes.
unsafe fn put_text(out: *mut c_char, length: c_uint, text: &str) -> Answer<()> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if length as usize <= text.len() {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: `length` exceeds the text, so text and end fit into what the caller lent.
    unsafe {
        out.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

/// The text at `pointer`.
///
/// # Safety
/// `pointer` is null or points to a C string.
unsafe fn text(pointer: *const c_char) -> Answer<String> {
    if pointer.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller promises a C string.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map(str::to_owned).map_err(|_| INVALID_ARGUMENT)
}

/// `length` as NVML counts.
fn count(length: usize) -> c_uint {
    c_uint::try_from(length).unwrap_or(c_uint::MAX)
}

/// Defines functions that take a device and write one value.
macro_rules! device_getters {
    ($($name:ident -> $type:ty = |$target:ident| $value:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub(super) unsafe extern "C" fn $name(
            device: ::nvml_wrapper_sys::bindings::nvmlDevice_t,
            out: *mut $type,
        ) -> ::nvml_wrapper_sys::bindings::nvmlReturn_t {
            $crate::state::answer(|| {
                let $target = $crate::state::enter_device(stringify!($name), device)?;
                let value: $crate::state::Answer<$type> = $value;
                // SAFETY: the caller passes a pointer it may write through, or null.
                unsafe { $crate::abi::put(out, value?) }
            })
        }
    )*};
}
use device_getters;

#[cfg(test)]
mod tests {
    use nvml_wrapper_sys::bindings::NvmlLib;

    /// Compiles only if every function has the signature the loader calls it with.
    #[allow(dead_code, reason = "a check for the compiler; a library to fill is not at hand")]
    fn signatures(table: &mut NvmlLib) {
        macro_rules! same {
            ($($module:ident::$name:ident),* $(,)?) => {
                $(table.$name = Ok(super::$module::$name);)*
            };
        }
        same!(
            system::nvmlInit_v2,
            system::nvmlInitWithFlags,
            system::nvmlShutdown,
            system::nvmlErrorString,
            system::nvmlSystemGetDriverVersion,
            system::nvmlSystemGetNVMLVersion,
            system::nvmlSystemGetCudaDriverVersion,
            system::nvmlSystemGetCudaDriverVersion_v2,
            device::nvmlDeviceGetCount_v2,
            device::nvmlDeviceGetHandleByIndex_v2,
            device::nvmlDeviceGetHandleByUUID,
            device::nvmlDeviceGetHandleByPciBusId_v2,
            device::nvmlDeviceGetName,
            device::nvmlDeviceGetUUID,
            device::nvmlDeviceGetIndex,
            device::nvmlDeviceGetMinorNumber,
            device::nvmlDeviceGetPciInfo_v3,
            device::nvmlDeviceGetMemoryInfo,
            device::nvmlDeviceGetMemoryInfo_v2,
            device::nvmlDeviceGetUtilizationRates,
            device::nvmlDeviceGetTemperature,
            device::nvmlDeviceGetPowerUsage,
            device::nvmlDeviceGetNumGpuCores,
            device::nvmlDeviceGetCudaComputeCapability,
            device::nvmlDeviceGetMemoryAffinity,
            mig::nvmlDeviceGetMigMode,
            mig::nvmlDeviceGetMaxMigDeviceCount,
            mig::nvmlDeviceGetMigDeviceHandleByIndex,
            mig::nvmlDeviceGetDeviceHandleFromMigDeviceHandle,
            mig::nvmlDeviceIsMigDeviceHandle,
            mig::nvmlDeviceGetAttributes_v2,
            mig::nvmlDeviceGetGpuInstanceId,
            mig::nvmlDeviceGetComputeInstanceId,
            nvlink::nvmlDeviceGetNvLinkState,
            nvlink::nvmlDeviceGetNvLinkRemotePciInfo_v2,
            nvlink::nvmlDeviceGetNvLinkRemoteDeviceType,
            nvlink::nvmlDeviceGetP2PStatus,
            process::nvmlDeviceGetComputeRunningProcesses_v3,
            process::nvmlDeviceGetGraphicsRunningProcesses_v3,
            process::nvmlDeviceGetMPSComputeRunningProcesses_v3,
            health::nvmlDeviceGetEccMode,
            health::nvmlDeviceGetTotalEccErrors,
            health::nvmlDeviceGetRetiredPagesPendingStatus,
            health::nvmlDeviceGetRemappedRows,
            health::nvmlDeviceGetFieldValues,
            event::nvmlDeviceGetSupportedEventTypes,
            event::nvmlDeviceRegisterEvents,
            event::nvmlEventSetCreate,
            event::nvmlEventSetWait_v2,
            event::nvmlEventSetFree,
        );
    }
}

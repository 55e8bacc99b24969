//! Event sets: Xid errors, each given once to every set that registered for them.
#![allow(non_snake_case, reason = "the names are NVML's")]

use super::{device_getters, put};
use crate::config::Config;
use crate::state::{Answer, EventSet, answer, device_at, enter, enter_device, handle, state};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_TIMEOUT as TIMEOUT, nvmlReturn_t,
};
use std::ffi::{c_uint, c_ulonglong};
use std::time::{Duration, Instant};

/// NVML's bit for "Xid critical error", and all bits a device here supports.
const XID: u64 = nvml_wrapper_sys::bindings::nvmlEventTypeXidCriticalError as u64;
const SUPPORTED: u64 = XID | nvml_wrapper_sys::bindings::nvmlEventTypeDoubleBitEccError as u64;
/// How often a waiting set looks at the file.
const LOOK: Duration = Duration::from_millis(5);

device_getters! {
    nvmlDeviceGetSupportedEventTypes -> c_ulonglong = |target| {
        Ok(if target.device()?.events_supported { SUPPORTED } else { 0 })
    };
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlEventSetCreate(out: *mut nvmlEventSet_t) -> nvmlReturn_t {
    answer(|| {
        enter("nvmlEventSetCreate")?;
        let mut state = state();
        state.last_event_set += 1;
        let id = state.last_event_set;
        state.event_sets.insert(id, EventSet::default());
        // SAFETY: the caller passes a pointer it may write through, or null.
        unsafe { put(out, std::ptr::without_provenance_mut(id)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    answer(|| state().event_sets.remove(&set.addr()).map(drop).ok_or(INVALID_ARGUMENT))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    types: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    answer(|| {
        let target = enter_device("nvmlDeviceRegisterEvents", device)?;
        if !target.device()?.events_supported || types & !SUPPORTED != 0 {
            return Err(NOT_SUPPORTED);
        }
        let mut state = state();
        let set = state.event_sets.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?;
        *set.registered.entry(target.index).or_default() |= types;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    out: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    answer(|| {
        let deadline = Instant::now() + Duration::from_millis(u64::from(timeout_ms));
        loop {
            let config = enter("nvmlEventSetWait_v2")?;
            if let Some(event) = next(&config, set)? {
                // SAFETY: the caller passes a pointer it may write through, or null.
                return unsafe { put(out, event) };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TIMEOUT);
            }
            std::thread::sleep(left.min(LOOK));
        }
    })
}

/// The next event of `set` that it has not given yet.
fn next(config: &Config, set: nvmlEventSet_t) -> Answer<Option<nvmlEventData_t>> {
    let mut state = state();
    let set = state.event_sets.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?;
    let mut lost = false;
    for (&index, &types) in &set.registered {
        let Some(device) = device_at(config, index) else { continue };
        lost |= device.lost;
        let delivered = set.delivered.entry(index).or_default();
        if !device.xids.starts_with(delivered) {
            delivered.clear();
        }
        let Some(&xid) = device.xids.get(delivered.len()).filter(|_| types & XID != 0) else {
            continue;
        };
        delivered.push(xid);
        return Ok(Some(nvmlEventData_t {
            device: handle(index, None),
            eventType: XID,
            eventData: xid,
            gpuInstanceId: u32::MAX,
            computeInstanceId: u32::MAX,
        }));
    }
    if lost { Err(GPU_IS_LOST) } else { Ok(None) }
}

//! What a device tells against itself when it is asked.

use super::failure::{is_fault, of_device};
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING,
};

/// Everything that speaks against a device now, worst first.
pub(super) fn faults(device: &nvml_wrapper::Device<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    for answer in [memory(device), ecc(device), remapping(device), retirement(device)] {
        match answer {
            Ok(None) => {}
            Ok(Some(fault)) => faults.push(fault),
            Err(error) if is_fault(&error) => return vec![of_device(&error)],
            Err(error) => tracing::debug!(%error, "a device does not tell its health"),
        }
    }
    faults
}

/// Asking for memory reaches the device itself: identity is answered from the driver's own records
/// long after the device is gone. And of a device whose memory is not known, none can be given.
fn memory(device: &nvml_wrapper::Device<'_>) -> Result<Option<String>, NvmlError> {
    match device.memory_info() {
        Ok(_) => Ok(None),
        Err(error) if is_fault(&error) => Err(error),
        Err(error) => Ok(Some(format!("the device does not tell its memory: {error}"))),
    }
}

fn ecc(device: &nvml_wrapper::Device<'_>) -> Result<Option<String>, NvmlError> {
    let count = device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)?;
    Ok((count > 0).then(|| format!("{count} uncorrected ECC errors since the driver was loaded")))
}

fn remapping(device: &nvml_wrapper::Device<'_>) -> Result<Option<String>, NvmlError> {
    let fields = [NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING].map(FieldId);
    let told: Vec<bool> = device
        .field_values_for(&fields)?
        .into_iter()
        .map(|field| field.and_then(|field| field.value).is_ok_and(|value| is_set(&value)))
        .collect();
    Ok(match told[..] {
        [true, _] => Some("memory rows could not be remapped: replace the device".to_owned()),
        [false, true] => Some("memory rows wait to be remapped: reset the device".to_owned()),
        _ => None,
    })
}

fn is_set(value: &SampleValue) -> bool {
    match value {
        SampleValue::F64(value) => *value != 0.0,
        SampleValue::U32(value) => *value != 0,
        SampleValue::U64(value) => *value != 0,
        SampleValue::I64(value) => *value != 0,
    }
}

fn retirement(device: &nvml_wrapper::Device<'_>) -> Result<Option<String>, NvmlError> {
    let pending = device.are_pages_pending_retired()?;
    Ok(pending.then(|| "memory pages wait to be retired: reset the device".to_owned()))
}

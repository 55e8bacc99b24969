//! What an NVML error means: for the whole accelerator, and for one device.

use crate::error::AcceleratorError;
use nvml_wrapper::error::NvmlError;
use std::path::Path;

/// The library did not open.
pub(super) fn opening(library: Option<&Path>, error: NvmlError) -> AcceleratorError {
    match error {
        // Not there, not loadable, or without NVML's first function.
        NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_) => {
            let name = library.map(|path| path.display().to_string());
            AcceleratorError::LibraryNotFound {
                library: name.unwrap_or_else(|| "libnvidia-ml.so.1".to_owned()),
                source: error.into(),
            }
        }
        error => calling("nvmlInit", error),
    }
}

/// A call that is about no device failed.
pub(super) fn calling(call: &'static str, error: NvmlError) -> AcceleratorError {
    match error {
        NvmlError::DriverNotLoaded => AcceleratorError::DriverNotLoaded,
        NvmlError::NoPermission => AcceleratorError::NoPermission,
        NvmlError::LibRmVersionMismatch => AcceleratorError::VersionMismatch,
        error => AcceleratorError::Other { call, source: error.into() },
    }
}

/// Why a device that does not answer is not to be used.
pub(super) fn of_device(error: &NvmlError) -> String {
    match error {
        NvmlError::GpuLost => "GPU is lost: fallen off the bus".to_owned(),
        NvmlError::ResetRequired => "the device needs a reset".to_owned(),
        error => format!("the device does not answer: {error}"),
    }
}

/// Whether `error` speaks against the device and not only against the one question.
pub(super) fn is_fault(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::IrqIssue
            | NvmlError::InsufficientPower
    )
}

/// The value, or nothing: not supported and refused are the same to whoever wants it.
pub(super) fn optional<T>(what: &'static str, answer: Result<T, NvmlError>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(NvmlError::NotSupported) => None,
        Err(error) => {
            tracing::debug!(what, %error, "a device does not tell");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_about_the_machine_keep_their_kind_and_the_rest_names_the_call() {
        let of = |error| calling("nvmlDeviceGetCount", error);

        assert!(matches!(of(NvmlError::DriverNotLoaded), AcceleratorError::DriverNotLoaded));
        assert!(matches!(of(NvmlError::NoPermission), AcceleratorError::NoPermission));
        assert!(matches!(of(NvmlError::LibRmVersionMismatch), AcceleratorError::VersionMismatch));
        let other = of(NvmlError::InsufficientMemory);
        assert!(other.to_string().contains("nvmlDeviceGetCount"), "{other}");
    }
}

//! NVIDIA's own library, as it is on a machine that has it.

use fgpu_accelerator::{AcceleratorError, NvmlAccelerator, NvmlConfig};
use std::path::{Path, PathBuf};

/// Names NVIDIA's `libnvidia-ml.so.1` where it is at none of the usual places.
const VARIABLE: &str = "FGPU_REAL_NVML";

/// The usual places: fetched beside the build, Debian's, Ubuntu's, Fedora's.
const PLACES: &[&str] = &[
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/real-nvml/libnvidia-ml.so.1"),
    "/usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-ml.so.1",
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
];

fn real_library() -> PathBuf {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return PathBuf::from(named);
    }
    let found = PLACES.iter().map(Path::new).find(|place| place.exists());
    found.map(Path::to_owned).unwrap_or_else(|| {
        panic!(
            "NVIDIA's libnvidia-ml.so.1 is at none of {PLACES:?}: run `./dev test`, which fetches it, \
             install Debian's libnvidia-ml1 (non-free), or set {VARIABLE}"
        )
    })
}

#[test]
fn the_real_library_s_answer_is_understood() {
    let library = real_library();
    let driver_is_loaded = Path::new("/proc/driver/nvidia/version").exists();

    let opened = NvmlAccelerator::open(NvmlConfig {
        library: Some(library.clone()),
        ..NvmlConfig::default()
    });

    match opened.map(|_| "devices") {
        Err(AcceleratorError::DriverNotLoaded) => assert!(!driver_is_loaded, "{library:?}"),
        Ok(_) | Err(AcceleratorError::VersionMismatch) => assert!(driver_is_loaded, "{library:?}"),
        Err(other) => panic!("{library:?} answers {other:?}"),
    }
}

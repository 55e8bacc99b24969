//! Opening NVML: what is missing is told apart, each with its next step.

use crate::{Rig, h100s};
use fgpu_accelerator::{
    Accelerator, AcceleratorError, AcceleratorSpec, NvmlAccelerator, NvmlConfig, open,
};
use fgpu_testkit::nvml::FakeNvml;
use fgpu_testkit::nvml::config::Config;
use std::error::Error;
use std::path::PathBuf;

fn refused(library: PathBuf) -> AcceleratorError {
    let config = NvmlConfig { library: Some(library), ..NvmlConfig::default() };
    NvmlAccelerator::open(config).err().expect("it does not open")
}

fn refused_with(code: u32) -> AcceleratorError {
    refused(FakeNvml::new(&Config::failing_init(code)).library())
}

#[test]
fn a_missing_library_is_named_with_what_to_do() {
    let error = refused(PathBuf::from("/nowhere/libnvidia-ml.so.1"));

    assert!(matches!(error, AcceleratorError::LibraryNotFound { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("/nowhere/libnvidia-ml.so.1"), "{text}");
    assert!(text.contains("install the NVIDIA driver") && text.contains("sim:"), "{text}");
    let cause = error.source().expect("the loader says why").to_string();
    assert!(cause.contains("No such file"), "{cause}");
}

#[test]
fn a_file_that_is_no_nvml_library_is_refused_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libnvidia-ml.so.1");
    std::fs::write(&text, "not a library").unwrap();

    let error = refused(text);

    assert!(matches!(error, AcceleratorError::LibraryNotFound { .. }), "{error:?}");
}

#[test]
fn the_driver_s_own_refusals_are_told_apart() {
    let not_loaded = refused_with(9);
    assert!(matches!(not_loaded, AcceleratorError::DriverNotLoaded), "{not_loaded:?}");
    assert!(not_loaded.to_string().contains("modprobe"), "{not_loaded}");
    let permission = refused_with(4);
    assert!(matches!(permission, AcceleratorError::NoPermission), "{permission:?}");
    let mismatch = refused_with(18);
    assert!(matches!(mismatch, AcceleratorError::VersionMismatch), "{mismatch:?}");
    assert!(mismatch.to_string().contains("driver/library version mismatch"), "{mismatch}");
    let other = refused_with(20);
    assert!(matches!(other, AcceleratorError::Other { call: "nvmlInit", .. }), "{other:?}");
}

#[test]
fn a_driver_without_a_function_that_is_needed_is_too_old() {
    let fake = FakeNvml::new(&Config::with_devices(h100s(1)));
    // The name goes, so the loader does not find the function.
    let mut library = std::fs::read(fake.library()).unwrap();
    let name = b"nvmlDeviceGetMemoryInfo_v2\0";
    let places: Vec<_> =
        (0..library.len() - name.len()).filter(|at| library[*at..].starts_with(name)).collect();
    assert!(!places.is_empty(), "the name is in the library");
    for at in places {
        library[at] = b'x';
    }
    std::fs::write(fake.library(), library).unwrap();

    let error = refused(fake.library());

    assert!(matches!(error, AcceleratorError::DriverTooOld { needed: 510, .. }), "{error:?}");
    assert!(error.to_string().contains("570.124.06"), "{error}");
}

#[test]
fn a_driver_without_devices_opens_unless_devices_are_wanted() {
    let fake = FakeNvml::new(&Config::default());
    let config = || NvmlConfig { library: Some(fake.library()), ..NvmlConfig::default() };

    assert!(NvmlAccelerator::open(config()).unwrap().discover().unwrap().is_empty());
    let error = NvmlAccelerator::open_with_devices(config()).err().expect("there are no devices");
    assert!(matches!(error, AcceleratorError::NoDevices), "{error:?}");
}

#[test]
fn versions_are_told() {
    let info = Rig::new(h100s(1)).accelerator.info();

    assert_eq!(info.kind, "nvml");
    assert_eq!(info.driver_version.as_deref(), Some("570.124.06"));
    assert_eq!(info.nvml_version.as_deref(), Some("12.570.124.06"));
    assert_eq!(info.cuda_version.as_deref(), Some("12.8"));
    assert!(!info.simulated);
}

#[test]
fn a_driver_that_goes_away_is_an_error_of_the_accelerator() {
    let mut rig = Rig::new(h100s(2));

    rig.change(|config| *config = config.clone().with_error("nvmlDeviceGetCount", 9));

    assert!(matches!(rig.accelerator.discover(), Err(AcceleratorError::DriverNotLoaded)));
    assert!(matches!(rig.accelerator.usage(), Err(AcceleratorError::DriverNotLoaded)));
    assert!(matches!(rig.accelerator.health(), Err(AcceleratorError::DriverNotLoaded)));
    rig.change(|config| config.errors.clear());
    assert_eq!(rig.devices().len(), 2);
}

/// Which of the two depends on the machine; neither may be an empty accelerator.
#[test]
fn auto_has_devices_or_says_why_it_has_none() {
    match open(&AcceleratorSpec::Auto, "a1") {
        Ok(accelerator) => assert!(!accelerator.discover().unwrap().is_empty()),
        Err(error) => assert!(!matches!(error, AcceleratorError::Other { .. }), "{error:?}"),
    }
}

//! What speaks against a device of NVML's, and that it speaks against no other.

use crate::{Rig, h100s};
use fgpu_accelerator::Accelerator;
use fgpu_domain::units::MemoryBytes;
use fgpu_testkit::nvml::config::{CallError, DeviceConfig, RemappedRows};

#[test]
fn a_lost_device_keeps_its_identity_and_harms_no_other() {
    let mut rig = Rig::new(h100s(4));
    let before = rig.devices();

    rig.change(|config| config.devices[2].lost = true);

    assert_eq!(rig.unhealthy(), [2]);
    let reason = rig.reason(2).unwrap();
    assert!(reason.contains("GPU is lost"), "{reason}");
    let after = rig.devices();
    assert_eq!(after.len(), 4);
    assert_eq!(after[2].uuid, before[2].uuid);
    assert_eq!((after[2].index, after[2].memory), (2, MemoryBytes::mib(81_559)));
    assert_eq!(after[2].model, before[2].model);
    let usage = rig.accelerator.usage().unwrap();
    assert_eq!((usage.len(), usage[2].utilization_milli), (4, None));
    assert_eq!(usage[3].utilization_milli, Some(0));
}

#[test]
fn a_device_that_comes_back_is_well_again() {
    let mut rig = Rig::new(h100s(2));
    rig.change(|config| config.devices[0].lost = true);
    assert_eq!(rig.unhealthy(), [0]);

    rig.change(|config| config.devices[0].lost = false);

    assert!(rig.unhealthy().is_empty());
}

#[test]
fn a_device_lost_from_the_start_hides_no_other() {
    let mut config = fgpu_testkit::nvml::config::Config::with_devices(h100s(3));
    config.devices[0].lost = true;

    let mut rig = Rig::with(config);

    let indices: Vec<_> = rig.devices().iter().map(|device| device.index).collect();
    assert_eq!(indices, [1, 2], "nothing tells which device it is");
    rig.change(|config| config.devices[0].lost = false);
    assert_eq!(rig.devices().len(), 3);
}

#[test]
fn a_device_the_driver_no_longer_lists_stays_known_and_unhealthy() {
    let mut rig = Rig::new(h100s(3));
    let gone = rig.uuid(1);

    rig.change(|config| drop(config.devices.remove(1)));

    let devices = rig.devices();
    let indices: Vec<_> = devices.iter().map(|device| device.index).collect();
    assert_eq!(indices, [0, 1, 2]);
    let unhealthy: Vec<_> = devices.iter().filter(|d| !d.health.is_healthy()).collect();
    assert_eq!(unhealthy.len(), 1);
    assert_eq!((&unhealthy[0].uuid, unhealthy[0].index), (&gone, 2));
    assert_eq!(rig.accelerator.usage().unwrap().len(), 3);
}

#[test]
fn a_serious_xid_is_kept_against_its_device() {
    let mut rig = Rig::new(h100s(3));
    assert!(rig.unhealthy().is_empty());

    rig.change(|config| config.devices[1].xids = vec![79]);

    assert_eq!(rig.unhealthy(), [1]);
    assert_eq!(rig.reason(1).unwrap(), "Xid 79: fallen off the bus");
    assert_eq!(rig.reason(1).unwrap(), "Xid 79: fallen off the bus", "told once, kept since");
    rig.change(|config| config.devices[1].xids.extend([48, 79]));
    let both = "Xid 79: fallen off the bus; Xid 48: double bit ECC error";
    assert_eq!(rig.reason(1).unwrap(), both);
}

#[test]
fn an_xid_is_known_to_be_of_its_device_even_when_that_is_lost_at_once() {
    let mut rig = Rig::new(h100s(3));
    rig.unhealthy();

    rig.change(|config| {
        config.devices[1].xids = vec![79];
        config.devices[1].lost = true;
    });

    assert_eq!(rig.unhealthy(), [1]);
    let reason = rig.reason(1).unwrap();
    assert!(reason.contains("Xid 79") && reason.contains("GPU is lost"), "{reason}");
}

#[test]
fn an_xid_that_a_program_causes_says_nothing_against_the_device() {
    let mut rig = Rig::new(h100s(1));

    rig.change(|config| config.devices[0].xids = vec![13, 31, 43, 45, 68, 109]);

    assert!(rig.unhealthy().is_empty());
    rig.change(|config| config.devices[0].xids.push(74));
    assert_eq!(rig.reason(0).unwrap(), "Xid 74: NVLink error");
}

#[test]
fn one_device_without_events_leaves_those_of_the_others() {
    let mut devices = h100s(3);
    devices[0].events_supported = false;
    let mut rig = Rig::new(devices);

    rig.change(|config| config.devices[2].xids = vec![119]);

    assert_eq!(rig.unhealthy(), [2]);
}

#[test]
fn uncorrected_ecc_errors_are_counted_against_the_device() {
    let mut rig = Rig::new(h100s(2));

    rig.change(|config| config.devices[0].ecc_uncorrected = Some(3));

    assert_eq!(rig.unhealthy(), [0]);
    assert_eq!(rig.reason(0).unwrap(), "3 uncorrected ECC errors since the driver was loaded");
}

#[test]
fn memory_that_waits_to_be_mended_or_cannot_be_is_told_apart() {
    let mut rig = Rig::new(vec![DeviceConfig::h100(0), DeviceConfig::t4(1), DeviceConfig::h100(2)]);

    rig.change(|config| {
        config.devices[0].remapped_rows = Some(RemappedRows { pending: true, failed: false });
        config.devices[1].retired_pages_pending = Some(true);
        config.devices[2].remapped_rows = Some(RemappedRows { pending: true, failed: true });
    });

    assert_eq!(rig.reason(0).unwrap(), "memory rows wait to be remapped: reset the device");
    assert_eq!(rig.reason(1).unwrap(), "memory pages wait to be retired: reset the device");
    assert_eq!(rig.reason(2).unwrap(), "memory rows could not be remapped: replace the device");
}

#[test]
fn a_device_that_fails_between_two_questions_is_unhealthy_and_stays_as_it_was() {
    let mut rig = Rig::new(h100s(2));

    rig.change(|config| {
        for (call, error) in [("nvmlDeviceGetMemoryInfo", 15), ("nvmlDeviceGetName", 15)] {
            let call = call.to_owned();
            config.errors.push(CallError { call, device: Some(1), error });
        }
    });

    assert_eq!(rig.unhealthy(), [1]);
    let device = &rig.devices()[1];
    assert_eq!(device.memory, MemoryBytes::mib(81_559));
    assert_eq!(device.model, "NVIDIA H100 80GB HBM3");
}

#[test]
fn a_device_that_needs_a_reset_says_so() {
    let mut rig = Rig::new(h100s(2));

    rig.change(|config| {
        let call = "nvmlDeviceGetHandleByIndex".to_owned();
        config.errors.push(CallError { call, device: Some(0), error: 16 });
    });

    assert_eq!(rig.reason(0).unwrap(), "the device needs a reset");
    assert_eq!(rig.unhealthy(), [0]);
}

#[test]
fn a_device_that_does_not_tell_its_memory_is_listed_and_gets_nothing() {
    let mut config = fgpu_testkit::nvml::config::Config::with_devices(h100s(2));
    let call = "nvmlDeviceGetMemoryInfo".to_owned();
    config.errors.push(CallError { call, device: Some(1), error: 3 });

    let rig = Rig::with(config);

    assert_eq!(rig.unhealthy(), [1]);
    let reason = rig.reason(1).unwrap();
    assert!(reason.contains("does not tell its memory"), "{reason}");
    assert_eq!(rig.devices()[1].memory, MemoryBytes::ZERO);
}

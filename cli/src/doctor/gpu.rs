//! Checks of the devices, and of the ways they get into containers.

use std::path::{Path, PathBuf};

use fgpu_accelerator::{AcceleratorError, AcceleratorSpec};
use fgpu_domain::device::{Device, DeviceHealth};
use fgpu_runtime::RuntimeInfo;

use super::Check;
use crate::failure::Failure;
use crate::view;

/// The first toolkit without the container escape of CVE-2025-23266.
const SAFE_TOOLKIT: [u32; 3] = [1, 17, 8];
const CDI_FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// What was found of devices.
pub(super) struct Devices {
    /// There are devices, and they are not simulated.
    pub(super) real: bool,
    pub(super) checks: Vec<Check>,
}

/// Driver and devices.
pub(super) fn devices(spec: &AcceleratorSpec) -> Devices {
    let opened = fgpu_accelerator::open(spec, "doctor").and_then(|accelerator| {
        let devices = accelerator.discover()?;
        Ok((accelerator.info(), devices))
    });
    let (info, devices) = match opened {
        Ok(found) => found,
        Err(error) => return Devices { real: false, checks: vec![missing(&error)] },
    };
    let found = match info.simulated {
        true => format!("SIMULATED ({spec})"),
        false => format!(
            "driver {}, NVML {}, CUDA up to {}",
            info.driver_version.as_deref().unwrap_or("unknown"),
            info.nvml_version.as_deref().unwrap_or("unknown"),
            info.cuda_version.as_deref().unwrap_or("unknown")
        ),
    };
    let mut checks = vec![Check::ok("accelerator", found)];
    checks.extend(devices.iter().map(device));
    if devices.is_empty() {
        checks.push(Check::warn(
            "devices",
            "the driver finds none",
            "see `nvidia-smi -L`; without devices, simulate: `--accelerator sim:8xH100-80GB`",
        ));
    }
    Devices { real: !info.simulated && !devices.is_empty(), checks }
}

/// A machine without a GPU is a fine machine; one with a GPU that does not work is not.
fn missing(error: &AcceleratorError) -> Check {
    let Failure { fact, details, .. } = Failure::of(error);
    // The error's own text ends with what to do.
    let (fact, advice) = match fact.split_once(": ") {
        Some((fact, advice)) => (fact.to_owned(), advice.to_owned()),
        None => (fact, "simulate devices: `--accelerator sim:8xH100-80GB`".to_owned()),
    };
    let found = std::iter::once(fact).chain(details).collect::<Vec<_>>().join(": ");
    let absent =
        matches!(error, AcceleratorError::LibraryNotFound { .. } | AcceleratorError::NoDevices);
    match absent {
        true => Check::warn("accelerator", found, advice),
        false => Check::fail("accelerator", found, advice),
    }
}

fn device(device: &Device) -> Check {
    let name = format!("device {}", device.index);
    let found = format!("{} {}, {}", device.model, device.uuid, view::gib(device.memory.0));
    match &device.health {
        DeviceHealth::Healthy => Check::ok(&name, found),
        DeviceHealth::Unhealthy { reason } => Check::fail(
            &name,
            format!("{found}: {reason}"),
            "it gets no sessions; see `dmesg` and `nvidia-smi -q`, reset or replace it",
        ),
    }
}

/// The ways devices get into containers.
pub(super) fn attachment(engine: Option<&RuntimeInfo>) -> Vec<Check> {
    const NAME: &str = "gpu attach";
    let cdi = cdi_files(engine);
    let runtime = engine.is_some_and(|info| info.runtimes.iter().any(|name| name == "nvidia"));
    let mut ways = Vec::new();
    ways.extend((!cdi.is_empty()).then(|| format!("cdi ({})", cdi[0].display())));
    ways.extend(runtime.then(|| "the nvidia runtime".to_owned()));
    let mut checks = vec![match ways.is_empty() {
        false => Check::ok(NAME, ways.join(", ")),
        true => Check::fail(
            NAME,
            "neither CDI files nor the nvidia runtime",
            "install nvidia-container-toolkit, then `nvidia-ctk cdi generate \
             --output=/etc/cdi/nvidia.yaml`",
        ),
    }];
    checks.push(toolkit());
    checks
}

/// CDI files of NVIDIA devices.
fn cdi_files(engine: Option<&RuntimeInfo>) -> Vec<PathBuf> {
    let own = engine.into_iter().flat_map(|info| info.cdi_spec_dirs.iter().map(String::as_str));
    let mut folders: Vec<&str> = own.chain(CDI_FOLDERS).collect();
    folders.sort_unstable();
    folders.dedup();
    let entries = folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).into_iter());
    let files = entries.flatten().flatten().map(|entry| entry.path());
    files.filter(|path| names_nvidia(path)).collect()
}

fn names_nvidia(path: &Path) -> bool {
    let known =
        path.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|e| end == *e));
    known && std::fs::read_to_string(path).is_ok_and(|text| text.contains("nvidia.com/"))
}

fn toolkit() -> Check {
    const NAME: &str = "nvidia toolkit";
    let ran = std::process::Command::new("nvidia-ctk").arg("--version").output();
    let text = ran.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let advice = "install nvidia-container-toolkit 1.17.8 or newer";
    let Some(version) = text.ok().and_then(|text| version_in(&text)) else {
        return Check::warn(NAME, "`nvidia-ctk` is not there or says no version", advice);
    };
    let shown = version.map(|part| part.to_string()).join(".");
    match version < SAFE_TOOLKIT {
        true => Check::warn(
            NAME,
            format!("{shown}: containers can take over the host (CVE-2025-23266)"),
            advice,
        ),
        false => Check::ok(NAME, shown),
    }
}

/// The first version such as `1.17.8` in a text.
fn version_in(text: &str) -> Option<[u32; 3]> {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    words
        .filter_map(|word| {
            let parts: Vec<u32> = word.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
            <[u32; 3]>::try_from(parts).ok()
        })
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolkit_before_the_fix_is_told_from_one_after() {
        let version = |text| version_in(text).unwrap();
        let text = "NVIDIA Container Toolkit CLI version 1.17.4\ncommit: abc";
        assert!(version(text) < SAFE_TOOLKIT);
        assert!(version("version 1.17.8") >= SAFE_TOOLKIT);
        assert!(version("version 1.18.0-rc.1") >= SAFE_TOOLKIT);
        assert_eq!(version_in("no version 1.2"), None);
    }

    #[test]
    fn simulated_devices_are_said_to_be() {
        let found = devices(&"sim:2xH100-80GB".parse().unwrap());
        assert!(!found.real);
        assert_eq!(found.checks.len(), 3);
        assert!(found.checks[0].found.contains("SIMULATED"), "{:?}", found.checks);
    }

    #[test]
    fn a_library_that_is_not_there_is_a_warning_with_what_to_do() {
        let found = devices(&"nvml:/nowhere/libnvidia-ml.so.1".parse().unwrap());
        assert_eq!(found.checks[0].level, super::super::Level::Warn);
        assert!(found.checks[0].advice.as_ref().is_some_and(|text| text.contains("sim:")));
    }
}

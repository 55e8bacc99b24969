//! How the GPUs of a slice get into a container on this node.

use fgpu_domain::device::Device;
use fgpu_domain::ids::DeviceUuid;
use fgpu_domain::slice::Grant;
use fgpu_runtime::{GpuAttachment, RuntimeInfo};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The kind of CDI device NVIDIA's toolkit writes.
const CDI_KIND: &str = "nvidia.com/gpu";

/// What the administrator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttachChoice {
    /// The best way the engine offers.
    #[default]
    Auto,
    /// Container Device Interface.
    Cdi,
    /// The engine's own device request.
    DeviceRequest,
    /// The `nvidia` runtime.
    NvidiaRuntime,
    /// Not at all: sessions are told their slice and see no device.
    None,
}

/// What the node offers, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachFacts {
    /// Names of `nvidia.com/gpu` in the engine's CDI files.
    pub cdi_names: BTreeSet<String>,
    /// Whether the engine has the `nvidia` runtime.
    pub nvidia_runtime: bool,
    /// Whether the runtime makes containers at all; plain processes see every device anyway.
    pub containers: bool,
}

/// Why devices cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// No way is there.
    #[error(
        "the container engine cannot attach GPUs: install the NVIDIA Container Toolkit, then \
         `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` or `nvidia-ctk runtime configure` \
         and restart the engine; `--gpu-attach none` starts sessions without"
    )]
    NoWay,
    /// CDI does not know a device.
    #[error(
        "no CDI file names device {uuid}: run `nvidia-ctk cdi generate \
         --output=/etc/cdi/nvidia.yaml --device-name-strategy=uuid`"
    )]
    NotInCdi {
        /// The device.
        uuid: DeviceUuid,
    },
}

/// Not one of the choices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no way to attach GPUs: write auto, cdi, device-request, runtime or none")]
pub struct UnknownChoice(pub String);

impl FromStr for AttachChoice {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        Ok(match text {
            "auto" => Self::Auto,
            "cdi" => Self::Cdi,
            "device-request" => Self::DeviceRequest,
            "runtime" => Self::NvidiaRuntime,
            "none" => Self::None,
            other => return Err(UnknownChoice(other.to_owned())),
        })
    }
}

impl fmt::Display for AttachChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Cdi => "cdi",
            Self::DeviceRequest => "device-request",
            Self::NvidiaRuntime => "runtime",
            Self::None => "none",
        })
    }
}

impl AttachFacts {
    /// What the runtime tells, and its CDI files name. Reads these files.
    #[must_use]
    pub fn read(info: &RuntimeInfo) -> Self {
        Self {
            cdi_names: info.cdi_spec_dirs.iter().flat_map(|dir| names_in(Path::new(dir))).collect(),
            nvidia_runtime: info.runtimes.iter().any(|name| name == "nvidia"),
            containers: info.kind != "process",
        }
    }

    /// The way `choice` means for `devices`, to show: never [`AttachChoice::Auto`] but where
    /// nothing would work.
    #[must_use]
    pub fn resolve(&self, choice: AttachChoice, devices: &[Device]) -> AttachChoice {
        // A card in MIG instances is never attached itself.
        let real: Vec<&Device> =
            devices.iter().filter(|device| !device.simulated && !device.is_partitioned()).collect();
        if choice == AttachChoice::None || real.is_empty() || !self.containers {
            return AttachChoice::None;
        }
        let in_cdi = real.iter().all(|device| self.cdi_name(&device.uuid).is_some());
        match choice {
            AttachChoice::Auto if in_cdi => AttachChoice::Cdi,
            AttachChoice::Auto if self.nvidia_runtime => AttachChoice::DeviceRequest,
            chosen => chosen,
        }
    }

    /// How the devices of `grant` get into its container. Simulated ones are never attached.
    ///
    /// # Errors
    /// [`AttachError`] names what to install.
    pub fn attachment(
        &self,
        choice: AttachChoice,
        grant: &Grant,
        devices: &[Device],
    ) -> Result<GpuAttachment, AttachError> {
        let granted = |device: &&Device| grant.slices.iter().any(|s| s.device == device.uuid);
        let used: Vec<Device> = devices.iter().filter(granted).cloned().collect();
        let real = || used.iter().filter(|device| !device.simulated);
        let uuids = || real().map(|device| device.uuid.to_string()).collect();
        match self.resolve(choice, &used) {
            AttachChoice::None => Ok(GpuAttachment::None),
            AttachChoice::Auto => Err(AttachError::NoWay),
            AttachChoice::DeviceRequest => Ok(GpuAttachment::DeviceRequest { uuids: uuids() }),
            AttachChoice::NvidiaRuntime => Ok(GpuAttachment::NvidiaRuntime { uuids: uuids() }),
            AttachChoice::Cdi => {
                let name = |device: &Device| {
                    let uuid = device.uuid.clone();
                    self.cdi_name(&uuid).ok_or(AttachError::NotInCdi { uuid })
                };
                Ok(GpuAttachment::Cdi { names: real().map(name).collect::<Result<_, _>>()? })
            }
        }
    }

    fn cdi_name(&self, uuid: &DeviceUuid) -> Option<String> {
        let known = self.cdi_names.contains(uuid.as_str());
        known.then(|| format!("{CDI_KIND}={uuid}"))
    }
}

/// The device names of NVIDIA's CDI files in `folder`.
fn names_in(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .filter(|text| text.contains(CDI_KIND))
        .flat_map(|text| device_names(&text))
        .collect()
}

/// The values of `name:` in a CDI file, YAML or JSON. Environment and hooks have no UUID for a
/// name, so these are the devices.
fn device_names(text: &str) -> BTreeSet<String> {
    text.split([',', '{', '}', '\n'])
        .filter_map(|piece| {
            let piece = piece.trim().trim_start_matches("- ").trim_start_matches('"');
            let value = piece.strip_prefix("name")?.trim_start_matches('"').trim_start();
            let value = value.strip_prefix(':')?.trim().trim_matches(['"', '\'']);
            (value.starts_with("GPU-") || value.starts_with("MIG-")).then(|| value.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::{device, instance};
    use crate::order::tests::order;
    use fgpu_domain::device::{MigState, with_instances};

    fn attachment(
        facts: &AttachFacts,
        choice: &str,
        simulated: bool,
    ) -> Result<GpuAttachment, AttachError> {
        let mut devices = [device("GPU-1", 0), device("GPU-2", 1)];
        devices.iter_mut().for_each(|device| device.simulated = simulated);
        facts.attachment(choice.parse().unwrap(), &order(&["GPU-1"]).grant, &devices)
    }

    fn facts(cdi: &[&str], nvidia_runtime: bool) -> AttachFacts {
        let cdi_names = cdi.iter().map(|name| (*name).to_owned()).collect();
        AttachFacts { cdi_names, nvidia_runtime, containers: true }
    }

    #[test]
    fn auto_takes_cdi_where_it_names_the_device_and_else_a_device_request() {
        let cdi = Ok(GpuAttachment::Cdi { names: vec!["nvidia.com/gpu=GPU-1".to_owned()] });
        let request = Ok(GpuAttachment::DeviceRequest { uuids: vec!["GPU-1".to_owned()] });

        assert_eq!(attachment(&facts(&["GPU-1"], true), "auto", false), cdi);
        assert_eq!(attachment(&facts(&["GPU-2"], true), "auto", false), request);
        assert_eq!(attachment(&facts(&[], false), "auto", false), Err(AttachError::NoWay));
    }

    #[test]
    fn a_mig_instance_is_attached_by_its_own_name_and_its_card_never_is() {
        let mut card = device("GPU-1", 0);
        card.simulated = false;
        card.mig = MigState::Enabled { instances: vec![instance("MIG-1"), instance("MIG-2")] };
        let devices = with_instances(&[card]);
        let grant = order(&["MIG-2"]).grant;
        let attached = |facts: &AttachFacts, choice: &str| {
            facts.attachment(choice.parse().unwrap(), &grant, &devices).unwrap()
        };

        let cdi = facts(&["MIG-1", "MIG-2"], true);
        assert_eq!(cdi.resolve(AttachChoice::Auto, &devices), AttachChoice::Cdi);
        let names = vec!["nvidia.com/gpu=MIG-2".to_owned()];
        assert_eq!(attached(&cdi, "auto"), GpuAttachment::Cdi { names });
        let uuids = || vec!["MIG-2".to_owned()];
        let request = GpuAttachment::DeviceRequest { uuids: uuids() };
        assert_eq!(attached(&facts(&["GPU-1"], true), "auto"), request);
        let runtime = GpuAttachment::NvidiaRuntime { uuids: uuids() };
        assert_eq!(attached(&facts(&[], true), "runtime"), runtime);
    }

    #[test]
    fn simulated_devices_and_none_are_never_attached() {
        let all = facts(&["GPU-1"], true);
        for choice in ["auto", "cdi", "device-request", "runtime", "none"] {
            assert_eq!(attachment(&all, choice, true), Ok(GpuAttachment::None), "{choice}");
        }
        assert_eq!(attachment(&all, "none", false), Ok(GpuAttachment::None));
    }

    #[test]
    fn what_was_chosen_is_done_or_refused() {
        let runtime = Ok(GpuAttachment::NvidiaRuntime { uuids: vec!["GPU-1".to_owned()] });
        assert_eq!(attachment(&facts(&[], false), "runtime", false), runtime);
        let refused = attachment(&facts(&[], true), "cdi", false).unwrap_err();
        assert!(refused.to_string().contains("GPU-1"), "{refused}");
        assert!("podman".parse::<AttachChoice>().is_err());
    }

    #[test]
    fn device_names_are_read_from_yaml_and_json() {
        let yaml = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: GPU-aa-1\n  containerEdits: {}\n- name: \"0\"\n";
        let json = r#"{"kind":"nvidia.com/gpu","devices":[{"name":"GPU-bb"},{ "name" : "all"}]}"#;

        assert_eq!(device_names(yaml), BTreeSet::from(["GPU-aa-1".to_owned()]));
        assert_eq!(device_names(json), BTreeSet::from(["GPU-bb".to_owned()]));
    }
}

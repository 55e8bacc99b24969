//! The text that chooses an accelerator, as after `--accelerator`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which accelerator to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceleratorSpec {
    /// `auto`: NVML where it has devices.
    Auto,
    /// `nvml` or `nvml:/path/libnvidia-ml.so.1`.
    Nvml {
        /// The library; the loader's own search if absent.
        library: Option<PathBuf>,
    },
    /// `sim:8xH100-80GB`: devices by text.
    Simulated {
        /// The text after `sim:`, already checked.
        devices: String,
    },
    /// `sim:/path/devices.toml`: devices by file.
    SimulatedFile {
        /// The file, TOML, or JSON if it ends so.
        path: PathBuf,
    },
}

/// Why a text chooses no accelerator or no simulated device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not one of the kinds.
    #[error(
        "`{value}` is no accelerator: write `auto`, `nvml`, `nvml:/path/libnvidia-ml.so.1`, \
         `sim:8xH100-80GB` or `sim:/path/devices.toml`"
    )]
    UnknownKind {
        /// The text given.
        value: String,
    },
    /// One group of simulated devices is not understood.
    #[error("`{part}` is no group of devices: {reason}; write e.g. `8xH100-80GB`")]
    Group {
        /// The group given.
        part: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More simulated devices than one node may have.
    #[error("{count} simulated devices are more than the {limit} a node may have")]
    TooMany {
        /// How many were asked for.
        count: u64,
        /// The most there may be.
        limit: u32,
    },
    /// A MIG instance that does not tell its size.
    #[error(
        "MIG instance `{profile}` of a `{model}`: {missing} is not known; write it as `{key} = …`"
    )]
    MigInstance {
        /// The profile given.
        profile: String,
        /// The card's model.
        model: String,
        /// What could not be derived.
        missing: &'static str,
        /// The key to write it under.
        key: &'static str,
    },
}

impl FromStr for AcceleratorSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let text = text.trim();
        match text.split_once(':').unwrap_or((text, "")) {
            ("auto", "") => Ok(Self::Auto),
            ("nvml", "") => Ok(Self::Nvml { library: None }),
            ("nvml", library) => Ok(Self::Nvml { library: Some(PathBuf::from(library)) }),
            ("sim", devices) if !devices.is_empty() => {
                if is_file(devices) {
                    return Ok(Self::SimulatedFile { path: PathBuf::from(devices) });
                }
                crate::simulated::check(devices)?;
                Ok(Self::Simulated { devices: devices.to_owned() })
            }
            _ => Err(SpecError::UnknownKind { value: text.to_owned() }),
        }
    }
}

impl fmt::Display for AcceleratorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Nvml { library: None } => f.write_str("nvml"),
            Self::Nvml { library: Some(library) } => write!(f, "nvml:{}", library.display()),
            Self::Simulated { devices } => write!(f, "sim:{devices}"),
            Self::SimulatedFile { path } => write!(f, "sim:{}", path.display()),
        }
    }
}

/// A path has a `/` or a known ending; no device model has either.
fn is_file(text: &str) -> bool {
    text.contains('/') || text.ends_with(".toml") || text.ends_with(".json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood_and_shown_as_it_was_written() {
        for text in [
            "auto",
            "nvml",
            "nvml:/opt/nvidia/libnvidia-ml.so.1",
            "sim:8xH100-80GB",
            "sim:4xA100-40GB,2xT4-16GB",
            "sim:/etc/fgpu/devices.toml",
            "sim:devices.json",
        ] {
            let spec: AcceleratorSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
        }
        let file = "sim:devices.toml".parse().unwrap();
        assert_eq!(AcceleratorSpec::SimulatedFile { path: "devices.toml".into() }, file);
    }

    #[test]
    fn anything_else_is_refused_with_what_could_be_written() {
        for bad in ["", "gpu", "sim", "sim:", "auto:x", "rocm"] {
            let refused = bad.parse::<AcceleratorSpec>().unwrap_err();
            assert!(matches!(refused, SpecError::UnknownKind { .. }), "{bad}: {refused}");
            assert!(refused.to_string().contains("sim:8xH100-80GB"), "{refused}");
        }
    }

    #[test]
    fn simulated_devices_are_checked_when_the_flag_is_read() {
        let refused = "sim:8xH100".parse::<AcceleratorSpec>().unwrap_err();

        assert!(refused.to_string().contains("8xH100"), "{refused}");
    }
}

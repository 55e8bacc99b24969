//! The environment a session gets: its own, with ours over it.

use super::slice_file::SliceFile;
use fgpu_domain::slice::Isolation;
use std::collections::BTreeMap;

/// Variables that choose devices; a session cannot set them.
const VISIBLE: [&str; 2] = ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"];

/// The environment of a session that asked for `own`, is told of its `group`, holds `slice` and finds
/// its slice file at `path`. See the table of the module above.
#[must_use]
pub fn environment(
    own: &BTreeMap<String, String>,
    group: &BTreeMap<String, String>,
    slice: &SliceFile,
    path: &str,
) -> BTreeMap<String, String> {
    let kept = own.iter().filter(|(name, _)| !is_ours(name, slice.isolation));
    let mut all: BTreeMap<String, String> =
        kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    all.extend(group.iter().map(|(name, value)| (name.clone(), value.clone())));
    let devices = list(slice.devices.iter().map(|device| device.uuid.as_str().to_owned()));
    let ours = [
        ("FGPU_SESSION_ID", slice.session.to_string()),
        ("FGPU_SESSION_GENERATION", slice.generation.to_string()),
        ("FGPU_NODE", slice.node.to_string()),
        ("FGPU_SLICE_FILE", path.to_owned()),
        ("FGPU_DEVICES", devices.clone()),
        ("FGPU_MEMORY_BYTES", slice.totals.memory_bytes.0.to_string()),
        (
            "FGPU_MEMORY_BYTES_PER_DEVICE",
            list(slice.devices.iter().map(|device| device.memory_bytes.0.to_string())),
        ),
        ("FGPU_COMPUTE_MILLI", slice.totals.compute_milli.0.to_string()),
        (
            "FGPU_COMPUTE_MILLI_PER_DEVICE",
            list(slice.devices.iter().map(|device| device.compute_milli.0.to_string())),
        ),
        ("FGPU_AMOUNT", slice.totals.fgpu_milli.to_string()),
        ("FGPU_ISOLATION", slice.isolation.to_string()),
        ("CUDA_VISIBLE_DEVICES", devices),
    ];
    all.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    all
}

/// The names of `own` that a session may not set, to say so.
#[must_use]
pub fn dropped(own: &BTreeMap<String, String>, isolation: Isolation) -> Vec<&str> {
    own.keys().map(String::as_str).filter(|name| is_ours(name, isolation)).collect()
}

fn is_ours(name: &str, isolation: Isolation) -> bool {
    name.starts_with("FGPU_")
        || VISIBLE.contains(&name)
        || (name == "LD_PRELOAD" && isolation == Isolation::Interposer)
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::tests::{device, id};
    use crate::inject::SLICE_FILE;
    use crate::order::tests::order;
    use fgpu_domain::ids::ClusterId;

    fn slice(devices: &[&str]) -> SliceFile {
        let known = [device("GPU-1", 0), device("GPU-2", 1)];
        let cluster = ClusterId::new("cluster-1").unwrap();
        SliceFile::new(&cluster, &id("abcdef12", 3), &order(devices), &known)
    }

    fn own(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_of_two_half_devices() {
        let all =
            environment(&own(&[("LR", "0.1")]), &own(&[]), &slice(&["GPU-1", "GPU-2"]), SLICE_FILE);

        let shown: Vec<String> =
            all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = "\
CUDA_VISIBLE_DEVICES=GPU-1,GPU-2
FGPU_AMOUNT=10
FGPU_COMPUTE_MILLI=1000
FGPU_COMPUTE_MILLI_PER_DEVICE=500,500
FGPU_DEVICES=GPU-1,GPU-2
FGPU_ISOLATION=shared
FGPU_MEMORY_BYTES=85899345920
FGPU_MEMORY_BYTES_PER_DEVICE=42949672960,42949672960
FGPU_NODE=a1
FGPU_SESSION_GENERATION=3
FGPU_SESSION_ID=abcdef12
FGPU_SLICE_FILE=/run/fgpu/slice.json
LR=0.1";
        assert_eq!(shown.join("\n"), expected);
    }

    #[test]
    fn a_session_cannot_set_what_tells_it_its_slice() {
        let asked = own(&[
            ("FGPU_MEMORY_BYTES", "1"),
            ("FGPU_ANYTHING", "1"),
            ("FGPU_ARRAY_INDEX", "7"),
            ("CUDA_VISIBLE_DEVICES", "7"),
            ("NVIDIA_VISIBLE_DEVICES", "all"),
            ("LD_PRELOAD", "/x.so"),
        ]);

        let group = own(&[("FGPU_ARRAY_INDEX", "3")]);
        let all = environment(&asked, &group, &slice(&[]), SLICE_FILE);

        assert_eq!(all["FGPU_MEMORY_BYTES"], "0");
        assert_eq!(all["FGPU_ARRAY_INDEX"], "3", "what the manager says of its group");
        assert_eq!(all["CUDA_VISIBLE_DEVICES"], "");
        assert_eq!(all["LD_PRELOAD"], "/x.so", "the session's own where nothing depends on it");
        assert!(!all.contains_key("FGPU_ANYTHING") && !all.contains_key("NVIDIA_VISIBLE_DEVICES"));
        assert_eq!(dropped(&asked, Isolation::Shared).len(), 5);
        assert_eq!(dropped(&asked, Isolation::Interposer).len(), 6);
    }
}

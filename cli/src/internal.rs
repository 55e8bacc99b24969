//! Verbs other parts of fgpu call, not people.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::Subcommand;
use serde_json::Value;

use crate::failure::Failure;
use crate::output;
use crate::view;

/// `fgpu internal …`
#[derive(Debug, Subcommand)]
pub(crate) enum InternalCommand {
    /// Run one command of the process runtime and record how it ends
    #[command(disable_help_flag = true)]
    ProcessShim {
        /// Arguments of the shim
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Print the slice this process was given
    PrintSlice {
        /// Stay alive afterwards, until told to stop
        #[arg(long)]
        stay: bool,
    },
}

/// Runs `fgpu internal print-slice`.
pub(crate) fn print_slice(stay: bool) -> Result<(), Failure> {
    let env: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| name.starts_with("FGPU_")).collect();
    let Some(path) = env.get("FGPU_SLICE_FILE") else {
        return Err(Failure::new("this process has no slice: FGPU_SLICE_FILE is not set")
            .hint("it runs in a session: `fgpu run --fgpu 1 -- fgpu internal print-slice`"));
    };
    output::text(slice_text(&read_slice(Path::new(path))?, &env))?;
    if !stay {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start", &error))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |error| Failure::because("cannot listen for signals", &error);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        output::line("told to stop, going")
    })
}

fn read_slice(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::because(format!("cannot read the slice file `{}`", path.display()), &error)
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::because(format!("the slice file `{}` is not JSON", path.display()), &error)
    })
}

/// The slice for people, from the file; the environment must say the same.
fn slice_text(file: &Value, env: &BTreeMap<String, String>) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = format!(
        "this process holds {}, {} of device memory, isolation {}{}\n",
        view::fgpu(number(&file["totals"]["fgpu_milli"])),
        view::gib(number(&file["totals"]["memory_bytes"])),
        word(&file["isolation"]),
        if file["simulated"] == true { " (simulated)" } else { "" },
    );
    for device in file["devices"].as_array().into_iter().flatten() {
        let compute = u32::try_from(number(&device["compute_milli"])).unwrap_or(0);
        text.push_str(&format!(
            "  device {} {} {}: {}, {}, {}\n",
            number(&device["index"]),
            word(&device["model"]),
            word(&device["uuid"]),
            view::fgpu(number(&device["fgpu_milli"])),
            view::gib(number(&device["memory_bytes"])),
            view::percent(compute),
        ));
    }
    for name in ["FGPU_DEVICES", "FGPU_AMOUNT", "FGPU_MEMORY_BYTES", "FGPU_COMPUTE_MILLI"] {
        if let Some(value) = env.get(name) {
            text.push_str(&format!("  {name}={value}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_printed_with_its_devices_and_variables() {
        let file = serde_json::json!({
            "isolation": "shared",
            "simulated": true,
            "totals": {"fgpu_milli": 10_000, "memory_bytes": 85_899_345_920_u64},
            "devices": [{
                "index": 0, "model": "H100-80GB", "uuid": "SIM-1", "fgpu_milli": 10_000,
                "memory_bytes": 85_899_345_920_u64, "compute_milli": 1000
            }]
        });
        let env = [("FGPU_AMOUNT".to_owned(), "10".to_owned())].into();

        assert_eq!(
            slice_text(&file, &env),
            "this process holds 10 fGPU, 80 GiB of device memory, isolation shared (simulated)\n  \
             device 0 H100-80GB SIM-1: 10 fGPU, 80 GiB, 100 %\n  FGPU_AMOUNT=10\n"
        );
    }
}

//! A fake `libnvidia-ml.so.1` for tests: NVML's C interface, answered from a JSON file.
//!
//! Built as a `cdylib`, it is loaded by anything that speaks NVML (the agent, `nvidia-ml-py`), and
//! says what a [`config::Config`] says. The file is named by `FGPU_FAKE_NVML_CONFIG`; without that
//! variable it is the library's own path with `.json` behind it, so that several copies of the
//! library in one process answer differently. It is read at every call: a change shows at the next.
//!
//! Built as an `rlib`, it gives tests the types to write that file with. Start at
//! [`config::Config`]; the functions are under `abi`, by subject, and all pass through
//! `state::enter`, which decides on injected errors and on lost devices.
#![allow(unsafe_code, reason = "the interface is C: pointers come in and are written through")]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod abi;
pub mod config;
mod state;

/// The environment variable that names the file this library answers from.
pub const CONFIG_VARIABLE: &str = "FGPU_FAKE_NVML_CONFIG";

//! The shim of the process runtime as a program of its own, for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    fgpu_runtime::process::shim_main(std::env::args_os().skip(1))
}

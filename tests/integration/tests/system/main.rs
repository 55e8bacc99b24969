//! Tests of the whole system over real parts: the `fgpu` binary, etcd, Docker, the fake NVML.
//!
//! Every test starts what it needs for itself and stops only that. [`stage`] is the way in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod bad_input;
mod faults;
mod house;
mod main_job;
mod mig;
mod one_machine;
mod queue;
mod stage;
mod traces;

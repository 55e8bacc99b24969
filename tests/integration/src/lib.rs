//! The parts whole-system tests and benches are made of: the `fgpu` binary as a process, a manager,
//! agents with the fake NVML and a real engine, a command line, and a network that can be cut.
//!
//! Start at [`world`]. Everything panics with what it saw: these are tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]

pub mod cli;
pub mod process;
pub mod proxy;
pub mod wait;
pub mod world;

//! The contract of container runtimes, run on all of them, and what each adds to it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;
mod docker;
mod process;
mod registry;
mod suite;

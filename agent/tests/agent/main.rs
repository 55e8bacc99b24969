//! The agent from outside: its supervisor over an engine of the imagination, its link to a manager
//! in the same process, and once over real processes.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod bench;
mod fake_manager;
mod fake_runtime;
mod link;
mod processes;
mod supervisor;

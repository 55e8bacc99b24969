//! The program as people and scripts meet it: exit codes, what goes where, what errors say, and
//! what happens while a manager is away. The manager is a fake over real gRPC.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod calls;
mod context;
mod fake;
mod fake_projects;
mod help;
mod queue;
mod run;
mod simulate;
mod streams;
mod tool;
mod up;

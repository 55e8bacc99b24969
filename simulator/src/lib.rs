//! Replays a recorded workload through the placement code of fgpu.
//!
//! A replay is a text file of JSON lines (`docs/replay-format.md`): a cluster, then pods in the
//! order they arrived. [`fn@run`] replays a file and reports how much of the GPU was given out;
//! [`stdio`] answers pod by pod, so that another program can hold the replay and keep score.
//! Both ask the very [`Placer`](fgpu_domain::placement::Placer) that the manager asks.
//!
//! A GPU of a replay is a device of 1 fGPU, in quanta of a thousandth, with 1 MiB of memory per
//! thousandth: every amount is exact, and nothing is split.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cluster;
mod error;
mod generate;
mod meter;
mod models;
mod queue;
mod random;
mod replay;
mod run;
mod speed;
mod stopwatch;
mod suite;

pub use error::SimulateError;
pub use generate::{Fill, GenerateError, Mix, ModelWeights, Replay, Source, Timed};
pub use meter::{FailedByKind, Level, Report, Timing};
pub use queue::{Bin, Counts, Distribution, Fairness, ProjectShare, QueueReport, Use, Waits};
pub use run::{Outcome, SimulateOptions, run, stdio};
pub use speed::{
    Cost, GangKind, GangReport, Measurement, PlacementBench, SpeedError, SpeedOptions, SpeedReport,
    gang_speed, plan_speed, queue_speed, speed,
};
pub use suite::{LevelReport, MixReport, SuiteError, SuiteOptions, SuiteReport, suite};

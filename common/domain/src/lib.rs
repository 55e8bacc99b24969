//! The rules of fgpu: what may be granted, to whom, and when.
//!
//! Nothing here performs I/O, awaits, or reads a clock: whatever a decision needs comes in as an
//! argument (the time as well), and what should happen comes back as a value. Start at
//! [`cluster`] (all state, one `apply`), then [`mod@slice`] (how a request becomes a grant) and
//! [`session`] (the lifecycle), [`project`] and [`class`] (who waits for whom).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod check;
pub mod class;
pub mod cluster;
pub mod device;
pub mod ids;
pub mod image;
pub mod node;
pub mod placement;
pub mod plans;
pub mod project;
mod queue;
pub mod reconcile;
pub mod session;
pub mod slice;
pub mod time;
pub mod units;
pub mod usage;

//! Plans: what placement of one request at one moment does not answer.
//!
//! - [`defrag`]: moves that free whole devices and nodes.
//! - [`gang`]: several members, all or none, close together or spread.
//! - [`preempt`]: which running sessions should go so that a blocked one fits, least harm first.
//! - [`reservation`]: when and where a blocked head will fit, and what may run before it.
//! - [`mod@would_fit`]: the changes with which a request would start now.
//!
//! Every plan is a value: nothing here changes the view it was given. The answer depends on the
//! arguments alone, amounts are integers, and ties go to the node inserted first. What a node can
//! take is always tried by placement itself on a copy of that one node (a *trial*); cheap upper
//! bounds decide which nodes are worth a trial.

pub mod defrag;
pub mod gang;
pub mod preempt;
pub mod reservation;
pub mod would_fit;

mod capacity;
mod clear;
mod running;
mod trial;

pub use running::RunningSession;

#[cfg(test)]
mod testing;

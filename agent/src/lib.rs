//! The agent: brings one node to what the manager wants there, and tells how it stands.
//!
//! [`run`] wires it: devices, supervisor, inventory, link. Start reading at [`supervisor`], the one
//! task that owns the node; what it decides is in its pure state, what it does in its workers.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`config`] | what the agent is told |
//! | [`supervisor`] | owns the node: desired, observed, ledger |
//! | [`link`] | the stream to the manager, and channels for logs, shells and ports |
//! | [`inject`] | the slice contract: grant → environment, slice file, container |
//! | [`admit`] | whether a grant may be started here |
//! | [`ledger`], [`labels`], [`lease`] | what survives the agent |
//! | [`logs`] | output of what has ended |
//! | [`inventory`], [`facts`], [`images`] | what the node is and has |
//! | [`ends`] | how placements end: the codes |
//!
//! The agent may die at any moment: containers do not notice, and the next one goes on from labels
//! and ledger.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admit;
mod agent;
pub mod config;
pub mod ends;
pub mod facts;
pub mod images;
pub mod inject;
pub mod inventory;
pub mod labels;
pub mod lease;
pub mod ledger;
pub mod link;
pub mod logs;
pub mod notify;
pub mod order;
mod parts;
pub mod state_dir;
pub mod supervisor;
mod wire;

pub use agent::{Agent, AgentError, run};
pub use config::{AgentConfig, AgentSettings};
pub use parts::{AgentParts, OpenError};

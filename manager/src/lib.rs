//! The manager: the one process that decides, and tells agents and people what was decided.
//!
//! Start at [`Manager`] (wires everything), then `engine` (one task that owns all state; the
//! store is written first, then anyone is told), `links` (one outbound state per agent), `api`
//! (authenticate, convert, ask the engine, convert back) and `leader` (one term of leading).
//!
//! What always holds:
//! - nothing is answered, published or sent to an agent before the store has it;
//! - every write carries the leader's fence, so a deposed manager cannot write;
//! - heartbeats and usage never reach the engine or the store;
//! - the state is rebuilt from the store alone.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod channels;
mod config;
mod engine;
mod error;
mod leader;
mod links;
mod liveness;
mod manager;
mod nodes;
mod records;
mod tokens;
mod upkeep;

pub use config::{BootstrapConfig, FIELDS, ManagerConfig, ManagerSettings, StoreConfig, Timings};
pub use error::ManagerError;
pub use fgpu_store::Store;
pub use manager::{Manager, Parts, RunningManager, open_store, run};
pub use records::{LoadedRecords, RecordError, load_records, seed_records};

//! The fgpu store: one contract over etcd and an embedded file.
//!
//! Start at [`Store`]: a small key-value store with etcd's rules (one revision counter,
//! compare-and-set transactions, watches, leases). [`EtcdStore`] speaks to an etcd cluster,
//! [`EmbeddedStore`] keeps everything in one crash-safe file. Both pass the same contract suite
//! (`tests/contract.rs`), so callers need not know which one they hold. [`election`] builds a
//! fenced leader election from the contract alone.
//!
//! What always holds, for both:
//! - a transaction is applied as a whole or not at all, and once `commit` has returned a
//!   revision, its writes are durable;
//! - revisions only grow, and every change has exactly one;
//! - a commit whose fate is not known is reported as [`StoreError::Unknown`], never as a failure.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod election;
mod embedded;
mod error;
mod etcd;
#[cfg(feature = "testing")]
mod faulty;
mod store;
mod types;

pub use election::{Election, Leader, Leadership};
pub use embedded::EmbeddedStore;
pub use error::{BoxError, StoreError};
pub use etcd::{EtcdConfig, EtcdStore, EtcdTls};
#[cfg(feature = "testing")]
pub use faulty::{Fault, FaultyStore};
pub use store::Store;
pub use types::{
    Compare, Entry, LeaseId, MAX_TXN_BYTES, MAX_TXN_COMPARES, MAX_TXN_WRITES, PageStream, Snapshot,
    StoreStatus, Txn, WatchEvent, WatchStream, Write,
};

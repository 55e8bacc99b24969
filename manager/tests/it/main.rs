//! The manager as a whole: a real server on loopback, an embedded store that fails on demand, a
//! clock moved by hand, and agents that only speak the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, missing_docs)]

mod access;
mod agent;
mod channels;
mod defrag;
mod etcd;
mod harness;
mod leaders;
mod links;
mod liveness;
mod nodes;
mod queue;
mod sessions;
mod store_faults;
mod watch;

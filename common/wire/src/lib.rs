//! The public contract of fgpu in Rust: generated types and the only conversions between them and
//! the domain.
//!
//! `v1` is generated from `proto/fgpu/v1`. Conversions from the wire check everything (a bad field
//! is named as its flag is called); conversions to the wire cannot fail. [`error`] is the one table
//! from error codes to gRPC status.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod convert;
pub mod error;
pub mod link;

/// Generated messages, clients and servers.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("fgpu.v1");
}

/// The compiled contract, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Version of the conversation between agent and manager. A manager speaks with agents of its own
/// version and the one before.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest message either side accepts, bytes: a full desired state of a large node fits.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

//! What every daemon of fgpu needs and no rule depends on.
//!
//! - [`config`]: defaults, file, environment and flags in layers, all faults reported at once;
//! - [`logging`]: text or JSON on standard error;
//! - [`shutdown`]: signals become a cancellation token;
//! - [`retry`]: back-off with full jitter;
//! - [`clock`]: wall-clock and monotonic time, real or moved by hand;
//! - [`tls`]: certificates from PEM files;
//! - [`secret`]: tokens that are shown once and stored as hashes;
//! - [`listen`]: binding an address, with a clear error.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod config;
pub mod listen;
pub mod logging;
pub mod retry;
pub mod secret;
pub mod shutdown;
pub mod tls;

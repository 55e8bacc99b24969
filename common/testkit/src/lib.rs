//! Builders, fakes and test servers for fgpu tests.

pub mod docker;
pub mod etcd;
pub mod nvml;

//! What a container is told of its slice, and how it is made: the slice contract.
//!
//! Pure but for [`mounts`], which resolves paths, and [`attach`], which reads CDI files.
//!
//! # What a session sees
//!
//! A read-only file at [`SLICE_FILE`] ([`SliceFile`], JSON), and these variables. Where the
//! runtime makes no mounts, `FGPU_SLICE_FILE` names the file on the node instead.
//!
//! | variable | value |
//! | --- | --- |
//! | `FGPU_SESSION_ID` | id of the session |
//! | `FGPU_SESSION_GENERATION` | which placement of it this is, from 1 |
//! | `FGPU_NODE` | the node |
//! | `FGPU_SLICE_FILE` | where the slice file lies |
//! | `FGPU_DEVICES` | UUIDs of its devices, comma between |
//! | `FGPU_MEMORY_BYTES` | device memory in bytes, all devices together |
//! | `FGPU_MEMORY_BYTES_PER_DEVICE` | the same for each of `FGPU_DEVICES`, comma between |
//! | `FGPU_COMPUTE_MILLI` | compute in thousandths of a device, all devices together |
//! | `FGPU_COMPUTE_MILLI_PER_DEVICE` | the same for each of `FGPU_DEVICES`; 0: what others leave |
//! | `FGPU_AMOUNT` | fGPU, e.g. `2.5` |
//! | `FGPU_ISOLATION` | how the slice is kept: `whole`, `mig`, `driver`, `interposer`, `shared` |
//! | `FGPU_ARRAY_…`, `FGPU_CLUSTER_…` | in an array or gang: what the manager says of it (docs/queue.md) |
//! | `CUDA_VISIBLE_DEVICES` | as `FGPU_DEVICES`; empty without a device |
//!
//! A session's own environment cannot set a name that begins with `FGPU_`, nor
//! `CUDA_VISIBLE_DEVICES` or `NVIDIA_VISIBLE_DEVICES`: those are left out. The runtime sets
//! `NVIDIA_VISIBLE_DEVICES` where its way of attaching devices needs it. `LD_PRELOAD` is the
//! session's own, except under `interposer` isolation, where it is left out: there the limits
//! depend on what is loaded first.

pub mod attach;
mod container;
mod environment;
pub mod mounts;
mod slice_file;

pub use container::{Facts, InjectError, container_name, container_spec};
pub use environment::{dropped, environment};
pub use slice_file::{SLICE_FILE, SliceDevice, SliceFile, SliceTotals};

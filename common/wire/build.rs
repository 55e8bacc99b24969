//! Compiles the contract in `proto/` without `protoc`.

use prost::Message as _;
use std::path::PathBuf;

const FILES: [&str; 6] = [
    "fgpu/v1/types.proto",
    "fgpu/v1/sessions.proto",
    "fgpu/v1/nodes.proto",
    "fgpu/v1/admin.proto",
    "fgpu/v1/projects.proto",
    "fgpu/v1/agents.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").build_transport(true).compile_fds(descriptors)?;
    Ok(())
}

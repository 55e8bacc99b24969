//! Compiles the contract in `proto/` without `protoc`.

use prost::Message as _;
use std::path::PathBuf;
use tonic_prost_build::manual;

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
    manual::Builder::new().build_client(false).compile(&[link()]);
    Ok(())
}

/// The agents' service as a manager serves it: the same calls, with messages of `src/link.rs`.
fn link() -> manual::Service {
    let link = manual::Method::builder()
        .name("link")
        .route_name("Link")
        .input_type("crate::link::AgentMessage")
        .output_type("crate::link::ManagerMessage");
    let channel = manual::Method::builder()
        .name("open_channel")
        .route_name("OpenChannel")
        .input_type("crate::v1::ChannelUp")
        .output_type("crate::v1::ChannelDown");
    let method = |builder: manual::MethodBuilder| {
        let codec = "crate::link::LinkCodec";
        builder.codec_path(codec).client_streaming().server_streaming().build()
    };
    let service = manual::Service::builder().name("AgentService").package("fgpu.v1");
    service.method(method(link)).method(method(channel)).build()
}

//! Generates the Rust code from the .proto files with a compiler written in Rust: no system protoc is needed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 5] = [
    "firn/v1/common.proto",
    "firn/v1/collections.proto",
    "firn/v1/points.proto",
    "firn/v1/inference.proto",
    "firn/v1/rerankers.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=firn");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("firn_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".firn.v1").compile_fds(descriptors)?;
    Ok(())
}

//! The wire format: messages, servers and clients generated from `firn/v1/*.proto`, and payloads as JSON.

pub mod json;

/// Package `firn.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    tonic::include_proto!("firn.v1");
}

/// The encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/firn_descriptor.bin"));

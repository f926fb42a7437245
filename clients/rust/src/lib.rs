//! Rust client of a firn server.
pub use firn_proto::v1;

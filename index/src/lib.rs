//! Points kept and found.
//!
//! Points in sled are the truth; HNSW segments are derived from them and can always be rebuilt. This crate knows no model:
//! vectors come in as `&[f32]` and are compared by cosine.

mod collection;
mod config;
mod database;
mod error;
mod point;

pub use collection::{
    Candidate, Collection, Commit, Damage, PayloadChange, Reader, RebuildReport, Search, VerifyReport,
};
pub use config::{CollectionConfig, CollectionInfo, HnswConfig, Limits, ModelRef, Options, Status, VectorConfig};
pub use database::{AliasChange, Database};
pub use error::{Error, Result};
pub use point::{Fields, NewPoint, Page, Payload, Point, PointId, Row, Text};

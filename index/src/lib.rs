//! Points kept and found.
//!
//! Points in sled are the truth; HNSW segments and the full-text index are derived from them and can always be rebuilt. This crate knows no model:
//! vectors come in as `&[f32]` and are compared by cosine.

mod attachment;
mod buffer;
mod catalog;
mod check;
mod collection;
mod commit;
mod config;
#[cfg(test)]
mod damage;
mod database;
mod distance;
mod draft;
mod engine;
mod error;
mod fetch;
mod generation;
mod graph;
mod identity;
mod indexer;
mod key;
mod load;
mod lock;
mod manifest;
mod plan;
mod point;
mod reader;
mod record;
mod segment;
mod select;
mod state;
mod store;
mod stored;
mod vectors;
mod verify;
mod words;

pub use check::content as check_content;
pub use collection::{
    Candidate, Collection, Commit, Damage, PayloadChange, RebuildReport, Search, TextSearch, VerifyReport,
};
pub use config::{
    CollectionConfig, CollectionInfo, Embeds, HnswConfig, Limits, ModelRef, Options, Side, Status, TokenConfig,
    VectorConfig,
};
pub use database::{AliasChange, Database};
pub use error::{Error, Result};
pub use point::{Fields, NewPoint, Page, Payload, Point, PointId, Row, Text, Tokens};
pub use reader::Reader;

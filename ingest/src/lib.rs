//! Files in, points written: `source` -> `embed` -> `sink`, with a journal and a report. `pipeline::run` is the list.

pub mod embed;
pub mod embeddings;
mod error;
pub mod gate;
pub mod identity;
pub mod journal;
pub mod makers;
pub mod pipeline;
pub mod report;
pub mod shards;
pub mod sink;
pub mod source;

pub use error::ItemError;

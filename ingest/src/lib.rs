//! Files in, points written: `source` -> `decode` -> `embed` -> `sink`, with a journal and a report.

pub mod embed;
mod error;
pub mod source;

pub use error::ItemError;

//! Rust client of a firn server.
//!
//! ```no_run
//! # async fn example() -> Result<(), firn_client::Error> {
//! use firn_client::{Client, v1};
//!
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//! let query = v1::QueryRequest {
//!     collection_name: "holidays".to_owned(),
//!     query: Some(firn_client::text("snow on the mountains", "en")),
//!     limit: 3,
//!     ..Default::default()
//! };
//! for hit in client.query(query).await?.hits {
//!     println!("{:.3} {:?}", hit.score, hit.id);
//! }
//! # Ok(())
//! # }
//! ```

mod client;
mod error;
mod upsert_stream;
mod words;

pub use client::{Client, Options};
pub use error::{Error, FieldViolation};
pub use firn_proto::{json, v1};
pub use half::f16;
pub use tonic::Code;
pub use upsert_stream::{Refusal, Settled, StreamOptions, UpsertStream, Written};
pub use words::{id, image, pack, stored, text, tokens, unpack, unpack_tokens, vector, vectors};

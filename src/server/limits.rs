//! Limits of requests, in one place; those of questions are `query::Limits`, of points and collections
//! `firn_index::Limits`.

/// Points of one Upsert.
pub const MAX_POINTS: usize = 1000;
/// Ids of one Get, Delete or SetPayload.
pub const MAX_IDS: usize = 10_000;
pub const MAX_QUERIES: usize = 100;
pub const MAX_EMBED_INPUTS: usize = 256;
/// Candidates of one Rerank; of texts and images as many as inputs of one Embed.
pub const MAX_RERANK_CANDIDATES: usize = crate::query::Limits::MAX_RERANKED;
pub const MAX_ALIAS_CHANGES: usize = 1000;

/// Points of one Scroll page, collections of one List page.
pub const DEFAULT_PAGE: usize = 100;
pub const MAX_PAGE: usize = 1000;

/// Data messages of one UpsertStream that are worked on at a time.
pub const STREAM_MESSAGES: usize = 4;
/// Inputs of one EmbedStream, of one Embed or of one QueryBatch that are worked on at a time.
pub const AT_ONCE: usize = 32;
/// Commits whose caller does not wait for them.
pub const UNAWAITED_COMMITS: usize = 64;
/// Messages of all Upserts and UpsertStreams together that are worked on at a time, in times of the largest message.
pub const UPSERT_BYTES_IN_MESSAGES: usize = 8;

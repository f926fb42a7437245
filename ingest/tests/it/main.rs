//! What callers of this crate see: sources, the embed stage, and whole runs against a sink in memory.

mod embed;
mod pipeline;
mod sources;
mod support;
mod tokens;

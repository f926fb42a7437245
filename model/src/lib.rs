//! Pixels and words in, numbers out.
//!
//! Frozen encoders behind one trait, the preprocessing that feeds them, and the training that made the builtin one. This
//! crate knows no storage.

pub mod align;
pub mod builtin;
mod check;
pub mod decoder;
mod device;
mod encoder;
mod error;
pub mod facets;
mod flat;
mod folder;
pub mod fusion;
mod fusion_tokens;
mod hub;
mod join;
mod kind;
mod learn;
pub mod long_clip;
mod memory;
mod pair;
pub mod picture;
mod preprocess;
mod product;
pub mod scenes;
mod sentence;
mod side;
#[cfg(test)]
mod testing;
pub mod train;
mod vector_unit;

pub use check::{CheckReport, Memory, Trial, check, check_against};
pub use encoder::{
    Device, Embedding, Encoder, ImageEmbedding, ModelInfo, ModelSpec, Pixels, Sigmoid, TextEmbedding, load,
};
pub use error::{Error, Result};
pub use fusion_tokens::{FusionTokens, Grid, Keep, TEXT_TOKENS, TokenShape, TokenShapes};
pub use pair::{TensorFault, read_tensor};

//! What one reader sees: a state of a collection that does not change while it is held.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::{Row, buffer::Buffer};

#[derive(Clone)]
pub struct Generation {
    /// Grows with every published generation of the collection.
    pub number: u64,
    /// The last commit that is in it.
    pub sequence: u64,
    /// Rows whose point exists.
    pub live: Arc<RoaringBitmap>,
    /// By the vector's place in the collection's configuration.
    pub vectors: Vec<VectorView>,
}

/// A named vector's part of a generation.
#[derive(Clone)]
pub struct VectorView {
    pub dim: usize,
    pub buffer: Buffer,
}

impl Generation {
    pub fn is_live(&self, row: Row) -> bool {
        self.live.contains(row)
    }
}

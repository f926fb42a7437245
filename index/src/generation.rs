//! What one reader sees: a state of a collection that does not change while it is held.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::{Row, buffer::Buffer, segment::Segment};

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

/// A named vector's part of a generation. A row is in the buffer or in one segment.
#[derive(Clone, Default)]
pub struct VectorView {
    pub dim: usize,
    pub buffer: Buffer,
    pub segments: Vec<SegmentView>,
}

#[derive(Clone)]
pub struct SegmentView {
    pub segment: Arc<Segment>,
    pub n_live: u64,
}

impl Generation {
    pub fn is_live(&self, row: Row) -> bool {
        self.live.contains(row)
    }

    /// Counts the live rows of every segment anew.
    pub fn count_live(&mut self) {
        for view in self.vectors.iter_mut().flat_map(|vector| &mut vector.segments) {
            view.n_live = view.segment.n_live(&self.live);
        }
    }
}

impl SegmentView {
    pub fn n_tombstones(&self) -> u64 {
        self.segment.n_rows() - self.n_live
    }
}

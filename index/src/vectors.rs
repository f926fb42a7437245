//! From disk to memory: a named vector's segments, and the buffer of what they do not hold.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use roaring::RoaringBitmap;

use crate::{
    Error, Result, Row,
    buffer::{Block, Buffer},
    generation::{SegmentView, VectorView},
    graph::Vectors,
    key::{self, Key},
    load,
    manifest::{self, Place},
    record,
    segment::{Segment, SegmentLinks},
    store::{Store, Tree},
    stored,
};

const BLOCK_VECTORS: usize = 1024;

pub struct LoadedVectors {
    pub view: VectorView,
    /// Vectors of rows that are neither live nor in a segment.
    pub leftovers: Vec<Key>,
    /// Chunks of no live segment.
    pub leftover_chunks: Vec<Key>,
    /// Why segments were dropped.
    pub damages: Vec<Error>,
    /// The number of the next segment.
    pub next_segment: u32,
}

/// `expected`: the rows of live points that have this vector. A damaged segment is dropped: its rows are buffered. A
/// damaged or missing vector is an error.
pub fn load(store: &Store, place: Place, dim: usize, expected: &RoaringBitmap, next_row: Row) -> Result<LoadedVectors> {
    let found = manifest::read(store, place)?;
    let mut damages = found.damages;
    let mut segments = found.segments;
    drop_overlapping(&mut segments, next_row, &mut damages);
    loop {
        let attempt = Attempt::read(store, place, dim, expected, &segments)?;
        match attempt.incomplete_segment() {
            Some(number) => {
                segments.remove(&number);
                let detail = "the vector of one of its rows is missing".to_owned();
                damages.push(Error::Damaged { what: format!("segment {number}"), detail });
            }
            None => {
                let (view, leftovers) = attempt.finish(segments)?;
                let (leftover_chunks, next_segment) = (found.leftovers, found.next_number);
                return Ok(LoadedVectors { view, leftovers, leftover_chunks, damages, next_segment });
            }
        }
    }
}

/// Segments whose rows are in an earlier one too, or were never given out.
fn drop_overlapping(segments: &mut BTreeMap<u32, SegmentLinks>, next_row: Row, damages: &mut Vec<Error>) {
    let mut seen = RoaringBitmap::new();
    segments.retain(|number, links| {
        let rows: RoaringBitmap = links.rows.iter().copied().collect();
        let is_good = seen.is_disjoint(&rows) && rows.max().is_none_or(|row| row < next_row);
        if is_good {
            seen |= rows;
        } else {
            let detail = "its rows are not its own".to_owned();
            damages.push(Error::Damaged { what: format!("segment {number}"), detail });
        }
        is_good
    });
}

/// One pass over the stored vectors.
struct Attempt {
    dim: usize,
    buffer: Buffer,
    /// By segment: the vectors by node, and how many of them are there.
    filled: BTreeMap<u32, (Vectors, usize)>,
    leftovers: Vec<Key>,
    missing: RoaringBitmap,
}

impl Attempt {
    fn read(
        store: &Store,
        place: Place,
        dim: usize,
        expected: &RoaringBitmap,
        segments: &BTreeMap<u32, SegmentLinks>,
    ) -> Result<Attempt> {
        let mut nodes = nodes_by_row(segments);
        let empty = |links: &SegmentLinks| (Vectors { dim, numbers: vec![0.0; links.rows.len() * dim] }, 0);
        let mut attempt = Attempt {
            dim,
            buffer: Buffer::default(),
            filled: segments.iter().map(|(number, links)| (*number, empty(links))).collect(),
            leftovers: Vec::new(),
            missing: expected.clone(),
        };
        let mut block = Block::default();
        let mut scratch = Vec::with_capacity(dim);
        store.scan(Tree::Points, &key::vectors(place.collection, place.vector), |key, value| {
            let Some(row) = key::parse_row(key) else { return Ok(ControlFlow::Continue(())) };
            let node = nodes.next_at(row);
            if node.is_none() && !expected.contains(row) {
                attempt.leftovers.push(key.to_vec());
                return Ok(ControlFlow::Continue(()));
            }
            let bytes = record::unseal(key, value, || format!("vector {} in row {row}", place.vector))?;
            attempt.missing.remove(row);
            if let Some((segment, node)) = node {
                scratch.clear();
                stored::decode_vector(bytes, dim, &mut scratch)?;
                attempt.fill(segment, node, &scratch);
                return Ok(ControlFlow::Continue(()));
            }
            stored::decode_vector(bytes, dim, &mut block.numbers)?;
            block.rows.push(row);
            if block.rows.len() == BLOCK_VECTORS {
                attempt.buffer.append(std::mem::take(&mut block));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        attempt.buffer.append(block);
        Ok(attempt)
    }

    fn fill(&mut self, segment: u32, node: u32, vector: &[f32]) {
        let (vectors, n) = self.filled.get_mut(&segment).expect("nodes are of the segments that are filled");
        vectors.numbers[node as usize * self.dim..][..self.dim].copy_from_slice(vector);
        *n += 1;
    }

    fn incomplete_segment(&self) -> Option<u32> {
        self.filled.iter().find(|(_, (vectors, n))| *n < vectors.n()).map(|(number, _)| *number)
    }

    fn finish(mut self, segments: BTreeMap<u32, SegmentLinks>) -> Result<(VectorView, Vec<Key>)> {
        load::none_missing("vector", &self.missing)?;
        let view = |(number, links)| {
            let (vectors, _) = self.filled.remove(&number).expect("every segment was filled");
            SegmentView { segment: Arc::new(Segment::new(number, links, vectors)), n_live: 0 }
        };
        let segments = segments.into_iter().map(view).collect();
        Ok((VectorView { dim: self.dim, buffer: self.buffer, segments }, self.leftovers))
    }
}

/// Rows of all segments, rising, each with its segment and node; asked in rising order of rows.
struct NodesByRow {
    nodes: std::iter::Peekable<std::vec::IntoIter<(Row, u32, u32)>>,
}

fn nodes_by_row(segments: &BTreeMap<u32, SegmentLinks>) -> NodesByRow {
    let of = |(number, links): (&u32, &SegmentLinks)| {
        let number = *number;
        links.rows.iter().enumerate().map(move |(node, row)| (*row, number, node as u32)).collect::<Vec<_>>()
    };
    let mut nodes: Vec<_> = segments.iter().flat_map(of).collect();
    nodes.sort_unstable();
    NodesByRow { nodes: nodes.into_iter().peekable() }
}

impl NodesByRow {
    /// Segment and node of a row that is not below those asked for before.
    fn next_at(&mut self, row: Row) -> Option<(u32, u32)> {
        while self.nodes.next_if(|(r, _, _)| *r < row).is_some() {}
        self.nodes.next_if(|(r, _, _)| *r == row).map(|(_, segment, node)| (segment, node))
    }
}

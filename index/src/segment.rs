//! An immutable part of a named vector's index: a graph, the row of each of its nodes, and the vectors beside them.
//!
//! On disk it is only graph and rows; the vectors come from the points. Rows whose point has gone since are tombstones:
//! searches walk through them and do not answer them.

use std::sync::Mutex;

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use crate::{
    Row, distance,
    graph::{Beam, FlatGraph, Level, Scratch, Vectors},
    select::Best,
};

pub struct Segment {
    pub number: u32,
    pub graph: FlatGraph,
    pub vectors: Vectors,
    /// By node.
    pub rows: Vec<Row>,
    row_set: RoaringBitmap,
    scratches: Mutex<Vec<Scratch>>,
}

/// A segment without its vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentLinks {
    pub graph: FlatGraph,
    pub rows: Vec<Row>,
}

/// A search among the live rows of a segment.
pub struct SegmentQuery<'a> {
    pub vector: &'a [f32],
    pub limit: usize,
    pub ef: usize,
    pub live: &'a RoaringBitmap,
    /// How many rows of the segment are live.
    pub n_live: u64,
}

impl Segment {
    pub fn new(number: u32, SegmentLinks { graph, rows }: SegmentLinks, vectors: Vectors) -> Segment {
        let row_set = rows.iter().copied().collect();
        Segment { number, graph, vectors, rows, row_set, scratches: Mutex::default() }
    }

    pub fn n_rows(&self) -> u64 {
        self.rows.len() as u64
    }

    pub fn n_live(&self, live: &RoaringBitmap) -> u64 {
        self.row_set.intersection_len(live)
    }

    pub fn row_set(&self) -> &RoaringBitmap {
        &self.row_set
    }

    /// Offers the nearest live rows to `best`: `limit` of them, or all if there are fewer.
    pub fn search(&self, query: &SegmentQuery<'_>, best: &mut Best) {
        let ef = query.ef.max(query.limit);
        let mostly_dead = query.n_live < self.n_rows() / 4;
        if mostly_dead || query.n_live <= 2 * ef as u64 {
            return self.search_exact(query.vector, query.live, best);
        }
        let found = self.with_scratch(|scratch| {
            let beam = Beam::new(&self.graph, &self.vectors, query.vector);
            if query.n_live == self.n_rows() {
                beam.search(ef, |_| true, scratch)
            } else {
                beam.search(ef, |node| query.live.contains(self.rows[node as usize]), scratch)
            }
        });
        if found.len() < query.limit {
            return self.search_exact(query.vector, query.live, best);
        }
        for scored in found {
            best.offer(self.rows[scored.node() as usize], scored.score().clamp(-1.0, 1.0));
        }
    }

    /// Compares every live row.
    pub fn search_exact(&self, vector: &[f32], live: &RoaringBitmap, best: &mut Best) {
        for (row, stored) in self.live_vectors(live) {
            best.offer(row, distance::cosine(vector, stored));
        }
    }

    /// Live rows and their vectors, in the order of the nodes.
    pub fn live_vectors<'a>(&'a self, live: &'a RoaringBitmap) -> impl Iterator<Item = (Row, &'a [f32])> {
        let all = self.rows.iter().copied().zip(self.vectors.numbers.chunks_exact(self.vectors.dim));
        all.filter(|(row, _)| live.contains(*row))
    }

    fn with_scratch<T>(&self, act: impl FnOnce(&mut Scratch) -> T) -> T {
        let pooled = self.scratches.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let mut scratch = pooled.unwrap_or_default();
        let result = act(&mut scratch);
        self.scratches.lock().unwrap_or_else(|e| e.into_inner()).push(scratch);
        result
    }
}

/// The beginning of a segment's bytes; the level-0 table and the rows follow as little-endian numbers.
#[derive(Serialize, Deserialize)]
struct Head {
    n: u64,
    slots: u64,
    entry: u32,
    upper: Vec<Level>,
    strays: Vec<u32>,
}

impl SegmentLinks {
    pub fn encode(&self) -> Vec<u8> {
        let graph = &self.graph;
        let head = Head {
            n: self.rows.len() as u64,
            slots: graph.slots as u64,
            entry: graph.entry,
            upper: graph.upper.clone(),
            strays: graph.strays.clone(),
        };
        let head = postcard::to_stdvec(&head).expect("plain data can be written");
        let mut bytes = (head.len() as u32).to_le_bytes().to_vec();
        bytes.extend(head);
        bytes.extend(graph.level0.iter().chain(&self.rows).flat_map(|number| number.to_le_bytes()));
        bytes
    }

    /// What does not hold, if the bytes are not those of a segment.
    pub fn decode(bytes: &[u8]) -> Result<SegmentLinks, String> {
        let (head_len, rest) = bytes.split_first_chunk::<4>().ok_or("shorter than its head")?;
        let (head, tables) = rest.split_at_checked(u32::from_le_bytes(*head_len) as usize).ok_or("head cut off")?;
        let Head { n, slots, entry, upper, strays } = postcard::from_bytes(head).map_err(|e| e.to_string())?;
        let n_links = usize::try_from(n.checked_mul(slots).ok_or("too many links")?).map_err(|e| e.to_string())?;
        let expected = n_links.checked_add(n as usize).and_then(|numbers| numbers.checked_mul(4));
        if expected != Some(tables.len()) {
            return Err(format!("expected {n} x ({slots} + 1) numbers, received {} bytes", tables.len()));
        }
        let mut numbers = tables.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("chunks of four")));
        let level0 = numbers.by_ref().take(n_links).collect();
        let graph = FlatGraph { entry, slots: slots as usize, level0, upper, strays };
        graph.check(n as usize)?;
        let rows: Vec<Row> = numbers.collect();
        if rows.iter().collect::<RoaringBitmap>().len() != n {
            return Err("a row stands twice".to_owned());
        }
        Ok(SegmentLinks { graph, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::NONE;

    fn links() -> SegmentLinks {
        let level = Level::from_lists(vec![(2, vec![0]), (0, vec![2])]);
        let graph =
            FlatGraph { entry: 2, slots: 2, level0: vec![1, 2, 0, NONE, 1, 0], upper: vec![level], strays: vec![1] };
        SegmentLinks { graph, rows: vec![70, 5, 1000] }
    }

    #[test]
    fn a_segment_is_read_back() {
        assert_eq!(SegmentLinks::decode(&links().encode()).unwrap(), links());
    }

    #[test]
    fn impossible_structures_are_refused() {
        let cases: [fn(&mut SegmentLinks); 6] = [
            |s| s.graph.entry = 3,
            |s| s.graph.level0[0] = 3,
            |s| s.graph.strays = vec![9],
            |s| s.graph.upper[0].links[0] = 3,
            |s| s.graph.upper[0].starts[1] = 9,
            |s| s.rows[0] = 5,
        ];
        for (i, spoil) in cases.iter().enumerate() {
            let mut spoilt = links();
            spoil(&mut spoilt);
            assert!(SegmentLinks::decode(&spoilt.encode()).is_err(), "case {i}");
        }
        let good = links().encode();
        for cut in 0..good.len() {
            assert!(SegmentLinks::decode(&good[..cut]).is_err(), "cut {cut}");
        }
    }
}

//! Searching a flat graph: greedy descent through the upper levels, then a beam of `ef` nodes on level 0
//! (algorithms 5 and 2 of arXiv 1603.09320).

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{FlatGraph, NONE, Vectors};
use crate::distance::{self, Kernel};

/// A node and its score in one number, so that heaps compare integers: the score above, the node below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scored(u64);

/// What a search needs beside the graph; it is kept between searches.
#[derive(Default)]
pub struct Scratch {
    /// The search that last met a node.
    met: Vec<u32>,
    search: u32,
    /// Best on top.
    candidates: BinaryHeap<Scored>,
    /// Worst on top.
    found: BinaryHeap<Reverse<Scored>>,
    fresh: Vec<u32>,
}

/// One query against one graph.
pub struct Beam<'a> {
    graph: &'a FlatGraph,
    vectors: &'a Vectors,
    query: &'a [f32],
    kernel: Kernel,
}

impl Scored {
    fn new(score: f32, node: u32) -> Scored {
        // Flips the bits so that greater scores are greater integers, negative ones included.
        let bits = score.to_bits();
        let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        Scored(u64::from(ordered) << 32 | u64::from(node))
    }

    pub fn node(self) -> u32 {
        self.0 as u32
    }

    pub fn score(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
    }
}

impl<'a> Beam<'a> {
    /// `query` has as many numbers as each of `vectors`.
    pub fn new(graph: &'a FlatGraph, vectors: &'a Vectors, query: &'a [f32]) -> Beam<'a> {
        assert_eq!(query.len(), vectors.dim, "the query was checked against the configuration");
        Beam { graph, vectors, query, kernel: distance::kernel() }
    }

    /// The best nodes that `accept` takes, at most `ef`, best first. Nodes that it refuses are walked through.
    pub fn search(&self, ef: usize, accept: impl Fn(u32) -> bool, scratch: &mut Scratch) -> Vec<Scored> {
        if self.graph.n_nodes() == 0 {
            return Vec::new();
        }
        scratch.begin(self.graph.n_nodes());
        let start = self.descend();
        scratch.meet(start.node());
        scratch.candidates.push(start);
        scratch.offer(start, ef, &accept);
        while let Some(best) = scratch.candidates.pop() {
            if scratch.is_full(ef) && best < scratch.worst() {
                break;
            }
            self.expand(best.node(), ef, &accept, scratch);
        }
        for &stray in &self.graph.strays {
            if scratch.meet(stray) {
                scratch.offer(self.scored(stray), ef, &accept);
            }
        }
        let mut found: Vec<Scored> = scratch.found.drain().map(|Reverse(scored)| scored).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    fn expand(&self, node: u32, ef: usize, accept: &impl Fn(u32) -> bool, scratch: &mut Scratch) {
        let mut fresh = std::mem::take(&mut scratch.fresh);
        fresh.clear();
        for &link in self.graph.links0(node) {
            if link == NONE {
                break;
            }
            if scratch.meet(link) {
                fresh.push(link);
            }
        }
        for &first in fresh.iter().take(AHEAD) {
            self.prefetch(first);
        }
        for (i, &link) in fresh.iter().enumerate() {
            if let Some(&later) = fresh.get(i + AHEAD) {
                self.prefetch(later);
            }
            let scored = self.scored(link);
            if !scratch.is_full(ef) || scored > scratch.worst() {
                prefetch_lines(self.graph.links0(link).as_ptr().cast(), self.graph.slots * 4);
                scratch.candidates.push(scored);
                scratch.offer(scored, ef, accept);
            }
        }
        scratch.fresh = fresh;
    }

    /// The nearest node of level 1 that greedy steps reach, or the entry if there is only level 0.
    fn descend(&self) -> Scored {
        let mut best = self.scored(self.graph.entry);
        for level in self.graph.upper.iter().rev() {
            loop {
                let nearest = level.links(best.node()).iter().map(|&link| self.scored(link)).max();
                match nearest {
                    Some(nearest) if nearest > best => best = nearest,
                    _ => break,
                }
            }
        }
        best
    }

    #[inline]
    fn scored(&self, node: u32) -> Scored {
        Scored::new((self.kernel)(self.query, self.vectors.get(node)), node)
    }

    #[inline]
    fn prefetch(&self, node: u32) {
        prefetch_lines(self.vectors.get(node).as_ptr().cast(), self.vectors.dim * 4);
    }
}

/// How many vectors are on their way from memory while one is compared.
const AHEAD: usize = 2;

const LINE_BYTES: usize = 64;

/// Asks for the memory from `start` on; it need not exist.
#[inline]
fn prefetch_lines(start: *const u8, bytes: usize) {
    for offset in (0..bytes).step_by(LINE_BYTES) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch of any address is harmless.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = start.wrapping_add(offset);
    }
}

impl Scratch {
    fn begin(&mut self, n: usize) {
        self.candidates.clear();
        self.found.clear();
        self.met.resize(n.max(self.met.len()), 0);
        self.search = self.search.wrapping_add(1);
        if self.search == 0 {
            self.met.fill(0);
            self.search = 1;
        }
    }

    /// False if this search has met the node before.
    #[inline]
    fn meet(&mut self, node: u32) -> bool {
        std::mem::replace(&mut self.met[node as usize], self.search) != self.search
    }

    #[inline]
    fn offer(&mut self, scored: Scored, ef: usize, accept: &impl Fn(u32) -> bool) {
        if self.is_full(ef) && scored <= self.worst() || !accept(scored.node()) {
            return;
        }
        self.found.push(Reverse(scored));
        if self.found.len() > ef {
            self.found.pop();
        }
    }

    #[inline]
    fn is_full(&self, ef: usize) -> bool {
        self.found.len() >= ef
    }

    #[inline]
    fn worst(&self) -> Scored {
        self.found.peek().map_or(Scored(0), |Reverse(worst)| *worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scored_keeps_order_score_and_node() {
        let scores = [-1.0, -0.5, -0.0, 0.0, 1e-30, 0.25, 1.0];
        for (i, &a) in scores.iter().enumerate() {
            assert_eq!((Scored::new(a, 7).score(), Scored::new(a, 7).node()), (a, 7));
            for &b in &scores[i + 1..] {
                assert!(Scored::new(a, 9) < Scored::new(b, 0), "{a} < {b}");
            }
        }
    }
}

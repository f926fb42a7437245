//! The best of many: a bounded heap of candidates, best score first, ties by row.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::{Candidate, Row};

pub struct Best {
    limit: usize,
    /// The worst of the kept is on top.
    kept: BinaryHeap<Kept>,
}

#[derive(PartialEq)]
struct Kept(Candidate);

impl Best {
    pub fn new(limit: usize) -> Best {
        Best { limit, kept: BinaryHeap::with_capacity(limit.min(1024) + 1) }
    }

    pub fn offer(&mut self, row: Row, score: f32) {
        let new = Kept(Candidate { row, score });
        if self.kept.len() < self.limit {
            self.kept.push(new);
        } else if self.kept.peek().is_some_and(|worst| new < *worst) {
            self.kept.pop();
            self.kept.push(new);
        }
    }

    pub fn into_sorted(self) -> Vec<Candidate> {
        self.kept.into_sorted_vec().into_iter().map(|kept| kept.0).collect()
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    /// Less is better.
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.score.total_cmp(&self.0.score).then(self.0.row.cmp(&other.0.row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_best_with_ties_by_row() {
        let mut best = Best::new(3);
        for (row, score) in [(5, 0.5), (1, 0.25), (4, 0.75), (3, 0.5), (2, 0.5)] {
            best.offer(row, score);
        }
        let rows: Vec<_> = best.into_sorted().iter().map(|c| c.row).collect();
        assert_eq!(rows, [4, 2, 3]);
    }
}

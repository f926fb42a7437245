//! Rows that are not on disk yet: for each term, who holds it. It is searched like the rest.

use std::collections::{BTreeMap, HashMap};

use roaring::RoaringBitmap;

use super::bm25::{self, Asked, Statistics};
use crate::{Row, select::Best};

#[derive(Default)]
pub struct Buffer {
    /// By term: rows, and how often each holds it.
    postings: HashMap<String, Vec<(Row, u32)>>,
    /// Terms of each row.
    lengths: HashMap<Row, u32>,
    n_terms: u64,
}

impl Buffer {
    pub fn add(&mut self, row: Row, terms: Vec<String>) {
        let length = u32::try_from(terms.len()).expect("the texts of a point are limited");
        self.lengths.insert(row, length);
        self.n_terms += u64::from(length);
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        terms.into_iter().for_each(|term| *counts.entry(term).or_default() += 1);
        for (term, count) in counts {
            self.postings.entry(term).or_default().push((row, count));
        }
    }

    /// Forgets the rows below.
    pub fn drop_below(&mut self, first: Row) {
        self.lengths.retain(|row, _| *row >= first);
        self.n_terms = self.lengths.values().map(|length| u64::from(*length)).sum();
        self.postings.retain(|_, rows| {
            rows.retain(|(row, _)| *row >= first);
            !rows.is_empty()
        });
    }

    pub fn n_rows(&self) -> u64 {
        self.lengths.len() as u64
    }

    pub fn n_terms(&self) -> u64 {
        self.n_terms
    }

    pub fn n_with(&self, term: &str) -> u64 {
        self.postings.get(term).map_or(0, |rows| rows.len() as u64)
    }

    pub fn rows(&self) -> RoaringBitmap {
        self.lengths.keys().collect()
    }

    pub fn search(&self, asked: &Asked, statistics: &Statistics, live: &RoaringBitmap, best: &mut Best) {
        let mut scores: HashMap<Row, f32> = HashMap::new();
        for (term, count) in asked {
            let Some(rows) = self.postings.get(term) else { continue };
            let weight = statistics.weight(term, *count);
            for (row, n) in rows.iter().filter(|(row, _)| live.contains(*row)) {
                *scores.entry(*row).or_default() += weight.score(bm25::length_id(self.lengths[row]), *n);
            }
        }
        scores.into_iter().for_each(|(row, score)| best.offer(row, score));
    }
}

//! How much of a hub each candidate is, told once for each stored row.

use std::{collections::HashMap, sync::Mutex, time::Instant};

use firn_index::Row;
use firn_model::fusion::{Crowds, Direction};

use super::{cache::lock, serve::Cost};

/// What tells hubs by the first order of a version, and those that it has told: a row never changes.
pub(super) struct Known {
    crowds: Crowds,
    /// Of images that texts look for, and of texts that images look for.
    told: [Mutex<HashMap<Row, f32>>; 2],
    pub cost: Cost,
}

impl Known {
    /// Rows that are remembered, in each direction.
    const MOST: usize = 1 << 20;

    pub fn new(crowds: Crowds) -> Known {
        Known { crowds, told: Default::default(), cost: Cost::default() }
    }

    fn told(&self, direction: Direction) -> &Mutex<HashMap<Row, f32>> {
        match direction {
            Direction::TextToImage => &self.told[0],
            Direction::ImageToText => &self.told[1],
        }
    }

    /// Of candidates, by their vectors of the blend's names; stored ones have rows, and are only looked at once.
    pub fn hubness<'a>(
        &self,
        direction: Direction,
        rows: &[Option<Row>],
        vector_of: impl Fn(usize, &str) -> Option<&'a [f32]>,
    ) -> Vec<f32> {
        let start = Instant::now();
        let find = |told: &HashMap<Row, f32>| rows.iter().map(|row| told.get(&(*row)?).copied()).collect();
        let mut found: Vec<Option<f32>> = find(&lock(self.told(direction)));
        let unknown: Vec<usize> = (0..rows.len()).filter(|&at| found[at].is_none()).collect();
        let vectors: Vec<f32> = unknown.iter().flat_map(|&at| self.crowds.row(|name| vector_of(at, name))).collect();
        let hubness = self.crowds.who_look(direction).hubness(&vectors);
        let mut told = lock(self.told(direction));
        if told.len() + unknown.len() > Known::MOST {
            told.clear();
        }
        for (at, hubness) in unknown.into_iter().zip(hubness) {
            found[at] = Some(hubness);
            told.extend(rows[at].map(|row| (row, hubness)));
        }
        self.cost.remember(start.elapsed(), rows.len());
        found.into_iter().map(|hubness| hubness.unwrap_or_default()).collect()
    }
}

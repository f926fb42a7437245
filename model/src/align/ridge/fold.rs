//! Towers that have each not seen a part of the images, and which image is in which part.

use std::path::Path;

use candle_core::{Device, Tensor};
use half::f16;

use super::halves;
use crate::{
    Error, Result,
    learn::tensors::{numbers, read_tensors, write_tensors},
};

const KEY: &str = "firn.ridge.folds";

pub(crate) struct Folds {
    /// Hashes of the ids that were learnt from, in rising order, and the fold of each.
    ids: Vec<(u64, u8)>,
    /// (features, dim) each.
    weights: Vec<Vec<f16>>,
}

/// Items of a group are never parted.
pub(super) fn of_group(group: &str, n_folds: usize) -> usize {
    if n_folds == 0 { 0 } else { (hash(group) % n_folds as u64) as usize }
}

fn hash(text: &str) -> u64 {
    u64::from_le_bytes(blake3::hash(text.as_bytes()).as_bytes()[8..16].try_into().expect("a hash has 32 bytes"))
}

impl Folds {
    pub(super) fn new<'a>(ids: impl Iterator<Item = (&'a str, usize)>, weights: Vec<Vec<f16>>) -> Folds {
        let mut ids: Vec<(u64, u8)> = ids.map(|(id, fold)| (hash(id), fold as u8)).collect();
        ids.sort_unstable();
        Folds { ids, weights }
    }

    /// The part that an item is in; none if no weights saw it.
    pub(super) fn of(&self, id: &str) -> Option<usize> {
        let hash = hash(id);
        let at = self.ids.binary_search_by_key(&hash, |&(hash, _)| hash).ok()?;
        Some(usize::from(self.ids[at].1))
    }

    /// The weights that were solved without an item; none if no weights saw it.
    pub(super) fn without(&self, id: &str) -> Option<&[f16]> {
        self.of(id).map(|fold| &self.weights[fold][..])
    }

    pub(super) fn write(&self, path: &Path, shape: (usize, usize)) -> Result<()> {
        let hashes: Vec<i64> = self.ids.iter().map(|&(hash, _)| hash as i64).collect();
        let folds: Vec<u8> = self.ids.iter().map(|&(_, fold)| fold).collect();
        let n = hashes.len();
        let mut tensors = vec![
            ("ids.hashes".to_owned(), Tensor::from_vec(hashes, n, &Device::Cpu)?),
            ("ids.folds".to_owned(), Tensor::from_vec(folds, n, &Device::Cpu)?),
        ];
        for (at, weights) in self.weights.iter().enumerate() {
            tensors.push((format!("weights.{at}"), Tensor::from_slice(weights, shape, &Device::Cpu)?));
        }
        write_tensors(path, &tensors, (KEY, "1"))
    }

    pub(super) fn read(path: &Path, n_folds: usize, (n, dim): (usize, usize)) -> Result<Folds> {
        let (_, tensors) = read_tensors(path, KEY, &Device::Cpu)?;
        let n_ids = tensors.get("ids.hashes").map_or(0, Tensor::elem_count);
        let hashes: Vec<i64> = numbers(&tensors, "ids.hashes", &[n_ids], path)?;
        let folds: Vec<u8> = numbers(&tensors, "ids.folds", &[n_ids], path)?;
        let ids: Vec<(u64, u8)> = hashes.into_iter().map(|hash| hash as u64).zip(folds).collect();
        if !ids.is_sorted() || ids.iter().any(|&(_, fold)| usize::from(fold) >= n_folds) {
            let detail = format!("ids: expected hashes in rising order, each of one of {n_folds} folds");
            return Err(Error::BadFile { file: path.to_owned(), detail });
        }
        let weights = (0..n_folds)
            .map(|at| halves(&tensors, &format!("weights.{at}"), &[n, dim], path))
            .collect::<Result<_>>()?;
        Ok(Folds { ids, weights })
    }
}

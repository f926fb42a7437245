//! What is counted in a text: its words, and pairs of neighbours. In scripts without spaces a letter is a word.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use crate::{Error, Result, builtin::tokens::is_unspaced, learn::tensors::numbers};

/// Least captions that a word, or a pair, stands in to be counted.
const MIN_WORD: u32 = 2;
const MIN_PAIR: u32 = 3;

/// A text as it is counted.
pub(super) struct Line {
    /// A hash of each word.
    words: Vec<u64>,
    pub n_words: usize,
    /// Words beyond the limit.
    pub n_cut: usize,
}

impl Line {
    /// `None` for a text without a word.
    pub(super) fn read(text: &str, max_words: usize) -> Option<Line> {
        let folded: String = text.nfkc().flat_map(char::to_lowercase).collect();
        let mut words = Vec::new();
        for word in folded.unicode_words() {
            match word.chars().any(is_unspaced) {
                true => words.extend(word.chars().map(|letter| hash(&[u64::from(u32::from(letter))]))),
                false => words.push(hash(&word.chars().map(|letter| u64::from(u32::from(letter))).collect::<Vec<_>>())),
            }
        }
        let n_cut = words.len().saturating_sub(max_words);
        words.truncate(max_words);
        (!words.is_empty()).then_some(Line { n_words: words.len(), words, n_cut })
    }

    /// Of each place its word, and of each two neighbours their pair.
    fn pairs(&self) -> impl Iterator<Item = u64> {
        self.words.windows(2).map(|both| hash(&[both[0], both[1], 1]))
    }
}

/// FNV-1a, mixed once more so that all bits are good.
fn hash(numbers: &[u64]) -> u64 {
    let mixed = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Words and pairs that are known, by their hashes in rising order, and how much each says: the logarithm of captions to captions with it.
pub(super) struct Vocabulary {
    hashes: Vec<u64>,
    weights: Vec<f32>,
}

impl Vocabulary {
    pub(super) fn count(lines: &[Line], most: usize) -> Vocabulary {
        let mut counts: HashMap<u64, (u32, bool)> = HashMap::new();
        let mut own: Vec<(u64, bool)> = Vec::new();
        for line in lines {
            own.clear();
            own.extend(line.words.iter().map(|&word| (word, false)).chain(line.pairs().map(|pair| (pair, true))));
            own.sort_unstable();
            own.dedup();
            own.iter().for_each(|&(feature, is_pair)| counts.entry(feature).or_insert((0, is_pair)).0 += 1);
        }
        let mut kept: Vec<(u32, u64)> = counts
            .into_iter()
            .filter(|&(_, (n, is_pair))| n >= if is_pair { MIN_PAIR } else { MIN_WORD })
            .map(|(feature, (n, _))| (n, feature))
            .collect();
        kept.sort_unstable_by(|a, b| b.cmp(a));
        kept.truncate(most);
        kept.sort_unstable_by_key(|&(_, feature)| feature);
        // A word that every caption has says nothing, and still has a row.
        let weight = |n: u32| (lines.len() as f32 / n as f32).ln().max(1e-3);
        Vocabulary {
            hashes: kept.iter().map(|&(_, feature)| feature).collect(),
            weights: kept.iter().map(|&(n, _)| weight(n)).collect(),
        }
    }

    pub(super) fn n(&self) -> usize {
        self.hashes.len()
    }

    /// Known features of unit length together, in rising order.
    pub(super) fn row(&self, line: &Line) -> Vec<(u32, f32)> {
        let mut row: Vec<(u32, f32)> = self.placed_raw(line).map(|(_, feature, weight)| (feature, weight)).collect();
        row.sort_unstable_by_key(|&(feature, _)| feature);
        row.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        let length = row.iter().map(|(_, weight)| weight * weight).sum::<f32>().sqrt().max(1e-9);
        row.iter_mut().for_each(|(_, weight)| *weight /= length);
        row
    }

    /// The same row by places: a pair counts for a half at each of its two.
    pub(super) fn placed(&self, line: &Line) -> Vec<(usize, u32, f32)> {
        let whole = self.row(line);
        let length = self.length(&whole, line);
        self.placed_raw(line).map(|(place, feature, weight)| (place, feature, weight / length)).collect()
    }

    /// What the raw weights were divided by.
    fn length(&self, row: &[(u32, f32)], line: &Line) -> f32 {
        let Some(&(first, weight)) = row.first() else { return 1.0 };
        let raw: f32 = self.placed_raw(line).filter(|part| part.1 == first).map(|part| part.2).sum();
        raw / weight.max(1e-12)
    }

    fn placed_raw<'a>(&'a self, line: &'a Line) -> impl Iterator<Item = (usize, u32, f32)> + 'a {
        let find = |feature: u64| self.hashes.binary_search(&feature).ok();
        let words = line.words.iter().enumerate().filter_map(move |(place, &word)| {
            let at = find(word)?;
            Some((place, at as u32, self.weights[at]))
        });
        let pairs = line.pairs().enumerate().filter_map(move |(place, pair)| Some((place, find(pair)?)));
        let halves = pairs
            .flat_map(|(place, at)| [place, place + 1].map(|at_word| (at_word, at as u32, self.weights[at] / 2.0)));
        words.chain(halves)
    }

    pub(super) fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let hashes: Vec<i64> = self.hashes.iter().map(|&hash| hash as i64).collect();
        Ok(vec![
            ("features.hashes".to_owned(), Tensor::from_vec(hashes, self.n(), &Device::Cpu)?),
            ("features.weights".to_owned(), Tensor::from_slice(&self.weights, self.n(), &Device::Cpu)?),
        ])
    }

    pub(super) fn from_tensors(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<Vocabulary> {
        let n = tensors.get("features.hashes").map_or(0, Tensor::elem_count);
        let hashes: Vec<i64> = numbers(tensors, "features.hashes", &[n], path)?;
        let hashes: Vec<u64> = hashes.into_iter().map(|hash| hash as u64).collect();
        let weights: Vec<f32> = numbers(tensors, "features.weights", &[n], path)?;
        if hashes.is_empty() || !hashes.is_sorted() || weights.iter().any(|weight| !weight.is_finite()) {
            let detail = "features: expected hashes in rising order and finite weights".to_owned();
            return Err(Error::BadFile { file: path.to_owned(), detail });
        }
        Ok(Vocabulary { hashes, weights })
    }
}

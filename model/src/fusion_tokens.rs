//! The short sequences that are kept for fusion beside an embedding, and how the states of a tower are pooled to them.

use std::{fmt, ops::Range, str::FromStr};

use half::f16;

use crate::{Error, Result};

/// Rows that the states of a text are pooled to; of a text by facets, the facets are the rows.
pub const TEXT_TOKENS: usize = 8;

/// What is kept of an image or a text for fusion: (n, dim), row after row, in half precision.
#[derive(Clone, Debug, PartialEq)]
pub struct FusionTokens {
    pub n: usize,
    pub dim: usize,
    pub values: Vec<f16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TokenShape {
    pub n: usize,
    pub dim: usize,
}

/// Of a model, for one grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TokenShapes {
    /// None: the model takes no images, or keeps nothing of them.
    pub image: Option<TokenShape>,
    pub text: Option<TokenShape>,
}

/// What is wanted beside an embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Keep {
    #[default]
    Nothing,
    Tokens(Grid),
}

/// Cells a side that the patches of an image are pooled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Grid {
    #[serde(rename = "4x4")]
    Four,
    #[serde(rename = "7x7")]
    Seven,
}

impl FusionTokens {
    /// Of (n, dim) numbers; `Error::NotFinite` if half precision cannot hold one.
    pub fn new(values: &[f32], dim: usize) -> Result<FusionTokens> {
        let values: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
        if values.iter().all(|value| value.is_finite()) {
            Ok(FusionTokens { n: values.len() / dim, dim, values })
        } else {
            Err(Error::NotFinite)
        }
    }

    pub fn shape(&self) -> TokenShape {
        TokenShape { n: self.n, dim: self.dim }
    }

    /// Row by row, of tokens that all have one shape.
    pub fn mean(all: &[FusionTokens]) -> Result<FusionTokens> {
        let first = all.first().expect("a mean is of something");
        let mut sum = vec![0.0; first.values.len()];
        for tokens in all {
            assert_eq!(tokens.shape(), first.shape(), "tokens of one model have one shape");
            sum.iter_mut().zip(&tokens.values).for_each(|(sum, value)| *sum += value.to_f32());
        }
        sum.iter_mut().for_each(|sum| *sum /= all.len() as f32);
        FusionTokens::new(&sum, first.dim)
    }
}

impl TokenShape {
    /// As they are stored.
    pub fn bytes(&self) -> usize {
        self.n * self.dim * size_of::<f16>()
    }
}

impl Keep {
    /// Cells a side of the tokens of an image; none are wanted otherwise.
    pub(crate) fn cells(self) -> Option<usize> {
        match self {
            Keep::Nothing => None,
            Keep::Tokens(grid) => Some(grid.cells()),
        }
    }

    /// Rows of the tokens of a text; none are wanted otherwise.
    pub(crate) fn rows(self) -> Option<usize> {
        (self != Keep::Nothing).then_some(TEXT_TOKENS)
    }
}

impl Grid {
    pub const ALL: [Grid; 2] = [Grid::Four, Grid::Seven];

    pub fn cells(self) -> usize {
        match self {
            Grid::Four => 4,
            Grid::Seven => 7,
        }
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{0}x{0}", self.cells())
    }
}

impl FromStr for Grid {
    type Err = Error;

    fn from_str(name: &str) -> Result<Grid> {
        let known = Grid::ALL.into_iter().find(|grid| grid.to_string() == name);
        known.ok_or_else(|| Error::UnknownGrid { received: name.to_owned() })
    }
}

/// (side * side, dim) to (cells * cells, dim), as `AdaptiveAvgPool2d` of PyTorch.
pub(crate) fn pool_grid(states: &[f32], dim: usize, cells: usize) -> Vec<f32> {
    let side = (states.len() / dim).isqrt();
    let mut pooled = vec![0.0; cells * cells * dim];
    for (cell, into) in pooled.chunks_exact_mut(dim).enumerate() {
        let (down, across) = (window(cell / cells, cells, side), window(cell % cells, cells, side));
        let n = down.len() * across.len();
        for row in down.flat_map(|y| across.clone().map(move |x| y * side + x)) {
            add(into, &states[row * dim..][..dim]);
        }
        into.iter_mut().for_each(|value| *value /= n as f32);
    }
    pooled
}

/// (length, dim) to (n, dim), as `AdaptiveAvgPool1d` of PyTorch: rows of a short text stand several times.
pub(crate) fn pool_rows(states: &[f32], dim: usize, n: usize) -> Vec<f32> {
    let length = states.len() / dim;
    let mut pooled = vec![0.0; n * dim];
    for (i, into) in pooled.chunks_exact_mut(dim).enumerate() {
        let rows = window(i, n, length);
        rows.clone().for_each(|row| add(into, &states[row * dim..][..dim]));
        into.iter_mut().for_each(|value| *value /= rows.len() as f32);
    }
    pooled
}

/// The places that cell `i` of `n` covers of `length`: neighbours may share one.
fn window(i: usize, n: usize, length: usize) -> Range<usize> {
    i * length / n..((i + 1) * length).div_ceil(n)
}

fn add(into: &mut [f32], row: &[f32]) {
    into.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected numbers are those of torch 2.15: `adaptive_avg_pool1d`, `adaptive_avg_pool2d`.
    #[test]
    fn states_are_pooled_as_pytorch_pools_them() {
        let line = |n: usize| (0..n).map(|i| (i * i) as f32).collect::<Vec<f32>>();
        assert_eq!(pool_rows(&line(5), 1, 3), [0.5, 4.666_666_5, 12.5]);
        assert_eq!(pool_rows(&line(2), 1, 4), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(pool_rows(&[1.0, 10.0, 3.0, 30.0], 2, 1), [2.0, 20.0]);
        assert_eq!(pool_grid(&line(9), 1, 2), [6.5, 11.5, 27.5, 38.5]);
        assert_eq!(pool_grid(&line(4), 1, 4)[..6], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(pool_grid(&line(49), 1, 7), line(49));
    }

    #[test]
    fn grids_have_names() {
        for grid in Grid::ALL {
            assert_eq!(grid.to_string().parse::<Grid>().unwrap(), grid);
        }
        let error = "5x5".parse::<Grid>().unwrap_err().to_string();
        assert_eq!(error, "tokens \"5x5\" are not known: expected 4x4 or 7x7");
    }

    #[test]
    fn means_are_row_by_row_and_halves_have_an_end() {
        let tokens = |values: &[f32]| FusionTokens::new(values, 2).unwrap();
        let mean = FusionTokens::mean(&[tokens(&[1.0, 2.0, 3.0, 4.0]), tokens(&[3.0, 2.0, 1.0, 0.0])]).unwrap();
        assert_eq!(mean, tokens(&[2.0; 4]));
        assert_eq!((mean.shape(), mean.shape().bytes()), (TokenShape { n: 2, dim: 2 }, 8));
        assert!(matches!(FusionTokens::new(&[70_000.0], 1), Err(Error::NotFinite)));
        assert!(matches!(FusionTokens::new(&[f32::NAN], 1), Err(Error::NotFinite)));
    }
}

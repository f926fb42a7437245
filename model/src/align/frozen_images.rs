//! Images that an encoder outside firn has embedded, once and for all: a vector each, and perhaps a few tokens. They are
//! standardised, and whitened, by statistics of the training images alone; what is learnt on this side is a projection.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::bounds::{n_linear, within};
use crate::{
    builtin::layers::dot,
    learn::{
        layers::{Linear, Pass},
        ops,
        parameters::Maker,
    },
    product::{Product, View},
};

/// What is learnt between frozen images and the texts' space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// Nothing: the texts are brought to the images' own space.
    None,
    Linear,
    /// A linear map of the whitened vector, an MLP of the standardised one, and attention pooling of the tokens.
    Mlp,
}

impl std::str::FromStr for Projection {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Projection, String> {
        match name {
            "none" => Ok(Projection::None),
            "linear" => Ok(Projection::Linear),
            "mlp" => Ok(Projection::Mlp),
            _ => Err(format!("expected none, linear or mlp, received {name:?}")),
        }
    }
}

/// (n, dim) rows, or (n, tokens, dim).
#[derive(Clone)]
pub(super) struct Rows {
    pub n_tokens: usize,
    pub dim: usize,
    pub values: Arc<Vec<f32>>,
}

impl Rows {
    pub(super) fn n(&self) -> usize {
        self.values.len() / (self.n_tokens * self.dim)
    }

    pub(super) fn row(&self, at: usize) -> &[f32] {
        let width = self.n_tokens * self.dim;
        &self.values[at * width..][..width]
    }

    /// (picked, tokens * dim)
    pub(super) fn pick(&self, at: &[usize], device: &Device) -> Result<Tensor> {
        let values: Vec<f32> = at.iter().flat_map(|&at| self.row(at)).copied().collect();
        Tensor::from_vec(values, (at.len(), self.n_tokens * self.dim), device)
    }
}

/// How numbers are brought to mean 0 and variance 1, by the training rows.
#[derive(Clone)]
pub(super) struct Statistics {
    pub mean: Vec<f32>,
    /// One over the deviation of each number.
    pub inverse: Vec<f32>,
}

impl Statistics {
    /// Of every token alike, if a row holds several.
    pub(super) fn measure(rows: &Rows, train: &[usize]) -> Statistics {
        let dim = rows.dim;
        let (mut sums, mut squares, mut n) = (vec![0f64; dim], vec![0f64; dim], 0u64);
        for token in train.iter().flat_map(|&at| rows.row(at).chunks_exact(dim)) {
            n += 1;
            for ((sum, square), &x) in sums.iter_mut().zip(&mut squares).zip(token) {
                *sum += f64::from(x);
                *square += f64::from(x) * f64::from(x);
            }
        }
        let n = n.max(1) as f64;
        let inverse = |(sum, square): (&f64, &f64)| {
            let variance = (square / n - (sum / n) * (sum / n)).max(0.0);
            // A number that changes by no more than it is rounded says nothing, however small it is.
            let inverse = (1.0 / variance.sqrt()) as f32;
            if variance <= 1e-12 * square / n || !inverse.is_finite() { 0.0 } else { inverse }
        };
        Statistics {
            inverse: sums.iter().zip(&squares).map(inverse).collect(),
            mean: sums.iter().map(|sum| (sum / n) as f32).collect(),
        }
    }

    pub(super) fn apply(&self, rows: &Rows) -> Rows {
        let mut values = rows.values.to_vec();
        for token in values.chunks_exact_mut(rows.dim) {
            for ((x, mean), inverse) in token.iter_mut().zip(&self.mean).zip(&self.inverse) {
                *x = (*x - mean) * inverse;
            }
        }
        Rows { values: values.into(), ..*rows }
    }
}

/// A lower triangle (dim, dim) that takes the correlations out of standardised vectors: the inverse of the Cholesky factor
/// of their covariance, to which a share of its mean variance was added, so that rare directions are not blown up.
pub(super) fn whitening(rows: &Rows, train: &[usize], softening: f32) -> std::result::Result<Vec<f32>, String> {
    let dim = rows.dim;
    let picked: Vec<f32> = train.iter().flat_map(|&at| rows.row(at)).copied().collect();
    let mut covariance = vec![0.0; dim * dim];
    let (view, n) = (View::rows(&picked, dim), train.len());
    let product = Product { size: [dim, dim, n], scale: 1.0 / n.max(1) as f32, n_threads: 1 };
    product.write(view.transposed(), view, &mut covariance, dim);
    let level = softening * (0..dim).map(|i| covariance[i * dim + i]).sum::<f32>() / dim as f32;
    (0..dim).for_each(|i| covariance[i * dim + i] += level.max(1e-6));
    let factor = cholesky(covariance, dim)?;
    Ok(inverse_of_triangle(&factor, dim))
}

/// (n, dim) times the triangle.
pub(super) fn whiten(rows: &Rows, triangle: &[f32]) -> Rows {
    let (dim, n) = (rows.dim, rows.n());
    let mut values = vec![0.0; n * dim];
    let product = Product { size: [n, dim, dim], scale: 1.0, n_threads: 1 };
    product.write(View::rows(&rows.values, dim), View::rows(triangle, dim).transposed(), &mut values, dim);
    Rows { values: values.into(), ..*rows }
}

/// The lower triangle whose product with its mirror is the matrix.
fn cholesky(mut matrix: Vec<f32>, n: usize) -> std::result::Result<Vec<f32>, String> {
    for row in 0..n {
        for column in 0..=row {
            let (above, below) = matrix.split_at(row * n);
            let known = if column == row { &below[..n] } else { &above[column * n..][..n] };
            let left = below[column] - dot(&below[..column], &known[..column]);
            let value = if column == row { left.sqrt() } else { left / known[column] };
            if !value.is_finite() || (column == row && value <= 0.0) {
                return Err("expected vectors of more than one direction; hint: a larger softening".to_owned());
            }
            matrix[row * n + column] = value;
        }
        matrix[row * n + row + 1..(row + 1) * n].fill(0.0);
    }
    Ok(matrix)
}

fn inverse_of_triangle(factor: &[f32], n: usize) -> Vec<f32> {
    let mut inverse = vec![0.0; n * n];
    for row in 0..n {
        let (done, rest) = inverse.split_at_mut(row * n);
        let target = &mut rest[..n];
        for (column, done) in done.chunks_exact(n).enumerate() {
            let weight = factor[row * n + column];
            target[..=column].iter_mut().zip(done).for_each(|(target, done)| *target -= weight * done);
        }
        target[row] = 1.0;
        let scale = 1.0 / factor[row * n + row];
        target[..=row].iter_mut().for_each(|x| *x *= scale);
    }
    inverse
}

/// Sizes of a frozen image side.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FrozenSizes {
    pub dim: usize,
    /// Tokens of an image, and numbers of each; 0 for none.
    pub n_tokens: usize,
    pub token_dim: usize,
    pub projection: Projection,
    /// Width inside the projection's MLP.
    pub hidden: usize,
}

impl FrozenSizes {
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let FrozenSizes { dim, n_tokens, token_dim, hidden, .. } = *self;
        within("images' dim", dim, 1..=1 << 16)?;
        within("hidden", hidden, 1..=1 << 16)?;
        within("tokens", n_tokens, 0..=1 << 16)?;
        within("tokens' dim", token_dim, n_tokens.min(1)..=1 << 16)
    }

    /// Numbers that are learnt in a projection that ends in `out`.
    pub(super) fn n_parameters(&self, out: usize) -> u64 {
        let FrozenSizes { dim, n_tokens, token_dim, projection, hidden } = *self;
        let deep = n_linear(dim, hidden) + n_linear(hidden, out);
        let vectors = ((N_QUESTIONS + n_tokens) * token_dim) as u64;
        let pooling = n_linear(token_dim, token_dim) + vectors + n_linear(N_QUESTIONS * token_dim, out);
        match projection {
            Projection::None => 0,
            Projection::Linear => n_linear(dim, out),
            Projection::Mlp if n_tokens == 0 => n_linear(dim, out) + deep,
            Projection::Mlp => n_linear(dim, out) + deep + pooling,
        }
    }
}

/// Heads of the pooling, each with a question of its own.
const N_QUESTIONS: usize = 8;

/// What is learnt on the side of frozen images.
pub(super) struct ImageProjection {
    linear: Linear,
    deep: Option<Deep>,
}

struct Deep {
    up: Linear,
    down: Linear,
    pooling: Option<Pooling>,
}

/// Attention of a few learnt questions to an image's tokens.
struct Pooling {
    keys: Linear,
    questions: Var,
    places: Var,
    out: Linear,
}

/// Of some images: vectors whitened and standardised, (n, dim) each, and tokens (n, tokens * token_dim).
pub(super) struct Picked {
    pub whitened: Tensor,
    pub standardised: Tensor,
    pub tokens: Option<Tensor>,
}

impl ImageProjection {
    pub(super) fn new(make: &mut Maker, sizes: &FrozenSizes, out: usize) -> Result<Option<ImageProjection>> {
        let FrozenSizes { dim, n_tokens, token_dim, projection, hidden } = *sizes;
        if projection == Projection::None {
            return Ok(None);
        }
        let pooling = |make: &mut Maker| -> Result<Pooling> {
            Ok(Pooling {
                keys: Linear::new(make, "image_projection.keys", [token_dim, token_dim])?,
                questions: make.normal("image_projection.questions", &[N_QUESTIONS, token_dim], 0.05)?,
                places: make.constant("image_projection.places", &[n_tokens, token_dim], 0.0)?,
                out: Linear::new(make, "image_projection.pooled", [N_QUESTIONS * token_dim, out])?,
            })
        };
        let deep = |make: &mut Maker| -> Result<Deep> {
            Ok(Deep {
                up: Linear::new(make, "image_projection.c_fc", [dim, hidden])?,
                down: Linear::new(make, "image_projection.c_proj", [hidden, out])?,
                pooling: (n_tokens > 0).then(|| pooling(make)).transpose()?,
            })
        };
        let linear = Linear::new(make, "image_projection.linear", [dim, out])?;
        Ok(Some(ImageProjection { linear, deep: (projection == Projection::Mlp).then(|| deep(make)).transpose()? }))
    }

    /// The plain way, and the deep one if there is one; (n, out) each.
    pub(super) fn forward(&self, picked: &Picked, pass: &Pass) -> Result<(Tensor, Option<Tensor>)> {
        let plain = self.linear.forward(&pass.drop(&picked.whitened)?, pass)?;
        let Some(Deep { up, down, pooling }) = &self.deep else { return Ok((plain, None)) };
        let raised = ops::gelu(&up.forward(&pass.drop(&picked.standardised)?, pass)?)?;
        let mut deep = down.forward(&pass.drop(&raised)?, pass)?;
        if let (Some(pooling), Some(tokens)) = (pooling, &picked.tokens) {
            deep = (deep + pooling.forward(tokens, pass)?)?;
        }
        Ok((plain, Some(deep)))
    }
}

impl Pooling {
    fn forward(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (n_tokens, dim) = self.places.dims2()?;
        let tokens = tokens.reshape(((), n_tokens, dim))?;
        let keys = self.keys.forward(&tokens.broadcast_add(&self.places)?, pass)?.to_dtype(DType::F32)?;
        let n = tokens.dim(0)?;
        let scores = keys.reshape(((), dim))?.matmul(&self.questions.t()?)?; // (n tokens, questions)
        let scores = (scores.reshape((n, n_tokens, N_QUESTIONS))?.transpose(1, 2)? / (dim as f64).sqrt())?;
        let pooled = ops::shares(&scores)?.matmul(&tokens)?.flatten_from(1)?; // (n, questions * dim)
        self.out.forward(&pass.drop(&pooled)?, pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three numbers, of which the third is nearly the sum of the others, and one that never changes.
    fn rows() -> Rows {
        let number = |i: usize, step: usize| ((i * step) % 101) as f32 / 50.0;
        let row = |i: usize| {
            let (a, b) = (number(i, 37), 3.0 * number(i, 17));
            [a, b, a + b + 0.1 * number(i, 59), 4.0]
        };
        Rows { n_tokens: 1, dim: 4, values: Arc::new((0..400).flat_map(row).collect()) }
    }

    #[test]
    fn whitened_numbers_are_uncorrelated_by_the_training_rows_alone() {
        let (mut all, train) = (rows(), (0..300).collect::<Vec<_>>());
        let make = |all: &Rows| {
            let plain = Statistics::measure(all, &train).apply(all);
            let triangle = whitening(&plain, &train, 0.0).unwrap();
            whiten(&plain, &triangle)
        };
        let white = make(&all);
        for i in 0..3 {
            for j in 0..3 {
                let covariance = train.iter().map(|&at| white.row(at)[i] * white.row(at)[j]).sum::<f32>() / 300.0;
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((covariance - expected).abs() < 1e-2, "{i} {j}: {covariance}");
            }
        }
        assert!(train.iter().all(|&at| white.row(at)[3] == 0.0));
        Arc::make_mut(&mut all.values)[399 * 4..].fill(1e6);
        assert_eq!(make(&all).row(7), white.row(7), "a held-out row changed the statistics");
    }

    #[test]
    fn small_numbers_are_standardised_as_large_ones_are() {
        let (all, train) = (rows(), (0..300).collect::<Vec<_>>());
        let expected = Statistics::measure(&all, &train).apply(&all);
        let small = Rows { values: Arc::new(all.values.iter().map(|x| x * 1e-8).collect()), ..all };
        let received = Statistics::measure(&small, &train).apply(&small);
        let far = expected.values.iter().zip(&*received.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{far}");
    }
}

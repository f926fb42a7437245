//! What transformers on the CPU share: flat f32, sequences of any length one after another, every buffer used again.

mod rows;

use std::ops::Range;

use candle_core::Tensor;
use candle_nn::{LayerNorm, Linear};

pub(crate) use self::rows::{activate, add_to_each, dot, gate, rotate, scale_to_unit, softmax, standardise};
use crate::product::{Product, View};

/// Rows of the states that look at each other, and which of them are wanted at the end.
pub(crate) struct Sequence {
    pub start: usize,
    pub length: usize,
    pub kept: Range<usize>,
}

/// What goes through the blocks together.
pub(crate) struct Piece {
    pub sequences: Vec<Sequence>,
    /// A row looks only at itself and at what stands before it.
    pub causal: bool,
    pub n_threads: usize,
}

impl Piece {
    /// (rows, 3 * dim), query, key and value side by side, to what each row sees of its sequence, (rows, dim). Queries are
    /// scaled already; `scores` is room for one sequence and head.
    pub(crate) fn attend(&self, qkv: &[f32], n_heads: usize, scores: &mut Vec<f32>, attended: &mut Vec<f32>) {
        let n_rows = self.sequences.iter().map(|sequence| sequence.length).sum::<usize>();
        let dim = qkv.len() / (3 * n_rows);
        let width = dim / n_heads;
        attended.resize(n_rows * dim, 0.0);
        let product = |size| Product { size, scale: 1.0, n_threads: self.n_threads };
        for &Sequence { start, length, .. } in &self.sequences {
            scores.resize(length * length, 0.0);
            for head in 0..n_heads {
                let part = |third: usize| View::rows(&qkv[(3 * start + third) * dim + head * width..], 3 * dim);
                product([length, length, width]).write(part(0), part(1).transposed(), scores, length);
                rows::softmax(scores, length, self.causal);
                let target = &mut attended[start * dim + head * width..];
                product([length, width, length]).write(View::rows(scores, length), part(2), target, dim);
            }
        }
    }

    /// The wanted rows of each sequence.
    pub(crate) fn keep(&self, rows: &[f32]) -> Vec<f32> {
        let dim = rows.len() / self.sequences.iter().map(|s| s.length).sum::<usize>();
        self.sequences
            .iter()
            .flat_map(|s| &rows[(s.start + s.kept.start) * dim..][..s.kept.len() * dim])
            .copied()
            .collect()
    }
}

pub(crate) struct Dense {
    /// (in, out): the order that the product reads fastest.
    weight: Vec<f32>,
    /// (out), zeros where the model has none.
    bias: Vec<f32>,
    pub n_in: usize,
    pub n_out: usize,
}

impl Dense {
    pub(crate) fn new(linear: &Linear) -> candle_core::Result<Dense> {
        let (n_out, n_in) = linear.weight().dims2()?;
        let bias = linear.bias().map_or(Ok(vec![0.0; n_out]), numbers)?;
        Ok(Dense { weight: numbers(&linear.weight().t()?)?, bias, n_in, n_out })
    }

    /// Weight (in, out), bias (out).
    pub(crate) fn of(weight: Vec<f32>, bias: Vec<f32>, n_in: usize, n_out: usize) -> Dense {
        Dense { weight, bias, n_in, n_out }
    }

    /// (rows, in) to (rows, out)
    pub(crate) fn forward(&self, x: &[f32], into: &mut Vec<f32>, n_threads: usize) {
        into.clear();
        (0..x.len() / self.n_in).for_each(|_| into.extend_from_slice(&self.bias));
        self.multiply(x, into, n_threads);
    }

    /// The same, added to what stands there.
    pub(crate) fn add(&self, x: &[f32], to: &mut [f32], n_threads: usize) {
        rows::add_to_each(to, &self.bias);
        self.multiply(x, to, n_threads);
    }

    fn multiply(&self, x: &[f32], to: &mut [f32], n_threads: usize) {
        let product = Product { size: [x.len() / self.n_in, self.n_out, self.n_in], scale: 1.0, n_threads };
        product.add(View::rows(x, self.n_in), View::rows(&self.weight, self.n_out), to, self.n_out);
    }
}

pub(crate) struct Norm {
    pub gain: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(crate) fn new(norm: &LayerNorm) -> candle_core::Result<Norm> {
        let bias = norm.bias().expect("read with a bias");
        Ok(Norm { gain: numbers(norm.weight())?, bias: numbers(bias)?, epsilon: norm.eps() as f32 })
    }

    pub(crate) fn forward(&self, x: &[f32], into: &mut Vec<f32>) {
        into.resize(x.len(), 0.0);
        rows::normalise(x, into, (&self.gain, &self.bias), self.epsilon);
    }
}

pub(crate) fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

//! A learnt matrix with its bias while it is folded with what stands before and behind it. Sums run in f64.

use candle_core::Result;

use super::half_dense::HalfDense;
use crate::{builtin::layers::View, flat::Dense, learn::layers::Linear, product::Product};

/// From how many weights on a matrix is multiplied in bf16, where that is fast: smaller ones stay in a core's cache, and exact.
const HALF_FROM: usize = 1 << 18;

/// A matrix that is multiplied by one thread, in full precision or, if it is large, in half.
pub(super) enum Wide {
    Full(Dense),
    Half(HalfDense),
}

impl Wide {
    pub(super) fn n_out(&self) -> usize {
        match self {
            Wide::Full(dense) => dense.n_out,
            Wide::Half(dense) => dense.n_out,
        }
    }

    /// (rows, in) to (rows, out)
    pub(super) fn forward(&self, x: &[f32], into: &mut Vec<f32>) {
        match self {
            Wide::Full(dense) => dense.forward(x, into, 1),
            Wide::Half(dense) => dense.forward(x, into),
        }
    }

    /// The same, added to what stands there.
    pub(super) fn add(&self, x: &[f32], to: &mut [f32]) {
        match self {
            Wide::Full(dense) => dense.add(x, to, 1),
            Wide::Half(dense) => dense.add(x, to),
        }
    }
}

pub(super) struct Matrix {
    /// (out, in)
    weight: Vec<f64>,
    /// (out)
    bias: Vec<f64>,
    n_in: usize,
}

impl Matrix {
    pub(super) fn of(linear: &Linear) -> Result<Matrix> {
        let (weight, bias, n_in) = linear.numbers()?;
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        Ok(Matrix { weight: wide(weight), bias: wide(bias), n_in })
    }

    pub(super) fn times(mut self, factor: f32) -> Matrix {
        self.weight.iter_mut().chain(&mut self.bias).for_each(|x| *x *= f64::from(factor));
        self
    }

    pub(super) fn with_inputs_times(mut self, factor: f32) -> Matrix {
        self.weight.iter_mut().for_each(|x| *x *= f64::from(factor));
        self
    }

    /// Takes what a norm has standardised, before its gain and bias.
    pub(super) fn of_normed(mut self, (gain, bias): &(Vec<f32>, Vec<f32>)) -> Matrix {
        for (row, own) in self.weight.chunks_exact_mut(self.n_in).zip(&mut self.bias) {
            for (x, (gain, bias)) in row.iter_mut().zip(gain.iter().zip(bias)) {
                *own += *x * f64::from(*bias);
                *x *= f64::from(*gain);
            }
        }
        self
    }

    /// Takes numbers as they are, of which it was to have each without its mean, by its deviation.
    pub(super) fn of_standardised(self, mean: &[f32], deviation: &[f32]) -> Matrix {
        let gain: Vec<f32> = deviation.iter().map(|deviation| 1.0 / deviation).collect();
        let bias = mean.iter().zip(&gain).map(|(mean, gain)| -mean * gain).collect();
        self.of_normed(&(gain, bias))
    }

    /// `self (first x)` as one.
    pub(super) fn after(&self, first: &Matrix) -> Matrix {
        let n_in = first.n_in;
        let mut weight = vec![0.0; self.bias.len() * n_in];
        let product =
            Product { size: [self.bias.len(), n_in, self.n_in], scale: 1.0, n_threads: rayon::current_num_threads() };
        product.write(View::rows(&self.weight, self.n_in), View::rows(&first.weight, n_in), &mut weight, n_in);
        let own = |(bias, row): (&f64, &[f64])| bias + row.iter().zip(&first.bias).map(|(x, own)| x * own).sum::<f64>();
        let bias = self.bias.iter().zip(self.weight.chunks_exact(self.n_in)).map(own).collect();
        Matrix { weight, bias, n_in }
    }

    /// Both outputs of the same input, one behind the other.
    pub(super) fn beside(mut self, other: Matrix) -> Matrix {
        self.weight.extend(other.weight);
        self.bias.extend(other.bias);
        self
    }

    pub(super) fn dense(self) -> Dense {
        let (n_in, n_out) = (self.n_in, self.bias.len());
        let (weight, bias) = self.transposed();
        Dense::of(weight, bias, n_in, n_out)
    }

    pub(super) fn wide(self) -> Wide {
        if self.weight.len() < HALF_FROM || !HalfDense::is_fast() {
            return Wide::Full(self.dense());
        }
        let n_in = self.n_in;
        let (weight, bias) = self.transposed();
        Wide::Half(HalfDense::of(&weight, bias, n_in))
    }

    /// Weight (in, out) and bias.
    fn transposed(self) -> (Vec<f32>, Vec<f32>) {
        let (n_in, n_out) = (self.n_in, self.bias.len());
        /// Rows and columns of a piece that stays in a core's cache.
        const SIDE: usize = 32;
        let mut weight = vec![0.0; n_in * n_out];
        for (from_row, from_column) in
            (0..n_out).step_by(SIDE).flat_map(|row| (0..n_in).step_by(SIDE).map(move |column| (row, column)))
        {
            for row in from_row..n_out.min(from_row + SIDE) {
                for column in from_column..n_in.min(from_column + SIDE) {
                    weight[column * n_out + row] = self.weight[row * n_in + column] as f32;
                }
            }
        }
        (weight, self.bias.into_iter().map(|x| x as f32).collect())
    }

    /// Weight (out, in) and bias.
    pub(super) fn into_parts(self) -> (Vec<f32>, Vec<f32>) {
        let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
        (narrow(self.weight), narrow(self.bias))
    }
}

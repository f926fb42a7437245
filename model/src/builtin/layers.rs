//! The layers on flat f32, forwards and backwards. Rows are tokens; sequences of any length lie one after another.
//!
//! Written by hand, since candle's autograd copies at every transpose and pads every text to the longest: training on one
//! core is what this buys. Finite differences judge the gradients (`net::tests`).

use super::layout::{Block, Linear, Norm};
use crate::product::Product;
pub(crate) use crate::product::View;

const EPSILON: f32 = 1e-5;

/// `into` (m, n; `row_step` apart) = `keep` * `into` + `scale` * a (m, k) b (k, n), on this thread.
pub fn multiply(size: [usize; 3], a: View, b: View, into: (&mut [f32], usize), keep: bool, scale: f32) {
    let product = Product { size, scale, n_threads: 1 };
    let (target, row_step) = into;
    if keep { product.add(a, b, target, row_step) } else { product.write(a, b, target, row_step) }
}

impl Linear {
    /// (rows, `n_in`) to (rows, `n_out`).
    pub fn forward(&self, weights: &[f32], x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.n_in;
        let bias = &weights[self.bias.clone()];
        let mut y: Vec<f32> = Vec::with_capacity(rows * self.n_out);
        (0..rows).for_each(|_| y.extend_from_slice(bias));
        let weight = View::rows(&weights[self.weight.clone()], self.n_out);
        multiply([rows, self.n_out, self.n_in], View::rows(x, self.n_in), weight, (&mut y, self.n_out), true, 1.0);
        y
    }

    /// Adds to the gradients of weight and bias. `gradients` starts at the weights' `offset`.
    pub fn learn(&self, gradients: &mut [f32], offset: usize, x: &[f32], dy: &[f32]) {
        let rows = x.len() / self.n_in;
        let weight = &mut gradients[self.weight.start - offset..self.weight.end - offset];
        let (x, dy_view) = (View::rows(x, self.n_in).transposed(), View::rows(dy, self.n_out));
        multiply([self.n_in, self.n_out, rows], x, dy_view, (weight, self.n_out), true, 1.0);
        let bias = &mut gradients[self.bias.start - offset..self.bias.end - offset];
        for row in dy.chunks_exact(self.n_out) {
            add(bias, row);
        }
    }

    /// The gradient of the input.
    pub fn backward(&self, weights: &[f32], dy: &[f32]) -> Vec<f32> {
        let rows = dy.len() / self.n_out;
        let mut dx = vec![0.0; rows * self.n_in];
        let weight = View::rows(&weights[self.weight.clone()], self.n_out).transposed();
        multiply([rows, self.n_in, self.n_out], View::rows(dy, self.n_out), weight, (&mut dx, self.n_in), false, 1.0);
        dx
    }
}

/// What the norm's way back needs.
pub struct Normed {
    /// Before gain and bias.
    plain: Vec<f32>,
    inverse_deviation: Vec<f32>,
    pub output: Vec<f32>,
}

impl Norm {
    pub fn forward(&self, weights: &[f32], x: &[f32]) -> Normed {
        let (gain, bias) = (&weights[self.gain.clone()], &weights[self.bias.clone()]);
        let dim = gain.len();
        let mut normed = Normed {
            plain: vec![0.0; x.len()],
            inverse_deviation: Vec::with_capacity(x.len() / dim),
            output: vec![0.0; x.len()],
        };
        let rows = normed.plain.chunks_exact_mut(dim).zip(normed.output.chunks_exact_mut(dim));
        for (x, (plain, output)) in x.chunks_exact(dim).zip(rows) {
            let mean = sum(x) / dim as f32;
            plain.iter_mut().zip(x).for_each(|(plain, x)| *plain = x - mean);
            let inverse = 1.0 / (dot(plain, plain) / dim as f32 + EPSILON).sqrt();
            for ((plain, output), (gain, bias)) in plain.iter_mut().zip(output).zip(gain.iter().zip(bias)) {
                *plain *= inverse;
                *output = *plain * gain + bias;
            }
            normed.inverse_deviation.push(inverse);
        }
        normed
    }

    /// Adds to the gradients of gain and bias; gives that of the input.
    pub fn backward(
        &self,
        weights: &[f32],
        gradients: &mut [f32],
        offset: usize,
        from: &Normed,
        dy: &[f32],
    ) -> Vec<f32> {
        let gain = &weights[self.gain.clone()];
        let dim = gain.len();
        let mut dx = vec![0.0; dy.len()];
        let rows = dx.chunks_exact_mut(dim).zip(from.plain.chunks_exact(dim)).zip(&from.inverse_deviation);
        let (mut dgain, mut dbias) = (vec![0.0; dim], vec![0.0; dim]);
        for (dy, ((dx, plain), inverse)) in dy.chunks_exact(dim).zip(rows) {
            for i in 0..dim {
                dgain[i] += dy[i] * plain[i];
                dbias[i] += dy[i];
                dx[i] = dy[i] * gain[i];
            }
            let (mean, along) = (sum(dx) / dim as f32, dot(dx, plain) / dim as f32);
            dx.iter_mut().zip(plain).for_each(|(dx, plain)| *dx = (*dx - mean - plain * along) * inverse);
        }
        add(&mut gradients[self.gain.start - offset..self.gain.end - offset], &dgain);
        add(&mut gradients[self.bias.start - offset..self.bias.end - offset], &dbias);
        dx
    }
}

/// Everything of a block that its way back needs.
pub struct BlockTrace {
    first: Normed,
    qkv: Vec<f32>,
    /// For each sequence and head (length, length), after softmax.
    shares: Vec<f32>,
    attended: Vec<f32>,
    second: Normed,
    /// After the rectifier.
    raised: Vec<f32>,
}

impl Block {
    /// Changes the residual stream `x` in place.
    pub fn forward(&self, weights: &[f32], heads: usize, lengths: &[usize], x: &mut [f32]) -> BlockTrace {
        let first = self.before_attention.forward(weights, x);
        let qkv = self.qkv.forward(weights, &first.output);
        let (attended, shares) = attend(&qkv, self.qkv.n_in, heads, lengths);
        add(x, &self.attention_out.forward(weights, &attended));
        let second = self.before_perceptron.forward(weights, x);
        let mut raised = self.up.forward(weights, &second.output);
        raised.iter_mut().for_each(|value| *value = value.max(0.0));
        add(x, &self.down.forward(weights, &raised));
        BlockTrace { first, qkv, shares, attended, second, raised }
    }

    /// Turns the gradient `dx` of the output into that of the input.
    pub fn backward(&self, pass: &mut Pass, heads: usize, lengths: &[usize], trace: &BlockTrace, dx: &mut [f32]) {
        let Pass { weights, gradients, offset } = pass;
        self.down.learn(gradients, *offset, &trace.raised, dx);
        let mut draised = self.down.backward(weights, dx);
        let open = draised.iter_mut().zip(&trace.raised);
        open.for_each(|(gradient, &value)| *gradient = if value > 0.0 { *gradient } else { 0.0 });
        self.up.learn(gradients, *offset, &trace.second.output, &draised);
        let dsecond = self.up.backward(weights, &draised);
        add(dx, &self.before_perceptron.backward(weights, gradients, *offset, &trace.second, &dsecond));
        self.attention_out.learn(gradients, *offset, &trace.attended, dx);
        let dattended = self.attention_out.backward(weights, dx);
        let dqkv = attend_backward(trace, &dattended, self.qkv.n_in, heads, lengths);
        self.qkv.learn(gradients, *offset, &trace.first.output, &dqkv);
        let dfirst = self.qkv.backward(weights, &dqkv);
        add(dx, &self.before_attention.backward(weights, gradients, *offset, &trace.first, &dfirst));
    }
}

/// What a way back reads and writes.
pub struct Pass<'a> {
    pub weights: &'a [f32],
    pub gradients: Vec<f32>,
    /// Where in the weights the gradients begin.
    pub offset: usize,
}

/// Attention inside each sequence: (rows, 3 dim) to (rows, dim), and the shares.
fn attend(qkv: &[f32], dim: usize, heads: usize, lengths: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let (width, scale) = (dim / heads, 1.0 / ((dim / heads) as f32).sqrt());
    let mut attended = vec![0.0; qkv.len() / 3];
    let mut shares = vec![0.0; heads * lengths.iter().map(|n| n * n).sum::<usize>()];
    let (mut row, mut at) = (0, 0);
    for &n in lengths {
        for head in 0..heads {
            let part = |third: usize| View::rows(&qkv[row * 3 * dim + third * dim + head * width..], 3 * dim);
            let share = &mut shares[at..at + n * n];
            multiply([n, n, width], part(0), part(1).transposed(), (&mut *share, n), false, scale);
            share.chunks_exact_mut(n).for_each(softmax);
            let target = &mut attended[row * dim + head * width..];
            multiply([n, width, n], View::rows(share, n), part(2), (target, dim), false, 1.0);
            at += n * n;
        }
        row += n;
    }
    (attended, shares)
}

fn attend_backward(trace: &BlockTrace, dy: &[f32], dim: usize, heads: usize, lengths: &[usize]) -> Vec<f32> {
    let (width, scale) = (dim / heads, 1.0 / ((dim / heads) as f32).sqrt());
    let mut dqkv = vec![0.0; 3 * dy.len()];
    let mut dshare = Vec::new();
    let (mut row, mut at) = (0, 0);
    for &n in lengths {
        for head in 0..heads {
            let place = |third: usize| row * 3 * dim + third * dim + head * width;
            let part = |third: usize| View::rows(&trace.qkv[place(third)..], 3 * dim);
            let share = &trace.shares[at..at + n * n];
            let dy = View::rows(&dy[row * dim + head * width..], dim);
            let share_turned = View::rows(share, n).transposed();
            multiply([n, width, n], share_turned, dy, (&mut dqkv[place(2)..], 3 * dim), false, 1.0);
            dshare.clear();
            dshare.resize(n * n, 0.0);
            multiply([n, n, width], dy, part(2).transposed(), (&mut dshare, n), false, 1.0);
            for (dshare, share) in dshare.chunks_exact_mut(n).zip(share.chunks_exact(n)) {
                let along = dot(dshare, share);
                dshare.iter_mut().zip(share).for_each(|(d, share)| *d = share * (*d - along));
            }
            let d = View::rows(&dshare, n);
            multiply([n, width, n], d, part(1), (&mut dqkv[place(0)..], 3 * dim), false, scale);
            multiply([n, width, n], d.transposed(), part(0), (&mut dqkv[place(1)..], 3 * dim), false, scale);
            at += n * n;
        }
        row += n;
    }
    dqkv
}

pub fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|value| *value = exp_of_negative(*value - largest));
    let inverse = 1.0 / sum(row);
    row.iter_mut().for_each(|value| *value *= inverse);
}

/// exp for x <= 0, to 2e-7 relative: 2^n times a polynomial; vectorises, and is the same on every platform.
pub fn exp_of_negative(x: f32) -> f32 {
    let turns = x.max(-80.0) * std::f32::consts::LOG2_E;
    let n = (turns - 0.5) as i32;
    let r = (turns - n as f32) * std::f32::consts::LN_2;
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r / 720.0)))));
    series * f32::from_bits(((n + 127) << 23) as u32)
}

pub fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// In eight strands, so that it vectorises and is always the same order.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut strands = [0.0f32; 8];
    let (a_eights, b_eights) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_eights.remainder().iter().zip(b_eights.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_eights.zip(b_eights) {
        (0..8).for_each(|i| strands[i] += a[i] * b[i]);
    }
    strands.iter().sum::<f32>() + rest
}

pub fn sum(values: &[f32]) -> f32 {
    let mut strands = [0.0f32; 8];
    let eights = values.chunks_exact(8);
    let rest: f32 = eights.remainder().iter().sum();
    for eight in eights {
        (0..8).for_each(|i| strands[i] += eight[i]);
    }
    strands.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exp() {
        for step in 0..8000 {
            let x = -f32::from(step as u16) / 100.0;
            let (fast, exact) = (exp_of_negative(x), x.exp());
            assert!((fast - exact).abs() <= 1e-5 * exact + 1e-35, "{x}: {fast} {exact}");
        }
        assert!(exp_of_negative(-1e9) < 1e-30);
    }

    #[test]
    fn products_match_the_schoolbook() {
        let (m, n, k) = (5, 7, 3);
        let a: Vec<f32> = (0..m * k).map(|i| i as f32 * 0.5 - 2.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| 1.0 - i as f32 * 0.25).collect();
        let mut into = vec![1.0; m * n];
        multiply([m, n, k], View::rows(&a, k), View::rows(&b, n), (&mut into, n), true, 2.0);
        for row in 0..m {
            for column in 0..n {
                let expected: f32 = 1.0 + 2.0 * (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum::<f32>();
                assert!((into[row * n + column] - expected).abs() < 1e-4);
            }
        }
    }
}

//! What happens to each row or number alone, in loops that the compiler turns into vector instructions.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use crate::{pair::Activation, vector_unit::on_best_unit};

/// Sums run in this many strands, so that they vectorise and are always in the same order.
const STRANDS: usize = 16;

/// Layer norm of each row, with gain and bias.
pub(crate) fn normalise(x: &[f32], into: &mut [f32], (gain, bias): (&[f32], &[f32]), epsilon: f32) {
    let dim = gain.len();
    on_best_unit(
        #[inline(always)]
        || {
            for (x, into) in x.chunks_exact(dim).zip(into.chunks_exact_mut(dim)) {
                let mean = sum(x, |x| x) / dim as f32;
                let variance = sum(x, |x| (x - mean) * (x - mean)) / dim as f32;
                let inverse = 1.0 / (variance + epsilon).sqrt();
                for ((into, x), (gain, bias)) in into.iter_mut().zip(x).zip(gain.iter().zip(bias)) {
                    *into = (x - mean) * inverse * gain + bias;
                }
            }
        },
    );
}

/// The same without gain and bias.
pub(crate) fn standardise(x: &[f32], into: &mut Vec<f32>, dim: usize, epsilon: f32) {
    into.resize(x.len(), 0.0);
    on_best_unit(
        #[inline(always)]
        || {
            for (x, into) in x.chunks_exact(dim).zip(into.chunks_exact_mut(dim)) {
                let mean = sum(x, |x| x) / dim as f32;
                let variance = sum(x, |x| (x - mean) * (x - mean)) / dim as f32;
                let inverse = 1.0 / (variance + epsilon).sqrt();
                into.iter_mut().zip(x).for_each(|(into, x)| *into = (x - mean) * inverse);
            }
        },
    );
}

#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut strands = [0.0f32; STRANDS];
    let (a_whole, b_whole) = (a.chunks_exact(STRANDS), b.chunks_exact(STRANDS));
    let rest: f32 = a_whole.remainder().iter().zip(b_whole.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_whole.zip(b_whole) {
        strands.iter_mut().zip(a.iter().zip(b)).for_each(|(strand, (a, b))| *strand += a * b);
    }
    strands.iter().sum::<f32>() + rest
}

/// Each row divided by its root mean square, times the gain.
pub(crate) fn scale_to_unit(rows: &mut [f32], gain: &[f32], epsilon: f32) {
    let dim = gain.len();
    on_best_unit(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(dim) {
                let inverse = 1.0 / (sum(row, |x| x * x) / dim as f32 + epsilon).sqrt();
                row.iter_mut().zip(gain).for_each(|(x, gain)| *x *= inverse * gain);
            }
        },
    );
}

/// The first half of each head against its second half, by the cosines and sines of its row, (rows, head_dim / 2) both.
pub(crate) fn rotate(rows: &mut [f32], head_dim: usize, (cos, sin): (&[f32], &[f32])) {
    let half = head_dim / 2;
    let row = rows.len() / (cos.len() / half);
    on_best_unit(
        #[inline(always)]
        || {
            let turns = cos.chunks_exact(half).zip(sin.chunks_exact(half));
            for (row, (cos, sin)) in rows.chunks_exact_mut(row).zip(turns) {
                for head in row.chunks_exact_mut(head_dim) {
                    let (first, second) = head.split_at_mut(half);
                    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
            }
        },
    );
}

/// Each row of (rows, length); with `causal`, row i of a square is left with i + 1 shares.
pub(crate) fn softmax(scores: &mut [f32], length: usize, causal: bool) {
    on_best_unit(
        #[inline(always)]
        || {
            for (i, row) in scores.chunks_exact_mut(length).enumerate() {
                let (seen, unseen) = row.split_at_mut(if causal { i + 1 } else { length });
                let largest = largest(seen);
                seen.iter_mut().for_each(|score| *score = exp(*score - largest));
                let inverse = 1.0 / sum(seen, |share| share);
                seen.iter_mut().for_each(|share| *share *= inverse);
                unseen.fill(0.0);
            }
        },
    );
}

pub(crate) fn activate(values: &mut [f32], activation: Activation) {
    match activation {
        Activation::QuickGelu => each(values, quick_gelu),
        Activation::Gelu => each(values, gelu),
        Activation::GeluTanh => each(values, gelu_tanh),
    }
}

/// SiLU of the gate, x / (1 + exp(-x)), times what it lets through.
pub(crate) fn gate(gate: &mut [f32], through: &[f32]) {
    on_best_unit(
        #[inline(always)]
        || gate.iter_mut().zip(through).for_each(|(x, through)| *x *= through / (1.0 + exp(-*x))),
    );
}

/// The same row to each of the rows.
pub(crate) fn add_to_each(rows: &mut [f32], row: &[f32]) {
    for target in rows.chunks_exact_mut(row.len()) {
        target.iter_mut().zip(row).for_each(|(to, from)| *to += from);
    }
}

#[inline(always)]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    on_best_unit(
        #[inline(always)]
        || values.iter_mut().for_each(|value| *value = f(*value)),
    );
}

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

/// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), and (1 + tanh u) / 2 is the sigmoid of 2 u.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    x / (1.0 + exp(-1.595_769 * (x + 0.044_715 * x * x * x)))
}

/// x times the normal distribution up to x; its tail to 1e-7 after Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let tail = 0.5 * series * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// exp to 2e-7 relative, between the smallest and the largest normal number: 2^n times a polynomial. NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Added to a number below 2^22, it leaves the nearest whole number in the last bits.
    const ROUNDER: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first times a small whole number is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * LN_2[0] - n * LN_2[1]; // at most half of ln 2
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r / 720.0)))));
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut strands = [0.0f32; STRANDS];
    let whole = values.chunks_exact(STRANDS);
    let rest: f32 = whole.remainder().iter().map(|&x| f(x)).sum();
    for values in whole {
        strands.iter_mut().zip(values).for_each(|(strand, &x)| *strand += f(x));
    }
    strands.iter().sum::<f32>() + rest
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut strands = [f32::NEG_INFINITY; STRANDS];
    let whole = values.chunks_exact(STRANDS);
    let rest = whole.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for values in whole {
        strands.iter_mut().zip(values).for_each(|(strand, &x)| *strand = strand.max(x));
    }
    strands.iter().copied().fold(rest, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest difference from `exact` on -30 to 30, relative to numbers above 1.
    fn error(fast: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let differences = (-30_000..=30_000).map(|i| {
            let x = i as f32 / 1000.0;
            let exact = exact(f64::from(x));
            (f64::from(fast(x)) - exact).abs() / exact.abs().max(1.0)
        });
        differences.fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_what_their_names_say() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let tanh = |x: f64| (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh();
        for (name, error) in [
            ("exp", error(exp, f64::exp)),
            ("1 / exp", error(|x| 1.0 / exp(x), |x| (-x).exp())),
            ("quick_gelu", error(quick_gelu, |x| x * sigmoid(1.702 * x))),
            ("gelu_tanh", error(gelu_tanh, |x| 0.5 * x * (1.0 + tanh(x)))),
            ("gelu", error(gelu, |x| x * candle_core::cpu::erf::erf_f64(x / 2f64.sqrt()).mul_add(0.5, 0.5))),
        ] {
            println!("{name}: {error:e}");
            assert!(error <= 5e-7, "{name}: {error:e}");
        }
        assert!(exp(f32::NAN).is_nan() && quick_gelu(f32::NAN).is_nan() && gelu(f32::NAN).is_nan());
    }

    #[test]
    fn shares_add_up_and_keep_to_the_mask() {
        let mut scores: Vec<f32> = (0..33 * 33).map(|i| (i * 7 % 31) as f32 * 3.0 - 40.0).collect();
        softmax(&mut scores, 33, true);
        for (i, row) in scores.chunks_exact(33).enumerate() {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(row[..=i].iter().all(|&share| share >= 0.0) && row[i + 1..].iter().all(|&share| share == 0.0));
        }
    }

    #[test]
    fn normalised_rows_have_no_mean_and_unit_deviation() {
        let x: Vec<f32> = (0..2 * 37).map(|i| 100.0 + (i * 5 % 13) as f32).collect();
        let mut into = vec![0.0; x.len()];
        normalise(&x, &mut into, (&[1.0; 37], &[0.0; 37]), 0.0);
        for row in into.chunks_exact(37) {
            assert!(row.iter().sum::<f32>().abs() < 1e-4);
            assert!((row.iter().map(|x| x * x).sum::<f32>() / 37.0 - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn a_gate_lets_through_its_silu() {
        let mut gates: Vec<f32> = (-300..=300).map(|i| i as f32 / 10.0).collect();
        let silu: Vec<f32> = gates.iter().map(|x| 2.0 * x / (1.0 + (-x).exp())).collect();
        gate(&mut gates, &[2.0; 601]);
        assert!(gates.iter().zip(&silu).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0)));
    }

    #[test]
    fn a_turned_head_has_its_length() {
        // Two rows of two heads of two pairs; a quarter turn of the first row, none of the second.
        let mut rows: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        rotate(&mut rows, 4, (&[0.0, 0.0, 1.0, 1.0], &[1.0, 1.0, 0.0, 0.0]));
        assert_eq!(rows[..8], [-3.0, -4.0, 1.0, 2.0, -7.0, -8.0, 5.0, 6.0]);
        assert_eq!(rows[8..], [9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]);
    }
}

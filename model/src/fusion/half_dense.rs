//! Large matrices in bf16 for processors that multiply such numbers (AVX512-BF16): half the bytes to read and twice the products an
//! instruction, sums in f32. Inputs are rounded to 8 bits of precision, so a result is off by some thousandths of its size.

use half::bf16;

/// Columns of a panel: four registers of 16 sums.
const PANEL: usize = 64;
/// Rows that are summed together: 24 of 32 registers hold sums.
const ROWS: usize = 6;

/// A matrix as panels of columns: for each pair of inputs, its two numbers for each of 64 outputs.
pub(super) struct HalfDense {
    panels: Vec<[bf16; 2]>,
    bias: Vec<f32>,
    n_in: usize,
    pub n_out: usize,
}

impl HalfDense {
    /// Whether this processor multiplies bf16.
    pub(super) fn is_fast() -> bool {
        #[cfg(target_arch = "x86_64")]
        return std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Weight (in, out), bias (out).
    pub(super) fn of(weight: &[f32], bias: Vec<f32>, n_in: usize) -> HalfDense {
        let n_out = bias.len();
        let (n_pairs, n_panels) = (n_in.div_ceil(2), n_out.div_ceil(PANEL));
        let number = |input: usize, output: usize| match input < n_in && output < n_out {
            true => bf16::from_f32(weight[input * n_out + output]),
            false => bf16::ZERO,
        };
        let mut panels = Vec::with_capacity(n_panels * n_pairs * PANEL);
        for panel in 0..n_panels {
            for pair in 0..n_pairs {
                let outputs = (0..PANEL).map(|at| panel * PANEL + at);
                panels.extend(outputs.map(|output| [number(2 * pair, output), number(2 * pair + 1, output)]));
            }
        }
        HalfDense { panels, bias, n_in, n_out }
    }

    /// (rows, in) to (rows, out)
    pub(super) fn forward(&self, x: &[f32], into: &mut Vec<f32>) {
        into.clear();
        (0..x.len() / self.n_in).for_each(|_| into.extend_from_slice(&self.bias));
        self.multiply(x, into);
    }

    /// The same, added to what stands there.
    pub(super) fn add(&self, x: &[f32], to: &mut [f32]) {
        for row in to.chunks_exact_mut(self.n_out) {
            row.iter_mut().zip(&self.bias).for_each(|(to, bias)| *to += bias);
        }
        self.multiply(x, to);
    }

    fn multiply(&self, x: &[f32], to: &mut [f32]) {
        let pairs: Vec<[bf16; 2]> = x.chunks_exact(self.n_in).flat_map(pairs_of).collect();
        let n_pairs = self.n_in.div_ceil(2);
        for (at, panel) in self.panels.chunks_exact(n_pairs * PANEL).enumerate() {
            let columns = at * PANEL..((at + 1) * PANEL).min(self.n_out);
            for (block, rows) in pairs.chunks(ROWS * n_pairs).enumerate() {
                let mut sums = [[0.0; PANEL]; ROWS];
                sum(rows, panel, n_pairs, &mut sums);
                for (row, sums) in sums.iter().enumerate().take(rows.len() / n_pairs) {
                    let to = &mut to[(block * ROWS + row) * self.n_out..][columns.clone()];
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                }
            }
        }
    }
}

fn pairs_of(row: &[f32]) -> impl Iterator<Item = [bf16; 2]> {
    row.chunks(2).map(|pair| [bf16::from_f32(pair[0]), pair.get(1).map_or(bf16::ZERO, |&x| bf16::from_f32(x))])
}

/// Up to six rows of pairs with one panel.
fn sum(rows: &[[bf16; 2]], panel: &[[bf16; 2]], n_pairs: usize, sums: &mut [[f32; PANEL]; ROWS]) {
    #[cfg(target_arch = "x86_64")]
    if HalfDense::is_fast() {
        // SAFETY: the instructions were just found to be there.
        return unsafe {
            match rows.len() / n_pairs {
                1 => fast::sum::<1>(rows, panel, n_pairs, sums),
                2 => fast::sum::<2>(rows, panel, n_pairs, sums),
                3 => fast::sum::<3>(rows, panel, n_pairs, sums),
                4 => fast::sum::<4>(rows, panel, n_pairs, sums),
                5 => fast::sum::<5>(rows, panel, n_pairs, sums),
                _ => fast::sum::<6>(rows, panel, n_pairs, sums),
            }
        };
    }
    plain(rows, panel, n_pairs, sums);
}

/// The slow obvious way.
fn plain(rows: &[[bf16; 2]], panel: &[[bf16; 2]], n_pairs: usize, sums: &mut [[f32; PANEL]; ROWS]) {
    for (row, sums) in rows.chunks_exact(n_pairs).zip(sums) {
        for (inputs, weights) in row.iter().zip(panel.chunks_exact(PANEL)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += inputs[0].to_f32() * weight[0].to_f32() + inputs[1].to_f32() * weight[1].to_f32();
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod fast {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::{PANEL, ROWS};

    const REGISTERS: usize = PANEL / 16;

    /// # Safety
    ///
    /// The processor has to have AVX512F and AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn sum<const N: usize>(
        rows: &[[bf16; 2]],
        panel: &[[bf16; 2]],
        n_pairs: usize,
        sums: &mut [[f32; PANEL]; ROWS],
    ) {
        assert!(N <= ROWS && rows.len() >= N * n_pairs && panel.len() >= n_pairs * PANEL);
        let (rows, panel) = (rows.as_ptr().cast::<i32>(), panel.as_ptr().cast::<i32>());
        let mut totals = [[_mm512_setzero_ps(); REGISTERS]; N];
        for pair in 0..n_pairs {
            // SAFETY: the assertion above keeps every address inside its slice; a pair of bf16 is as large as an i32.
            let weights: [__m512bh; REGISTERS] = std::array::from_fn(|at| unsafe {
                std::mem::transmute(_mm512_loadu_si512(panel.add(pair * PANEL + 16 * at).cast()))
            });
            for (row, totals) in totals.iter_mut().enumerate() {
                // SAFETY: as above.
                let inputs: __m512bh =
                    unsafe { std::mem::transmute(_mm512_set1_epi32(rows.add(row * n_pairs + pair).read_unaligned())) };
                for (total, weights) in totals.iter_mut().zip(weights) {
                    *total = _mm512_dpbf16_ps(*total, inputs, weights);
                }
            }
        }
        for (totals, sums) in totals.into_iter().zip(sums) {
            for (total, sums) in totals.into_iter().zip(sums.chunks_exact_mut(16)) {
                // SAFETY: 16 numbers are written where 16 are.
                unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn products_are_those_of_the_rounded_numbers() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (n_rows, n_in, n_out) in [(1, 1, 1), (6, 8, 64), (7, 33, 65), (13, 130, 200)] {
            let mut numbers = |n: usize| (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<f32>>();
            let (x, weight, bias) = (numbers(n_rows * n_in), numbers(n_in * n_out), numbers(n_out));
            let dense = HalfDense::of(&weight, bias.clone(), n_in);
            let mut received = vec![9.0; 3];
            dense.forward(&x, &mut received);
            let mut twice = received.clone();
            dense.add(&x, &mut twice);
            let round = |x: f32| f64::from(bf16::from_f32(x).to_f32());
            for row in 0..n_rows {
                for output in 0..n_out {
                    let products = (0..n_in).map(|i| round(x[row * n_in + i]) * round(weight[i * n_out + output]));
                    let expected = f64::from(bias[output]) + products.sum::<f64>();
                    let at = row * n_out + output;
                    assert!((f64::from(received[at]) - expected).abs() < 1e-4, "{n_rows} {n_in} {n_out}");
                    assert!((f64::from(twice[at]) - 2.0 * expected).abs() < 2e-4, "{n_rows} {n_in} {n_out}");
                }
            }
        }
    }

    #[test]
    fn both_ways_to_sum_agree() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut numbers =
            |n: usize| (0..n).map(|_| [0, 1].map(|_| bf16::from_f32(rng.random_range(-1.0..1.0)))).collect();
        let (rows, panel): (Vec<[bf16; 2]>, Vec<[bf16; 2]>) = (numbers(4 * 50), numbers(50 * PANEL));
        let (mut one, mut other) = ([[0.0; PANEL]; ROWS], [[0.0; PANEL]; ROWS]);
        sum(&rows, &panel, 50, &mut one);
        plain(&rows, &panel, 50, &mut other);
        let far = one.as_flattened().iter().zip(other.as_flattened()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{far}");
    }
}

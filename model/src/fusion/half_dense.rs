//! Large matrices in bf16 for processors that multiply tiles of such numbers (AMX): half the bytes to read and many more products an
//! instruction, sums in f32. Inputs are rounded to 8 bits of precision, so a result is off by some thousandths of its size.

use half::bf16;
use rayon::prelude::*;

use crate::vector_unit::on_best_unit;

/// Columns of a panel, and rows that are summed with it together: two tiles each.
const PANEL: usize = 32;
const ROWS: usize = 32;
/// Rows or columns of a tile, and pairs of inputs that go into one instruction.
const TILE: usize = 16;

/// Two numbers that stand beside each other in a row of inputs, or in a column of weights.
type Pair = [bf16; 2];

/// A matrix as panels of columns. All numbers of a tile lie together, tile after tile as they are read: for every 16 pairs of inputs first those
/// of 16 columns, then those of the next 16.
pub(super) struct HalfDense {
    panels: Vec<Pair>,
    bias: Vec<f32>,
    n_in: usize,
    pub n_out: usize,
}

impl HalfDense {
    /// Whether this processor multiplies tiles of bf16, and the system lets us.
    pub(super) fn is_fast() -> bool {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        return tiles::are_there();
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        false
    }

    /// Pairs of inputs, with those that fill the last tile.
    fn n_pairs(n_in: usize) -> usize {
        n_in.div_ceil(2 * TILE) * TILE
    }

    /// Weight (in, out), bias (out).
    pub(super) fn of(weight: &[f32], bias: Vec<f32>, n_in: usize) -> HalfDense {
        let n_out = bias.len();
        let n_pairs = HalfDense::n_pairs(n_in);
        let number = |input: usize, output: usize| match input < n_in && output < n_out {
            true => bf16::from_f32(weight[input * n_out + output]),
            false => bf16::ZERO,
        };
        let mut panels = vec![[bf16::ZERO; 2]; n_out.div_ceil(PANEL) * n_pairs * PANEL];
        panels.par_chunks_mut(n_pairs * PANEL).enumerate().for_each(|(at, panel)| {
            for (pair, column) in (0..n_pairs).flat_map(|pair| (0..PANEL).map(move |column| (pair, column))) {
                let output = at * PANEL + column;
                panel[place(pair, column) + column % TILE + pair % TILE * TILE] =
                    [number(2 * pair, output), number(2 * pair + 1, output)];
            }
        });
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
        let n_pairs = HalfDense::n_pairs(self.n_in);
        let rows = packed(x, self.n_in);
        let mut sums = [[0.0; PANEL]; ROWS];
        for (at, panel) in self.panels.chunks_exact(n_pairs * PANEL).enumerate() {
            let columns = at * PANEL..((at + 1) * PANEL).min(self.n_out);
            for (rows, to) in rows.chunks_exact(ROWS * n_pairs).zip(to.chunks_mut(ROWS * self.n_out)) {
                sum(rows, panel, &mut sums);
                for (to, sums) in to.chunks_exact_mut(self.n_out).zip(&sums) {
                    to[columns.clone()].iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                }
            }
        }
    }
}

/// Where the tile of a pair and a row or column begins among those of 32.
fn place(pair: usize, of: usize) -> usize {
    (pair / TILE * (ROWS / TILE) + of / TILE) * TILE * TILE
}

/// Rows of `n_in` numbers in blocks of 32, tile after tile; rows that fill the last block are zeros.
fn packed(x: &[f32], n_in: usize) -> Vec<Pair> {
    let (n_rows, n_pairs) = (x.len() / n_in, HalfDense::n_pairs(n_in));
    let mut rows = vec![[bf16::ZERO; 2]; n_rows.div_ceil(ROWS) * ROWS * n_pairs];
    on_best_unit(
        #[inline(always)]
        || {
            for (block, x) in rows.chunks_exact_mut(ROWS * n_pairs).zip(x.chunks(ROWS * n_in)) {
                for (row, x) in x.chunks_exact(n_in).enumerate() {
                    for (step, x) in x.chunks(2 * TILE).enumerate() {
                        let into = &mut block[place(step * TILE, row) + row % TILE * TILE..][..TILE];
                        into.as_flattened_mut().iter_mut().zip(x).for_each(|(into, &x)| *into = rounded(x));
                    }
                }
            }
        },
    );
    rows
}

/// To the nearest, of two the even one; in a way that a compiler makes vector instructions of.
#[inline(always)]
fn rounded(x: f32) -> bf16 {
    let bits = x.to_bits();
    bf16::from_bits((bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16)
}

/// A block of rows with one panel.
fn sum(rows: &[Pair], panel: &[Pair], sums: &mut [[f32; PANEL]; ROWS]) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if HalfDense::is_fast() {
        return tiles::sum(rows, panel, sums);
    }
    plain(rows, panel, sums);
}

/// The slow obvious way.
fn plain(rows: &[Pair], panel: &[Pair], sums: &mut [[f32; PANEL]; ROWS]) {
    for (row, sums) in sums.iter_mut().enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            let of = |pair: usize| {
                let inputs = rows[place(pair, row) + row % TILE * TILE + pair % TILE];
                let weights = panel[place(pair, column) + pair % TILE * TILE + column % TILE];
                inputs[0].to_f32() * weights[0].to_f32() + inputs[1].to_f32() * weights[1].to_f32()
            };
            *sum = (0..rows.len() / ROWS).map(of).sum();
        }
    }
}

/// Intel's tile instructions (AMX-BF16; Intel's Software Developer's Manual, volume 1, chapter 18).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use std::{
        arch::{asm, x86_64::__cpuid_count},
        sync::OnceLock,
    };

    use super::{PANEL, Pair, ROWS, TILE};

    /// What the eight tiles are: 16 rows of 64 bytes each.
    #[repr(C, align(64))]
    struct Shapes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static SHAPES: Shapes = Shapes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// The processor has them, and the kernel keeps them for this process: it has to be asked once.
    pub fn are_there() -> bool {
        static ARE_THERE: OnceLock<bool> = OnceLock::new();
        *ARE_THERE.get_or_init(|| {
            const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
            __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES && are_allowed()
        })
    }

    /// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`
    fn are_allowed() -> bool {
        let mut answer: i64 = 158;
        // SAFETY: a system call that reads no memory of ours.
        unsafe {
            asm!("syscall", inout("rax") answer, in("rdi") 0x1023, in("rsi") 18, out("rcx") _, out("r11") _, options(nostack));
        }
        answer == 0
    }

    /// A block of rows with one panel.
    pub fn sum(rows: &[Pair], panel: &[Pair], sums: &mut [[f32; PANEL]; ROWS]) {
        let n_pairs = rows.len() / ROWS;
        assert!(are_there() && n_pairs > 0 && n_pairs.is_multiple_of(TILE));
        assert!(rows.len() == ROWS * n_pairs && panel.len() == n_pairs * PANEL);
        // SAFETY: the assertions keep every tile inside its slice: a step reads two of rows and two of the panel, 1024 bytes each, and there are
        // as many steps as 16 pairs; four are written as 32 rows of 32 sums. Nothing else uses tiles.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{rows} + 1*{tile_row}]",
                "tileloadd tmm6, [{panel} + 1*{tile_row}]",
                "tileloadd tmm5, [{rows} + 1*{tile_row} + 1024]",
                "tileloadd tmm7, [{panel} + 1*{tile_row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {rows}, 2048",
                "add {panel}, 2048",
                "dec {n_steps}",
                "jnz 2b",
                "tilestored [{sums} + 1*{sums_row}], tmm0",
                "tilestored [{sums} + 1*{sums_row} + 64], tmm1",
                "tilestored [{sums} + 1*{sums_row} + 2048], tmm2",
                "tilestored [{sums} + 1*{sums_row} + 2112], tmm3",
                "tilerelease",
                shapes = in(reg) &raw const SHAPES,
                rows = inout(reg) rows.as_ptr() => _,
                panel = inout(reg) panel.as_ptr() => _,
                tile_row = in(reg) size_of::<Pair>() * TILE,
                n_steps = inout(reg) n_pairs / TILE => _,
                sums = in(reg) sums.as_mut_ptr(),
                sums_row = in(reg) size_of::<f32>() * PANEL,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        const {
            assert!(
                TILE * TILE * size_of::<Pair>() == 1024 && TILE * PANEL * 4 == 2048,
                "what the instructions count in"
            )
        };
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
        for (n_rows, n_in, n_out) in [(1, 1, 1), (32, 32, 64), (33, 33, 65), (70, 130, 200)] {
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
    fn rounding_is_to_the_nearest() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for x in
            (0..10_000).map(|_| rng.random_range(-4.0f32..4.0)).chain([0.0, -0.0, 1.0, f32::INFINITY, 1e-40, f32::MAX])
        {
            assert_eq!(rounded(x).to_bits(), bf16::from_f32(x).to_bits(), "{x}");
        }
        assert!(rounded(f32::INFINITY - f32::INFINITY).is_nan());
    }

    #[test]
    fn both_ways_to_sum_agree() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut numbers =
            |n: usize| (0..n).map(|_| [0, 1].map(|_| bf16::from_f32(rng.random_range(-1.0..1.0)))).collect();
        let (rows, panel): (Vec<[bf16; 2]>, Vec<[bf16; 2]>) = (numbers(ROWS * 48), numbers(48 * PANEL));
        let (mut one, mut other) = ([[7.0; PANEL]; ROWS], [[0.0; PANEL]; ROWS]);
        sum(&rows, &panel, &mut one);
        plain(&rows, &panel, &mut other);
        let far = one.as_flattened().iter().zip(other.as_flattened()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{far}");
    }
}

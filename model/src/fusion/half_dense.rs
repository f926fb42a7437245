//! Large matrices in bf16 for processors that multiply tiles of such numbers (AMX): half the bytes to read and many more products an
//! instruction, sums in f32. Inputs are rounded to 8 bits of precision, so a result is off by some thousandths of its size.

use half::bf16;

/// Columns of a panel: four registers of 16 sums.
const PANEL: usize = 64;
/// Rows that are summed together, and pairs of inputs that go into one instruction.
const ROWS: usize = 32;
const STEP: usize = 16;

/// A matrix as panels of columns: for each pair of inputs, its two numbers for each of 64 outputs.
pub(super) struct HalfDense {
    panels: Vec<[bf16; 2]>,
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

    /// Pairs of inputs, with those that fill the last step.
    fn n_pairs(n_in: usize) -> usize {
        n_in.div_ceil(2 * STEP) * STEP
    }

    /// Weight (in, out), bias (out).
    pub(super) fn of(weight: &[f32], bias: Vec<f32>, n_in: usize) -> HalfDense {
        let n_out = bias.len();
        let (n_pairs, n_panels) = (HalfDense::n_pairs(n_in), n_out.div_ceil(PANEL));
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
        let (n_rows, n_pairs) = (x.len() / self.n_in, HalfDense::n_pairs(self.n_in));
        // Rows that fill the last block are zeros.
        let mut rows = vec![[bf16::ZERO; 2]; n_rows.div_ceil(ROWS) * ROWS * n_pairs];
        for (row, x) in rows.chunks_exact_mut(n_pairs).zip(x.chunks_exact(self.n_in)) {
            row.iter_mut().zip(x.chunks(2)).for_each(|(pair, x)| *pair = pair_of(x));
        }
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

fn pair_of(x: &[f32]) -> [bf16; 2] {
    [bf16::from_f32(x[0]), x.get(1).map_or(bf16::ZERO, |&x| bf16::from_f32(x))]
}

/// A block of rows with one panel.
fn sum(rows: &[[bf16; 2]], panel: &[[bf16; 2]], sums: &mut [[f32; PANEL]; ROWS]) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if HalfDense::is_fast() {
        return tiles::sum(rows, panel, sums);
    }
    plain(rows, panel, sums);
}

/// The slow obvious way.
fn plain(rows: &[[bf16; 2]], panel: &[[bf16; 2]], sums: &mut [[f32; PANEL]; ROWS]) {
    for (row, sums) in rows.chunks_exact(rows.len() / ROWS).zip(sums) {
        sums.fill(0.0);
        for (inputs, weights) in row.iter().zip(panel.chunks_exact(PANEL)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += inputs[0].to_f32() * weight[0].to_f32() + inputs[1].to_f32() * weight[1].to_f32();
            }
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

    use half::bf16;

    use super::{PANEL, ROWS, STEP};

    /// Bytes of a row of a tile.
    const TILE_BYTES: usize = 64;

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
    pub fn sum(rows: &[[bf16; 2]], panel: &[[bf16; 2]], sums: &mut [[f32; PANEL]; ROWS]) {
        let n_pairs = rows.len() / ROWS;
        assert!(are_there() && n_pairs > 0 && n_pairs.is_multiple_of(STEP));
        assert!(rows.len() == ROWS * n_pairs && panel.len() == n_pairs * PANEL);
        let row_bytes = size_of::<[bf16; 2]>() * n_pairs;
        let panel_bytes = size_of::<[bf16; 2]>() * PANEL;
        for columns in (0..PANEL).step_by(PANEL / 2) {
            // SAFETY: the assertions keep every tile inside its slice: 32 rows of pairs, 16 pairs a step; 16 rows of the panel a step, of which
            // two tiles are 32 columns; 32 rows of sums. Nothing else uses tiles.
            unsafe {
                asm!(
                    "ldtilecfg [{shapes}]",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{upper} + 1*{row_bytes}]",
                    "tileloadd tmm5, [{lower} + 1*{row_bytes}]",
                    "tileloadd tmm6, [{panel} + 1*{panel_bytes}]",
                    "tileloadd tmm7, [{panel} + 1*{panel_bytes} + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "add {panel}, 4096",
                    "dec {n_steps}",
                    "jnz 2b",
                    "tilestored [{sums} + 1*{panel_bytes}], tmm0",
                    "tilestored [{sums} + 1*{panel_bytes} + 64], tmm1",
                    "tilestored [{sums} + 1*{panel_bytes} + 4096], tmm2",
                    "tilestored [{sums} + 1*{panel_bytes} + 4160], tmm3",
                    "tilerelease",
                    shapes = in(reg) &raw const SHAPES,
                    upper = inout(reg) rows.as_ptr() => _,
                    lower = inout(reg) rows.as_ptr().add(ROWS / 2 * n_pairs) => _,
                    row_bytes = in(reg) row_bytes,
                    panel = inout(reg) panel.as_ptr().add(columns) => _,
                    panel_bytes = in(reg) panel_bytes,
                    n_steps = inout(reg) n_pairs / STEP => _,
                    sums = in(reg) sums.as_mut_ptr().cast::<f32>().add(columns),
                    options(nostack),
                );
            }
        }
        const { assert!(TILE_BYTES == 4 * STEP && 16 * 4 * PANEL == 4096, "what the instructions count in") };
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

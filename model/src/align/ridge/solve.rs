//! Ridge regression over sparse rows by conjugate gradients: (X^T X + penalty) W = X^T Y, with the diagonal as its preconditioner.
//! Every column is a system of its own; columns are solved in blocks that stay in the cache, block beside block.

use half::f16;
use rayon::prelude::*;

use super::RidgePlan;

/// Columns that are solved together.
const BLOCK: usize = 32;
const MAX_STEPS: usize = 40;
/// Share of the first residual that is left.
const LEFT: f64 = 3e-3;

/// Sparse rows, one behind another.
pub(super) struct Rows {
    entries: Vec<(u32, f32)>,
    ends: Vec<usize>,
    n_columns: usize,
}

impl Rows {
    pub(super) fn new(rows: impl Iterator<Item = Vec<(u32, f32)>>) -> Rows {
        let (mut entries, mut ends) = (Vec::new(), Vec::new());
        for row in rows {
            entries.extend(row);
            ends.push(entries.len());
        }
        let n_columns = entries.iter().map(|&(column, _)| column as usize + 1).max().unwrap_or(0);
        Rows { entries, ends, n_columns }
    }

    fn row(&self, at: usize) -> &[(u32, f32)] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.entries[start..self.ends[at]]
    }
}

/// (features, dim), from the rows that are kept and the target of each row's owner, (owners, dim).
pub(super) fn solve(
    rows: &Rows,
    is_kept: &(dyn Fn(usize) -> bool + Sync),
    targets: &[f32],
    owner_of: &[usize],
    plan: &RidgePlan,
) -> Vec<f16> {
    let (dim, n) = (plan.dim, rows.n_columns);
    let kept: Vec<usize> = (0..rows.ends.len()).filter(|&at| is_kept(at)).collect();
    let mut diagonal = vec![plan.penalty; n];
    kept.iter().flat_map(|&at| rows.row(at)).for_each(|&(column, x)| diagonal[column as usize] += x * x);
    let starts: Vec<usize> = (0..dim).step_by(BLOCK).collect();
    let system = System { rows, kept: &kept, diagonal: &diagonal, penalty: plan.penalty };
    let blocks: Vec<Vec<f32>> = starts
        .par_iter()
        .map(|&start| {
            let width = BLOCK.min(dim - start);
            system.solve(&|at, into| into.copy_from_slice(&targets[owner_of[at] * dim + start..][..width]), width)
        })
        .collect();
    let mut all = vec![f16::ZERO; n * dim];
    for (&start, block) in starts.iter().zip(&blocks) {
        let width = BLOCK.min(dim - start);
        for (row, values) in all.chunks_exact_mut(dim).zip(block.chunks_exact(width)) {
            row[start..start + width].iter_mut().zip(values).for_each(|(to, &x)| *to = f16::from_f32(x));
        }
    }
    all
}

struct System<'a> {
    rows: &'a Rows,
    kept: &'a [usize],
    diagonal: &'a [f32],
    penalty: f32,
}

impl System<'_> {
    /// (features, width)
    fn solve(&self, target: &dyn Fn(usize, &mut [f32]), width: usize) -> Vec<f32> {
        let n = self.rows.n_columns * width;
        let (mut weights, mut residual) = (vec![0.0; n], vec![0.0; n]);
        let mut wanted = vec![0.0; width];
        for &at in self.kept {
            target(at, &mut wanted);
            self.scatter(at, &wanted, &mut residual, width);
        }
        let mut steer: Vec<f32> = self.conditioned(&residual, width);
        let mut fit = dots(&residual, &steer, width);
        let first: f64 = fit.iter().sum();
        let mut product = vec![0.0; n];
        for _ in 0..MAX_STEPS {
            self.apply(&steer, &mut product, width);
            let bend = dots(&steer, &product, width);
            let step: Vec<f32> = fit.iter().zip(&bend).map(|(fit, bend)| (fit / bend.max(1e-30)) as f32).collect();
            add_scaled(&mut weights, &steer, &step, 1.0);
            add_scaled(&mut residual, &product, &step, -1.0);
            let conditioned = self.conditioned(&residual, width);
            let next = dots(&residual, &conditioned, width);
            if next.iter().sum::<f64>() <= LEFT * LEFT * first {
                break;
            }
            let keep: Vec<f32> = next.iter().zip(&fit).map(|(next, fit)| (next / fit.max(1e-30)) as f32).collect();
            for (steer, conditioned) in steer.chunks_exact_mut(width).zip(conditioned.chunks_exact(width)) {
                steer.iter_mut().zip(conditioned).zip(&keep).for_each(|((steer, x), keep)| *steer = x + keep * *steer);
            }
            fit = next;
        }
        weights
    }

    /// (X^T X + penalty) of something.
    fn apply(&self, of: &[f32], into: &mut [f32], width: usize) {
        into.iter_mut().zip(of).for_each(|(into, x)| *into = self.penalty * x);
        let mut sum = vec![0.0; width];
        for &at in self.kept {
            sum.fill(0.0);
            for &(column, x) in self.rows.row(at) {
                let row = &of[column as usize * width..][..width];
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += x * value);
            }
            self.scatter(at, &sum, into, width);
        }
    }

    fn scatter(&self, at: usize, values: &[f32], into: &mut [f32], width: usize) {
        for &(column, x) in self.rows.row(at) {
            let row = &mut into[column as usize * width..][..width];
            row.iter_mut().zip(values).for_each(|(into, value)| *into += x * value);
        }
    }

    fn conditioned(&self, of: &[f32], width: usize) -> Vec<f32> {
        let rows = of.chunks_exact(width).zip(self.diagonal);
        rows.flat_map(|(row, diagonal)| row.iter().map(move |x| x / diagonal)).collect()
    }
}

/// Column by column.
fn dots(a: &[f32], b: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0f64; width];
    for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += f64::from(a * b));
    }
    sums
}

fn add_scaled(into: &mut [f32], of: &[f32], scales: &[f32], sign: f32) {
    for (into, of) in into.chunks_exact_mut(scales.len()).zip(of.chunks_exact(scales.len())) {
        into.iter_mut().zip(of).zip(scales).for_each(|((into, x), scale)| *into += sign * scale * x);
    }
}

//! Operations that candle has no gradient for, or composes from many passes over memory. On the CPU each is one pass over
//! f32, the same on any number of threads; elsewhere, and in halves, they are composed from candle's own.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::builtin::layers::{dot, exp_of_negative, softmax, sum};

/// Rows that one thread takes at a time.
const ROWS_AT_ONCE: usize = 64;

/// The last dimension made mean 0 and variance 1.
pub(crate) fn standardise(x: &Tensor, epsilon: f32) -> Result<Tensor> {
    if is_plain(x) {
        return x.contiguous()?.apply_op1(Standardise { epsilon });
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + f64::from(epsilon))?.sqrt()?)
}

/// Over the last dimension.
pub(crate) fn shares(x: &Tensor) -> Result<Tensor> {
    if is_plain(x) { x.contiguous()?.apply_op1(Shares) } else { candle_nn::ops::softmax(x, D::Minus1) }
}

/// x times the normal distribution's share below x, exactly (by erf).
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    if is_plain(x) { x.contiguous()?.apply_op1(Gelu) } else { x.gelu_erf() }
}

/// The mean of several rows of a table, for each of a list of bags: (rows, dim) to (bags, dim).
pub(crate) fn bag_means(table: &Tensor, bags: &Bags) -> Result<Tensor> {
    if is_plain(table) {
        return table.contiguous()?.apply_op1(BagMeans { bags: bags.clone() });
    }
    let (n_bags, device) = (bags.ends.len(), table.device());
    let (mut owners, mut weights) = (Vec::new(), Vec::new());
    for (bag, rows) in bags.iter().enumerate() {
        owners.extend(std::iter::repeat_n(bag as u32, rows.len()));
        weights.extend(std::iter::repeat_n(1.0 / rows.len() as f32, rows.len()));
    }
    let n = owners.len();
    let picked = table.index_select(&Tensor::from_slice(&bags.rows[..n], n, device)?, 0)?;
    let picked = picked.broadcast_mul(&Tensor::from_vec(weights, (n, 1), device)?.to_dtype(table.dtype())?)?;
    Tensor::zeros((n_bags, table.dim(1)?), table.dtype(), device)?.index_add(
        &Tensor::from_vec(owners, n, device)?,
        &picked,
        0,
    )
}

/// Rows of a table, bag after bag.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bags {
    pub rows: std::sync::Arc<Vec<u32>>,
    /// Where each bag ends.
    pub ends: std::sync::Arc<Vec<usize>>,
}

impl Bags {
    pub(crate) fn new(rows: Vec<u32>, ends: Vec<usize>) -> Bags {
        assert_eq!(ends.last().copied().unwrap_or(0), rows.len(), "the last bag ends with the rows");
        Bags { rows: rows.into(), ends: ends.into() }
    }

    fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends.iter()).map(|(start, &end)| &self.rows[start..end])
    }

    fn of(&self, bag: usize) -> &[u32] {
        let start = if bag == 0 { 0 } else { self.ends[bag - 1] };
        &self.rows[start..self.ends[bag]]
    }
}

fn is_plain(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected rows that lie one after another"),
    }
}

fn width(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1).max(1)
}

/// `into` each row of the outcome, from the rows of one input.
fn by_row(
    (storage, layout): (&CpuStorage, &Layout),
    into: impl Fn(&[f32], &mut [f32]) + Sync,
) -> Result<(CpuStorage, Shape)> {
    let (x, n) = (numbers(storage, layout)?, width(layout));
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(n * ROWS_AT_ONCE).zip(x.par_chunks(n * ROWS_AT_ONCE)).for_each(|(y, x)| {
        y.chunks_exact_mut(n).zip(x.chunks_exact(n)).for_each(|(y, x)| into(x, y));
    });
    Ok((CpuStorage::F32(y), layout.shape().clone()))
}

/// The same from the rows of two inputs.
fn by_two_rows(
    (first, first_layout): (&CpuStorage, &Layout),
    (second, second_layout): (&CpuStorage, &Layout),
    into: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) -> Result<(CpuStorage, Shape)> {
    let (a, b, n) = (numbers(first, first_layout)?, numbers(second, second_layout)?, width(first_layout));
    let (mut y, step) = (vec![0.0; a.len()], n * ROWS_AT_ONCE);
    y.par_chunks_mut(step).zip(a.par_chunks(step).zip(b.par_chunks(step))).for_each(|(y, (a, b))| {
        let inputs = a.chunks_exact(n).zip(b.chunks_exact(n));
        y.chunks_exact_mut(n).zip(inputs).for_each(|(y, (a, b))| into(a, b, y));
    });
    Ok((CpuStorage::F32(y), first_layout.shape().clone()))
}

struct Standardise {
    epsilon: f32,
}

impl Standardise {
    /// Mean, and one over the deviation.
    fn measure(&self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = sum(x) / n;
        let squares: f32 = {
            let mut strands = [0.0f32; 8];
            let eights = x.chunks_exact(8);
            let rest: f32 = eights.remainder().iter().map(|x| (x - mean) * (x - mean)).sum();
            eights.for_each(|eight| (0..8).for_each(|i| strands[i] += (eight[i] - mean) * (eight[i] - mean)));
            strands.iter().sum::<f32>() + rest
        };
        (mean, 1.0 / (squares / n + self.epsilon).sqrt())
    }
}

impl CustomOp1 for Standardise {
    fn name(&self) -> &'static str {
        "standardise"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_row((storage, layout), |x, y| {
            let (mean, inverse) = self.measure(x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) * inverse);
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let back = StandardiseBack(Standardise { epsilon: self.epsilon });
        x.apply_op2_no_bwd(&dy.contiguous()?, &back).map(Some)
    }
}

struct StandardiseBack(Standardise);

impl CustomOp2 for StandardiseBack {
    fn name(&self) -> &'static str {
        "standardise-back"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, dy: &CpuStorage, ldy: &Layout) -> Result<(CpuStorage, Shape)> {
        by_two_rows((x, lx), (dy, ldy), |x, dy, dx| {
            let ((shift, inverse), n) = (self.0.measure(x), x.len() as f32);
            dx.iter_mut().zip(x).for_each(|(plain, x)| *plain = (x - shift) * inverse);
            let (mean, along) = (sum(dy) / n, dot(dy, dx) / n);
            dx.iter_mut().zip(dy).for_each(|(plain, dy)| *plain = (dy - mean - *plain * along) * inverse);
        })
    }
}

struct Shares;

impl CustomOp1 for Shares {
    fn name(&self) -> &'static str {
        "shares"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_row((storage, layout), |x, y| {
            y.copy_from_slice(x);
            softmax(y);
        })
    }

    fn bwd(&self, _: &Tensor, shares: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        shares.apply_op2_no_bwd(&dy.contiguous()?, &SharesBack).map(Some)
    }
}

struct SharesBack;

impl CustomOp2 for SharesBack {
    fn name(&self) -> &'static str {
        "shares-back"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, dy: &CpuStorage, ldy: &Layout) -> Result<(CpuStorage, Shape)> {
        by_two_rows((y, ly), (dy, ldy), |share, dy, dx| {
            let along = dot(share, dy);
            dx.iter_mut().zip(share.iter().zip(dy)).for_each(|(dx, (share, dy))| *dx = share * (dy - along));
        })
    }
}

struct Gelu;

/// Share of the normal distribution below x (Abramowitz and Stegun 7.1.26, to 1.5e-7), and its density.
fn normal(x: f32) -> (f32, f32) {
    let bell = exp_of_negative(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let series = t * (0.254_829_6 + t * (-0.284_496_73 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let tail = 0.5 * series * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell * 0.398_942_3)
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_row((storage, layout), |x, y| y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * normal(x).0))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&dy.contiguous()?, &GeluBack).map(Some)
    }
}

struct GeluBack;

impl CustomOp2 for GeluBack {
    fn name(&self) -> &'static str {
        "gelu-back"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, dy: &CpuStorage, ldy: &Layout) -> Result<(CpuStorage, Shape)> {
        by_two_rows((x, lx), (dy, ldy), |x, dy, dx| {
            for (dx, (&x, dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
                let (share, density) = normal(x);
                *dx = dy * (share + x * density);
            }
        })
    }
}

struct BagMeans {
    bags: Bags,
}

impl CustomOp1 for BagMeans {
    fn name(&self) -> &'static str {
        "bag-means"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (table, dim) = (numbers(storage, layout)?, width(layout));
        let n_bags = self.bags.ends.len();
        let mut means = vec![0.0; n_bags * dim];
        means.par_chunks_mut(dim * ROWS_AT_ONCE).enumerate().for_each(|(chunk, means)| {
            for (at, mean) in means.chunks_exact_mut(dim).enumerate() {
                let rows = self.bags.of(chunk * ROWS_AT_ONCE + at);
                let weight = 1.0 / rows.len().max(1) as f32;
                for &row in rows {
                    let row = &table[row as usize * dim..][..dim];
                    mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x * weight);
                }
            }
        });
        Ok((CpuStorage::F32(means), Shape::from((n_bags, dim))))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let back = BagMeansBack { bags: self.bags.clone(), n_rows: table.dim(0)? };
        dy.contiguous()?.apply_op1_no_bwd(&back).map(Some)
    }
}

struct BagMeansBack {
    bags: Bags,
    n_rows: usize,
}

impl CustomOp1 for BagMeansBack {
    fn name(&self) -> &'static str {
        "bag-means-back"
    }

    /// Always added in the order of the bags, so on one thread.
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (dy, dim) = (numbers(storage, layout)?, width(layout));
        let mut slopes = vec![0.0; self.n_rows * dim];
        for (rows, dy) in self.bags.iter().zip(dy.chunks_exact(dim)) {
            let weight = 1.0 / rows.len().max(1) as f32;
            for &row in rows {
                let slope = &mut slopes[row as usize * dim..][..dim];
                slope.iter_mut().zip(dy).for_each(|(slope, dy)| *slope += dy * weight);
            }
        }
        Ok((CpuStorage::F32(slopes), Shape::from((self.n_rows, dim))))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37) % 23) as f32 / 7.0 - 1.5).collect()
    }

    /// Both ways forwards, and their gradients, agree.
    fn check(name: &str, fast: impl Fn(&Tensor) -> Result<Tensor>, slow: impl Fn(&Tensor) -> Result<Tensor>) {
        let x = Var::from_tensor(&Tensor::from_vec(values(60), (4, 15), &Device::Cpu).unwrap()).unwrap();
        let [(y, dy), (expected, dexpected)] = [fast(&x), slow(&x)].map(|y| {
            let y = y.unwrap();
            let target = Tensor::from_vec(values(y.elem_count()), y.dims(), &Device::Cpu).unwrap();
            let slope = (&y * target).unwrap().sum_all().unwrap().backward().unwrap().remove(&x).unwrap();
            (y, slope)
        });
        for (received, expected) in [(y, expected), (dy, dexpected)] {
            let far = (received - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(far < 2e-6, "{name}: {far}");
        }
    }

    #[test]
    fn one_pass_is_the_same_as_many() {
        let composed = |x: &Tensor| {
            let centred = x.broadcast_sub(&x.mean_keepdim(1)?)?;
            centred.broadcast_div(&(centred.sqr()?.mean_keepdim(1)? + 1e-5)?.sqrt()?)
        };
        check("standardise", |x| standardise(x, 1e-5), composed);
        check("shares", shares, |x| candle_nn::ops::softmax(x, D::Minus1));
        check("gelu", gelu, Tensor::gelu_erf);
        let bags = Bags::new(vec![0, 3, 3, 1, 2, 0], vec![2, 5, 6]);
        let weights = Tensor::new(
            &[[0.5f32, 0.0, 0.0, 0.5], [0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0], [1.0, 0.0, 0.0, 0.0]],
            &Device::Cpu,
        );
        check("bags", |x| bag_means(x, &bags), |x| weights.as_ref().unwrap().matmul(x));
        let halves = Tensor::from_vec(values(60), (4, 15), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        let composed = bag_means(&halves, &bags).unwrap().to_dtype(DType::F32).unwrap();
        let plain = bag_means(&halves.to_dtype(DType::F32).unwrap(), &bags).unwrap();
        let far = (composed - plain).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(far < 1e-6, "bags in other numbers: {far}");
    }
}

//! Where texts are brought to: images on their principal axes, each divided by its deviation, unit length. It is fixed before
//! anything is learnt, so that towers solved on other parts of the data meet in it.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use nalgebra::{DMatrix, linalg::SymmetricEigen};

use super::RidgePlan;
use crate::{
    Error, Result,
    align::{FrozenImages, facet_store::make_unit},
    learn::tensors::numbers,
    product::{Product, View},
};

pub(super) struct Space {
    mean: Vec<f32>,
    /// (dim in, dim)
    axes: Vec<f32>,
}

impl Space {
    /// By the training images alone.
    pub(super) fn measure(
        images: &FrozenImages,
        train: &[usize],
        plan: &RidgePlan,
    ) -> std::result::Result<Space, String> {
        let (dim_in, n) = (images.vectors.dim, train.len());
        let mut sums = vec![0f64; dim_in];
        for &at in train {
            sums.iter_mut().zip(images.vectors.row(at)).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / n as f64) as f32).collect();
        let centred: Vec<f32> =
            train.iter().flat_map(|&at| images.vectors.row(at).iter().zip(&mean).map(|(x, mean)| x - mean)).collect();
        let mut covariance = vec![0.0; dim_in * dim_in];
        let view = View::rows(&centred, dim_in);
        let product = Product { size: [dim_in, dim_in, n], scale: 1.0, n_threads: rayon::current_num_threads() };
        product.write(view.transposed(), view, &mut covariance, dim_in);

        if covariance.iter().any(|x| !x.is_finite()) {
            return Err("expected images of smaller numbers: their squares are past what a float holds".to_owned());
        }
        let found =
            SymmetricEigen::new(DMatrix::from_iterator(dim_in, dim_in, covariance.iter().map(|&x| f64::from(x))));
        let mut order: Vec<usize> = (0..dim_in).collect();
        order.sort_by(|&a, &b| found.eigenvalues[b].total_cmp(&found.eigenvalues[a]));
        let deviation = |axis: usize| found.eigenvalues[axis].max(0.0).sqrt();
        let largest = deviation(order[0]);
        if !largest.is_finite() || largest < 1e-12 {
            return Err("expected images of more than one kind".to_owned());
        }
        let mut axes = vec![0.0; dim_in * plan.dim];
        for (to, &axis) in order.iter().take(plan.dim).enumerate() {
            let scale = 1.0 / (deviation(axis) + (f64::from(plan.softening) * largest).max(1e-6 * largest));
            let column = found.eigenvectors.column(axis);
            // An axis has two ends: the one of its largest number is taken.
            let sign = column.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0).signum();
            column.iter().enumerate().for_each(|(from, x)| axes[from * plan.dim + to] = (x * sign * scale) as f32);
        }
        Ok(Space { mean, axes })
    }

    pub(super) fn dim_in(&self) -> usize {
        self.mean.len()
    }

    /// (images, dim), unit length; of an image that is the mean itself, the first axis.
    pub(super) fn of(&self, images: &FrozenImages) -> Vec<f32> {
        let (dim_in, n) = (self.dim_in(), images.ids().len());
        let dim = self.axes.len() / dim_in;
        let centred: Vec<f32> =
            (0..n).flat_map(|at| images.vectors.row(at).iter().zip(&self.mean).map(|(x, mean)| x - mean)).collect();
        let mut rows = vec![0.0; n * dim];
        let product = Product { size: [n, dim, dim_in], scale: 1.0, n_threads: rayon::current_num_threads() };
        product.write(View::rows(&centred, dim_in), View::rows(&self.axes, dim), &mut rows, dim);
        for row in rows.chunks_exact_mut(dim) {
            if row.iter().all(|&x| x == 0.0) {
                row[0] = 1.0;
            }
            make_unit(row);
        }
        rows
    }

    pub(super) fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let (dim_in, device) = (self.dim_in(), &Device::Cpu);
        let shape = (dim_in, self.axes.len() / dim_in);
        Ok(vec![
            ("images.mean".to_owned(), Tensor::from_slice(&self.mean, dim_in, device)?),
            ("images.axes".to_owned(), Tensor::from_slice(&self.axes, shape, device)?),
        ])
    }

    pub(super) fn from_tensors(tensors: &HashMap<String, Tensor>, dim: usize, path: &Path) -> Result<Space> {
        let dim_in = tensors.get("images.mean").map_or(0, Tensor::elem_count);
        let numbers = |name: &str, shape: &[usize]| -> Result<Vec<f32>> { numbers(tensors, name, shape, path) };
        let space = Space { mean: numbers("images.mean", &[dim_in])?, axes: numbers("images.axes", &[dim_in, dim])? };
        if dim_in == 0 || space.mean.iter().chain(&space.axes).any(|x| !x.is_finite()) {
            let detail = "images: expected axes of finite numbers".to_owned();
            return Err(Error::BadFile { file: path.to_owned(), detail });
        }
        Ok(space)
    }
}

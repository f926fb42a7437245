//! A place among the weights, from which the parts of a tower are read by the names that transformers gives them.

use candle_core::{Device, Tensor};
use candle_nn::{LayerNorm, Linear};

use super::{
    config::{TowerConfig, VisionConfig},
    towers::Block,
    weights::Weights,
};
use crate::Result;

pub(crate) struct Source<'a> {
    weights: &'a Weights,
    device: &'a Device,
    at: String,
}

impl<'a> Source<'a> {
    pub(crate) fn new(weights: &'a Weights, device: &'a Device) -> Source<'a> {
        Source { weights, device, at: String::new() }
    }

    pub(crate) fn under(&self, name: &str) -> Source<'a> {
        Source { at: self.at(name), ..*self }
    }

    fn at(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    pub(crate) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.weights.get(&self.at(name), shape, self.device)
    }

    pub(crate) fn linear(&self, name: &str, out_dim: usize, in_dim: usize) -> Result<Linear> {
        let weight = self.get(&format!("{name}.weight"), &[out_dim, in_dim])?;
        Ok(Linear::new(weight, Some(self.get(&format!("{name}.bias"), &[out_dim])?)))
    }

    pub(crate) fn linear_no_bias(&self, name: &str, out_dim: usize, in_dim: usize) -> Result<Linear> {
        Ok(Linear::new(self.get(&format!("{name}.weight"), &[out_dim, in_dim])?, None))
    }

    pub(crate) fn norm(&self, name: &str, tower: &TowerConfig) -> Result<LayerNorm> {
        let dim = [tower.hidden_size];
        let weight = self.get(&format!("{name}.weight"), &dim)?;
        Ok(LayerNorm::new(weight, self.get(&format!("{name}.bias"), &dim)?, tower.layer_norm_eps))
    }

    /// (dim, 3 * patch * patch)
    pub(crate) fn patch_kernel(&self, vision: &VisionConfig) -> Result<Tensor> {
        let (dim, patch) = (vision.tower.hidden_size, vision.patch_size);
        Ok(self.get("embeddings.patch_embedding.weight", &[dim, 3, patch, patch])?.flatten_from(1)?)
    }

    /// Query, key and value in one map; the scale of attention is folded into the query.
    pub(crate) fn qkv(&self, names: [&str; 3], tower: &TowerConfig) -> Result<Linear> {
        let dim = tower.hidden_size;
        let scale = tower.attention_scale();
        let parts = names.into_iter().map(|name| self.linear(name, dim, dim));
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        let bias = |linear: &Linear| linear.bias().expect("read with a bias").clone();
        parts[0] = Linear::new((parts[0].weight() * scale)?, Some((bias(&parts[0]) * scale)?));
        let weights: Vec<Tensor> = parts.iter().map(|p| p.weight().clone()).collect();
        let biases: Vec<Tensor> = parts.iter().map(bias).collect();
        Ok(Linear::new(Tensor::cat(&weights, 0)?, Some(Tensor::cat(&biases, 0)?)))
    }

    pub(super) fn blocks(&self, tower: &TowerConfig) -> Result<Vec<Block>> {
        let layer = |i: usize| self.under(&format!("encoder.layers.{i}"));
        (0..tower.n_layers).map(|i| Block::load(&layer(i), tower)).collect()
    }
}

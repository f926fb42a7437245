//! The image side of FLAME (arXiv 2411.11927): an OpenCLIP tower that stops after its last block, a projector to the space of the frozen
//! LLM's facets, and the mean over the patches. A checkpoint stands alone: its sizes are those of its tensors, and what it holds of
//! the text side is not read.
//!
//! Judged by torch, see `model/fixtures/make_flame.py`.

use candle_core::Device;
use candle_nn::{LayerNorm, Linear};

use super::{
    clip,
    config::{Activation, VisionConfig, n_numbers, with_bias},
    frozen_block, image_memory, is_known_spare,
    open_clip::{shape, vision_of_tensors, wrong},
    source::Source,
    towers::{ImageHead, ImageTower, Projector},
    weights::Weights,
};
use crate::{Memory, Result};

pub(crate) const FAMILY: &str = "flame";
const NORM_EPS: f64 = 1e-5;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub vision: VisionConfig,
    /// Width within the projector.
    hidden: usize,
    pub dim: usize,
}

/// Whether a checkpoint has the projector.
pub(crate) fn is_one(weights: &Weights) -> bool {
    weights.shape("mm.0.weight").is_some()
}

impl Config {
    pub(crate) fn of_tensors(weights: &Weights) -> Result<Config> {
        if !is_one(weights) {
            return Err(wrong(weights, "mm.0.weight", "the projector of FLAME"));
        }
        let [hidden, _] = shape::<2>(weights, "mm.0.weight")?;
        let [dim, _] = shape::<2>(weights, "mm.2.weight")?;
        Ok(Config { vision: vision_of_tensors(weights, Activation::Gelu)?, hidden, dim })
    }

    /// Name and shape of every tensor that is read.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Config { vision, hidden, dim } = self;
        let (width, patch) = (vision.tower.hidden_size, vision.patch_size);
        let mut tensors = vec![
            ("vision_model.embeddings.patch_embedding.weight".to_owned(), vec![width, 3, patch, patch]),
            ("vision_model.embeddings.position_embedding.weight".to_owned(), vec![vision.n_patches() + 1, width]),
            ("vision_model.embeddings.class_embedding".to_owned(), vec![width]),
        ];
        tensors.extend(with_bias("vision_model.pre_layrnorm", vec![width]));
        tensors.extend(vision.tower.block_tensors("vision_model"));
        tensors.extend(with_bias("mm.0", vec![*hidden, width]));
        tensors.extend(with_bias("mm.2", vec![*dim, *hidden]));
        tensors.extend(with_bias("mm.3", vec![*dim]));
        tensors
    }

    pub(crate) fn n_parameters(&self) -> u64 {
        self.tensors().iter().map(n_numbers).sum()
    }
}

/// What its image side takes on each kind of device.
pub(crate) fn memory(config: &Config) -> Vec<Memory> {
    image_memory(&config.vision, config.vision.n_patches() + 1, config.n_parameters())
}

/// What a FLAME checkpoint holds beside: sizes and scales, the text side, and what of the image tower comes after its last block.
pub(crate) fn is_spare(tensor: &str) -> bool {
    if is_known_spare(tensor) {
        return true;
    }
    let tensor = tensor.strip_prefix("module.").unwrap_or(tensor);
    // The maps are read around a block, and a checkpoint with them is refused without one.
    ["text.", "visual.ln_post.", "visual.proj", frozen_block::MAPPERS].iter().any(|name| tensor.starts_with(name))
}

pub(super) fn image_tower(weights: &Weights, config: &Config, device: &Device) -> Result<ImageTower> {
    let (vision, from) = (&config.vision, Source::new(weights, device));
    let from_vision = from.under("vision_model");
    let (class, positions) = clip::class_token(&from_vision, vision)?;
    Ok(ImageTower {
        patch_embedding: Linear::new(from_vision.patch_kernel(vision)?, None),
        positions,
        class: Some(class),
        blocks: from_vision.blocks(&vision.tower)?,
        inside: None,
        post_norm: None,
        head: ImageHead::Mean(Projector {
            up: from.linear("mm.0", config.hidden, vision.tower.hidden_size)?,
            out: from.linear("mm.2", config.dim, config.hidden)?,
            norm: norm(&from, config.dim)?,
        }),
        grid: vision.grid(),
        patch: vision.patch_size,
    })
}

fn norm(from: &Source, dim: usize) -> Result<LayerNorm> {
    Ok(LayerNorm::new(from.get("mm.3.weight", &[dim])?, from.get("mm.3.bias", &[dim])?, NORM_EPS))
}

//! What is CLIP's own: its defaults, the class token that stands for an image, a text tower that looks back only.

use candle_core::{IndexOp, Tensor};
use candle_nn::{Embedding, Linear};
use serde_json::Value;

use super::{
    Family,
    config::{Activation, Config, Fields, Pooling, TextConfig, TowerDefaults, VisionConfig, with_bias},
    source::Source,
    towers::{ClassToken, ImageHead, ImageTower, TextTower},
};
use crate::Result;

const TEXT: TowerDefaults = TowerDefaults { width: 512, activation: Activation::QuickGelu, layer_norm_eps: 1e-5 };
const VISION: TowerDefaults = TowerDefaults { width: 768, ..TEXT };

pub(super) fn config(json: &Value) -> Result<Config, String> {
    let text = Fields::of_tower(json, "text_config")?;
    let vision = Fields::of_tower(json, "vision_config")?;
    let pooling = match text.count("eos_token_id", 49_407, u32::MAX as usize)? {
        2 => Pooling::LargestId,
        eos => Pooling::First(eos as u32),
    };
    Ok(Config {
        family: Family::Clip,
        projection_dim: Fields { json, at: "" }.count("projection_dim", 512, 1 << 16)?,
        text: TextConfig::from_fields(&text, &TEXT, (49_408, 77), pooling)?,
        vision: VisionConfig::from_fields(&vision, &VISION, 32)?,
    })
}

/// Beside those that every family has.
pub(super) fn tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (t, v) = (config.text.tower.hidden_size, config.vision.tower.hidden_size);
    let mut tensors = vec![
        ("vision_model.embeddings.class_embedding".to_owned(), vec![v]),
        ("text_projection.weight".to_owned(), vec![config.projection_dim, t]),
        ("visual_projection.weight".to_owned(), vec![config.projection_dim, v]),
    ];
    tensors.extend(with_bias("vision_model.pre_layrnorm", vec![v]));
    tensors
}

pub(super) fn image_tower(from: &Source, config: &Config) -> Result<ImageTower> {
    let (vision, tower, from_vision) = (&config.vision, &config.vision.tower, from.under("vision_model"));
    let (class, positions) = class_token(&from_vision, vision)?;
    Ok(ImageTower {
        patch_embedding: Linear::new(from_vision.patch_kernel(vision)?, None),
        positions,
        class: Some(class),
        blocks: from_vision.blocks(tower)?,
        inside: None,
        post_norm: Some(from_vision.norm("post_layernorm", tower)?),
        head: ImageHead::Class(from.linear_no_bias("visual_projection", config.projection_dim, tower.hidden_size)?),
        grid: vision.grid(),
        patch: vision.patch_size,
    })
}

/// The class token, and the places of the patches behind it, (patches, dim).
pub(super) fn class_token(from_vision: &Source, vision: &VisionConfig) -> Result<(ClassToken, Tensor)> {
    let dim = vision.tower.hidden_size;
    let positions = from_vision.get("embeddings.position_embedding.weight", &[vision.n_patches() + 1, dim])?;
    let class = from_vision.get("embeddings.class_embedding", &[dim])?;
    let token = (class + positions.i(0)?)?.reshape((1, 1, dim))?;
    let pre_norm = from_vision.norm("pre_layrnorm", &vision.tower)?;
    Ok((ClassToken { token, pre_norm }, positions.i(1..)?.contiguous()?))
}

pub(super) fn text_tower(from: &Source, config: &Config) -> Result<TextTower> {
    let (text, tower) = (&config.text, &config.text.tower);
    let (dim, from_text) = (tower.hidden_size, from.under("text_model"));
    Ok(TextTower {
        tokens: Embedding::new(from_text.get("embeddings.token_embedding.weight", &[text.vocab_size, dim])?, dim),
        positions: from_text.get("embeddings.position_embedding.weight", &[text.max_position_embeddings, dim])?,
        blocks: from_text.blocks(tower)?,
        final_norm: from_text.norm("final_layer_norm", tower)?,
        projection: from.linear_no_bias("text_projection", config.projection_dim, dim)?,
        causal: true,
    })
}

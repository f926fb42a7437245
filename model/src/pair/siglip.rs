//! What is SigLIP's own, SigLIP 2 of fixed resolution included: a learnt query that pools the patches, a text tower that sees
//! all of its 64 tokens, padding too, and the sigmoid that it was trained with in place of a softmax.

use candle_core::{Device, Module, Tensor};
use candle_nn::{Embedding, Linear};
use serde_json::Value;

use super::{
    Family,
    config::{Activation, Config, Fields, Pooling, TextConfig, TowerConfig, TowerDefaults, VisionConfig, with_bias},
    source::Source,
    towers::{AttentionPool, ImageHead, ImageTower, Mlp, TextTower},
    weights::Weights,
};
use crate::{Result, Sigmoid};

const TOWER: TowerDefaults = TowerDefaults { width: 768, activation: Activation::GeluTanh, layer_norm_eps: 1e-6 };

pub(super) fn config(json: &Value) -> Result<Config, String> {
    let text_fields = Fields::of_tower(json, "text_config")?;
    let vision_fields = Fields::of_tower(json, "vision_config")?;
    let text = TextConfig::from_fields(&text_fields, &TOWER, (32_000, 64), Pooling::Last)?;
    let vision = VisionConfig::from_fields(&vision_fields, &TOWER, 16)?;
    let projection_dim = text_fields.count("projection_size", text.tower.hidden_size, 1 << 16)?;
    let image_dim = vision.tower.hidden_size;
    if projection_dim != image_dim {
        return Err(format!("text_config: texts become {projection_dim} numbers: expected {image_dim}, as images do"));
    }
    if vision_fields.json["vision_use_head"] == Value::Bool(false) {
        return Err("vision_config.vision_use_head: expected true, received false".to_owned());
    }
    Ok(Config { family: Family::Siglip, projection_dim, text, vision })
}

/// Beside those that every family has.
pub(super) fn tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (t, v, wide) =
        (config.text.tower.hidden_size, config.vision.tower.hidden_size, config.vision.tower.intermediate_size);
    let mut tensors = vec![
        ("logit_scale".to_owned(), vec![1]),
        ("logit_bias".to_owned(), vec![1]),
        ("vision_model.embeddings.patch_embedding.bias".to_owned(), vec![v]),
        ("vision_model.head.probe".to_owned(), vec![1, 1, v]),
        ("vision_model.head.attention.in_proj_weight".to_owned(), vec![3 * v, v]),
        ("vision_model.head.attention.in_proj_bias".to_owned(), vec![3 * v]),
    ];
    for (name, shape) in [
        ("text_model.head", vec![config.projection_dim, t]),
        ("vision_model.head.attention.out_proj", vec![v, v]),
        ("vision_model.head.layernorm", vec![v]),
        ("vision_model.head.mlp.fc1", vec![wide, v]),
        ("vision_model.head.mlp.fc2", vec![v, wide]),
    ] {
        tensors.extend(with_bias(name, shape));
    }
    tensors
}

pub(super) fn sigmoid(weights: &Weights) -> Result<Sigmoid> {
    let number = |name| -> Result<f32> { Ok(weights.get(name, &[1], &Device::Cpu)?.to_vec1()?[0]) };
    Ok(Sigmoid { logit_scale: number("logit_scale")?, logit_bias: number("logit_bias")? })
}

pub(super) fn image_tower(from: &Source, config: &Config) -> Result<ImageTower> {
    let (vision, tower, from) = (&config.vision, &config.vision.tower, from.under("vision_model"));
    let dim = tower.hidden_size;
    let bias = from.get("embeddings.patch_embedding.bias", &[dim])?;
    Ok(ImageTower {
        patch_embedding: Linear::new(from.patch_kernel(vision)?, Some(bias)),
        positions: from.get("embeddings.position_embedding.weight", &[config.image_tokens(), dim])?,
        class: None,
        blocks: from.blocks(tower)?,
        inside: None,
        post_norm: Some(from.norm("post_layernorm", tower)?),
        head: ImageHead::AttentionPool(attention_pool(&from.under("head"), tower)?),
        grid: vision.grid(),
        patch: vision.patch_size,
    })
}

/// The query is the same for every image, so it is projected here once.
fn attention_pool(from: &Source, tower: &TowerConfig) -> Result<AttentionPool> {
    let dim = tower.hidden_size;
    let weight = from.get("attention.in_proj_weight", &[3 * dim, dim])?;
    let bias = from.get("attention.in_proj_bias", &[3 * dim])?;
    let rows = |start, n| -> candle_core::Result<Linear> {
        let part = |tensor: &Tensor| tensor.narrow(0, start, n)?.contiguous();
        Ok(Linear::new(part(&weight)?, Some(part(&bias)?)))
    };
    let probe = from.get("probe", &[1, 1, dim])?.reshape((1, dim))?;
    Ok(AttentionPool {
        query: (rows(0, dim)?.forward(&probe)? * tower.attention_scale())?,
        kv: rows(dim, 2 * dim)?,
        out: from.linear("attention.out_proj", dim, dim)?,
        n_heads: tower.n_heads,
        mlp: Mlp::load(from, "layernorm", tower)?,
    })
}

pub(super) fn text_tower(from: &Source, config: &Config) -> Result<TextTower> {
    let (text, tower, from) = (&config.text, &config.text.tower, from.under("text_model"));
    let dim = tower.hidden_size;
    Ok(TextTower {
        tokens: Embedding::new(from.get("embeddings.token_embedding.weight", &[text.vocab_size, dim])?, dim),
        positions: from.get("embeddings.position_embedding.weight", &[text.max_position_embeddings, dim])?,
        blocks: from.blocks(tower)?,
        final_norm: from.norm("final_layer_norm", tower)?,
        projection: from.linear("head", config.projection_dim, dim)?,
        causal: false,
    })
}

//! The CLIP of candle-transformers on the same weights.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::{
    ClipConfig, ClipModel,
    text_model::{Activation, ClipTextConfig},
    vision_model::ClipVisionConfig,
};
use serde_json::Value;

use super::{Engine, Inputs, Outcome};

impl Engine for ClipModel {
    fn run(&self, inputs: &Inputs, what: &str, n: usize) -> Outcome<Vec<f32>> {
        let rows = match what {
            "image" => {
                let side = inputs.pixels[0].side;
                let values: Vec<f32> = inputs.pixels[..n].iter().flat_map(|p| p.values.clone()).collect();
                self.get_image_features(&Tensor::from_vec(values, (n, 3, side, side), &Device::Cpu)?)?
            }
            "text" => self.get_text_features(&Tensor::new(inputs.ids[..n].to_vec(), &Device::Cpu)?)?,
            _ => return Err("expected image or text".into()),
        };
        Ok(rows.flatten_all()?.to_vec1()?)
    }
}

pub(crate) fn open(folder: &Path) -> Outcome<ClipModel> {
    let json: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let count = |tower: &str, name: &str| json[tower][name].as_u64().ok_or(format!("{tower}.{name}: no number"));
    let text = |name: &str| count("text_config", name).map(|n| n as usize);
    let vision = |name: &str| count("vision_config", name).map(|n| n as usize);
    let projection_dim = json["projection_dim"].as_u64().ok_or("projection_dim: no number")? as usize;
    let config = ClipConfig {
        text_config: ClipTextConfig {
            vocab_size: text("vocab_size")?,
            embed_dim: text("hidden_size")?,
            activation: Activation::QuickGelu,
            intermediate_size: text("intermediate_size")?,
            max_position_embeddings: text("max_position_embeddings")?,
            pad_with: None,
            num_hidden_layers: text("num_hidden_layers")?,
            num_attention_heads: text("num_attention_heads")?,
            projection_dim,
        },
        vision_config: ClipVisionConfig {
            embed_dim: vision("hidden_size")?,
            activation: Activation::QuickGelu,
            intermediate_size: vision("intermediate_size")?,
            num_hidden_layers: vision("num_hidden_layers")?,
            num_attention_heads: vision("num_attention_heads")?,
            projection_dim,
            num_channels: 3,
            image_size: vision("image_size")?,
            patch_size: vision("patch_size")?,
        },
        logit_scale_init_value: 2.6592,
        image_size: vision("image_size")?,
    };
    let file = folder.join("model.safetensors");
    // SAFETY: the script wrote the file, and nobody changes it while this runs.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu)? };
    Ok(ClipModel::new(weights, &config)?)
}

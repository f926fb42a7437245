//! `config.json` of two towers, as transformers 4 and 5 write it, with the defaults that transformers fills in.

use std::path::Path;

use serde_json::Value;

use super::{Family, clip, siglip};
use crate::{Error, Result, folder};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub family: Family,
    pub projection_dim: usize,
    pub text: TextConfig,
    pub vision: VisionConfig,
}

/// What both towers have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TowerConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub activation: Activation,
    pub layer_norm_eps: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TextConfig {
    pub tower: TowerConfig,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub pooling: Pooling,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VisionConfig {
    pub tower: TowerConfig,
    pub image_size: usize,
    pub patch_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x * sigmoid(1.702 x), of the OpenAI weights.
    QuickGelu,
    /// The exact one, of most OpenCLIP weights.
    Gelu,
    GeluTanh,
}

/// Which token stands for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Where the largest id stands: for configs from before transformers 4.31, whose `eos_token_id` is 2 and meaningless.
    LargestId,
    /// Where this id first stands.
    First(u32),
    /// The last of exactly as many as the tower takes, mostly padding; every token sees every other.
    Last,
}

/// What transformers takes for granted of a family's tower.
pub(super) struct TowerDefaults {
    /// The other sizes follow from it, not from what the file says.
    pub width: usize,
    pub activation: Activation,
    pub layer_norm_eps: f64,
}

impl Config {
    pub(crate) fn read(path: &Path, family: Family) -> Result<Config> {
        let json = folder::read_json(path)?;
        Config::of_json(&json, family).map_err(|detail| Error::BadFile { file: path.to_owned(), detail })
    }

    pub(super) fn of_json(json: &Value, family: Family) -> Result<Config, String> {
        match family {
            Family::Clip => clip::config(json),
            Family::Siglip => siglip::config(json),
        }
    }

    /// Name and shape of every tensor that is read.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (text, vision) = (&self.text, &self.vision);
        let (t, v, patch) = (text.tower.hidden_size, vision.tower.hidden_size, vision.patch_size);
        let mut tensors = vec![
            ("text_model.embeddings.token_embedding.weight".to_owned(), vec![text.vocab_size, t]),
            ("text_model.embeddings.position_embedding.weight".to_owned(), vec![text.max_position_embeddings, t]),
            ("vision_model.embeddings.patch_embedding.weight".to_owned(), vec![v, 3, patch, patch]),
            ("vision_model.embeddings.position_embedding.weight".to_owned(), vec![self.image_tokens(), v]),
        ];
        tensors.extend(with_bias("text_model.final_layer_norm", vec![t]));
        tensors.extend(with_bias("vision_model.post_layernorm", vec![v]));
        for (name, tower) in [("text_model", &text.tower), ("vision_model", &vision.tower)] {
            tensors.extend(tower.block_tensors(name));
        }
        tensors.extend(match self.family {
            Family::Clip => clip::tensors(self),
            Family::Siglip => siglip::tensors(self),
        });
        tensors
    }

    pub(crate) fn n_parameters(&self) -> u64 {
        self.tensors().iter().map(n_numbers).sum()
    }

    /// Those of the image tower.
    pub(crate) fn n_image_parameters(&self) -> u64 {
        self.tensors().iter().filter(|(name, _)| is_of_images(name)).map(n_numbers).sum()
    }

    /// Positions of the image tower.
    pub(crate) fn image_tokens(&self) -> usize {
        self.vision.n_patches() + usize::from(self.family == Family::Clip)
    }
}

impl TowerConfig {
    fn from_fields(fields: &Fields, defaults: &TowerDefaults) -> Result<TowerConfig, String> {
        let width = defaults.width;
        TowerConfig {
            hidden_size: fields.count("hidden_size", width, 1 << 15)?,
            intermediate_size: fields.count("intermediate_size", width * 4, 1 << 17)?,
            n_layers: fields.count("num_hidden_layers", 12, 512)?,
            n_heads: fields.count("num_attention_heads", width / 64, 1 << 10)?,
            activation: fields.activation("hidden_act", defaults.activation)?,
            layer_norm_eps: fields.number("layer_norm_eps", defaults.layer_norm_eps)?,
        }
        .validated(fields.at)
    }

    /// The same, if its heads can be made; `at` is where it stands in the file.
    pub(crate) fn validated(self, at: &str) -> Result<TowerConfig, String> {
        let TowerConfig { hidden_size, n_heads, .. } = self;
        if n_heads == 0 || !hidden_size.is_multiple_of(n_heads) {
            return Err(format!("{at}: hidden_size {hidden_size} is not a multiple of {n_heads} heads"));
        }
        Ok(self)
    }

    /// What queries are multiplied with.
    pub(super) fn attention_scale(&self) -> f64 {
        ((self.hidden_size / self.n_heads) as f64).powf(-0.5)
    }

    /// Of a tower's blocks.
    pub(super) fn block_tensors(&self, tower: &str) -> Vec<(String, Vec<usize>)> {
        (0..self.n_layers).flat_map(|layer| self.layer_tensors(&format!("{tower}.encoder.layers.{layer}"))).collect()
    }

    fn layer_tensors(&self, layer: &str) -> Vec<(String, Vec<usize>)> {
        let (dim, wide) = (self.hidden_size, self.intermediate_size);
        let parts = [
            ("self_attn.q_proj", vec![dim, dim]),
            ("self_attn.k_proj", vec![dim, dim]),
            ("self_attn.v_proj", vec![dim, dim]),
            ("self_attn.out_proj", vec![dim, dim]),
            ("layer_norm1", vec![dim]),
            ("mlp.fc1", vec![wide, dim]),
            ("mlp.fc2", vec![dim, wide]),
            ("layer_norm2", vec![dim]),
        ];
        parts.into_iter().flat_map(|(name, shape)| with_bias(&format!("{layer}.{name}"), shape)).collect()
    }
}

impl TextConfig {
    pub(super) fn from_fields(
        fields: &Fields,
        defaults: &TowerDefaults,
        (vocab_size, max_tokens): (usize, usize),
        pooling: Pooling,
    ) -> Result<TextConfig, String> {
        Ok(TextConfig {
            tower: TowerConfig::from_fields(fields, defaults)?,
            vocab_size: fields.count("vocab_size", vocab_size, 1 << 22)?,
            max_position_embeddings: fields.count("max_position_embeddings", max_tokens, 1 << 14)?,
            pooling,
        })
    }
}

impl VisionConfig {
    pub(super) fn from_fields(fields: &Fields, defaults: &TowerDefaults, patch: usize) -> Result<VisionConfig, String> {
        if fields.count("num_channels", 3, 64)? != 3 {
            return Err(format!("{}: num_channels: expected 3", fields.at));
        }
        VisionConfig {
            tower: TowerConfig::from_fields(fields, defaults)?,
            image_size: fields.side("image_size", 224, 2048)?,
            patch_size: fields.side("patch_size", patch, 2048)?,
        }
        .validated(fields.at)
    }

    /// The same, if a patch fits into it.
    pub(super) fn validated(self, at: &str) -> Result<VisionConfig, String> {
        let VisionConfig { image_size, patch_size, .. } = self;
        if patch_size > image_size {
            return Err(format!("{at}: patch_size {patch_size} is larger than image_size {image_size}"));
        }
        Ok(self)
    }

    /// Patches a side.
    pub(crate) fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub(crate) fn n_patches(&self) -> usize {
        self.grid() * self.grid()
    }
}

/// One object of the file, read with defaults and limits.
pub(crate) struct Fields<'a> {
    pub json: &'a Value,
    pub at: &'a str,
}

impl<'a> Fields<'a> {
    /// `text_config_dict`, a leftover of old files, replaces `text_config` where both stand, as in transformers.
    pub(super) fn of_tower(json: &'a Value, at: &'a str) -> Result<Fields<'a>, String> {
        if !json.is_object() {
            return Err("expected a JSON object".to_owned());
        }
        let old = format!("{at}_dict");
        let json = [&json[old.as_str()], &json[at]].into_iter().find(|v| !v.is_null()).unwrap_or(&Value::Null);
        if !json.is_object() && !json.is_null() {
            return Err(format!("{at}: expected a JSON object, received {json}"));
        }
        Ok(Fields { json, at })
    }

    pub(super) fn error(&self, name: &str, expected: &str, received: &Value) -> String {
        let dot = if self.at.is_empty() { "" } else { "." };
        let received: String = received.to_string().chars().take(80).collect();
        format!("{}{dot}{name}: expected {expected}, received {received}", self.at)
    }

    pub(crate) fn count(&self, name: &str, default: usize, max: usize) -> Result<usize, String> {
        let value = &self.json[name];
        if value.is_null() {
            return Ok(default);
        }
        match value.as_u64() {
            Some(n) if n > 0 && n <= max as u64 => Ok(n as usize),
            _ => Err(self.error(name, &format!("a whole number from 1 to {max}"), value)),
        }
    }

    /// A number, or a pair of equal numbers.
    pub(super) fn side(&self, name: &str, default: usize, max: usize) -> Result<usize, String> {
        let value = &self.json[name];
        let Some(pair) = value.as_array() else {
            return self.count(name, default, max);
        };
        match pair.iter().map(Value::as_u64).collect::<Option<Vec<_>>>().as_deref() {
            Some([a, b]) if a == b && *a > 0 && *a <= max as u64 => Ok(*a as usize),
            _ => Err(self.error(name, "a square", value)),
        }
    }

    pub(crate) fn number(&self, name: &str, default: f64) -> Result<f64, String> {
        let value = &self.json[name];
        if value.is_null() {
            return Ok(default);
        }
        value.as_f64().filter(|x| *x >= 0.0 && *x < 1.0).ok_or_else(|| self.error(name, "a number from 0 to 1", value))
    }

    pub(crate) fn activation(&self, name: &str, default: Activation) -> Result<Activation, String> {
        let value = &self.json[name];
        match value.as_str() {
            None if value.is_null() => Ok(default),
            Some("quick_gelu") => Ok(Activation::QuickGelu),
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            _ => Err(self.error(name, "quick_gelu, gelu or gelu_pytorch_tanh", value)),
        }
    }
}

/// Whether a tensor belongs to the image tower.
pub(crate) fn is_of_images(tensor: &str) -> bool {
    tensor.starts_with("vis")
}

/// Numbers in a tensor.
pub(crate) fn n_numbers((_, shape): &(String, Vec<usize>)) -> u64 {
    shape.iter().map(|&n| n as u64).product()
}

pub(crate) fn with_bias(name: &str, shape: Vec<usize>) -> [(String, Vec<usize>); 2] {
    [(format!("{name}.bias"), vec![shape[0]]), (format!("{name}.weight"), shape)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn clip_config(json: &Value) -> Result<Config, String> {
        Config::of_json(json, Family::Clip)
    }

    /// `CLIPConfig()` of transformers 5.23.
    fn default_config() -> Config {
        let tower = |hidden_size: usize, n_heads| TowerConfig {
            hidden_size,
            intermediate_size: hidden_size * 4,
            n_layers: 12,
            n_heads,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        };
        Config {
            family: Family::Clip,
            projection_dim: 512,
            text: TextConfig {
                tower: tower(512, 8),
                vocab_size: 49_408,
                max_position_embeddings: 77,
                pooling: Pooling::First(49_407),
            },
            vision: VisionConfig { tower: tower(768, 12), image_size: 224, patch_size: 32 },
        }
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = clip_config(&json!({"model_type": "clip"})).unwrap();
        assert_eq!(config, default_config());
        assert_eq!(config.n_parameters(), 151_277_312, "ViT-B/32 without its logit scale");
    }

    #[test]
    fn large_models_as_their_files_say() {
        // What the file of clip-vit-large-patch14-336 holds of importance.
        let text = json!({"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "eos_token_id": 2});
        let vision = json!({
            "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
            "image_size": 336, "patch_size": 14,
        });
        let json =
            json!({"projection_dim": 768, "text_config": text, "vision_config": vision, "text_config_dict": null});
        let config = clip_config(&json).unwrap();
        assert_eq!(config.n_parameters(), 427_944_192);
        assert_eq!(config.text.pooling, Pooling::LargestId);
        assert_eq!(config.vision.n_patches(), 576);
    }

    #[test]
    fn the_old_dict_replaces_the_new_one() {
        let json = json!({"text_config_dict": {"hidden_size": 64, "num_attention_heads": 4}, "text_config": {"vocab_size": 7}});
        let text = clip_config(&json).unwrap().text;
        assert_eq!((text.tower.hidden_size, text.vocab_size), (64, 49_408));
    }

    #[test]
    fn sides_may_be_pairs() {
        let side = |value| clip_config(&json!({"vision_config": {"image_size": value}})).map(|c| c.vision.image_size);
        assert_eq!(side(json!([64, 64])), Ok(64));
        assert_eq!(side(json!(64)), Ok(64));
        assert!(side(json!([64, 32])).unwrap_err().contains("vision_config.image_size: expected a square"));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |json: Value, expected: &str| {
            let error = clip_config(&json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        };
        check(json!([]), "expected a JSON object");
        check(json!({"text_config": 3}), "text_config: expected a JSON object, received 3");
        check(json!({"projection_dim": 0}), "projection_dim: expected a whole number from 1 to 65536, received 0");
        check(
            json!({"text_config": {"num_hidden_layers": -1}}),
            "text_config.num_hidden_layers: expected a whole number",
        );
        check(json!({"text_config": {"hidden_size": 1e300}}), "text_config.hidden_size: expected a whole number");
        check(
            json!({"text_config": {"hidden_size": 100, "num_attention_heads": 7}}),
            "100 is not a multiple of 7 heads",
        );
        check(json!({"vision_config": {"patch_size": 300}}), "patch_size 300 is larger than image_size 224");
        check(json!({"vision_config": {"num_channels": 4}}), "num_channels: expected 3");
        check(json!({"vision_config": {"hidden_act": "swish"}}), "hidden_act: expected quick_gelu, gelu or");
        check(json!({"vision_config": {"layer_norm_eps": "small"}}), "layer_norm_eps: expected a number from 0 to 1");
    }
}

//! CLIPs that are not in the Hugging Face layout: `open_clip_config.json` of OpenCLIP, and checkpoints that stand alone, whose sizes
//! are those of their tensors.

use serde_json::Value;

use super::{
    Family,
    config::{Activation, Config, Fields, Pooling, TextConfig, TowerConfig, VisionConfig},
    weights::Weights,
};
use crate::{Error, Result};

const MODEL: &str = "model_cfg";
const TEXT: &str = "model_cfg.text_cfg";
const VISION: &str = "model_cfg.vision_cfg";

/// Of the blocks of either tower, and the one value that these towers know.
const BLOCKS: [(&str, Value); 7] = [
    ("ls_init_value", Value::Null),
    ("qk_norm", Value::Bool(false)),
    ("scaled_cosine_attn", Value::Bool(false)),
    ("scale_heads", Value::Bool(false)),
    ("scale_attn_inner", Value::Bool(false)),
    ("scale_attn", Value::Bool(false)),
    ("scale_fc", Value::Bool(false)),
];

pub(super) fn config(json: &Value) -> Result<Config, String> {
    let model = object(json, MODEL, MODEL)?;
    let (text, vision) = (object(model.json, "text_cfg", TEXT)?, object(model.json, "vision_cfg", VISION)?);
    expect_known(&model, &[("multimodal_cfg", Value::Null)])?;
    expect_known(&vision, &[("timm_model_name", Value::Null), ("pool_type", "tok".into())])?;
    expect_known(&vision, &[("attentional_pool", Value::Bool(false)), ("no_ln_pre", Value::Bool(false))])?;
    expect_known(&text, &[("hf_model_name", Value::Null), ("embed_cls", Value::Bool(false))])?;
    expect_known(&text, &[("no_causal_mask", Value::Bool(false)), ("proj_bias", Value::Bool(false))])?;
    expect_known(&text, &[("proj_type", "linear".into())])?;
    expect_known(&vision, &BLOCKS)?;
    expect_known(&text, &BLOCKS)?;

    let quick = model.json["quick_gelu"] == Value::Bool(true);
    let text_width = text.count("width", 512, 1 << 15)?;
    let vision_width = vision.count("width", 768, 1 << 15)?;
    let vision_heads = vision_width / vision.count("head_width", 64, 1 << 12)?;
    let text_heads = text.count("heads", 8, 1 << 10)?;
    Ok(Config {
        family: Family::Clip,
        projection_dim: model.count("embed_dim", 512, 1 << 16)?,
        text: TextConfig {
            tower: tower(&text, text_width, text_heads, quick)?,
            vocab_size: text.count("vocab_size", 49_408, 1 << 22)?,
            max_position_embeddings: text.count("context_length", 77, 1 << 14)?,
            pooling: pooling(&text)?,
        },
        vision: VisionConfig {
            tower: tower(&vision, vision_width, vision_heads, quick)?,
            image_size: vision.side("image_size", 224, 2048)?,
            patch_size: vision.side("patch_size", 16, 2048)?,
        }
        .validated(VISION)?,
    })
}

fn object<'a>(json: &'a Value, name: &str, at: &'a str) -> Result<Fields<'a>, String> {
    let json = &json[name];
    if json.is_object() {
        Ok(Fields { json, at })
    } else {
        Err(format!("{at}: expected a JSON object, received {json}"))
    }
}

fn expect_known(fields: &Fields, known: &[(&str, Value)]) -> Result<(), String> {
    for (name, expected) in known {
        let received = &fields.json[*name];
        if !received.is_null() && received != expected {
            let expected = if expected.is_null() { "nothing".to_owned() } else { expected.to_string() };
            return Err(fields.error(name, &format!("{expected} (no other kind of tower is known)"), received));
        }
    }
    Ok(())
}

fn tower(fields: &Fields, width: usize, n_heads: usize, quick: bool) -> Result<TowerConfig, String> {
    let ratio = &fields.json["mlp_ratio"];
    let ratio = if ratio.is_null() { Some(4.0) } else { ratio.as_f64() }.filter(|ratio| (0.01..=64.0).contains(ratio));
    let ratio =
        ratio.ok_or_else(|| fields.error("mlp_ratio", "a number from 0.01 to 64", &fields.json["mlp_ratio"]))?;
    let activation = match &fields.json["act_kwargs"]["approximate"] {
        _ if quick => Activation::QuickGelu,
        Value::String(name) if name == "tanh" => Activation::GeluTanh,
        _ => Activation::Gelu,
    };
    let norm = Fields { json: &fields.json["norm_kwargs"], at: fields.at };
    TowerConfig {
        hidden_size: width,
        intermediate_size: (width as f64 * ratio) as usize,
        n_layers: fields.count("layers", 12, 512)?,
        n_heads,
        activation,
        layer_norm_eps: norm.number("eps", 1e-5)?,
    }
    .validated(fields.at)
}

fn pooling(text: &Fields) -> Result<Pooling, String> {
    let kind = &text.json["pool_type"];
    match kind.as_str() {
        None if kind.is_null() => Ok(Pooling::LargestId),
        Some("argmax") => Ok(Pooling::LargestId),
        Some("eos") => Ok(Pooling::First(text.count("eos_id", 2, u32::MAX as usize)? as u32)),
        _ => Err(text.error("pool_type", "argmax or eos", kind)),
    }
}

/// Of a checkpoint that stands alone. It does not say its activation, so only those are taken whose names tell it: Long-CLIP, which
/// has a second table of places, and what OpenAI published.
pub(super) fn config_of_tensors(weights: &Weights) -> Result<Config> {
    let prefix = weights.naming().text_prefix();
    let is_long = weights.shape(&format!("{prefix}positional_embedding_res")).is_some();
    if !is_long && weights.shape("input_resolution").is_none() {
        return Err(Error::BadFile {
            file: weights.at().to_owned(),
            detail: "a checkpoint that stands alone: expected one of Long-CLIP (with positional_embedding_res) or of OpenAI (with \
                     input_resolution); hint: put an open_clip_config.json beside it, and call it open_clip_pytorch_model.bin"
                .to_owned(),
        });
    }
    Ok(Config {
        family: Family::Clip,
        projection_dim: shape::<2>(weights, &format!("{prefix}text_projection"))?[1],
        text: text_of_tensors(weights)?,
        vision: vision_of_tensors(weights, Activation::QuickGelu)?,
    })
}

/// An image tower whose pictures are as large as its whole patches.
pub(super) fn vision_of_tensors(weights: &Weights, activation: Activation) -> Result<VisionConfig> {
    let [_, _, patch_size, _] = shape::<4>(weights, "visual.conv1.weight")?;
    let [n_places, width] = shape::<2>(weights, "visual.positional_embedding")?;
    let grid = n_places.saturating_sub(1).isqrt();
    if grid == 0 || grid * grid + 1 != n_places {
        return Err(wrong(weights, "visual.positional_embedding", "places of a square of patches and a class token"));
    }
    Ok(VisionConfig {
        tower: tower_of_tensors(weights, "visual.", width, activation)?,
        image_size: grid * patch_size,
        patch_size,
    })
}

fn text_of_tensors(weights: &Weights) -> Result<TextConfig> {
    let prefix = weights.naming().text_prefix();
    let [vocab_size, width] = shape::<2>(weights, &format!("{prefix}token_embedding.weight"))?;
    let [max_position_embeddings, _] = shape::<2>(weights, &format!("{prefix}positional_embedding"))?;
    let tower = tower_of_tensors(weights, prefix, width, Activation::QuickGelu)?;
    Ok(TextConfig { tower, vocab_size, max_position_embeddings, pooling: Pooling::LargestId })
}

fn tower_of_tensors(weights: &Weights, at: &str, width: usize, activation: Activation) -> Result<TowerConfig> {
    let block = |i: usize| format!("{at}transformer.resblocks.{i}.mlp.c_fc.weight");
    let [intermediate_size, _] = shape::<2>(weights, &block(0))?;
    TowerConfig {
        hidden_size: width,
        intermediate_size,
        n_layers: (1..).find(|&i| weights.shape(&block(i)).is_none()).expect("there are not endless tensors"),
        // Every published one has heads of 64.
        n_heads: (width / 64).max(1),
        activation,
        layer_norm_eps: 1e-5,
    }
    .validated(at)
    .map_err(|detail| Error::BadFile { file: weights.at().to_owned(), detail })
}

pub(super) fn shape<const N: usize>(weights: &Weights, name: &str) -> Result<[usize; N]> {
    let shape = weights.shape(name).and_then(|shape| <[usize; N]>::try_from(shape).ok());
    shape.filter(|shape| !shape.contains(&0)).ok_or_else(|| wrong(weights, name, &format!("{N} dimensions")))
}

pub(super) fn wrong(weights: &Weights, name: &str, expected: &str) -> Error {
    Error::WrongTensor {
        file: weights.at().to_owned(),
        tensor: name.to_owned(),
        expected: expected.to_owned(),
        received: weights.shape(name).map_or("no such tensor".to_owned(), |shape| format!("{shape:?}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the file of laion/CLIP-ViT-g-14-laion2B-s12B-b42K holds of importance.
    fn vit_g() -> Value {
        let vision = json!({"image_size": 224, "layers": 40, "width": 1408, "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 14});
        let text = json!({"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24});
        json!({"model_cfg": {"embed_dim": 1024, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}})
    }

    #[test]
    fn sizes_follow_from_widths_and_ratios() {
        let config = config(&vit_g()).unwrap();
        let VisionConfig { tower, image_size, patch_size } = &config.vision;
        assert_eq!((tower.intermediate_size, tower.n_heads, *image_size, *patch_size), (6144, 16, 224, 14));
        assert_eq!((tower.activation, tower.layer_norm_eps), (Activation::Gelu, 1e-5));
        assert_eq!((config.text.tower.intermediate_size, config.text.pooling), (4096, Pooling::LargestId));
        assert_eq!(config.n_parameters(), 1_366_678_272, "ViT-g/14 without its logit scale");
    }

    #[test]
    fn towers_of_another_kind_are_named() {
        let check = |path: &str, value: Value, expected: &str| {
            let mut json = vit_g();
            *json.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
            let error = config(&json).unwrap_err();
            assert!(error.contains(expected), "{path}: {error}");
        };
        let field = |tower: &str, name: &str, value: Value, expected: &str| {
            let mut json = vit_g();
            json["model_cfg"][tower][name] = value;
            let error = config(&json).unwrap_err();
            assert!(error.starts_with(&format!("model_cfg.{tower}.{name}: {expected}")), "{error}");
        };
        check("/model_cfg", json!(3), "model_cfg: expected a JSON object, received 3");
        check("/model_cfg/text_cfg", json!(null), "model_cfg.text_cfg: expected a JSON object, received null");
        check("/model_cfg/embed_dim", json!("x"), "model_cfg.embed_dim: expected a whole number");
        field(
            "vision_cfg",
            "timm_model_name",
            json!("vit_so400m"),
            "expected nothing (no other kind of tower is known), received",
        );
        field("vision_cfg", "layers", json!([3, 4, 6, 3]), "expected a whole number from 1 to 512, received [3,4,6,3]");
        field("vision_cfg", "pool_type", json!("avg"), "expected \"tok\"");
        field("vision_cfg", "attentional_pool", json!(true), "expected false");
        field("vision_cfg", "no_ln_pre", json!(true), "expected false");
        field("vision_cfg", "mlp_ratio", json!("wide"), "expected a number from 0.01 to 64");
        field("vision_cfg", "ls_init_value", json!(1e-4), "expected nothing");
        field("text_cfg", "hf_model_name", json!("xlm-roberta-base"), "expected nothing");
        field("text_cfg", "pool_type", json!("last"), "expected argmax or eos, received \"last\"");
        field("text_cfg", "no_causal_mask", json!(true), "expected false");
        field("text_cfg", "proj_bias", json!(true), "expected false");
        check("/model_cfg/vision_cfg/head_width", json!(99), "1408 is not a multiple of 14 heads");
        check("/model_cfg/vision_cfg/patch_size", json!(300), "patch_size 300 is larger than image_size 224");
        let mut coca = vit_g();
        coca["model_cfg"]["multimodal_cfg"] = json!({});
        assert!(config(&coca).unwrap_err().starts_with("model_cfg.multimodal_cfg: expected nothing"));
    }

    #[test]
    fn activations_and_pooling_follow_the_file() {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut json = vit_g();
            change(&mut json["model_cfg"]);
            config(&json).unwrap()
        };
        let quick = with(&|model| model["quick_gelu"] = json!(true));
        assert_eq!(quick.text.tower.activation, Activation::QuickGelu);
        let tanh = with(&|model| model["vision_cfg"]["act_kwargs"] = json!({"approximate": "tanh"}));
        assert_eq!(tanh.vision.tower.activation, Activation::GeluTanh);
        assert_eq!(tanh.text.tower.activation, Activation::Gelu);
        let eos = with(&|model| {
            model["text_cfg"]["pool_type"] = json!("eos");
            model["text_cfg"]["norm_kwargs"] = json!({"eps": 1e-6});
        });
        assert_eq!((eos.text.pooling, eos.text.tower.layer_norm_eps), (Pooling::First(2), 1e-6));
    }
}

//! Long-CLIP (arXiv 2403.15378): how a CLIP for 77 tokens gets places for 248 of them, before it is trained on long texts.
//!
//! A trained one in the Hugging Face layout needs nothing of this: it is a CLIP whose config says 248.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Result, folder,
    pair::{CONFIG_FILE, Family, Layout, PREPROCESSOR_FILES, TOKENIZER_FILE},
};

const POSITIONS: &str = "text_model.embeddings.position_embedding.weight";

const SCALE: &str = "logit_scale";

/// The first places are well trained, and stay as they are.
const N_KEPT: usize = 20;
/// Each of the others becomes so many.
const N_STEPS: usize = 4;
/// What Long-CLIP comes to.
const N_STRETCHED: usize = 248;

/// Writes the CLIP of a folder in the Hugging Face layout into another one, in single precision, with more places for tokens;
/// says for how many. What is there already is an error.
pub fn stretch(from: &Path, to: &Path) -> Result<usize> {
    let bad = |file: &Path, detail: &str| Error::BadFile { file: file.to_owned(), detail: detail.to_owned() };
    let layout = Layout::of(from);
    if layout != Layout::HuggingFace || layout.family(from)? != Family::Clip {
        return Err(bad(from, "expected a CLIP in the Hugging Face layout"));
    }
    let (config, weights) = (layout.config(from, Family::Clip)?, layout.weights(from)?);
    let (n, dim) = (config.text.max_position_embeddings, config.text.tower.hidden_size);
    if n <= N_KEPT {
        return Err(bad(&from.join(CONFIG_FILE), &format!("expected more than {N_KEPT} tokens a text, received {n}")));
    }
    if n == N_STRETCHED {
        return Err(bad(&from.join(CONFIG_FILE), &format!("has room for {N_STRETCHED} tokens a text already")));
    }
    let read = |(name, shape): (String, Vec<usize>)| {
        let tensor = weights.get(&name, &shape, &Device::Cpu)?;
        Ok((name, tensor))
    };
    let mut tensors = config.tensors().into_iter().map(read).collect::<Result<HashMap<String, Tensor>>>()?;
    // It is learnt on, and no tower reads it.
    if weights.shape(SCALE).is_some() {
        tensors.insert(SCALE.to_owned(), weights.get(SCALE, &[], &Device::Cpu)?);
    }
    let positions = tensors[POSITIONS].to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let stretched = stretch_positions(&positions, dim);
    let n_tokens = stretched.len() / dim;
    tensors.insert(POSITIONS.to_owned(), Tensor::from_vec(stretched, (n_tokens, dim), &Device::Cpu)?);
    let mut json = folder::read_json(&from.join(CONFIG_FILE))?;
    json["text_config"]["max_position_embeddings"] = n_tokens.into();

    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Io { path, error }
    };
    fs::create_dir(to).map_err(io(to))?;
    let copied = [TOKENIZER_FILE].iter().chain(&PREPROCESSOR_FILES).filter(|name| from.join(name).is_file());
    for name in copied {
        fs::copy(from.join(name), to.join(name)).map_err(io(&to.join(name)))?;
    }
    candle_core::safetensors::save(&tensors, to.join("model.safetensors"))?;
    let path = to.join(CONFIG_FILE);
    fs::write(&path, json.to_string()).map_err(io(&path))?;
    Ok(n_tokens)
}

/// (n, dim) to (4 n - 60, dim), 77 to 248: straight lines between neighbours, the last one drawn on.
///
/// # Panics
///
/// If there are not more than 20 whole rows.
pub fn stretch_positions(positions: &[f32], dim: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = positions.chunks_exact(dim).collect();
    assert!(rows.len() > N_KEPT && positions.len() == rows.len() * dim, "expected more than {N_KEPT} rows of {dim}");
    let last = rows.len() - 1;
    let mut stretched = rows[..N_KEPT].concat();
    for (i, row) in rows.iter().enumerate().skip(N_KEPT) {
        let from = i.min(last - 1);
        for share in (0..N_STEPS).map(|step| step as f32 / N_STEPS as f32) {
            let slope = rows[from].iter().zip(rows[from + 1]).map(|(from, to)| to - from);
            stretched.extend(row.iter().zip(slope).map(|(x, slope)| x + share * slope));
        }
    }
    stretched
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{Keep, load, testing::fixture};

    #[test]
    fn a_clip_becomes_a_longer_one_that_reads_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (fixture("clip-gelu"), dir.path().join("long"));
        let open = |folder: &Path| load(folder.to_str().unwrap(), crate::Device::Cpu).unwrap();
        let short = open(&from);
        let n = short.info().max_text_tokens;
        assert_eq!(stretch(&from, &to).unwrap(), 4 * n - 60);
        let long = open(&to);
        assert_eq!(long.info().max_text_tokens, 4 * n - 60);
        // The first twenty places are as they were.
        let text = |model: &dyn crate::Encoder| model.embed_texts(&["a red cube"], Keep::Nothing).unwrap().remove(0);
        assert_eq!(text(&*short).embedding, text(&*long).embedding);
        let weights = candle_core::safetensors::load(to.join("model.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(weights[SCALE].dims(), [0usize; 0], "training goes on from it");
        assert!(stretch(&from, &to).is_err(), "nothing is overwritten");
        let error = stretch(&fixture("siglip-1"), &dir.path().join("other")).unwrap_err().to_string();
        assert!(error.ends_with("expected a CLIP in the Hugging Face layout"), "{error}");
    }

    #[test]
    fn the_table_is_the_published_one() {
        let file = fixture("clip-long/expected.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let rows = |name: &str| tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (short, expected) = (rows("positions_77"), rows("positions_248"));
        let received = stretch_positions(&short, 8);
        assert_eq!((received.len(), expected.len()), (248 * 8, 248 * 8));
        let difference = received.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference <= 1e-6, "{difference:e}");
    }
}

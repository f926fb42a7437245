//! CLIP and SigLIP in the Hugging Face layout: one image tower, one text tower, one space.
//!
//! What the families share stands here and in the files below; what is a family's own in `clip` and `siglip`. Judged by
//! `transformers` on the same weights; see `model/fixtures/make*.py` and `benches/README.md`.

mod clip;
mod config;
mod cpu;
mod siglip;
mod source;
mod tokenizer;
mod towers;
mod weights;

use std::{path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

pub use self::weights::TensorFault;
pub(crate) use self::{
    config::Config,
    tokenizer::Tokenizer,
    weights::{Weights, shard_names},
};
use self::{config::TowerConfig, tokenizer::Tokens};
use crate::{
    Embedding, Encoder, Error, ModelInfo, Pixels, Result, TextEmbedding,
    check::Memory,
    device, folder,
    preprocess::{self, Preprocessor},
};

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
/// The usual one, and where `CLIPProcessor` of transformers 5 writes.
pub(crate) const PREPROCESSOR_FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// Images or texts that go through a network at once, on the CPU in each thread; more would gain nothing and take memory.
const CPU_BATCH: usize = 8;
const CUDA_BATCH: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Clip,
    Siglip,
}

impl Family {
    const ALL: [Family; 2] = [Family::Clip, Family::Siglip];

    /// Of a `model_type`.
    pub(crate) fn of_name(name: &str) -> Result<Family> {
        let unknown =
            || Error::UnknownFamily { expected: Family::ALL.map(Family::name).join(", "), received: name.to_owned() };
        Family::ALL.into_iter().find(|family| family.name() == name).ok_or_else(unknown)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Clip => "clip",
            Family::Siglip => "siglip",
        }
    }

    /// What the processor of the family does where its file is silent.
    pub(crate) fn preprocessing(self) -> &'static preprocess::Defaults {
        match self {
            Family::Clip => &preprocess::CLIP,
            Family::Siglip => &preprocess::SIGLIP,
        }
    }
}

pub(crate) struct Pair {
    info: ModelInfo,
    device: Device,
    preprocessor: Preprocessor,
    tokenizer: Tokenizer,
    towers: Towers,
}

enum Towers {
    Cpu(Box<cpu::ImageTower>, cpu::TextTower),
    Card(towers::ImageTower, towers::TextTower),
}

impl Pair {
    /// Loads a folder; `name` is what the user called it.
    pub(crate) fn load(name: &str, folder: &Path, family: Family, device: &Device) -> Result<Arc<dyn Encoder>> {
        let config = Config::read(&folder.join(CONFIG_FILE), family)?;
        let tokenizer = Tokenizer::read(&folder.join(TOKENIZER_FILE), &config.text)?;
        let preprocessor = Preprocessor::read(
            &folder.join(preprocessor_file(folder)),
            config.vision.image_size,
            family.preprocessing(),
        )?;
        let weights = Weights::open(folder)?;
        let info = ModelInfo {
            name: name.to_owned(),
            family: family.name().to_owned(),
            hash: folder::hash(&files(folder)?)?,
            dim: config.projection_dim,
            image_side_px: config.vision.image_size,
            max_text_tokens: config.text.max_position_embeddings,
            parameters: config.n_parameters(),
            device: device::label(device),
            sigmoid: (family == Family::Siglip).then(|| siglip::sigmoid(&weights)).transpose()?,
        };
        let towers = Towers::load(&weights, &config, device)?;
        Ok(Arc::new(Pair { info, device: device.clone(), preprocessor, tokenizer, towers }))
    }

    fn image_rows(&self, images: &[Pixels]) -> Result<Vec<f32>> {
        match &self.towers {
            Towers::Cpu(tower, _) => Ok(on_cpu(images, |piece, n_threads| tower.forward(piece, n_threads))),
            Towers::Card(tower, _) => on_card(images, |piece| tower.forward(&self.pixel_tensor(piece)?)),
        }
    }

    fn text_rows(&self, texts: &[&Tokens]) -> Result<Vec<f32>> {
        match &self.towers {
            Towers::Cpu(_, tower) => Ok(on_cpu(texts, |piece, n_threads| tower.forward(piece, n_threads))),
            Towers::Card(_, tower) => on_card(texts, |piece| {
                let pooled_at: Vec<usize> = piece.iter().map(|t| t.pooled_at).collect();
                tower.forward(&self.id_tensor(piece)?, &pooled_at)
            }),
        }
    }

    /// (batch, 3, side, side)
    fn pixel_tensor(&self, images: &[Pixels]) -> candle_core::Result<Tensor> {
        let side = self.info.image_side_px;
        let values: Vec<f32> = images.iter().flat_map(|image| image.values.iter().copied()).collect();
        Tensor::from_vec(values, (images.len(), 3, side, side), &self.device)
    }

    /// (batch, tokens). Texts of unequal length are those of a causal tower, which cannot see what stands behind its pooled
    /// token.
    fn id_tensor(&self, texts: &[&Tokens]) -> candle_core::Result<Tensor> {
        let length = texts.iter().map(|t| t.ids.len()).max().unwrap_or(0);
        let padded = |t: &Tokens| t.ids.iter().copied().chain(std::iter::repeat(0)).take(length).collect::<Vec<u32>>();
        let ids: Vec<u32> = texts.iter().flat_map(|t| padded(t)).collect();
        Tensor::from_vec(ids, (texts.len(), length), &self.device)
    }
}

impl Towers {
    fn load(weights: &Weights, config: &Config, device: &Device) -> Result<Towers> {
        let image = towers::ImageTower::load(weights, config, device)?;
        if device.is_cuda() {
            return Ok(Towers::Card(image, towers::TextTower::load(weights, config, device)?));
        }
        let image = Box::new(cpu::ImageTower::new(image)?);
        Ok(Towers::Cpu(image, cpu::TextTower::new(towers::TextTower::load(weights, config, device)?)?))
    }
}

/// Pieces of a batch side by side; threads beyond the number of pieces help inside of them.
fn on_cpu<T: Sync>(items: &[T], embed: impl Fn(&[T], usize) -> Vec<f32> + Sync) -> Vec<f32> {
    if items.is_empty() {
        return Vec::new();
    }
    let n_threads = rayon::current_num_threads();
    let size = items.len().div_ceil(n_threads).min(CPU_BATCH);
    let spare = n_threads / items.len().div_ceil(size);
    items.par_chunks(size).flat_map_iter(|piece| embed(piece, spare.max(1))).collect()
}

/// Pieces of a batch one after the other.
fn on_card<T>(items: &[T], embed: impl Fn(&[T]) -> candle_core::Result<Tensor>) -> Result<Vec<f32>> {
    let mut rows = Vec::new();
    for piece in items.chunks(CUDA_BATCH) {
        rows.extend(embed(piece)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(rows)
}

impl Encoder for Pair {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn preprocess(&self, picture: &RgbImage) -> Pixels {
        self.preprocessor.apply(picture)
    }

    fn embed_images(&self, images: &[Pixels]) -> Result<Vec<Embedding>> {
        let side = self.info.image_side_px;
        if let Some(image) = images.iter().find(|i| i.side != side || i.values.len() != 3 * side * side) {
            return Err(Error::WrongPixels { expected_px: side, received_px: image.side });
        }
        unit_rows(&self.image_rows(images)?, self.info.dim)
    }

    fn embed_texts(&self, texts: &[&str]) -> Result<Vec<TextEmbedding>> {
        let tokens = texts.par_iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        // Neighbours of like length waste little on padding.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&i| tokens[i].ids.len());
        let sorted: Vec<&Tokens> = order.iter().map(|&i| &tokens[i]).collect();
        let embeddings = unit_rows(&self.text_rows(&sorted)?, self.info.dim)?;

        let mut answers: Vec<(usize, TextEmbedding)> = order
            .into_iter()
            .zip(embeddings)
            .map(|(i, embedding)| {
                let Tokens { n_used, n_cut, .. } = tokens[i];
                (i, TextEmbedding { embedding, tokens_used: n_used, tokens_cut: n_cut })
            })
            .collect();
        answers.sort_by_key(|(i, _)| *i);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }
}

/// Every file that shapes an embedding, as (name, path), sorted by name.
pub(crate) fn files(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let mut names: Vec<String> = [CONFIG_FILE, TOKENIZER_FILE, preprocessor_file(folder)].map(str::to_owned).into();
    names.extend(weights::file_names(folder)?);
    names.sort();
    Ok(names.into_iter().map(|name| (name.clone(), folder.join(name))).collect())
}

pub(crate) fn preprocessor_file(folder: &Path) -> &'static str {
    PREPROCESSOR_FILES.into_iter().find(|name| folder.join(name).is_file()).unwrap_or(PREPROCESSOR_FILES[0])
}

/// What the published files hold besides: indices that older versions saved, and the temperature of training.
pub(crate) fn is_known_spare(tensor: &str) -> bool {
    tensor == "logit_scale" || tensor.ends_with(".position_ids")
}

/// Weights, and the widest states of a batch: those of the MLP beside some copies of the hidden ones. On the CPU the scores of
/// one head are held at a time, on a card those of all.
pub(crate) fn memory(config: &Config) -> Vec<Memory> {
    let (text, vision) = (&config.text, &config.vision);
    let towers = [(&text.tower, text.max_position_embeddings), (&vision.tower, config.image_tokens())];
    let widest = |numbers: fn(&TowerConfig, usize) -> usize| {
        let bytes = towers.iter().map(|(tower, length)| 4 * numbers(tower, *length) as u64);
        bytes.max().expect("there are two towers")
    };
    let weights_bytes = 4 * config.n_parameters();
    let on = |device, batch_bytes| Memory { device, dtype: "f32", weights_bytes, batch_bytes };
    let on_cpu = widest(|t, length| length * (t.intermediate_size + 6 * t.hidden_size));
    let on_card = widest(|t, length| length * (2 * t.intermediate_size + 6 * t.hidden_size + 2 * t.n_heads * length));
    vec![on("cpu", on_cpu * (CPU_BATCH * rayon::current_num_threads()) as u64), on("cuda", on_card * CUDA_BATCH as u64)]
}

/// (batch * dim) numbers to one vector of unit length each.
fn unit_rows(rows: &[f32], dim: usize) -> Result<Vec<Embedding>> {
    let unit = |row: &[f32]| {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        let unit: Embedding = row.iter().map(|x| x / norm).collect();
        if unit.iter().all(|x| x.is_finite()) { Ok(unit) } else { Err(Error::NotFinite) }
    };
    rows.chunks_exact(dim).map(unit).collect()
}

#[cfg(test)]
mod tests;

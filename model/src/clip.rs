//! CLIP in the Hugging Face layout: one image tower, one text tower, one space.
//!
//! Judged by `transformers` on the same weights; see `model/fixtures/make.py` and `benches/README.md`.

mod config;
mod tokenizer;
mod towers;
mod weights;

use std::{path::Path, sync::Arc};

use candle_core::{D, Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

pub use self::weights::TensorFault;
pub(crate) use self::{
    config::Config,
    tokenizer::Tokenizer,
    weights::{Weights, shard_names},
};
use self::{
    tokenizer::Tokens,
    towers::{ImageTower, TextTower},
};
use crate::{
    Embedding, Encoder, Error, ModelInfo, Pixels, Result, TextEmbedding, check::Memory, device, folder,
    preprocess::Preprocessor,
};

pub(crate) const FAMILY: &str = "clip";
pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
/// The usual one, and where `CLIPProcessor` of transformers 5 writes.
pub(crate) const PREPROCESSOR_FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// Images or texts that go through a network at once; more would gain nothing and take memory.
const CPU_BATCH: usize = 16;
const CUDA_BATCH: usize = 128;

pub(crate) struct Clip {
    info: ModelInfo,
    device: Device,
    preprocessor: Preprocessor,
    tokenizer: Tokenizer,
    image_tower: ImageTower,
    text_tower: TextTower,
}

impl Clip {
    /// Loads a folder; `name` is what the user called it.
    pub(crate) fn load(name: &str, folder: &Path, device: &Device) -> Result<Arc<dyn Encoder>> {
        let config = Config::read(&folder.join(CONFIG_FILE))?;
        let tokenizer = Tokenizer::read(&folder.join(TOKENIZER_FILE), &config.text)?;
        let preprocessor = Preprocessor::read(&folder.join(preprocessor_file(folder)), config.vision.image_size)?;
        let weights = Weights::open(folder)?;
        let info = ModelInfo {
            name: name.to_owned(),
            family: FAMILY.to_owned(),
            hash: folder::hash(&files(folder)?)?,
            dim: config.projection_dim,
            image_side_px: config.vision.image_size,
            max_text_tokens: config.text.max_position_embeddings,
            parameters: config.n_parameters(),
            device: device::label(device),
        };
        let image_tower = ImageTower::load(&weights, &config, device)?;
        let text_tower = TextTower::load(&weights, &config, device)?;
        Ok(Arc::new(Clip { info, device: device.clone(), preprocessor, tokenizer, image_tower, text_tower }))
    }

    fn batch_size(&self) -> usize {
        if self.device.is_cuda() { CUDA_BATCH } else { CPU_BATCH }
    }

    /// Runs `embed` over pieces of a batch: side by side on the CPU, one after the other on a card.
    fn in_pieces<T: Sync, R: Send>(
        &self,
        items: &[T],
        embed: impl Fn(&[T]) -> Result<Vec<R>> + Sync,
    ) -> Result<Vec<R>> {
        let pieces: Vec<Vec<R>> = if self.device.is_cuda() {
            items.chunks(self.batch_size()).map(&embed).collect::<Result<_>>()?
        } else {
            let size = items.len().div_ceil(rayon::current_num_threads()).clamp(1, self.batch_size());
            items.par_chunks(size).map(&embed).collect::<Result<_>>()?
        };
        Ok(pieces.into_iter().flatten().collect())
    }

    fn embed_image_piece(&self, images: &[Pixels]) -> Result<Vec<Embedding>> {
        let side = self.info.image_side_px;
        let values: Vec<f32> = images.iter().flat_map(|image| image.values.iter().copied()).collect();
        let pixels = Tensor::from_vec(values, (images.len(), 3, side, side), &self.device)?; // (batch, 3, side, side)
        unit_rows(&self.image_tower.forward(&pixels)?)
    }

    fn embed_text_piece(&self, texts: &[&Tokens]) -> Result<Vec<Embedding>> {
        let length = texts.iter().map(|t| t.ids.len()).max().unwrap_or(0);
        // Padding stands behind the pooled token, where a causal tower cannot see it.
        let padded = |t: &Tokens| t.ids.iter().copied().chain(std::iter::repeat(0)).take(length).collect::<Vec<u32>>();
        let ids: Vec<u32> = texts.iter().flat_map(|t| padded(t)).collect();
        let ids = Tensor::from_vec(ids, (texts.len(), length), &self.device)?; // (batch, tokens)
        let pooled_at: Vec<usize> = texts.iter().map(|t| t.pooled_at).collect();
        unit_rows(&self.text_tower.forward(&ids, &pooled_at)?)
    }
}

impl Encoder for Clip {
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
        self.in_pieces(images, |piece| self.embed_image_piece(piece))
    }

    fn embed_texts(&self, texts: &[&str]) -> Result<Vec<TextEmbedding>> {
        let tokens = texts.par_iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        // Neighbours of like length waste little on padding.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&i| tokens[i].ids.len());
        let sorted: Vec<&Tokens> = order.iter().map(|&i| &tokens[i]).collect();
        let embeddings = self.in_pieces(&sorted, |piece| self.embed_text_piece(piece))?;

        let mut answers: Vec<(usize, TextEmbedding)> = order
            .into_iter()
            .zip(embeddings)
            .map(|(i, embedding)| {
                let Tokens { ids, n_cut, .. } = &tokens[i];
                (i, TextEmbedding { embedding, tokens_used: ids.len(), tokens_cut: *n_cut })
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

/// Weights, and the widest states of a batch: a few copies of the hidden states beside those of the MLP.
pub(crate) fn memory(config: &Config) -> Vec<Memory> {
    let (text, vision) = (&config.text, &config.vision);
    let states = |tower: &config::TowerConfig, length: usize| {
        let scores = 2 * tower.n_heads * length * length;
        (4 * (length * (2 * tower.intermediate_size + 6 * tower.hidden_size) + scores)) as u64
    };
    let one = states(&text.tower, text.max_position_embeddings).max(states(&vision.tower, vision.n_patches() + 1));
    let on = |device, batch: usize| Memory {
        device,
        dtype: "f32",
        weights_bytes: 4 * config.n_parameters(),
        batch_bytes: one * batch as u64,
    };
    vec![on("cpu", CPU_BATCH * rayon::current_num_threads()), on("cuda", CUDA_BATCH)]
}

/// Rows scaled to unit length; (batch, dim) to one vector each.
fn unit_rows(rows: &Tensor) -> Result<Vec<Embedding>> {
    let norms = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?; // (batch, 1)
    let rows = rows.broadcast_div(&norms)?.to_vec2::<f32>()?;
    if rows.iter().flatten().any(|x| !x.is_finite()) {
        return Err(Error::NotFinite);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests;

//! The bundled model: a small image encoder and a multilingual text encoder that `firn train align` made.
//!
//! Its weights are part of the binary, so it needs no file and no network. It always computes on the CPU.

pub(crate) mod layers;
pub(crate) mod layout;
pub(crate) mod net;
pub(crate) mod tokens;
mod weights;

use std::{path::Path, sync::Arc};

use image::{RgbImage, imageops};

use self::{net::Network, tokens::Tokens};
use crate::{
    Embedding, Encoder, Error, FusionTokens, ImageEmbedding, Keep, ModelInfo, Pixels, Result, TEXT_TOKENS,
    TextEmbedding, TokenShape,
    fusion_tokens::{pool_grid, pool_rows},
};

/// Images or texts that go through the network together.
const BATCH: usize = 16;

/// The bundled model.
pub struct Builtin {
    network: Network,
    info: ModelInfo,
}

/// Made by the command in weights/MODEL_CARD.md.
static WEIGHTS: &[u8] = include_bytes!("../../weights/builtin.safetensors");

/// The same model whatever the device: it is too small to gain from a card.
pub fn load(_device: &candle_core::Device) -> Result<Arc<dyn Encoder>> {
    Ok(Arc::new(bundled()?))
}

/// The bundled model as its own type, for its patch tokens.
pub fn bundled() -> Result<Builtin> {
    Builtin::from_bytes(WEIGHTS, Path::new("builtin"))
}

impl Builtin {
    /// From what `Network::to_bytes` made; `path` is only named in errors.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Builtin> {
        let network = Network::from_bytes(bytes, path)?;
        let sizes = &network.layout.sizes;
        let hash = blake3::hash(bytes).to_hex();
        let info = ModelInfo {
            name: "builtin".to_owned(),
            family: "builtin".to_owned(),
            hash: hash[..32].to_owned(),
            dim: sizes.embedding,
            image_side_px: sizes.side_px(),
            max_text_tokens: sizes.max_text_tokens,
            image_token_dim: sizes.dim,
            text_tokens: Some(TokenShape { n: TEXT_TOKENS, dim: sizes.dim }),
            parameters: network.weights.len() as u64,
            device: "cpu".to_owned(),
            weights_bytes: 4 * network.weights.len() as u64,
            batch_bytes: sizes.batch_bytes(BATCH),
            sigmoid: None,
        };
        Ok(Builtin { network, info })
    }

    /// The patch tokens of each image, (8 * 8, 128), after the last norm and before pooling.
    pub fn patch_tokens(&self, images: &[Pixels]) -> Result<Vec<Vec<f32>>> {
        let views = self.views(images)?;
        Ok(views.chunks(BATCH).flat_map(|batch| self.network.patch_tokens(batch)).collect())
    }

    fn views<'a>(&self, images: &'a [Pixels]) -> Result<Vec<&'a [f32]>> {
        let side = self.info.image_side_px;
        let wrong = |image: &&Pixels| image.side != side || image.values.len() != 3 * side * side;
        if let Some(image) = images.iter().find(wrong) {
            let message = format!("expected pixels of {side} x {side}, received {0} x {0}", image.side);
            return Err(candle_core::Error::Msg(message).into());
        }
        Ok(images.iter().map(|image| image.values.as_slice()).collect())
    }
}

impl Encoder for Builtin {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The whole picture, whatever its proportions, as a square: nothing at the edges is lost.
    fn preprocess(&self, picture: &RgbImage) -> Result<Pixels> {
        Ok(preprocess(picture, self.info.image_side_px))
    }

    fn embed_images(&self, images: &[Pixels], keep: Keep) -> Result<Vec<ImageEmbedding>> {
        let dim = self.network.layout.sizes.dim;
        let mut answers = Vec::with_capacity(images.len());
        for batch in self.views(images)?.chunks(BATCH) {
            let tower = self.network.images(batch).tower;
            let embeddings = split(&tower.embeddings, self.info.dim).into_iter();
            for (embedding, states) in embeddings.zip(tower.states()) {
                let tokens = keep.cells().map(|cells| FusionTokens::new(&pool_grid(states, dim, cells), dim));
                answers.push(ImageEmbedding { embedding, fusion_tokens: tokens.transpose()? });
            }
        }
        Ok(answers)
    }

    fn embed_texts(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        let sizes = &self.network.layout.sizes;
        let read = |text: &&str| Tokens::read(text, sizes.table_rows, sizes.max_text_tokens);
        let tokens: Vec<Tokens> = texts.iter().map(read).collect();
        if tokens.iter().any(Tokens::is_empty) {
            return Err(Error::EmptyText);
        }
        let tokens: Vec<&Tokens> = tokens.iter().collect();
        let mut answers = Vec::with_capacity(texts.len());
        for batch in tokens.chunks(BATCH) {
            let tower = self.network.texts(batch).tower;
            let embeddings = split(&tower.embeddings, self.info.dim).into_iter();
            for ((embedding, states), tokens) in embeddings.zip(tower.states()).zip(batch) {
                let kept = keep.rows().map(|rows| FusionTokens::new(&pool_rows(states, sizes.dim, rows), sizes.dim));
                answers.push(TextEmbedding {
                    embedding,
                    tokens_used: tokens.len(),
                    tokens_cut: tokens.n_cut,
                    fusion_tokens: kept.transpose()?,
                });
            }
        }
        Ok(answers)
    }
}

/// Resizes to a square and brings each channel to -1..1.
pub(crate) fn preprocess(picture: &RgbImage, side: usize) -> Pixels {
    let side_px = side as u32;
    let resized;
    let square = if picture.dimensions() == (side_px, side_px) {
        picture
    } else {
        resized = imageops::resize(picture, side_px, side_px, imageops::FilterType::Triangle);
        &resized
    };
    let mut values = vec![0.0; 3 * side * side];
    for (channel, plane) in values.chunks_exact_mut(side * side).enumerate() {
        let levels = square.as_raw().iter().skip(channel).step_by(3);
        plane.iter_mut().zip(levels).for_each(|(value, &level)| *value = f32::from(level) / 127.5 - 1.0);
    }
    Pixels { side, values }
}

fn split(rows: &[f32], dim: usize) -> Vec<Embedding> {
    rows.chunks_exact(dim).map(<[f32]>::to_vec).collect()
}

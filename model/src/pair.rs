//! CLIP and SigLIP: one image tower, one text tower, one space; in the layout of Hugging Face, CLIP in that of OpenCLIP too.
//!
//! What the families share stands here and in the files below; what is a family's own in `clip` and `siglip`. Judged by
//! `transformers` on the same weights; see `model/fixtures/make*.py` and `benches/README.md`.

mod clip;
mod config;
mod cpu;
pub(crate) mod flame;
mod frozen_block;
mod layout;
mod open_clip;
mod siglip;
mod source;
pub(crate) mod tokenizer;
mod towers;
mod weights;

use std::{path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

pub use self::weights::{TensorFault, read_tensor};
pub(crate) use self::{
    config::{Activation, Config, Fields, TowerConfig, is_of_images, n_numbers, with_bias},
    frozen_block::FrozenBlock,
    layout::{Layout, OPEN_CLIP_CONFIG},
    source::Source,
    tokenizer::Tokenizer,
    weights::{
        CANDIDATES as WEIGHT_FILES, Candidates, Weights, file_names as weight_file_names, is_finite, shard_names,
    },
};
use self::{
    config::{TextConfig, VisionConfig},
    frozen_block::Inside,
    tokenizer::Tokens,
};
use crate::{
    Embedding, Error, FusionTokens, ImageEmbedding, Keep, Pixels, Result, TEXT_TOKENS, TextEmbedding, TokenShape,
    check::{Memory, unknown_family},
    folder,
    preprocess::{self, Preprocessor},
    side::{ImageInfo, ImageSide, Opened, Sides, TextInfo, TextSide, Want},
};

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
/// The usual one, and where `CLIPProcessor` of transformers 5 writes.
pub(crate) const PREPROCESSOR_FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// Images or texts that go through a network at once, on the CPU in each thread; more would gain nothing and take memory.
pub(crate) const CPU_BATCH: usize = 8;
pub(crate) const CUDA_BATCH: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Clip,
    Siglip,
}

impl Family {
    pub(crate) const ALL: [Family; 2] = [Family::Clip, Family::Siglip];

    /// Of a `model_type`.
    pub(crate) fn of_name(name: &str) -> Result<Family> {
        Family::ALL.into_iter().find(|family| family.name() == name).ok_or_else(|| unknown_family(name))
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

/// Opens a folder, or a checkpoint that stands alone; only the towers that are wanted are loaded. Images go through the block if
/// there is one.
pub(crate) fn open(path: &Path, want: Want, block: Option<&FrozenBlock>, device: &Device) -> Result<Opened> {
    let (folder, layout) = Layout::at(path);
    if let Some(checkpoint) = layout.flame(&folder)? {
        return open_flame(&checkpoint, want, block, device);
    }
    let family = layout.family(&folder)?;
    let config = layout.config(&folder, family)?;
    let tokenizer = || Tokenizer::read(&folder.join(TOKENIZER_FILE), &config.text);
    let tokenizer = (want != Want::Image).then(tokenizer).transpose()?;
    let preprocessor = (want != Want::Text).then(|| layout.preprocessor(&folder, &config)).transpose()?;
    let weights = layout.weights(&folder)?;
    let sigmoid = (family == Family::Siglip).then(|| siglip::sigmoid(&weights)).transpose()?;
    let mut sides = Sides::default();
    if let Some(preprocessor) = preprocessor {
        sides.image = Some(Arc::new(Images::load(&weights, &config, preprocessor, block, device)?));
    }
    if let Some(tokenizer) = tokenizer {
        sides.text = Some(Arc::new(Texts::load(&weights, &config, tokenizer, device)?));
    }
    // A side alone may do without some of them.
    let files = layout.files(&folder)?.into_iter().filter(|(_, path)| path.is_file()).collect();
    Ok(Opened { sides, family: family.name().to_owned(), hash: hash(files, block)?, sigmoid })
}

/// It takes images only.
fn open_flame(checkpoint: &Path, want: Want, block: Option<&FrozenBlock>, device: &Device) -> Result<Opened> {
    let mut sides = Sides::default();
    if want != Want::Text {
        sides.image = Some(Arc::new(Images::load_flame(checkpoint, block, device)?));
    }
    let file = checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hash = hash(vec![(file, checkpoint.to_owned())], block)?;
    Ok(Opened { sides, family: flame::FAMILY.to_owned(), hash, sigmoid: None })
}

/// Of the files and, if there is a block, of its files and of which one it is.
fn hash(files: Vec<(String, std::path::PathBuf)>, block: Option<&FrozenBlock>) -> Result<String> {
    let Some(block) = block else { return folder::hash(&files) };
    let all = folder::hash(&[files, block.files()?].concat())?;
    let whole = format!("{all} block {} {:?}", block.index, block.norm);
    Ok(blake3::hash(whole.as_bytes()).to_hex()[..32].to_owned())
}

/// The image side.
pub(crate) struct Images {
    info: ImageInfo,
    preprocessor: Preprocessor,
    tower: ImageTower,
}

enum ImageTower {
    Cpu(Box<cpu::ImageTower>),
    Card(Box<towers::ImageTower>, Device),
}

/// The text side.
pub(crate) struct Texts {
    info: TextInfo,
    tokenizer: Tokenizer,
    tower: TextTower,
}

enum TextTower {
    Cpu(Box<cpu::TextTower>),
    Card(Box<towers::TextTower>, Device),
}

/// What a tower makes of a batch.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// (items, dim)
    pub embeddings: Vec<f32>,
    /// (items, tokens for fusion, token dim); empty if none are wanted.
    pub tokens: Vec<f32>,
}

impl Encoded {
    fn extend(&mut self, other: Encoded) {
        self.embeddings.extend(other.embeddings);
        self.tokens.extend(other.tokens);
    }
}

impl Images {
    fn load(
        weights: &Weights,
        config: &Config,
        preprocessor: Preprocessor,
        block: Option<&FrozenBlock>,
        device: &Device,
    ) -> Result<Images> {
        frozen_block::refuse_left_out(weights, block)?;
        let info = ImageInfo {
            dim: config.projection_dim,
            side_px: config.vision.image_size,
            token_dim: config.vision.tower.hidden_size,
            parameters: config.n_image_parameters(),
            memory: Memory::on(
                device,
                image_memory(&config.vision, config.image_tokens(), config.n_image_parameters()),
            ),
        };
        let mut tower = towers::ImageTower::load(weights, config, device)?;
        tower.inside = block.map(|block| Inside::load(block, info.token_dim, device)).transpose()?;
        Images::of_tower(info, preprocessor, tower, device)
    }

    /// The image side of FLAME, from its checkpoint.
    pub(crate) fn load_flame(checkpoint: &Path, block: Option<&FrozenBlock>, device: &Device) -> Result<Images> {
        let weights = Weights::open_file(checkpoint)?;
        frozen_block::refuse_left_out(&weights, block)?;
        let config = flame::Config::of_tensors(&weights)?;
        let info = ImageInfo {
            dim: config.dim,
            side_px: config.vision.image_size,
            token_dim: config.vision.tower.hidden_size,
            parameters: config.n_parameters(),
            memory: Memory::on(device, flame::memory(&config)),
        };
        let preprocessor = Preprocessor::of_clip(config.vision.image_size);
        let mut tower = flame::image_tower(&weights, &config, device)?;
        tower.inside = block.map(|block| Inside::load(block, info.token_dim, device)).transpose()?;
        Images::of_tower(info, preprocessor, tower, device)
    }

    /// A block of a decoder runs in candle's operations, on the CPU too.
    fn of_tower(
        mut info: ImageInfo,
        preprocessor: Preprocessor,
        tower: towers::ImageTower,
        device: &Device,
    ) -> Result<Images> {
        info.parameters += tower.inside.as_ref().map_or(0, Inside::n_parameters);
        info.memory.weights_bytes += tower.inside.as_ref().map_or(0, Inside::n_bytes);
        let tower = match device.is_cuda() || tower.inside.is_some() {
            true => ImageTower::Card(Box::new(tower), device.clone()),
            false => ImageTower::Cpu(Box::new(cpu::ImageTower::new(tower)?)),
        };
        Ok(Images { info, preprocessor, tower })
    }

    /// (batch, 3, side, side)
    fn pixel_tensor(&self, images: &[Pixels], device: &Device) -> candle_core::Result<Tensor> {
        let side = self.info.side_px;
        let values: Vec<f32> = images.iter().flat_map(|image| image.values.iter().copied()).collect();
        Tensor::from_vec(values, (images.len(), 3, side, side), device)
    }
}

impl ImageSide for Images {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn preprocess(&self, picture: &RgbImage) -> Pixels {
        self.preprocessor.apply(picture)
    }

    fn embed(&self, images: &[Pixels], keep: Keep) -> Result<Vec<ImageEmbedding>> {
        let cells = keep.cells();
        let encoded = match &self.tower {
            ImageTower::Cpu(tower) => on_cpu(images, |piece, n_threads| tower.forward(piece, cells, n_threads)),
            ImageTower::Card(tower, device) => {
                on_card(images, |piece| tower.encode(&self.pixel_tensor(piece, device)?, cells))?
            }
        };
        let embeddings = unit_rows(&encoded.embeddings, self.info.dim)?;
        let tokens = fusion_tokens(&encoded.tokens, embeddings.len(), self.info.token_dim)?;
        let whole = |(embedding, fusion_tokens)| ImageEmbedding { embedding, fusion_tokens };
        Ok(embeddings.into_iter().zip(tokens).map(whole).collect())
    }
}

impl Texts {
    fn load(weights: &Weights, config: &Config, tokenizer: Tokenizer, device: &Device) -> Result<Texts> {
        let tower = towers::TextTower::load(weights, config, device)?;
        let tower = match device.is_cuda() {
            true => TextTower::Card(Box::new(tower), device.clone()),
            false => TextTower::Cpu(Box::new(cpu::TextTower::new(tower)?)),
        };
        let parameters = config.n_parameters() - config.n_image_parameters();
        let info = TextInfo {
            dim: config.projection_dim,
            max_tokens: config.text.max_position_embeddings,
            tokens: TokenShape { n: TEXT_TOKENS, dim: config.text.tower.hidden_size },
            parameters,
            memory: Memory::on(device, text_memory(&config.text, parameters)),
        };
        Ok(Texts { info, tokenizer, tower })
    }
}

impl TextSide for Texts {
    fn info(&self) -> &TextInfo {
        &self.info
    }

    fn embed(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        let tokens = texts.par_iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let read = |tokens: &Tokens| (tokens.n_used, tokens.n_cut);
        embed_by_length(
            &self.info,
            &tokens,
            |tokens| tokens.ids.len(),
            read,
            |sorted| match &self.tower {
                TextTower::Cpu(tower) => {
                    Ok(on_cpu(sorted, |piece, n_threads| tower.forward(piece, keep.rows(), n_threads)))
                }
                TextTower::Card(tower, device) => on_card(sorted, |piece| tower.encode(piece, keep.rows(), device)),
            },
        )
    }
}

/// Embeds texts sorted by their `length`, since neighbours of like length waste little on padding, and answers in the order
/// given; `read` says how many tokens of a text were used and how many cut.
pub(crate) fn embed_by_length<T>(
    info: &TextInfo,
    texts: &[T],
    length: impl Fn(&T) -> usize,
    read: impl Fn(&T) -> (usize, usize),
    encode: impl FnOnce(&[&T]) -> Result<Encoded>,
) -> Result<Vec<TextEmbedding>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| length(&texts[i]));
    let encoded = encode(&order.iter().map(|&i| &texts[i]).collect::<Vec<_>>())?;
    let embeddings = unit_rows(&encoded.embeddings, info.dim)?;
    let kept = fusion_tokens(&encoded.tokens, embeddings.len(), info.tokens.dim)?;
    let mut answers: Vec<(usize, TextEmbedding)> = order
        .into_iter()
        .zip(embeddings.into_iter().zip(kept))
        .map(|(i, (embedding, fusion_tokens))| {
            let (tokens_used, tokens_cut) = read(&texts[i]);
            (i, TextEmbedding { embedding, tokens_used, tokens_cut, fusion_tokens })
        })
        .collect();
    answers.sort_by_key(|(i, _)| *i);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// Pieces of a batch side by side; threads beyond the number of pieces help inside of them.
pub(crate) fn on_cpu<T: Sync>(items: &[T], embed: impl Fn(&[T], usize) -> Encoded + Sync) -> Encoded {
    if items.is_empty() {
        return Encoded::default();
    }
    let n_threads = rayon::current_num_threads();
    let size = items.len().div_ceil(n_threads).min(CPU_BATCH);
    let spare = n_threads / items.len().div_ceil(size);
    let pieces: Vec<Encoded> = items.par_chunks(size).map(|piece| embed(piece, spare.max(1))).collect();
    together(pieces)
}

/// Pieces of a batch one after the other.
pub(crate) fn on_card<T>(items: &[T], embed: impl Fn(&[T]) -> candle_core::Result<Encoded>) -> Result<Encoded> {
    Ok(together(items.chunks(CUDA_BATCH).map(embed).collect::<candle_core::Result<Vec<_>>>()?))
}

fn together(pieces: Vec<Encoded>) -> Encoded {
    let mut all = Encoded::default();
    pieces.into_iter().for_each(|piece| all.extend(piece));
    all
}

/// (items * n, dim) numbers to the tokens of each item; none of each if there are no numbers.
fn fusion_tokens(rows: &[f32], n_items: usize, dim: usize) -> Result<Vec<Option<FusionTokens>>> {
    if rows.is_empty() {
        return Ok(vec![None; n_items]);
    }
    rows.chunks_exact(rows.len() / n_items).map(|rows| FusionTokens::new(rows, dim).map(Some)).collect()
}

/// What the published files hold besides: indices, masks and sizes that older versions saved, and the temperature of training.
pub(crate) fn is_known_spare(tensor: &str) -> bool {
    const SPARE: [&str; 6] =
        ["logit_scale", "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size"];
    let tensor = tensor.strip_prefix("module.").unwrap_or(tensor);
    SPARE.contains(&tensor) || tensor.ends_with(".position_ids") || tensor.ends_with(".attn_mask")
}

/// Weights, and the widest states of a batch: those of the MLP beside some copies of the hidden ones. On the CPU the scores of
/// one head are held at a time, on a card those of all.
pub(crate) fn memory(config: &Config) -> Vec<Memory> {
    let (text, vision) = (&config.text, &config.vision);
    let towers = [(&text.tower, text.max_position_embeddings), (&vision.tower, config.image_tokens())];
    memory_of(&towers, config.n_parameters())
}

/// The same of an image tower of so many tokens, alone.
fn image_memory(vision: &VisionConfig, n_tokens: usize, n_parameters: u64) -> Vec<Memory> {
    memory_of(&[(&vision.tower, n_tokens)], n_parameters)
}

fn text_memory(text: &TextConfig, n_parameters: u64) -> Vec<Memory> {
    memory_of(&[(&text.tower, text.max_position_embeddings)], n_parameters)
}

/// Of a tower of so many tokens that is made as FLAME's.
pub(crate) fn tower_memory(dim: usize, n_heads: usize, n_tokens: usize, n_parameters: u64) -> Vec<Memory> {
    let tower = TowerConfig {
        hidden_size: dim,
        intermediate_size: 4 * dim,
        n_layers: 0,
        n_heads,
        activation: Activation::Gelu,
        layer_norm_eps: 0.0,
    };
    memory_of(&[(&tower, n_tokens)], n_parameters)
}

fn memory_of(towers: &[(&TowerConfig, usize)], n_parameters: u64) -> Vec<Memory> {
    let widest = |numbers: fn(&TowerConfig, usize) -> usize| {
        let bytes = towers.iter().map(|(tower, length)| 4 * numbers(tower, *length) as u64);
        bytes.max().expect("there is a tower")
    };
    let weights_bytes = 4 * n_parameters;
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

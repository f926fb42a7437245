//! A frozen block of a decoder LLM inside an image tower, between its last block and its final norm (LM4VisualEncoding,
//! arXiv 2310.12973): every token goes through a linear map, the block, and a linear map back.
//!
//! Judged by torch, see `model/fixtures/make_block.py`.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module};

use super::{CONFIG_FILE, Weights, source::Source, weights};
use crate::{
    Error, Result,
    decoder::{FinalNorm, LoneBlock},
};

/// Which block, and the maps around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenBlock {
    /// Of the decoder: a folder in the Hugging Face layout, or a `.gguf` file.
    pub decoder: PathBuf,
    /// From 0; the paper takes the last one for images.
    pub index: usize,
    pub norm: FinalNorm,
    /// A file with `llama_dim_mapper1.weight` and `llama_dim_mapper2.weight`, safetensors or of `torch.save`.
    pub mappers: PathBuf,
}

impl FrozenBlock {
    /// Every file that shapes an embedding, as (name, path).
    pub(super) fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut files = vec![("mappers".to_owned(), self.mappers.clone())];
        if self.decoder.is_dir() {
            let mut names = weights::file_names(&self.decoder, weights::CANDIDATES)?;
            names.push(CONFIG_FILE.to_owned());
            names.sort();
            files.extend(names.into_iter().map(|name| (format!("decoder/{name}"), self.decoder.join(name))));
        } else {
            files.push(("decoder".to_owned(), self.decoder.clone()));
        }
        Ok(files)
    }
}

/// The block and its maps, loaded.
pub(super) struct Inside {
    into: Linear,
    block: LoneBlock,
    out: Linear,
}

impl Inside {
    /// For a tower whose states are `width` wide.
    pub(super) fn load(from: &FrozenBlock, width: usize, device: &Device) -> Result<Inside> {
        let block = LoneBlock::load(&from.decoder, from.index, from.norm, device)?;
        let (into, out) = mappers(&from.mappers, [width, block.dim()], device)?;
        Ok(Inside { into, block, out })
    }

    /// (batch, tokens, width) to the same.
    pub(super) fn forward(&self, states: &Tensor) -> candle_core::Result<Tensor> {
        self.out.forward(&self.block.forward(&self.into.forward(states)?)?)
    }

    pub(super) fn n_parameters(&self) -> u64 {
        self.block.n_parameters() + self.n_of_maps()
    }

    /// What it takes in memory.
    pub(super) fn n_bytes(&self) -> u64 {
        self.block.n_bytes() + 4 * self.n_of_maps()
    }

    fn n_of_maps(&self) -> u64 {
        (self.into.weight().elem_count() + self.out.weight().elem_count()) as u64
    }
}

/// What the maps into the block and out of it begin with.
pub(super) const MAPPERS: &str = "llama_dim_mapper";

/// A tower that was trained around a block is another one without it.
pub(super) fn refuse_left_out(weights: &Weights, block: Option<&FrozenBlock>) -> Result<()> {
    if block.is_some() || weights.shape("llama_dim_mapper1.weight").is_none() {
        return Ok(());
    }
    let detail = "has the maps around a frozen block, llama_dim_mapper1: expected an [image.block], received none";
    Err(Error::BadFile { file: weights.at().to_owned(), detail: detail.to_owned() })
}

fn mappers(path: &Path, [width, dim]: [usize; 2], device: &Device) -> Result<(Linear, Linear)> {
    let weights = Weights::open_file(path)?;
    let from = Source::new(&weights, device);
    let into = from.linear_no_bias("llama_dim_mapper1", dim, width)?;
    Ok((into, from.linear_no_bias("llama_dim_mapper2", width, dim)?))
}

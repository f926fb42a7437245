//! One block of a decoder, alone, for states that are no text: no embedding, no rotation and no mask, so that every token sees every
//! other.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, RmsNorm};

use super::{Around, Block, Config, Room, bad, norm, open, tensors, weights::Source};
use crate::{Result, memory, pair::n_numbers};

/// The norm behind a block that is used alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinalNorm {
    /// As LM4VisualEncoding is published: its loader leaves the gains of the decoder's last norm out.
    #[default]
    Ones,
    /// The decoder's own.
    Loaded,
}

pub(crate) struct LoneBlock {
    block: Block,
    norm: RmsNorm,
    dim: usize,
    n_bytes: u64,
    n_parameters: u64,
}

impl LoneBlock {
    /// Block `index`, from 0, of a decoder in the Hugging Face layout or a `.gguf` file; nothing else of it is read. In f32.
    pub(crate) fn load(path: &Path, index: usize, kind: FinalNorm, device: &Device) -> Result<LoneBlock> {
        let (config, store) = open(path)?;
        let needed = LoneBlock::tensors(&config, index, kind).map_err(|detail| bad(path, detail))?;
        let from = Source { store: &store, device, dtype: DType::F32 };
        let n_bytes = store.n_bytes(&needed, DType::F32);
        if device.is_cpu() {
            memory::check(path, n_bytes)?;
        }
        let dim = config.hidden_size;
        let norm = match kind {
            FinalNorm::Ones => RmsNorm::new(Tensor::ones(dim, DType::F32, device)?, config.rms_norm_eps),
            FinalNorm::Loaded => norm(&from, "model.norm.weight", dim, &config)?,
        };
        let of_block: u64 = tensors::block(&config, index).iter().map(n_numbers).sum();
        let block = Block::load(&from, index, &config)?;
        Ok(LoneBlock { block, norm, dim, n_bytes, n_parameters: of_block + dim as u64 })
    }

    /// Name and shape of each that is read; an `Err` says that there is no such block.
    pub(crate) fn tensors(config: &Config, index: usize, kind: FinalNorm) -> Result<Vec<(String, Vec<usize>)>, String> {
        if index >= config.n_blocks {
            return Err(format!("block {index}: expected one below {}", config.n_blocks));
        }
        let mut tensors = tensors::block(config, index);
        tensors.extend((kind == FinalNorm::Loaded).then(|| ("model.norm.weight".to_owned(), vec![config.hidden_size])));
        Ok(tensors)
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// (batch, tokens, dim) to the same, normed.
    pub(crate) fn forward(&self, states: &Tensor) -> candle_core::Result<Tensor> {
        self.norm.forward(&self.block.forward(states, &Around::default(), None, &mut Room::default())?)
    }

    /// What it takes in memory.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    pub(crate) fn n_parameters(&self) -> u64 {
        self.n_parameters
    }
}

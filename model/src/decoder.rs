//! A frozen decoder LLM (Llama, Mistral, Qwen2, Qwen3) that is read from the inside: tokens with explicit positions and
//! an additive mask in, the residual stream after any block out. It writes no text of its own accord.
//!
//! Tensor names and order of operations follow `modeling_llama.py` of transformers, so that weights load by name;
//! judged by transformers on the same weights, see `model/fixtures/make_decoders.py`. Only the blocks that are asked
//! for are loaded.

mod alone;
mod block;
mod config;
mod cpu;
mod gguf;
mod tensors;
mod weights;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, RmsNorm};

pub use self::alone::FinalNorm;
pub(crate) use self::alone::LoneBlock;
pub use self::config::{Biases, Config, Family, Llama3Scaling, Rope, Scaling};
pub(crate) use self::tensors::{is_known_spare, tensors};
pub(crate) use self::weights::Store;
use self::{
    cpu::Room,
    weights::{Matrix, Source},
};
use crate::{
    Error, Result, device, folder, memory,
    pair::{CONFIG_FILE, TOKENIZER_FILE, WEIGHT_FILES, n_numbers, weight_file_names},
};

pub struct Decoder {
    config: Config,
    device: Device,
    dtype: DType,
    /// (vocab, dim)
    tokens: Matrix,
    blocks: Vec<Block>,
    final_norm: Option<RmsNorm>,
    /// (vocab, dim)
    head: Option<Matrix>,
    /// (head_dim / 2): turn per position of each pair of a head.
    frequencies: Tensor,
    n_parameters: u64,
    n_bytes: u64,
    is_gguf: bool,
    n_computed: AtomicU64,
}

/// How much of a decoder is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// This many blocks from the first on.
    Blocks(usize),
    /// All blocks but this many at the end.
    BlocksBut(usize),
    /// All blocks and the final norm.
    Norm,
    /// The same, and the output head.
    Head,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub depth: Depth,
    pub device: crate::Device,
    /// Of weights and states; `None` is f32 on the CPU, where half precision is slow, and bf16 on a card. GGUF computes
    /// in f32.
    pub dtype: Option<DType>,
}

/// Tokens to run together.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// (batch, tokens), u32
    pub ids: &'a Tensor,
    /// (batch, tokens), u32: where each token stands in its text, whatever its column.
    pub positions: &'a Tensor,
    /// (batch or 1, 1, tokens, cached + tokens), f32, added to the attention scores, see [`mask`]; `None` hides
    /// nothing.
    pub mask: Option<&'a Tensor>,
}

/// Keys and values of tokens that were run, for those that follow them.
#[derive(Clone, Default)]
pub struct Cache {
    blocks: Vec<KeyValues>,
}

/// Of one block; each (batch, kv heads, cached, head_dim), of a [`Block::Cpu`] (batch, 1, cached, kv heads * head_dim).
type KeyValues = Option<(Tensor, Tensor)>;

/// (batch, 1, rows, columns) for [`Pass::mask`], from who `sees` whom: batch, row, column.
///
/// What is hidden is far below, not minus infinity: a row that sees nothing, a pad, then has numbers and not NaN.
pub fn mask(
    (batch, rows, columns): (usize, usize, usize),
    device: &Device,
    sees: impl Fn(usize, usize, usize) -> bool,
) -> Result<Tensor> {
    let cell = |at: usize| sees(at / columns / rows, at / columns % rows, at % columns);
    let cells = (0..batch * rows * columns).map(|at| if cell(at) { 0.0 } else { f32::MIN }).collect();
    Ok(Tensor::from_vec(cells, (batch, 1, rows, columns), device)?)
}

impl Decoder {
    /// From a folder in the Hugging Face layout, or a `.gguf` file. `Error::TooLittleMemory`, before anything is read, if
    /// the CPU has no room for the weights.
    pub fn load(path: &Path, options: &Options) -> Result<Decoder> {
        let device = device::open(options.device)?;
        let (config, store) = open(path)?;
        let usual = if device.is_cuda() { DType::BF16 } else { DType::F32 };
        let dtype = if store.is_gguf() { DType::F32 } else { options.dtype.unwrap_or(usual) };
        let n_blocks = options.depth.n_blocks(&config).map_err(|detail| bad(path, detail))?;

        let from = Source { store: &store, device: &device, dtype };
        let tensors = tensors(&config, options.depth).map_err(|detail| bad(path, detail))?;
        let n_bytes = store.n_bytes(&tensors, dtype);
        if device.is_cpu() {
            memory::check(path, n_bytes)?;
        }
        let norm = || norm(&from, "model.norm.weight", config.hidden_size, &config);
        let tokens = from.matrix("model.embed_tokens", [config.vocab_size, config.hidden_size], false)?;
        let head = match options.depth {
            Depth::Head if config.tied_head => Some(tokens.clone()),
            Depth::Head => Some(from.matrix("lm_head", [config.vocab_size, config.hidden_size], false)?),
            _ => None,
        };
        Ok(Decoder {
            blocks: (0..n_blocks).map(|i| Block::load(&from, i, &config)).collect::<Result<_>>()?,
            final_norm: matches!(options.depth, Depth::Norm | Depth::Head).then(norm).transpose()?,
            frequencies: Tensor::new(config.rope.frequencies(config.head_dim), &device)?,
            n_parameters: tensors.iter().map(n_numbers).sum(),
            n_bytes,
            is_gguf: store.is_gguf(),
            n_computed: AtomicU64::new(0),
            tokens,
            head,
            config,
            device,
            dtype,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Blocks that are loaded.
    pub fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Those that are loaded.
    pub fn n_parameters(&self) -> u64 {
        self.n_parameters
    }

    /// What its weights take in memory.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    pub(crate) fn is_gguf(&self) -> bool {
        self.is_gguf
    }

    /// Tokens that went through the blocks since loading, pads among them.
    pub fn n_computed(&self) -> u64 {
        self.n_computed.load(Relaxed)
    }

    /// The residual stream after each number of blocks in `after`, 0 being the embedding; each (batch, tokens, dim).
    ///
    /// Runs no further than the last of them. With a cache, the tokens in it stand before these and are not run again,
    /// and these are added to it; it must come from a pass that went as far.
    pub fn states(&self, pass: &Pass, after: &[usize], mut cache: Option<&mut Cache>) -> Result<Vec<Tensor>> {
        let (batch, length) = pass.ids.dims2()?;
        if batch * length == 0 {
            return Err(Error::EmptyText);
        }
        let n_tokens = length + cache.as_ref().map_or(0, |cache| cache.n_tokens());
        if n_tokens > self.config.max_tokens {
            return Err(Error::TooManyTokens { n_tokens, max_tokens: self.config.max_tokens });
        }
        self.n_computed.fetch_add((batch * length) as u64, Relaxed);
        let deepest = after.iter().copied().max().unwrap_or(0);
        assert!(deepest <= self.blocks.len(), "{deepest} blocks are asked for, {} are loaded", self.blocks.len());
        let around = Around { rotation: Some(self.rotation(pass.positions)?), mask: pass.mask };
        let mut room = Room::default();
        let mut states = self.tokens.rows(pass.ids)?; // (batch, tokens, dim)
        let mut kept = vec![states.clone(); after.len()];
        for (i, block) in self.blocks[..deepest].iter().enumerate() {
            let cached = cache.as_deref_mut().map(|cache| cache.block(i));
            states = block.forward(&states, &around, cached, &mut room)?;
            for (_, kept) in after.iter().zip(&mut kept).filter(|(n, _)| **n == i + 1) {
                *kept = states.clone();
            }
        }
        Ok(kept)
    }

    /// States as the output head reads them; needs [`Depth::Norm`].
    pub fn normed(&self, states: &Tensor) -> Result<Tensor> {
        let norm = self.final_norm.as_ref().expect("the final norm is loaded with Depth::Norm or Depth::Head");
        Ok(norm.forward(&states.contiguous()?)?)
    }

    /// (batch, tokens, vocab) of states after the last block; needs [`Depth::Head`].
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        let head = self.head.as_ref().expect("the output head is loaded with Depth::Head");
        Ok(head.forward(&self.normed(states)?)?)
    }

    fn rotation(&self, positions: &Tensor) -> candle_core::Result<Rotation> {
        // (batch, tokens, head_dim / 2)
        let turns = positions.to_dtype(DType::F32)?.unsqueeze(2)?.broadcast_mul(&self.frequencies)?;
        Ok(Rotation { cos: turns.cos()?.to_dtype(self.dtype)?, sin: turns.sin()?.to_dtype(self.dtype)? })
    }
}

impl Depth {
    fn n_blocks(self, config: &Config) -> Result<usize, String> {
        let n_blocks = config.n_blocks;
        match self {
            Depth::Blocks(n) if n > n_blocks => Err(format!("has {n_blocks} blocks: expected at least {n}")),
            Depth::Blocks(n) => Ok(n),
            Depth::BlocksBut(n) => n_blocks
                .checked_sub(n)
                .filter(|&left| left > 0)
                .ok_or_else(|| format!("has {n_blocks} blocks: expected more than the {n} to leave out")),
            Depth::Norm | Depth::Head => Ok(n_blocks),
        }
    }
}

impl Cache {
    /// Tokens that are kept.
    pub fn n_tokens(&self) -> usize {
        let first = self.blocks.first().and_then(Option::as_ref);
        first.map_or(0, |(keys, _)| keys.dims()[2])
    }

    fn block(&mut self, index: usize) -> &mut KeyValues {
        self.blocks.resize(self.blocks.len().max(index + 1), None);
        &mut self.blocks[index]
    }
}

/// Where the arithmetic of a block is done.
enum Block {
    /// All weights are f32 on the CPU.
    Cpu(Box<cpu::Block>),
    /// On a card, in half precision, or quantised.
    Operations(Box<block::Block>),
}

impl Block {
    fn load(from: &Source, index: usize, config: &Config) -> Result<Block> {
        let block = block::Block::load(from, index, config)?;
        Ok(if block.is_flat() {
            Block::Cpu(Box::new(cpu::Block::new(block)?))
        } else {
            Block::Operations(Box::new(block))
        })
    }

    /// (batch, tokens, dim) to the same.
    fn forward(
        &self,
        states: &Tensor,
        around: &Around,
        kept: Option<&mut KeyValues>,
        room: &mut Room,
    ) -> candle_core::Result<Tensor> {
        match self {
            Block::Cpu(block) => block.forward(states, around, kept, room),
            Block::Operations(block) => block.forward(states, around, kept),
        }
    }
}

/// What a block is told beside the states.
#[derive(Default)]
struct Around<'a> {
    /// Without one, the order of the tokens says nothing.
    rotation: Option<Rotation>,
    mask: Option<&'a Tensor>,
}

/// Cosine and sine of each token's turns, (batch, tokens, head_dim / 2).
struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

/// Puts keys and values behind those that are kept, and answers all.
fn extend(kept: &mut KeyValues, key: Tensor, value: Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let all = match kept.take() {
        Some((keys, values)) => (Tensor::cat(&[&keys, &key], 2)?, Tensor::cat(&[&values, &value], 2)?),
        None => (key, value),
    };
    *kept = Some(all.clone());
    Ok(all)
}

fn open(path: &Path) -> Result<(Config, Store)> {
    let store = Store::open(path)?;
    Ok((store.config(path)?, store))
}

/// Beside weights.
pub(crate) const SMALL_FILES: [&str; 2] = [CONFIG_FILE, TOKENIZER_FILE];

/// Whether it is a file that is called one.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// Whether the config of a folder is that of a decoder.
pub(crate) fn is_in(folder: &Path) -> bool {
    let config = folder::read_json(&folder.join(CONFIG_FILE)).unwrap_or_default();
    config["model_type"].as_str().is_some_and(|name| Family::by_name(name).is_ok())
}

/// Every file that is read, as (name, path); the name of a `.gguf` file says nothing.
pub(crate) fn files(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    if !path.is_dir() {
        return Ok(vec![("model.gguf".to_owned(), path.to_owned())]);
    }
    let names = [CONFIG_FILE.to_owned()].into_iter().chain(weight_file_names(path, WEIGHT_FILES)?);
    Ok(names.map(|name| (name.clone(), path.join(name))).collect())
}

fn norm(from: &Source, name: &str, dim: usize, config: &Config) -> Result<RmsNorm> {
    Ok(RmsNorm::new(from.tensor(name, &[dim])?, config.rms_norm_eps))
}

fn bad(path: &Path, detail: String) -> Error {
    Error::BadFile { file: path.to_owned(), detail }
}

#[cfg(test)]
mod tests;

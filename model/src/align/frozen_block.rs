//! A frozen block of a decoder LLM inside the image tower (LM4VisualEncoding, arXiv 2310.12973): Linear, block, RMSNorm,
//! Linear. The block turns nothing by position and hides nothing; its weights are read, never learnt. The norm after it is
//! the released code's, whose gains are all one.
//!
//! `Decoder` computes the same block without gradients: with every position 0 its rotation is none.

use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor};

use super::BlockPlan;
use crate::{
    Error,
    decoder::Config,
    learn::{
        layers::{Linear, Pass},
        ops,
        parameters::{Maker, cast},
    },
    pair::{CONFIG_FILE, Weights},
};

pub(super) struct FrozenBlock {
    config: Config,
    /// By the names of transformers, in the order of `shapes`.
    weights: Vec<(String, Tensor)>,
    mappers: Option<(Linear, Linear)>,
}

impl BlockPlan {
    /// Block `index`, from 0, of a decoder in a folder in the Hugging Face layout; the last one if none is named. The folder is kept by
    /// its full path: what is learnt is a model that names its decoder, wherever it is opened from.
    pub fn of(folder: &Path, index: Option<usize>) -> crate::Result<BlockPlan> {
        let config = config_of(folder)?;
        let index = index.unwrap_or(config.n_blocks.saturating_sub(1));
        let hash = FrozenBlock::read(folder, index, &Device::Cpu)?.hash()?;
        let decoder = folder.canonicalize().map_err(|error| Error::Io { path: folder.to_owned(), error })?;
        Ok(BlockPlan { decoder, index, hash })
    }

    /// The block, if it is the one that was planned with.
    pub(super) fn open(&self, device: &Device) -> crate::Result<FrozenBlock> {
        let BlockPlan { decoder, index, hash } = self;
        let block = FrozenBlock::read(decoder, *index, device)?;
        let received = block.hash()?;
        match received == *hash {
            true => Ok(block),
            false => {
                let detail = format!(
                    "block {index}: expected the one that was learnt around, BLAKE3 {hash}, received {received}"
                );
                Err(Error::BadFile { file: decoder.clone(), detail })
            }
        }
    }
}

/// The hint of a model folder that misses a file would name files that a block does without.
fn config_of(folder: &Path) -> crate::Result<Config> {
    match Config::read(&folder.join(CONFIG_FILE)) {
        Err(Error::MissingFile { .. }) => {
            let detail = "expected the folder of the decoder whose block stands in the image tower, with config.json and its weights";
            let received = if folder.is_dir() { "one without config.json" } else { "none" };
            Err(Error::BadFile { file: folder.to_owned(), detail: format!("{detail}, received {received}") })
        }
        config => config,
    }
}

impl FrozenBlock {
    /// Block `index`, from 0, of a folder in the Hugging Face layout.
    fn read(folder: &Path, index: usize, device: &Device) -> crate::Result<FrozenBlock> {
        let config = config_of(folder)?;
        let refused = |detail: String| Error::BadFile { file: folder.join(CONFIG_FILE), detail };
        if index >= config.n_blocks {
            return Err(refused(format!("expected a block below {}, received {index}", config.n_blocks)));
        }
        let has_biases = config.biases != Default::default();
        if has_biases || config.family == crate::decoder::Family::Qwen3 {
            let with = if has_biases { " with biases" } else { "" };
            let expected = "expected a block of Llama or Mistral without biases";
            return Err(refused(format!("{expected}, received {:?}{with}", config.family)));
        }
        let store = Weights::open(folder)?;
        let read = |(name, shape): (&str, Vec<usize>)| {
            let name = format!("model.layers.{index}.{name}.weight");
            store.get(&name, &shape, device).map(|tensor| (name, tensor))
        };
        let weights = shapes(&config).into_iter().map(read).collect::<crate::Result<_>>()?;
        Ok(FrozenBlock { config, weights, mappers: None })
    }

    /// The same between two learnt maps, for a tower of this dim.
    pub(super) fn with_mappers(self, make: &mut Maker, dim: usize) -> Result<FrozenBlock> {
        let hidden = self.config.hidden_size;
        let first = Linear::without_bias(make, "llama_dim_mapper1", [dim, hidden])?;
        let second = Linear::without_bias(make, "llama_dim_mapper2", [hidden, dim])?;
        Ok(FrozenBlock { mappers: Some((first, second)), ..self })
    }

    pub(super) fn tensors(&self) -> Vec<(String, Tensor)> {
        self.weights.clone()
    }

    /// First 32 hexadecimal digits of the BLAKE3 hash over all that decides what the block makes of its input.
    fn hash(&self) -> Result<String> {
        let Config { n_heads, n_kv_heads, head_dim, rms_norm_eps, .. } = self.config;
        let mut all = blake3::Hasher::new();
        all.update(format!("{n_heads} {n_kv_heads} {head_dim} {rms_norm_eps:e}").as_bytes());
        for (name, tensor) in &self.weights {
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            all.update(name.as_bytes()).update(format!("{:?}", tensor.dims()).as_bytes());
            all.update(bytemuck::cast_slice(&values));
        }
        Ok(all.finalize().to_hex()[..32].to_owned())
    }

    /// (batch, tokens, dim) to the same.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (first, second) = self.mappers.as_ref().expect("a block in a tower has its maps");
        let states = cast(&first.forward(x, pass)?, DType::F32)?;
        let normed = rms(&self.block(&states, pass)?, self.config.rms_norm_eps)?;
        cast(&second.forward(&normed, pass)?, DType::F32)
    }

    /// (batch, tokens, hidden) to the same, by the decoder's own arithmetic.
    fn block(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let weight = |i: usize| &self.weights[i].1;
        let map = |x: &Tensor, i: usize| product(x, weight(i), pass);
        let epsilon = self.config.rms_norm_eps;
        let normed = rms(x, epsilon)?.broadcast_mul(weight(0))?;
        let mixed = self.attend(map(&normed, 1)?, map(&normed, 2)?, map(&normed, 3)?)?;
        let x = (x + cast(&map(&mixed, 4)?, DType::F32)?)?;
        let normed = rms(&x, epsilon)?.broadcast_mul(weight(5))?;
        let wide = (map(&normed, 6)?.silu()? * map(&normed, 7)?)?;
        x + cast(&map(&wide, 8)?, DType::F32)?
    }

    fn attend(&self, query: Tensor, key: Tensor, value: Tensor) -> Result<Tensor> {
        let Config { n_heads, n_kv_heads, head_dim, .. } = self.config;
        let (batch, length, _) = query.dims3()?;
        let heads = |x: &Tensor| x.reshape((batch, length, (), head_dim))?.transpose(1, 2)?.contiguous();
        // Heads that share keys are further rows of one product.
        let rows = n_heads / n_kv_heads * length;
        let query = (heads(&query)? / (head_dim as f64).sqrt())?.reshape((batch, n_kv_heads, rows, head_dim))?;
        let scores = query.matmul(&heads(&key)?.t()?)?;
        let shares = cast(&ops::shares(&cast(&scores, DType::F32)?)?, value.dtype())?;
        let mixed = shares.matmul(&heads(&value)?)?.reshape((batch, n_heads, length, head_dim))?;
        mixed.transpose(1, 2)?.reshape((batch, length, n_heads * head_dim))
    }
}

/// Names and shapes in the order that `block` takes them.
fn shapes(config: &Config) -> Vec<(&'static str, Vec<usize>)> {
    let Config { hidden_size: dim, intermediate_size: wide, n_heads, n_kv_heads, head_dim, .. } = *config;
    vec![
        ("input_layernorm", vec![dim]),
        ("self_attn.q_proj", vec![n_heads * head_dim, dim]),
        ("self_attn.k_proj", vec![n_kv_heads * head_dim, dim]),
        ("self_attn.v_proj", vec![n_kv_heads * head_dim, dim]),
        ("self_attn.o_proj", vec![dim, n_heads * head_dim]),
        ("post_attention_layernorm", vec![dim]),
        ("mlp.gate_proj", vec![wide, dim]),
        ("mlp.up_proj", vec![wide, dim]),
        ("mlp.down_proj", vec![dim, wide]),
    ]
}

fn product(x: &Tensor, weight: &Tensor, pass: &Pass) -> Result<Tensor> {
    let (batch, length, n_in) = x.dims3()?;
    let weight = cast(weight, pass.dtype)?;
    cast(x, pass.dtype)?.reshape(((), n_in))?.matmul(&weight.t()?)?.reshape((batch, length, weight.dim(0)?))
}

fn rms(x: &Tensor, epsilon: f64) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decoder::{self, Decoder, Depth},
        testing::fixture,
    };

    #[test]
    fn the_block_is_the_decoders_without_positions() {
        let folder = fixture("decoder-mistral");
        let options = decoder::Options { depth: Depth::Blocks(2), device: crate::Device::Cpu, dtype: None };
        let decoder = Decoder::load(&folder, &options).unwrap();
        let ids = Tensor::new(&[[3u32, 9, 4, 7], [5, 5, 1, 2]], &Device::Cpu).unwrap();
        let positions = ids.zeros_like().unwrap();
        let pass = decoder::Pass { ids: &ids, positions: &positions, mask: None };
        let states = decoder.states(&pass, &[1, 2], None).unwrap();
        let block = FrozenBlock::read(&folder, 1, &Device::Cpu).unwrap();
        let received = block.block(&states[0], &Pass::quiet(DType::F32)).unwrap();
        let far = (received - &states[1]).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(far < 1e-5, "{far}");
    }

    #[test]
    fn a_block_that_is_not_there_is_refused() {
        let error = FrozenBlock::read(&fixture("decoder-mistral"), 99, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains("expected a block below") && error.contains("received 99"), "{error}");
        let error = FrozenBlock::read(&fixture("decoder-qwen3"), 0, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains("expected a block of Llama or Mistral without biases, received Qwen3"), "{error}");
    }
}

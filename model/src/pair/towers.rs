//! The two transformers of CLIP in candle's operations: pre-norm blocks, a causal mask on the text side only.
//!
//! They load the weights, and compute on a card; on the CPU `cpu` takes the weights over, judged by these.
//! Tensor names and order of operations follow `modeling_clip.py` of transformers, so that weights load by name.

use candle_core::{Device, IndexOp, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module};

use super::{
    config::{Activation, Config, TowerConfig},
    weights::Weights,
};
use crate::Result;

pub(crate) struct ImageTower {
    /// (dim, 3 * patch * patch)
    pub(super) patch_embedding: Linear,
    /// (1, 1, dim): class embedding plus the first position.
    pub(super) class_token: Tensor,
    /// (patches, dim)
    pub(super) positions: Tensor,
    pub(super) pre_norm: LayerNorm,
    pub(super) blocks: Vec<Block>,
    pub(super) post_norm: LayerNorm,
    pub(super) projection: Linear,
    pub(super) grid: usize,
    pub(super) patch: usize,
}

impl ImageTower {
    pub(crate) fn load(weights: &Weights, config: &Config, device: &Device) -> Result<ImageTower> {
        let from = Source { weights, device, at: "vision_model".to_owned() };
        let (vision, tower) = (&config.vision, &config.vision.tower);
        let (dim, patch) = (tower.hidden_size, vision.patch_size);
        let kernel = from.get("embeddings.patch_embedding.weight", &[dim, 3, patch, patch])?;
        let positions = from.get("embeddings.position_embedding.weight", &[vision.n_patches() + 1, dim])?;
        let class = from.get("embeddings.class_embedding", &[dim])?;
        Ok(ImageTower {
            patch_embedding: Linear::new(kernel.flatten_from(1)?, None),
            class_token: (class + positions.i(0)?)?.reshape((1, 1, dim))?,
            positions: positions.i(1..)?.contiguous()?,
            pre_norm: from.norm("pre_layrnorm", tower)?,
            blocks: from.blocks(tower)?,
            post_norm: from.norm("post_layernorm", tower)?,
            projection: from.root().linear_no_bias("visual_projection", config.projection_dim, dim)?,
            grid: vision.grid(),
            patch,
        })
    }

    /// (batch, 3, side, side) to (batch, projection_dim).
    pub(crate) fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let patches = self.patch_embedding.forward(&self.cut_patches(pixels)?)?;
        let patches = patches.broadcast_add(&self.positions)?; // (batch, patches, dim)
        let (batch, _, dim) = patches.dims3()?;
        let class = self.class_token.broadcast_as((batch, 1, dim))?;
        let mut states = self.pre_norm.forward(&Tensor::cat(&[&class, &patches], 1)?)?; // (batch, 1 + patches, dim)
        for block in &self.blocks {
            states = block.forward(&states, None)?;
        }
        let pooled = self.post_norm.forward(&states.i((.., 0))?.contiguous()?)?; // (batch, dim)
        self.projection.forward(&pooled)
    }

    /// Pixels that no whole patch covers are left out, as a strided convolution leaves them.
    fn cut_patches(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, grid, patch) = (pixels.dim(0)?, self.grid, self.patch);
        let covered = pixels.narrow(2, 0, grid * patch)?.narrow(3, 0, grid * patch)?;
        covered.reshape(&[batch, 3, grid, patch, grid, patch])?.permute([0, 2, 4, 1, 3, 5])?.contiguous()?.reshape((
            batch,
            grid * grid,
            3 * patch * patch,
        ))
    }
}

pub(crate) struct TextTower {
    /// (vocab, dim)
    pub(super) tokens: Embedding,
    /// (max tokens, dim)
    pub(super) positions: Tensor,
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: LayerNorm,
    pub(super) projection: Linear,
}

impl TextTower {
    pub(crate) fn load(weights: &Weights, config: &Config, device: &Device) -> Result<TextTower> {
        let from = Source { weights, device, at: "text_model".to_owned() };
        let (text, tower) = (&config.text, &config.text.tower);
        let dim = tower.hidden_size;
        Ok(TextTower {
            tokens: Embedding::new(from.get("embeddings.token_embedding.weight", &[text.vocab_size, dim])?, dim),
            positions: from.get("embeddings.position_embedding.weight", &[text.max_position_embeddings, dim])?,
            blocks: from.blocks(tower)?,
            final_norm: from.norm("final_layer_norm", tower)?,
            projection: from.root().linear_no_bias("text_projection", config.projection_dim, dim)?,
        })
    }

    /// (batch, tokens) and the pooled position of each row to (batch, projection_dim).
    pub(crate) fn forward(&self, ids: &Tensor, pooled_at: &[usize]) -> candle_core::Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let words = self.tokens.forward(ids)?;
        let mut states = words.broadcast_add(&self.positions.narrow(0, 0, length)?)?; // (batch, tokens, dim)
        let mask = causal_mask(length, ids.device())?;
        for block in &self.blocks {
            states = block.forward(&states, Some(&mask))?;
        }
        let rows = (0..batch).map(|row| states.i((row, pooled_at[row]))).collect::<candle_core::Result<Vec<_>>>()?;
        let pooled = self.final_norm.forward(&Tensor::stack(&rows, 0)?)?; // (batch, dim)
        self.projection.forward(&pooled)
    }
}

pub(super) struct Block {
    pub(super) norm1: LayerNorm,
    /// Query, key and value in one product; the scale is folded into the query.
    pub(super) qkv: Linear,
    pub(super) out: Linear,
    pub(super) norm2: LayerNorm,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) n_heads: usize,
    pub(super) activation: Activation,
}

impl Block {
    fn load(from: &Source, tower: &TowerConfig) -> Result<Block> {
        let (dim, wide) = (tower.hidden_size, tower.intermediate_size);
        Ok(Block {
            norm1: from.norm("layer_norm1", tower)?,
            qkv: from.qkv(tower)?,
            out: from.linear("self_attn.out_proj", dim, dim)?,
            norm2: from.norm("layer_norm2", tower)?,
            up: from.linear("mlp.fc1", wide, dim)?,
            down: from.linear("mlp.fc2", dim, wide)?,
            n_heads: tower.n_heads,
            activation: tower.activation,
        })
    }

    fn forward(&self, states: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let states = (states + self.attend(&self.norm1.forward(states)?, mask)?)?;
        let wide = self.activation.apply(&self.up.forward(&self.norm2.forward(&states)?)?)?;
        states + self.down.forward(&wide)?
    }

    /// (batch, tokens, dim) to the same.
    fn attend(&self, states: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (batch, length, dim) = states.dims3()?;
        let heads = (batch, length, 3, self.n_heads, dim / self.n_heads);
        let qkv = self.qkv.forward(states)?.reshape(heads)?.permute([2, 0, 3, 1, 4])?.contiguous()?;
        let (query, key, value) = (qkv.i(0)?, qkv.i(1)?, qkv.i(2)?); // (batch, heads, tokens, head dim)
        let mut scores = query.matmul(&key.t()?)?; // (batch, heads, tokens, tokens)
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value)?;
        self.out.forward(&mixed.transpose(1, 2)?.contiguous()?.reshape((batch, length, dim))?)
    }
}

impl Activation {
    fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Activation::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
            Activation::Gelu => x.gelu_erf(),
            Activation::GeluTanh => x.gelu(),
        }
    }
}

/// (tokens, tokens): zero up to the diagonal, minus infinity after it.
fn causal_mask(length: usize, device: &Device) -> candle_core::Result<Tensor> {
    let cell = |row: usize, column: usize| if column > row { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..length).flat_map(|row| (0..length).map(move |column| cell(row, column))).collect();
    Tensor::from_vec(mask, (length, length), device)
}

/// A place among the weights.
struct Source<'a> {
    weights: &'a Weights,
    device: &'a Device,
    at: String,
}

impl Source<'_> {
    fn at(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    fn root(&self) -> Source<'_> {
        Source { at: String::new(), ..*self }
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.weights.get(&self.at(name), shape, self.device)
    }

    fn linear(&self, name: &str, out_dim: usize, in_dim: usize) -> Result<Linear> {
        let weight = self.get(&format!("{name}.weight"), &[out_dim, in_dim])?;
        Ok(Linear::new(weight, Some(self.get(&format!("{name}.bias"), &[out_dim])?)))
    }

    fn linear_no_bias(&self, name: &str, out_dim: usize, in_dim: usize) -> Result<Linear> {
        Ok(Linear::new(self.get(&format!("{name}.weight"), &[out_dim, in_dim])?, None))
    }

    fn norm(&self, name: &str, tower: &TowerConfig) -> Result<LayerNorm> {
        let dim = [tower.hidden_size];
        let weight = self.get(&format!("{name}.weight"), &dim)?;
        Ok(LayerNorm::new(weight, self.get(&format!("{name}.bias"), &dim)?, tower.layer_norm_eps))
    }

    fn qkv(&self, tower: &TowerConfig) -> Result<Linear> {
        let dim = tower.hidden_size;
        let scale = ((dim / tower.n_heads) as f64).powf(-0.5);
        let parts = ["q", "k", "v"].map(|part| self.linear(&format!("self_attn.{part}_proj"), dim, dim)).into_iter();
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        let bias = |linear: &Linear| linear.bias().expect("read with a bias").clone();
        parts[0] = Linear::new((parts[0].weight() * scale)?, Some((bias(&parts[0]) * scale)?));
        let weights: Vec<Tensor> = parts.iter().map(|p| p.weight().clone()).collect();
        let biases: Vec<Tensor> = parts.iter().map(bias).collect();
        Ok(Linear::new(Tensor::cat(&weights, 0)?, Some(Tensor::cat(&biases, 0)?)))
    }

    fn blocks(&self, tower: &TowerConfig) -> Result<Vec<Block>> {
        let layer = |i: usize| Source { at: self.at(&format!("encoder.layers.{i}")), ..*self };
        (0..tower.n_layers).map(|i| Block::load(&layer(i), tower)).collect()
    }
}

//! The two transformers in candle's operations: pre-norm blocks, with a causal mask in the text tower of CLIP only.
//!
//! They load the weights, and compute on a card; on the CPU `cpu` takes the weights over, judged by these.
//! Tensor names and order of operations follow `modeling_clip.py` and `modeling_siglip.py` of transformers, so that weights load by name.

use candle_core::{Device, IndexOp, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module};

use super::{
    Encoded, Family, clip,
    config::{Activation, Config, TowerConfig},
    frozen_block::Inside,
    siglip,
    source::Source,
    tokenizer::Tokens,
    weights::Weights,
};
use crate::{
    Result,
    fusion_tokens::{pool_grid, pool_rows},
};

pub(crate) struct ImageTower {
    /// (dim, 3 * patch * patch)
    pub(super) patch_embedding: Linear,
    /// (patches, dim)
    pub(super) positions: Tensor,
    pub(super) class: Option<ClassToken>,
    pub(super) blocks: Vec<Block>,
    /// Which every token goes through before the last norm.
    pub(super) inside: Option<Inside>,
    pub(super) post_norm: Option<LayerNorm>,
    pub(super) head: ImageHead,
    pub(super) grid: usize,
    pub(super) patch: usize,
}

/// A token that goes through the blocks before the patches, and a norm of them all.
pub(super) struct ClassToken {
    /// (1, 1, dim): class embedding plus its position.
    pub(super) token: Tensor,
    pub(super) pre_norm: LayerNorm,
}

/// How the states become one embedding.
pub(super) enum ImageHead {
    /// By the class token.
    Class(Linear),
    AttentionPool(AttentionPool),
    /// By the mean of what becomes of each patch.
    Mean(Projector),
}

impl ImageTower {
    pub(crate) fn load(weights: &Weights, config: &Config, device: &Device) -> Result<ImageTower> {
        let from = Source::new(weights, device);
        match config.family {
            Family::Clip => clip::image_tower(&from, config),
            Family::Siglip => siglip::image_tower(&from, config),
        }
    }

    /// (batch, 3, side, side) to embeddings and, if they are wanted, the patches pooled to `cells` a side.
    pub(super) fn encode(&self, pixels: &Tensor, cells: Option<usize>) -> candle_core::Result<Encoded> {
        let (embeddings, patches) = self.forward(pixels)?;
        let tokens = match cells {
            Some(cells) => {
                let (_, n_patches, dim) = patches.dims3()?;
                let states = patches.flatten_all()?.to_vec1::<f32>()?;
                states.chunks_exact(n_patches * dim).flat_map(|states| pool_grid(states, dim, cells)).collect()
            }
            None => Vec::new(),
        };
        Ok(Encoded { embeddings: embeddings.flatten_all()?.to_vec1()?, tokens })
    }

    /// (batch, 3, side, side) to (batch, projection_dim) and the states of the patches, (batch, patches, dim).
    pub(super) fn forward(&self, pixels: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let patches = self.patch_embedding.forward(&self.cut_patches(pixels)?)?;
        let patches = patches.broadcast_add(&self.positions)?; // (batch, patches, dim)
        let mut states = match &self.class {
            Some(class) => class.before(&patches)?, // (batch, 1 + patches, dim)
            None => patches,
        };
        states = run(&self.blocks, states, None)?;
        if let Some(inside) = &self.inside {
            states = inside.forward(&states)?;
        }
        if let Some(norm) = &self.post_norm {
            states = norm.forward(&states)?;
        }
        let patches = states.i((.., usize::from(self.class.is_some())..))?;
        let embeddings = match &self.head {
            ImageHead::Class(projection) => projection.forward(&states.i((.., 0))?.contiguous()?)?,
            ImageHead::AttentionPool(pool) => pool.forward(&states)?,
            ImageHead::Mean(projector) => projector.forward(&patches.contiguous()?)?.mean(1)?,
        };
        Ok((embeddings, patches))
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

impl ClassToken {
    fn before(&self, patches: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, _, dim) = patches.dims3()?;
        let token = self.token.broadcast_as((batch, 1, dim))?;
        self.pre_norm.forward(&Tensor::cat(&[&token, patches], 1)?)
    }
}

/// From the space of patches to that of texts, each token alone.
pub(super) struct Projector {
    pub(super) up: Linear,
    pub(super) out: Linear,
    pub(super) norm: LayerNorm,
}

impl Projector {
    fn forward(&self, states: &Tensor) -> candle_core::Result<Tensor> {
        self.norm.forward(&self.out.forward(&self.up.forward(states)?.gelu_erf()?)?)
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
    /// A token sees only itself and what stands before it.
    pub(super) causal: bool,
}

impl TextTower {
    pub(crate) fn load(weights: &Weights, config: &Config, device: &Device) -> Result<TextTower> {
        let from = Source::new(weights, device);
        match config.family {
            Family::Clip => clip::text_tower(&from, config),
            Family::Siglip => siglip::text_tower(&from, config),
        }
    }

    /// Texts of unequal length are those of a causal tower, which cannot see what stands behind its pooled token.
    pub(super) fn encode(
        &self,
        texts: &[&Tokens],
        rows: Option<usize>,
        device: &Device,
    ) -> candle_core::Result<Encoded> {
        let length = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let padded =
            |text: &&Tokens| text.ids.iter().copied().chain(std::iter::repeat(0)).take(length).collect::<Vec<_>>();
        let ids: Vec<u32> = texts.iter().flat_map(padded).collect();
        let pooled_at: Vec<usize> = texts.iter().map(|text| text.pooled_at).collect();
        let (embeddings, states) = self.forward(&Tensor::from_vec(ids, (texts.len(), length), device)?, &pooled_at)?;
        let mut tokens = Vec::new();
        if let Some(rows) = rows {
            let dim = states.dim(2)?;
            let states = states.flatten_all()?.to_vec1::<f32>()?;
            for (text, states) in texts.iter().zip(states.chunks_exact(length * dim)) {
                tokens.extend(pool_rows(&states[text.text().start * dim..text.text().end * dim], dim, rows));
            }
        }
        Ok(Encoded { embeddings: embeddings.flatten_all()?.to_vec1()?, tokens })
    }

    /// (batch, tokens) and the pooled position of each row to (batch, projection_dim) and the states, (batch, tokens, dim).
    pub(super) fn forward(&self, ids: &Tensor, pooled_at: &[usize]) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, length) = ids.dims2()?;
        let words = self.tokens.forward(ids)?;
        let states = words.broadcast_add(&self.positions.narrow(0, 0, length)?)?; // (batch, tokens, dim)
        let mask = if self.causal { Some(causal_mask(length, ids.device())?) } else { None };
        let states = self.final_norm.forward(&run(&self.blocks, states, mask.as_ref())?)?;
        let rows = (0..batch).map(|row| states.i((row, pooled_at[row]))).collect::<candle_core::Result<Vec<_>>>()?;
        Ok((self.projection.forward(&Tensor::stack(&rows, 0)?)?, states))
    }
}

/// One learnt query, the same for every image, that looks at all states; then an MLP.
pub(super) struct AttentionPool {
    /// (1, dim), projected and scaled.
    pub(super) query: Tensor,
    /// Key and value in one product.
    pub(super) kv: Linear,
    pub(super) out: Linear,
    pub(super) n_heads: usize,
    pub(super) mlp: Mlp,
}

impl AttentionPool {
    /// (batch, tokens, dim) to (batch, dim).
    fn forward(&self, states: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, length, dim) = states.dims3()?;
        let width = dim / self.n_heads;
        let heads = (batch, length, 2, self.n_heads, width);
        let kv = self.kv.forward(states)?.reshape(heads)?.permute([2, 0, 3, 1, 4])?.contiguous()?;
        let (key, value) = (kv.i(0)?, kv.i(1)?); // (batch, heads, tokens, head dim)
        let one = self.query.reshape((1, self.n_heads, 1, width))?;
        let query = one.broadcast_as((batch, self.n_heads, 1, width))?.contiguous()?;
        let scores = query.matmul(&key.t()?)?; // (batch, heads, 1, tokens)
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value)?; // (batch, heads, 1, head dim)
        self.mlp.add(self.out.forward(&mixed.reshape((batch, dim))?)?)
    }
}

fn run(blocks: &[Block], mut states: Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
    for block in blocks {
        states = block.forward(&states, mask)?;
    }
    Ok(states)
}

pub(super) struct Block {
    pub(super) norm: LayerNorm,
    /// Query, key and value in one product; the scale is folded into the query.
    pub(super) qkv: Linear,
    pub(super) out: Linear,
    pub(super) n_heads: usize,
    pub(super) mlp: Mlp,
}

impl Block {
    pub(super) fn load(from: &Source, tower: &TowerConfig) -> Result<Block> {
        let dim = tower.hidden_size;
        Ok(Block {
            norm: from.norm("layer_norm1", tower)?,
            qkv: from.qkv(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], tower)?,
            out: from.linear("self_attn.out_proj", dim, dim)?,
            n_heads: tower.n_heads,
            mlp: Mlp::load(from, "layer_norm2", tower)?,
        })
    }

    fn forward(&self, states: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        self.mlp.add((states + self.attend(&self.norm.forward(states)?, mask)?)?)
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

/// Two linear maps with a norm before and an activation between.
pub(super) struct Mlp {
    pub(super) norm: LayerNorm,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) activation: Activation,
}

impl Mlp {
    pub(super) fn load(from: &Source, norm: &str, tower: &TowerConfig) -> Result<Mlp> {
        let (dim, wide) = (tower.hidden_size, tower.intermediate_size);
        Ok(Mlp {
            norm: from.norm(norm, tower)?,
            up: from.linear("mlp.fc1", wide, dim)?,
            down: from.linear("mlp.fc2", dim, wide)?,
            activation: tower.activation,
        })
    }

    /// The states, and what the map makes of them.
    fn add(&self, states: Tensor) -> candle_core::Result<Tensor> {
        let wide = self.activation.apply(&self.up.forward(&self.norm.forward(&states)?)?)?;
        states + self.down.forward(&wide)?
    }
}

impl Activation {
    pub(crate) fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
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

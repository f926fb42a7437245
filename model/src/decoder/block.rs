//! A block in candle's operations, which run anywhere and with quantised weights.
//!
//! It loads the weights; where all of them are f32 on the CPU, `cpu` takes them over, judged by this one in the tests.

use candle_core::{DType, Tensor};
use candle_nn::{Module, RmsNorm, ops::softmax_last_dim, rotary_emb::rope};

use super::{
    Around, Config, KeyValues, Rotation, extend, norm,
    weights::{Matrix, Source},
};
use crate::Result;

pub(super) struct Block {
    pub attention_norm: RmsNorm,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub out: Matrix,
    /// Of each head of queries and of keys.
    pub head_norms: Option<(RmsNorm, RmsNorm)>,
    pub mlp_norm: RmsNorm,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

impl Block {
    pub(super) fn load(from: &Source, index: usize, config: &Config) -> Result<Block> {
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let Config { hidden_size: dim, intermediate_size: wide, n_heads, n_kv_heads, head_dim, biases, .. } = *config;
        let matrix = |name: &str, shape, bias| from.matrix(&at(name), shape, bias);
        let norm = |name: &str, dim| norm(from, &at(name), dim, config);
        let head_norms = || -> Result<_> {
            Ok((norm("self_attn.q_norm.weight", head_dim)?, norm("self_attn.k_norm.weight", head_dim)?))
        };
        Ok(Block {
            attention_norm: norm("input_layernorm.weight", dim)?,
            query: matrix("self_attn.q_proj", [n_heads * head_dim, dim], biases.qkv)?,
            key: matrix("self_attn.k_proj", [n_kv_heads * head_dim, dim], biases.qkv)?,
            value: matrix("self_attn.v_proj", [n_kv_heads * head_dim, dim], biases.qkv)?,
            out: matrix("self_attn.o_proj", [dim, n_heads * head_dim], biases.out)?,
            head_norms: config.family.norms_heads().then(head_norms).transpose()?,
            mlp_norm: norm("post_attention_layernorm.weight", dim)?,
            gate: matrix("mlp.gate_proj", [wide, dim], biases.mlp)?,
            up: matrix("mlp.up_proj", [wide, dim], biases.mlp)?,
            down: matrix("mlp.down_proj", [dim, wide], biases.mlp)?,
            n_heads,
            n_kv_heads,
            head_dim,
        })
    }

    /// Whether all weights are f32 on the CPU.
    pub(super) fn is_flat(&self) -> bool {
        [&self.query, &self.key, &self.value, &self.out, &self.gate, &self.up, &self.down]
            .into_iter()
            .all(Matrix::is_flat)
    }

    /// (batch, tokens, dim) to the same.
    pub(super) fn forward(
        &self,
        states: &Tensor,
        around: &Around,
        kept: Option<&mut KeyValues>,
    ) -> candle_core::Result<Tensor> {
        let states = (states + self.attend(&self.attention_norm.forward(states)?, around, kept)?)?;
        let normed = self.mlp_norm.forward(&states)?;
        let wide = (self.gate.forward(&normed)?.silu()? * self.up.forward(&normed)?)?; // (batch, tokens, wide)
        states + self.down.forward(&wide)?
    }

    fn attend(&self, states: &Tensor, around: &Around, kept: Option<&mut KeyValues>) -> candle_core::Result<Tensor> {
        let (batch, length, _) = states.dims3()?;
        let (mut query, mut key) = (self.heads(&self.query, states)?, self.heads(&self.key, states)?);
        if let Some((query_norm, key_norm)) = &self.head_norms {
            (query, key) = (query_norm.forward(&query)?, key_norm.forward(&key)?);
        }
        if let Some(Rotation { cos, sin }) = &around.rotation {
            (query, key) = (rope(&query, cos, sin)?, rope(&key, cos, sin)?);
        }
        let query = (query / (self.head_dim as f64).sqrt())?;
        let value = self.heads(&self.value, states)?;
        let (key, value) = match kept {
            Some(kept) => extend(kept, key, value)?,
            None => (key, value),
        }; // (batch, kv heads, seen, head_dim)

        // Heads that share keys are further rows of one product.
        let seen = key.dim(2)?;
        let rows = self.n_heads / self.n_kv_heads * length;
        let query = query.reshape((batch, self.n_kv_heads, rows, self.head_dim))?;
        let scores = query.matmul(&key.t()?)?.to_dtype(DType::F32)?.reshape((batch, self.n_heads, length, seen))?;
        let scores = around.mask.map_or(Ok(scores.clone()), |mask| scores.broadcast_add(mask))?;
        let shares =
            softmax_last_dim(&scores)?.to_dtype(value.dtype())?.reshape((batch, self.n_kv_heads, rows, seen))?;
        let mixed = shares.matmul(&value)?.reshape((batch, self.n_heads, length, self.head_dim))?;
        self.out.forward(&mixed.transpose(1, 2)?.contiguous()?.flatten_from(2)?)
    }

    /// (batch, tokens, dim) to (batch, heads, tokens, head_dim).
    fn heads(&self, map: &Matrix, states: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, length, _) = states.dims3()?;
        map.forward(states)?.reshape((batch, length, (), self.head_dim))?.transpose(1, 2)?.contiguous()
    }
}

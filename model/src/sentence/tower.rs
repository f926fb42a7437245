//! The transformer in candle's operations: a norm after each part, every token sees every other of its text.
//!
//! It loads the weights, and computes on a card; on the CPU `cpu` takes the weights over, judged by this one. Tensor names
//! and order of operations follow `modeling_bert.py` and `modeling_distilbert.py` of transformers, so that weights load by name.

use candle_core::{Device, IndexOp, Tensor};
use candle_nn::{LayerNorm, Linear, Module};

use super::{
    config::{Config, NORM, Names, PLACES, TYPES, WORDS},
    tokenizer::Tokens,
};
use crate::{
    Result,
    pair::{Activation, Source, TowerConfig, Weights},
};

pub(crate) struct Tower {
    /// (vocab, dim)
    pub(super) words: Tensor,
    /// (places, dim), with what is added to each token of a text that stands alone.
    pub(super) places: Tensor,
    pub(super) norm: LayerNorm,
    pub(super) blocks: Vec<Block>,
}

pub(super) struct Block {
    /// Query, key and value in one product; the scale is folded into the query.
    pub qkv: Linear,
    pub out: Linear,
    pub attention_norm: LayerNorm,
    pub up: Linear,
    pub down: Linear,
    pub norm: LayerNorm,
    pub activation: Activation,
    pub n_heads: usize,
}

/// Where the tensors stand: files that were saved with a head have them under the name of the family.
pub(crate) fn prefix(weights: &Weights, config: &Config) -> &'static str {
    let prefix = config.family.prefix();
    let words = format!("{prefix}.{WORDS}");
    if weights.shape(&words).is_some() { prefix } else { "" }
}

impl Tower {
    pub(crate) fn load(weights: &Weights, config: &Config, device: &Device) -> Result<Tower> {
        let from = Source::new(weights, device).under(prefix(weights, config));
        let (dim, names) = (config.tower.hidden_size, config.family.names());
        let mut places = from.get(PLACES, &[config.n_places, dim])?;
        if config.n_types > 0 {
            places = places.broadcast_add(&from.get(TYPES, &[config.n_types, dim])?.i(0)?)?;
        }
        let layer = |i: usize| from.under(&format!("{}.{i}", names.layers));
        Ok(Tower {
            words: from.get(WORDS, &[config.vocab_size, dim])?,
            places,
            norm: from.norm(NORM, &config.tower)?,
            blocks: (0..config.tower.n_layers)
                .map(|i| Block::load(&layer(i), names, &config.tower))
                .collect::<Result<_>>()?,
        })
    }

    /// The states of each text, (tokens, dim), after `n_blocks`, 0 being the embedding.
    pub(super) fn states(
        &self,
        texts: &[&Tokens],
        n_blocks: usize,
        device: &Device,
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let length = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let padded = |numbers: fn(&Tokens) -> &[u32]| {
            let row = |text: &&Tokens| {
                numbers(text).iter().copied().chain(std::iter::repeat(0)).take(length).collect::<Vec<_>>()
            };
            Tensor::from_vec(texts.iter().flat_map(row).collect(), texts.len() * length, device)
        };
        let words = self.words.index_select(&padded(|text| &text.ids)?, 0)?;
        let places = self.places.index_select(&padded(|text| &text.places)?, 0)?;
        let states = (words + places)?.reshape((texts.len(), length, ()))?;
        let mask = padding_mask(texts, length, device)?;
        let mut states = self.norm.forward(&states)?; // (batch, tokens, dim)
        for block in &self.blocks[..n_blocks] {
            states = block.forward(&states, &mask)?;
        }
        let rows = texts.iter().enumerate();
        rows.map(|(i, text)| states.i((i, ..text.ids.len()))?.flatten_all()?.to_vec1()).collect()
    }
}

/// (batch, 1, 1, tokens): zero where a text has a token, far below where it has none.
fn padding_mask(texts: &[&Tokens], length: usize, device: &Device) -> candle_core::Result<Tensor> {
    let cells = |text: &&Tokens| {
        let n_tokens = text.ids.len();
        (0..length).map(move |column| if column < n_tokens { 0.0 } else { f32::MIN })
    };
    Tensor::from_vec(texts.iter().flat_map(cells).collect::<Vec<f32>>(), (texts.len(), 1, 1, length), device)
}

impl Block {
    fn load(from: &Source, names: &Names, tower: &TowerConfig) -> Result<Block> {
        let (dim, wide) = (tower.hidden_size, tower.intermediate_size);
        Ok(Block {
            qkv: from.qkv(names.qkv, tower)?,
            out: from.linear(names.out, dim, dim)?,
            attention_norm: from.norm(names.attention_norm, tower)?,
            up: from.linear(names.up, wide, dim)?,
            down: from.linear(names.down, dim, wide)?,
            norm: from.norm(names.norm, tower)?,
            activation: tower.activation,
            n_heads: tower.n_heads,
        })
    }

    /// (batch, tokens, dim) to the same.
    fn forward(&self, states: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let states = self.attention_norm.forward(&(states + self.attend(states, mask)?)?)?;
        let wide = self.activation.apply(&self.up.forward(&states)?)?;
        self.norm.forward(&(&states + self.down.forward(&wide)?)?)
    }

    fn attend(&self, states: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, length, dim) = states.dims3()?;
        let heads = (batch, length, 3, self.n_heads, dim / self.n_heads);
        let qkv = self.qkv.forward(states)?.reshape(heads)?.permute([2, 0, 3, 1, 4])?.contiguous()?;
        let (query, key, value) = (qkv.i(0)?, qkv.i(1)?, qkv.i(2)?); // (batch, heads, tokens, head dim)
        let scores = query.matmul(&key.t()?)?.broadcast_add(mask)?; // (batch, heads, tokens, tokens)
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value)?;
        self.out.forward(&mixed.transpose(1, 2)?.contiguous()?.reshape((batch, length, dim))?)
    }
}

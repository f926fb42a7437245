//! The text tower that is trained: words by their hashed letters, in any language and without a vocabulary file, read in
//! two ways. The plain way adds up words and pairs of neighbours whatever their order; the long way is a transformer over
//! the words. Each ends in an embedding; the two are added, or stand side by side.

use candle_core::{DType, Result, Tensor, Var};

use super::bounds::{n_linear, n_of_blocks, within};
use crate::{
    builtin::tokens::Tokens,
    learn::{
        layers::{Block, Linear, Norm, Pass},
        ops::{self, Bags},
        parameters::Maker,
    },
};

/// Texts that are padded to one length together; the shortest with the shortest.
const TEXTS_AT_ONCE: usize = 64;
/// What means of rows are multiplied with, beside small first rows: so that a step of AdamW, which is as long for every
/// number, moves a text as far as it moves an image.
const WORD_GAIN: f64 = 10.0;
const PLAIN_WORD_GAIN: f64 = 100.0;
const PLAIN_PAIR_GAIN: f64 = 27.0;
/// What hides padding: far below every score, and still a number.
const HIDDEN: f32 = -1e9;

/// Sizes of a text tower.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TextSizes {
    /// Rows of each table that words are hashed to.
    pub table_rows: usize,
    /// Of the transformer.
    pub dim: usize,
    pub n_blocks: usize,
    pub n_heads: usize,
    /// Of the plain way; 0 for none.
    pub plain_dim: usize,
    pub max_tokens: usize,
}

impl TextSizes {
    pub fn check(&self) -> std::result::Result<(), String> {
        let TextSizes { table_rows, dim, n_blocks, n_heads, plain_dim, max_tokens } = *self;
        within("table_rows", table_rows, 1..=1 << 24)?;
        within("text_dim", dim, 1..=1 << 14)?;
        within("text_blocks", n_blocks, 1..=256)?;
        within("text_heads", n_heads, 1..=dim)?;
        within("plain_dim", plain_dim, 0..=1 << 14)?;
        within("max_tokens", max_tokens, 1..=1 << 16)?;
        match dim.is_multiple_of(n_heads) {
            true => Ok(()),
            false => Err(format!("text_heads: expected a divisor of the width, {dim}, received {n_heads}")),
        }
    }

    /// Numbers that are learnt in a tower that ends in `out`.
    pub(super) fn n_parameters(&self, out: usize) -> u64 {
        let TextSizes { table_rows, dim, n_blocks, plain_dim, max_tokens, .. } = *self;
        let deep = ((table_rows + max_tokens + 2) * dim) as u64 + n_of_blocks(n_blocks, dim) + n_linear(dim, out);
        let plain = (2 * table_rows * plain_dim) as u64 + n_linear(plain_dim, out);
        deep + if plain_dim > 0 { plain } else { 0 }
    }
}

/// A text as the tower reads it.
#[derive(Clone, Debug)]
pub(super) struct Words {
    /// Rows of the table for each word.
    words: Vec<Vec<u32>>,
    /// Rows for each pair of neighbours.
    pairs: Vec<u32>,
    pub n_cut: usize,
}

impl Words {
    /// `None` for a text without a word.
    pub(super) fn read(text: &str, sizes: &TextSizes) -> Option<Words> {
        let tokens = Tokens::read(text, sizes.table_rows, sizes.max_tokens);
        let words: Vec<Vec<u32>> = (0..tokens.len()).map(|at| tokens.rows_of(at).to_vec()).collect();
        let n_rows = sizes.table_rows as u64;
        let pair = |both: &[Vec<u32>]| {
            let mixed = (u64::from(both[0][0]) << 32 | u64::from(both[1][0])).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mixed >> 32) % n_rows) as u32
        };
        let pairs = words.windows(2).map(pair).collect();
        (!words.is_empty()).then_some(Words { words, pairs, n_cut: tokens.n_cut })
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Without some of its words, never without all.
    pub(super) fn thinned(&self, share: f32, mut draw: impl FnMut() -> f32) -> Words {
        let mut words: Vec<Vec<u32>> = self.words.iter().filter(|_| draw() >= share).cloned().collect();
        if words.is_empty() {
            words.push(self.words[0].clone());
        }
        let pairs = self.pairs.iter().copied().filter(|_| draw() >= share).collect();
        Words { words, pairs, n_cut: self.n_cut }
    }
}

pub(super) struct TextTower {
    sizes: TextSizes,
    words: Var,
    positions: Var,
    blocks: Vec<Block>,
    norm: Norm,
    out: Linear,
    plain: Option<Plain>,
}

/// Adds up words and neighbours.
struct Plain {
    words: Var,
    pairs: Var,
    out: Linear,
}

impl TextTower {
    pub(super) fn new(make: &mut Maker, sizes: &TextSizes, dim_out: usize) -> Result<TextTower> {
        let TextSizes { table_rows, dim, n_blocks, n_heads, plain_dim, max_tokens } = *sizes;
        let block =
            |make: &mut Maker, i| Block::new(make, &format!("transformer.resblocks.{i}"), dim, n_heads, 4 * dim);
        let plain = |make: &mut Maker| -> Result<Plain> {
            Ok(Plain {
                words: make.normal("plain_embedding.words", &[table_rows, plain_dim], 0.02)?,
                pairs: make.normal("plain_embedding.pairs", &[table_rows, plain_dim], 0.02)?,
                out: Linear::new(make, "plain_projection", [plain_dim, dim_out])?,
            })
        };
        Ok(TextTower {
            sizes: sizes.clone(),
            words: make.normal("token_embedding.weight", &[table_rows, dim], 0.05)?,
            positions: make.normal("positional_embedding", &[max_tokens, dim], 0.02)?,
            blocks: (0..n_blocks).map(|i| block(make, i)).collect::<Result<_>>()?,
            norm: Norm::new(make, "ln_final", dim)?,
            out: Linear::new(make, "text_projection", [dim, dim_out])?,
            plain: (plain_dim > 0).then(|| plain(make)).transpose()?,
        })
    }

    /// The two ways, (texts, out) each, not of unit length; the plain one only if the tower has it.
    pub(super) fn forward(&self, texts: &[&Words], pass: &Pass) -> Result<(Tensor, Option<Tensor>)> {
        let plain = self.plain.as_ref().map(|plain| plain.forward(texts, pass)).transpose()?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| texts[i].len());
        let together = |piece: &[usize]| self.read(&piece.iter().map(|&i| texts[i]).collect::<Vec<_>>(), pass);
        let pieces = order.chunks(TEXTS_AT_ONCE).map(together).collect::<Result<Vec<_>>>()?;
        let mut places = vec![0u32; texts.len()];
        order.iter().enumerate().for_each(|(place, &i)| places[i] = place as u32);
        let places = Tensor::from_vec(places, texts.len(), self.words.device())?;
        Ok((self.out.forward(&Tensor::cat(&pieces, 0)?.index_select(&places, 0)?, pass)?, plain))
    }

    /// Of each text (words, dim), after the last norm.
    pub(super) fn word_states(&self, texts: &[&Words], pass: &Pass) -> Result<Vec<Vec<f32>>> {
        let of_text = |text: &&Words| self.states(&[*text], pass)?.0.flatten_all()?.to_vec1();
        texts.iter().map(of_text).collect()
    }

    /// (texts, dim): the mean over the words after the last block.
    fn read(&self, texts: &[&Words], pass: &Pass) -> Result<Tensor> {
        let (states, weights) = self.states(texts, pass)?;
        weights.matmul(&states)?.squeeze(1)
    }

    /// (texts, words, dim) after the last norm, and what each word counts in the mean, (texts, 1, words).
    fn states(&self, texts: &[&Words], pass: &Pass) -> Result<(Tensor, Tensor)> {
        let (n, device) = (texts.len(), self.words.device());
        let length = texts.iter().map(|text| text.len()).max().unwrap_or(1);
        // A place without a word is an empty bag, which is zero.
        let (mut rows, mut ends, mut mask, mut weights) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for text in texts {
            for at in 0..length {
                rows.extend(text.words.get(at).into_iter().flatten());
                ends.push(rows.len());
                mask.push(if at < text.len() { 0.0 } else { HIDDEN });
                weights.push(if at < text.len() { 1.0 / text.len() as f32 } else { 0.0 });
            }
        }
        let mask = Tensor::from_vec(mask, (n, 1, 1, length), device)?;
        let weights = Tensor::from_vec(weights, (n, 1, length), device)?;
        let words = (ops::bag_means(&self.words, &Bags::new(rows, ends))? * WORD_GAIN)?;
        let words = words.reshape((n, length, self.sizes.dim))?;
        let mut x = words.broadcast_add(&self.positions.narrow(0, 0, length)?)?;
        for block in &self.blocks {
            x = block.forward(&x, Some(&mask), pass)?;
        }
        Ok((self.norm.forward(&x, pass)?, weights))
    }
}

impl Plain {
    fn forward(&self, texts: &[&Words], pass: &Pass) -> Result<Tensor> {
        let bags = |rows_of: &dyn Fn(&Words) -> Vec<u32>| {
            let (mut rows, mut ends) = (Vec::new(), Vec::new());
            for text in texts {
                rows.extend(rows_of(text));
                ends.push(rows.len());
            }
            Bags::new(rows, ends)
        };
        let words = ops::bag_means(&self.words, &bags(&|text| text.words.concat()))?;
        let pairs = ops::bag_means(&self.pairs, &bags(&|text| text.pairs.clone()))?;
        let sum = ((words * PLAIN_WORD_GAIN)? + (pairs * PLAIN_PAIR_GAIN)?)?;
        self.out.forward(&pass.drop(&sum.to_dtype(DType::F32)?)?, pass)
    }
}

//! The transformer on the CPU: flat f32, the tokens of one text behind those of another, without padding.

use super::{tokenizer::Tokens, tower};
use crate::{
    flat::{Dense, Norm, Piece, Sequence, activate, numbers},
    pair::Activation,
};

pub(crate) struct Tower {
    /// (vocab, dim)
    words: Vec<f32>,
    /// (places, dim)
    places: Vec<f32>,
    norm: Norm,
    blocks: Vec<Block>,
}

/// Which rows of a text are wanted after the last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    First,
    All,
}

impl Tower {
    pub(crate) fn new(tower: tower::Tower) -> candle_core::Result<Tower> {
        Ok(Tower {
            words: numbers(&tower.words)?,
            places: numbers(&tower.places)?,
            norm: Norm::new(&tower.norm)?,
            blocks: tower.blocks.into_iter().map(Block::new).collect::<candle_core::Result<_>>()?,
        })
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The wanted states of each text, (rows, dim), after `n_blocks`, 0 being the embedding.
    pub(super) fn states(&self, texts: &[&Tokens], n_blocks: usize, rows: Rows, n_threads: usize) -> Vec<Vec<f32>> {
        let dim = self.norm.gain.len();
        let (mut embedded, mut sequences) = (Vec::new(), Vec::with_capacity(texts.len()));
        for text in texts {
            let length = text.ids.len();
            let kept = if rows == Rows::First { 0..1 } else { 0..length };
            sequences.push(Sequence { start: embedded.len() / dim, length, kept });
            for (&id, &place) in text.ids.iter().zip(&text.places) {
                let (word, place) =
                    (&self.words[id as usize * dim..][..dim], &self.places[place as usize * dim..][..dim]);
                embedded.extend(word.iter().zip(place).map(|(word, place)| word + place));
            }
        }
        let piece = Piece { sequences, causal: false, n_threads };
        let mut states = Vec::new(); // (all tokens, dim)
        self.norm.forward(&embedded, &mut states);
        let states = run(&self.blocks[..n_blocks], &piece, states);
        let mut rest = states.as_slice();
        let mut next = |sequence: &Sequence| {
            let (rows, after) = rest.split_at(sequence.kept.len() * dim);
            rest = after;
            rows.to_vec()
        };
        piece.sequences.iter().map(&mut next).collect()
    }
}

/// (all tokens, dim) to the kept rows.
fn run(blocks: &[Block], piece: &Piece, mut states: Vec<f32>) -> Vec<f32> {
    let mut scratch = Scratch::default();
    for (i, block) in blocks.iter().enumerate() {
        block.attend(&states, piece, &mut scratch);
        if i + 1 == blocks.len() {
            // The other rows have been looked at for the last time.
            states = piece.keep(&states);
            scratch.attended = piece.keep(&scratch.attended);
        }
        block.finish(&mut states, piece.n_threads, &mut scratch);
    }
    if blocks.is_empty() { piece.keep(&states) } else { states }
}

/// What every block writes anew.
#[derive(Default)]
struct Scratch {
    /// (rows, 3 * dim)
    qkv: Vec<f32>,
    /// (length, length) of one text and head.
    scores: Vec<f32>,
    /// (rows, dim)
    attended: Vec<f32>,
    /// (rows, dim)
    normed: Vec<f32>,
    /// (rows, dim of the MLP)
    wide: Vec<f32>,
}

struct Block {
    qkv: Dense,
    out: Dense,
    attention_norm: Norm,
    up: Dense,
    down: Dense,
    norm: Norm,
    activation: Activation,
    n_heads: usize,
}

impl Block {
    fn new(block: tower::Block) -> candle_core::Result<Block> {
        Ok(Block {
            qkv: Dense::new(&block.qkv)?,
            out: Dense::new(&block.out)?,
            attention_norm: Norm::new(&block.attention_norm)?,
            up: Dense::new(&block.up)?,
            down: Dense::new(&block.down)?,
            norm: Norm::new(&block.norm)?,
            activation: block.activation,
            n_heads: block.n_heads,
        })
    }

    /// Leaves in `scratch.attended` what each row saw of its text.
    fn attend(&self, states: &[f32], piece: &Piece, scratch: &mut Scratch) {
        let Scratch { qkv, scores, attended, .. } = scratch;
        self.qkv.forward(states, qkv, piece.n_threads);
        piece.attend(qkv, self.n_heads, scores, attended);
    }

    /// What follows for each row alone.
    fn finish(&self, states: &mut Vec<f32>, n_threads: usize, scratch: &mut Scratch) {
        let Scratch { attended, normed, wide, .. } = scratch;
        self.out.add(attended, states, n_threads);
        self.attention_norm.forward(states, normed);
        self.up.forward(normed, wide, n_threads);
        activate(wide, self.activation);
        self.down.add(wide, normed, n_threads);
        self.norm.forward(normed, states);
    }
}

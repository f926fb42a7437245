//! The towers on the CPU: flat f32, sequences of any length one after another, every buffer used again in each block.
//!
//! `towers` says the same in candle's operations; that one computes on a card, and judges this one in the tests.

use std::ops::Range;

use super::{Encoded, config::Activation, tokenizer::Tokens, towers};
use crate::{
    Pixels,
    flat::{Dense, Norm, Piece, Sequence, activate, numbers, softmax},
    fusion_tokens::{pool_grid, pool_rows},
    product::{Product, View},
};

pub(crate) struct ImageTower {
    patch_embedding: Dense,
    /// (tokens, dim); of a class token, with its embedding.
    positions: Vec<f32>,
    /// Of a tower with a class token.
    pre_norm: Option<Norm>,
    blocks: Vec<Block>,
    post_norm: Option<Norm>,
    head: ImageHead,
    grid: usize,
    patch: usize,
}

enum ImageHead {
    Class(Dense),
    AttentionPool(Box<AttentionPool>),
    Mean(Projector),
}

impl ImageTower {
    /// # Panics
    ///
    /// If there is a decoder's block inside, which runs in candle's operations only.
    pub(crate) fn new(tower: towers::ImageTower) -> candle_core::Result<ImageTower> {
        assert!(tower.inside.is_none(), "a tower with a block inside stays in candle's operations");
        let mut positions = match &tower.class {
            Some(class) => numbers(&class.token)?,
            None => Vec::new(),
        };
        positions.extend(numbers(&tower.positions)?);
        let head = match tower.head {
            towers::ImageHead::Class(projection) => ImageHead::Class(Dense::new(&projection)?),
            towers::ImageHead::AttentionPool(pool) => ImageHead::AttentionPool(Box::new(AttentionPool::new(pool)?)),
            towers::ImageHead::Mean(projector) => ImageHead::Mean(Projector::new(&projector)?),
        };
        Ok(ImageTower {
            patch_embedding: Dense::new(&tower.patch_embedding)?,
            positions,
            pre_norm: tower.class.as_ref().map(|class| Norm::new(&class.pre_norm)).transpose()?,
            blocks: blocks(tower.blocks)?,
            post_norm: tower.post_norm.as_ref().map(Norm::new).transpose()?,
            head,
            grid: tower.grid,
            patch: tower.patch,
        })
    }

    /// Embeddings, (images, projection_dim), and the patches pooled to `cells` a side if they are wanted.
    pub(super) fn forward(&self, images: &[Pixels], cells: Option<usize>, n_threads: usize) -> Encoded {
        let mut states = self.positions.repeat(images.len()); // (images * length, dim)
        self.patch_embedding.add(&self.cut_patches(images), &mut states, n_threads);
        let mut normed = Vec::new();
        if let Some(norm) = &self.pre_norm {
            norm.forward(&states, &mut normed);
            std::mem::swap(&mut states, &mut normed);
        }
        let leading = usize::from(self.pre_norm.is_some());
        let kept = match (&self.head, cells) {
            (ImageHead::Class(_), None) => 0..1,
            (ImageHead::Mean(_), _) => leading..self.length(),
            _ => 0..self.length(),
        };
        let piece = self.piece(images.len(), kept.clone(), n_threads);
        states = piece.run(&self.blocks, states); // (images * kept, dim)
        if let Some(norm) = &self.post_norm {
            norm.forward(&states, &mut normed);
            std::mem::swap(&mut states, &mut normed);
        }
        let tokens = match cells {
            Some(cells) => self.pool_patches(&states, leading - kept.start, cells),
            None => Vec::new(),
        };
        let embeddings = match &self.head {
            ImageHead::Class(projection) => {
                let class = every(&states, kept.len(), 0, self.patch_embedding.n_out);
                projection.forward(&class, &mut normed, n_threads);
                normed
            }
            ImageHead::AttentionPool(pool) => pool.forward(&states, &piece),
            ImageHead::Mean(projector) => projector.forward(&states, kept.len(), n_threads),
        };
        Encoded { embeddings, tokens }
    }

    /// (images * kept, dim) to (images * cells * cells, dim), without the `leading` tokens that are no patches.
    fn pool_patches(&self, states: &[f32], leading: usize, cells: usize) -> Vec<f32> {
        let dim = self.patch_embedding.n_out;
        let images = states.chunks_exact((leading + self.grid * self.grid) * dim);
        images.flat_map(|states| pool_grid(&states[leading * dim..], dim, cells)).collect()
    }

    fn length(&self) -> usize {
        self.positions.len() / self.patch_embedding.n_out
    }

    fn piece(&self, n_images: usize, kept: Range<usize>, n_threads: usize) -> Piece {
        let length = self.length();
        let sequences = (0..n_images).map(|i| Sequence { start: i * length, length, kept: kept.clone() }).collect();
        Piece { sequences, causal: false, n_threads }
    }

    /// (images * length, 3 * patch * patch). A row of zeros stands for a class token, which goes with patches that have no
    /// bias; pixels that no whole patch covers are left out, as a strided convolution leaves them.
    fn cut_patches(&self, images: &[Pixels]) -> Vec<f32> {
        let (grid, patch) = (self.grid, self.patch);
        let width = 3 * patch * patch;
        let leading = (self.length() - grid * grid) * width;
        let mut patches = Vec::with_capacity(images.len() * self.length() * width);
        for Pixels { side, values } in images {
            patches.resize(patches.len() + leading, 0.0);
            for (down, across) in (0..grid).flat_map(|down| (0..grid).map(move |across| (down, across))) {
                for line in (0..3).flat_map(|channel| (0..patch).map(move |y| channel * side + down * patch + y)) {
                    patches.extend_from_slice(&values[line * side + across * patch..][..patch]);
                }
            }
        }
        patches
    }
}

/// From the space of patches to that of texts, each token alone; then the mean of an image's.
struct Projector {
    up: Dense,
    out: Dense,
    norm: Norm,
}

impl Projector {
    fn new(projector: &towers::Projector) -> candle_core::Result<Projector> {
        let (up, out) = (Dense::new(&projector.up)?, Dense::new(&projector.out)?);
        Ok(Projector { up, out, norm: Norm::new(&projector.norm)? })
    }

    /// (images * length, dim) to (images, projection_dim)
    fn forward(&self, states: &[f32], length: usize, n_threads: usize) -> Vec<f32> {
        let (mut wide, mut projected, mut normed) = (Vec::new(), Vec::new(), Vec::new());
        self.up.forward(states, &mut wide, n_threads);
        activate(&mut wide, Activation::Gelu);
        self.out.forward(&wide, &mut projected, n_threads);
        self.norm.forward(&projected, &mut normed);
        let dim = self.out.n_out;
        normed.chunks_exact(length * dim).flat_map(|tokens| pool_rows(tokens, dim, 1)).collect()
    }
}

pub(crate) struct TextTower {
    /// (vocab, dim)
    tokens: Vec<f32>,
    /// (max tokens, dim)
    positions: Vec<f32>,
    blocks: Vec<Block>,
    final_norm: Norm,
    projection: Dense,
    causal: bool,
}

impl TextTower {
    pub(crate) fn new(tower: towers::TextTower) -> candle_core::Result<TextTower> {
        Ok(TextTower {
            tokens: numbers(tower.tokens.embeddings())?,
            positions: numbers(&tower.positions)?,
            blocks: blocks(tower.blocks)?,
            final_norm: Norm::new(&tower.final_norm)?,
            projection: Dense::new(&tower.projection)?,
            causal: tower.causal,
        })
    }

    /// Embeddings, (texts, projection_dim), and the states pooled to so many `rows` if they are wanted. What stands behind the
    /// pooled token is left out: a causal tower does not look there, and any other pools the last one.
    pub(super) fn forward(&self, texts: &[&Tokens], rows: Option<usize>, n_threads: usize) -> Encoded {
        let dim = self.final_norm.gain.len();
        let mut states = Vec::new(); // (all tokens, dim)
        let mut sequences = Vec::with_capacity(texts.len());
        for text in texts {
            let length = text.pooled_at + 1;
            let kept = if rows.is_some() { 0..length } else { text.pooled_at..length };
            sequences.push(Sequence { start: states.len() / dim, length, kept });
            for (&id, position) in text.ids[..length].iter().zip(self.positions.chunks_exact(dim)) {
                let token = &self.tokens[id as usize * dim..][..dim];
                states.extend(token.iter().zip(position).map(|(token, position)| token + position));
            }
        }
        let piece = Piece { sequences, causal: self.causal, n_threads };
        let mut normed = Vec::new();
        self.final_norm.forward(&piece.run(&self.blocks, states), &mut normed); // (kept tokens, dim)
        let (mut pooled, mut tokens) = (Vec::new(), Vec::new());
        let mut rest = normed.as_slice();
        for (text, sequence) in texts.iter().zip(&piece.sequences) {
            let (kept, after) = rest.split_at(sequence.kept.len() * dim);
            pooled.extend_from_slice(&kept[kept.len() - dim..]);
            if let Some(rows) = rows {
                tokens.extend(pool_rows(&kept[text.text().start * dim..text.text().end * dim], dim, rows));
            }
            rest = after;
        }
        let mut embeddings = Vec::new();
        self.projection.forward(&pooled, &mut embeddings, n_threads);
        Encoded { embeddings, tokens }
    }
}

impl Piece {
    /// (rows, dim) to the kept rows, (kept, dim).
    fn run(&self, blocks: &[Block], mut states: Vec<f32>) -> Vec<f32> {
        let mut scratch = Scratch::default();
        for (i, block) in blocks.iter().enumerate() {
            block.attend(&states, self, &mut scratch);
            if i + 1 == blocks.len() {
                // The other rows have been looked at for the last time.
                states = self.keep(&states);
                scratch.attended = self.keep(&scratch.attended);
            }
            block.finish(&mut states, self.n_threads, &mut scratch);
        }
        states
    }
}

/// What every block writes anew.
#[derive(Default)]
struct Scratch {
    /// (rows, dim)
    normed: Vec<f32>,
    /// (rows, 3 * dim)
    qkv: Vec<f32>,
    /// (length, length) of one sequence and head.
    scores: Vec<f32>,
    /// (rows, dim)
    attended: Vec<f32>,
    /// (rows, dim of the MLP)
    wide: Vec<f32>,
}

struct Block {
    norm: Norm,
    qkv: Dense,
    out: Dense,
    n_heads: usize,
    mlp: Mlp,
}

impl Block {
    fn new(block: towers::Block) -> candle_core::Result<Block> {
        Ok(Block {
            norm: Norm::new(&block.norm)?,
            qkv: Dense::new(&block.qkv)?,
            out: Dense::new(&block.out)?,
            n_heads: block.n_heads,
            mlp: Mlp::new(&block.mlp)?,
        })
    }

    /// Leaves in `scratch.attended` what each row saw of its sequence.
    fn attend(&self, states: &[f32], piece: &Piece, scratch: &mut Scratch) {
        let Scratch { normed, qkv, scores, attended, .. } = scratch;
        self.norm.forward(states, normed);
        self.qkv.forward(normed, qkv, piece.n_threads);
        piece.attend(qkv, self.n_heads, scores, attended);
    }

    /// What follows for each row alone: the output projection and the MLP, added to the states.
    fn finish(&self, states: &mut [f32], n_threads: usize, scratch: &mut Scratch) {
        self.out.add(&scratch.attended, states, n_threads);
        self.mlp.add(states, n_threads, scratch);
    }
}

struct Mlp {
    norm: Norm,
    up: Dense,
    down: Dense,
    activation: Activation,
}

impl Mlp {
    fn new(mlp: &towers::Mlp) -> candle_core::Result<Mlp> {
        let (up, down) = (Dense::new(&mlp.up)?, Dense::new(&mlp.down)?);
        Ok(Mlp { norm: Norm::new(&mlp.norm)?, up, down, activation: mlp.activation })
    }

    /// What the map makes of the states, added to them.
    fn add(&self, states: &mut [f32], n_threads: usize, scratch: &mut Scratch) {
        let Scratch { normed, wide, .. } = scratch;
        self.norm.forward(states, normed);
        self.up.forward(normed, wide, n_threads);
        activate(wide, self.activation);
        self.down.add(wide, states, n_threads);
    }
}

/// One learnt query that looks at all states of a sequence; then an MLP.
struct AttentionPool {
    /// (dim), projected and scaled.
    query: Vec<f32>,
    kv: Dense,
    out: Dense,
    n_heads: usize,
    mlp: Mlp,
}

impl AttentionPool {
    fn new(pool: towers::AttentionPool) -> candle_core::Result<AttentionPool> {
        let (kv, out, mlp) = (Dense::new(&pool.kv)?, Dense::new(&pool.out)?, Mlp::new(&pool.mlp)?);
        Ok(AttentionPool { query: numbers(&pool.query)?, kv, out, n_heads: pool.n_heads, mlp })
    }

    /// (rows, dim) to (sequences, dim)
    fn forward(&self, states: &[f32], piece: &Piece) -> Vec<f32> {
        let (dim, width) = (self.query.len(), self.query.len() / self.n_heads);
        let (mut kv, mut scores) = (Vec::new(), Vec::new()); // (rows, 2 * dim), (1, length) of one sequence and head
        self.kv.forward(states, &mut kv, piece.n_threads);
        let mut attended = vec![0.0; piece.sequences.len() * dim];
        for (&Sequence { start, length, .. }, attended) in piece.sequences.iter().zip(attended.chunks_exact_mut(dim)) {
            let product = |size| Product { size, scale: 1.0, n_threads: piece.n_threads };
            scores.resize(length, 0.0);
            for head in 0..self.n_heads {
                let query = View::rows(&self.query[head * width..][..width], width);
                let half = |half: usize| View::rows(&kv[(2 * start + half) * dim + head * width..], 2 * dim);
                product([1, length, width]).write(query, half(0).transposed(), &mut scores, length);
                softmax(&mut scores, length, false);
                let target = &mut attended[head * width..][..width];
                product([1, width, length]).write(View::rows(&scores, length), half(1), target, width);
            }
        }
        let mut pooled = Vec::new();
        self.out.forward(&attended, &mut pooled, piece.n_threads);
        self.mlp.add(&mut pooled, piece.n_threads, &mut Scratch::default());
        pooled
    }
}

/// Row `at` of every `of` rows.
fn every(rows: &[f32], of: usize, at: usize, dim: usize) -> Vec<f32> {
    rows.chunks_exact(of * dim).flat_map(|rows| &rows[at * dim..][..dim]).copied().collect()
}

fn blocks(blocks: Vec<towers::Block>) -> candle_core::Result<Vec<Block>> {
    blocks.into_iter().map(Block::new).collect()
}

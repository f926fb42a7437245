//! The towers on the CPU: flat f32, sequences of any length one after another, every buffer used again in each block.
//!
//! `towers` says the same in candle's operations; that one computes on a card, and judges this one in the tests.

mod product;
mod rows;

use candle_core::Tensor;
use candle_nn::{LayerNorm, Linear};

use self::product::{Product, View};
use super::{config::Activation, tokenizer::Tokens, towers};
use crate::Pixels;

pub(crate) struct ImageTower {
    patch_embedding: Dense,
    /// (1 + patches, dim), the first with the class embedding.
    positions: Vec<f32>,
    pre_norm: Norm,
    blocks: Vec<Block>,
    post_norm: Norm,
    projection: Dense,
    grid: usize,
    patch: usize,
}

impl ImageTower {
    pub(crate) fn new(tower: towers::ImageTower) -> candle_core::Result<ImageTower> {
        let mut positions = numbers(&tower.class_token)?;
        positions.extend(numbers(&tower.positions)?);
        Ok(ImageTower {
            patch_embedding: Dense::new(&tower.patch_embedding)?,
            positions,
            pre_norm: Norm::new(&tower.pre_norm)?,
            blocks: blocks(tower.blocks)?,
            post_norm: Norm::new(&tower.post_norm)?,
            projection: Dense::new(&tower.projection)?,
            grid: tower.grid,
            patch: tower.patch,
        })
    }

    /// (images, projection_dim)
    pub(crate) fn forward(&self, images: &[Pixels], n_threads: usize) -> Vec<f32> {
        let length = 1 + self.grid * self.grid;
        let mut states = self.positions.repeat(images.len()); // (images * length, dim)
        self.patch_embedding.add(&self.cut_patches(images), &mut states, n_threads);
        let mut normed = Vec::new();
        self.pre_norm.forward(&states, &mut normed);
        let sequences = (0..images.len()).map(|i| Sequence { start: i * length, length, pooled: 0 }).collect();
        let piece = Piece { sequences, causal: false, n_threads };
        let pooled = piece.run(&self.blocks, normed); // (images, dim)
        project(&self.post_norm, &self.projection, &pooled, n_threads)
    }

    /// (images * length, 3 * patch * patch). A row of zeros stands for the class token; pixels that no whole patch covers
    /// are left out, as a strided convolution leaves them.
    fn cut_patches(&self, images: &[Pixels]) -> Vec<f32> {
        let (grid, patch) = (self.grid, self.patch);
        let width = 3 * patch * patch;
        let mut patches = Vec::with_capacity(images.len() * (1 + grid * grid) * width);
        for Pixels { side, values } in images {
            patches.resize(patches.len() + width, 0.0);
            for (down, across) in (0..grid).flat_map(|down| (0..grid).map(move |across| (down, across))) {
                for line in (0..3).flat_map(|channel| (0..patch).map(move |y| channel * side + down * patch + y)) {
                    patches.extend_from_slice(&values[line * side + across * patch..][..patch]);
                }
            }
        }
        patches
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
}

impl TextTower {
    pub(crate) fn new(tower: towers::TextTower) -> candle_core::Result<TextTower> {
        Ok(TextTower {
            tokens: numbers(tower.tokens.embeddings())?,
            positions: numbers(&tower.positions)?,
            blocks: blocks(tower.blocks)?,
            final_norm: Norm::new(&tower.final_norm)?,
            projection: Dense::new(&tower.projection)?,
        })
    }

    /// (texts, projection_dim). What stands behind the pooled token is left out: a causal tower does not look there.
    pub(crate) fn forward(&self, texts: &[&Tokens], n_threads: usize) -> Vec<f32> {
        let dim = self.final_norm.gain.len();
        let mut states = Vec::new(); // (all tokens, dim)
        let mut sequences = Vec::with_capacity(texts.len());
        for text in texts {
            let length = text.pooled_at + 1;
            sequences.push(Sequence { start: states.len() / dim, length, pooled: text.pooled_at });
            for (&id, position) in text.ids[..length].iter().zip(self.positions.chunks_exact(dim)) {
                let token = &self.tokens[id as usize * dim..][..dim];
                states.extend(token.iter().zip(position).map(|(token, position)| token + position));
            }
        }
        let piece = Piece { sequences, causal: true, n_threads };
        let pooled = piece.run(&self.blocks, states); // (texts, dim)
        project(&self.final_norm, &self.projection, &pooled, n_threads)
    }
}

/// Rows of the states that look at each other, and which of them stands for all at the end.
struct Sequence {
    start: usize,
    length: usize,
    pooled: usize,
}

/// What goes through the blocks together.
struct Piece {
    sequences: Vec<Sequence>,
    /// A row looks only at itself and at what stands before it.
    causal: bool,
    n_threads: usize,
}

impl Piece {
    /// (rows, dim) to the pooled rows (sequences, dim).
    fn run(&self, blocks: &[Block], mut states: Vec<f32>) -> Vec<f32> {
        let mut scratch = Scratch::default();
        for (i, block) in blocks.iter().enumerate() {
            block.attend(&states, self, &mut scratch);
            if i + 1 == blocks.len() {
                // The other rows have been looked at for the last time.
                states = self.pool(&states);
                scratch.attended = self.pool(&scratch.attended);
            }
            block.finish(&mut states, self.n_threads, &mut scratch);
        }
        states
    }

    fn pool(&self, rows: &[f32]) -> Vec<f32> {
        let dim = rows.len() / self.sequences.iter().map(|s| s.length).sum::<usize>();
        self.sequences.iter().flat_map(|s| &rows[(s.start + s.pooled) * dim..][..dim]).copied().collect()
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
    norm1: Norm,
    qkv: Dense,
    out: Dense,
    norm2: Norm,
    up: Dense,
    down: Dense,
    n_heads: usize,
    activation: Activation,
}

impl Block {
    fn new(block: towers::Block) -> candle_core::Result<Block> {
        Ok(Block {
            norm1: Norm::new(&block.norm1)?,
            qkv: Dense::new(&block.qkv)?,
            out: Dense::new(&block.out)?,
            norm2: Norm::new(&block.norm2)?,
            up: Dense::new(&block.up)?,
            down: Dense::new(&block.down)?,
            n_heads: block.n_heads,
            activation: block.activation,
        })
    }

    /// Leaves in `scratch.attended` what each row saw of its sequence.
    fn attend(&self, states: &[f32], piece: &Piece, scratch: &mut Scratch) {
        let Scratch { normed, qkv, scores, attended, .. } = scratch;
        self.norm1.forward(states, normed);
        self.qkv.forward(normed, qkv, piece.n_threads);
        attended.resize(states.len(), 0.0);
        let (dim, width) = (self.qkv.n_in, self.qkv.n_in / self.n_heads);
        for &Sequence { start, length, .. } in &piece.sequences {
            let product = |size| Product { size, n_threads: piece.n_threads };
            scores.resize(length * length, 0.0);
            for head in 0..self.n_heads {
                let part = |third: usize| View::rows(&qkv[(3 * start + third) * dim + head * width..], 3 * dim);
                product([length, length, width]).write(part(0), part(1).transposed(), scores, length);
                rows::softmax(scores, length, piece.causal);
                let target = &mut attended[start * dim + head * width..];
                product([length, width, length]).write(View::rows(scores, length), part(2), target, dim);
            }
        }
    }

    /// What follows for each row alone: the output projection and the MLP, added to the states.
    fn finish(&self, states: &mut [f32], n_threads: usize, scratch: &mut Scratch) {
        let Scratch { normed, attended, wide, .. } = scratch;
        self.out.add(attended, states, n_threads);
        self.norm2.forward(states, normed);
        self.up.forward(normed, wide, n_threads);
        rows::activate(wide, self.activation);
        self.down.add(wide, states, n_threads);
    }
}

fn project(norm: &Norm, projection: &Dense, pooled: &[f32], n_threads: usize) -> Vec<f32> {
    let (mut normed, mut embeddings) = (Vec::new(), Vec::new());
    norm.forward(pooled, &mut normed);
    projection.forward(&normed, &mut embeddings, n_threads);
    embeddings
}

struct Dense {
    /// (in, out): the order that the product reads fastest.
    weight: Vec<f32>,
    /// (out), zeros where the model has none.
    bias: Vec<f32>,
    n_in: usize,
    n_out: usize,
}

impl Dense {
    fn new(linear: &Linear) -> candle_core::Result<Dense> {
        let (n_out, n_in) = linear.weight().dims2()?;
        let bias = linear.bias().map_or(Ok(vec![0.0; n_out]), numbers)?;
        Ok(Dense { weight: numbers(&linear.weight().t()?)?, bias, n_in, n_out })
    }

    /// (rows, in) to (rows, out)
    fn forward(&self, x: &[f32], into: &mut Vec<f32>, n_threads: usize) {
        into.clear();
        (0..x.len() / self.n_in).for_each(|_| into.extend_from_slice(&self.bias));
        self.multiply(x, into, n_threads);
    }

    /// The same, added to what stands there.
    fn add(&self, x: &[f32], to: &mut [f32], n_threads: usize) {
        rows::add_to_each(to, &self.bias);
        self.multiply(x, to, n_threads);
    }

    fn multiply(&self, x: &[f32], to: &mut [f32], n_threads: usize) {
        let product = Product { size: [x.len() / self.n_in, self.n_out, self.n_in], n_threads };
        product.add(View::rows(x, self.n_in), View::rows(&self.weight, self.n_out), to, self.n_out);
    }
}

struct Norm {
    gain: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn new(norm: &LayerNorm) -> candle_core::Result<Norm> {
        let bias = norm.bias().expect("read with a bias");
        Ok(Norm { gain: numbers(norm.weight())?, bias: numbers(bias)?, epsilon: norm.eps() as f32 })
    }

    fn forward(&self, x: &[f32], into: &mut Vec<f32>) {
        into.resize(x.len(), 0.0);
        rows::normalise(x, into, (&self.gain, &self.bias), self.epsilon);
    }
}

fn blocks(blocks: Vec<towers::Block>) -> candle_core::Result<Vec<Block>> {
    blocks.into_iter().map(Block::new).collect()
}

fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

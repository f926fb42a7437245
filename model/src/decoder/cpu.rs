//! A block on the CPU: flat f32, every buffer used again in the next block.
//!
//! `block` says the same in candle's operations.

use candle_core::{Device, Tensor};
use candle_nn::RmsNorm;

use super::{Around, KeyValues, Rotation, block, extend, weights::Matrix};
use crate::{
    flat::{Dense, add_to_each, gate, numbers, rotate, scale_to_unit, softmax},
    product::{Product, View},
};

pub(super) struct Block {
    attention_norm: Norm,
    query: Dense,
    key: Dense,
    value: Dense,
    out: Dense,
    /// Of each head of queries and of keys.
    head_norms: Option<[Norm; 2]>,
    mlp_norm: Norm,
    gate: Dense,
    up: Dense,
    down: Dense,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

/// What every block writes anew.
#[derive(Default)]
pub(super) struct Room {
    /// (rows, dim)
    normed: Vec<f32>,
    /// (rows, heads * head_dim)
    query: Vec<f32>,
    /// (rows, kv heads * head_dim), as is the value.
    key: Vec<f32>,
    value: Vec<f32>,
    /// (tokens, seen) of one text and head.
    scores: Vec<f32>,
    /// (rows, heads * head_dim)
    attended: Vec<f32>,
    /// (rows, dim of the MLP), both.
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Block {
    /// # Panics
    ///
    /// If the weights are not flat.
    pub(super) fn new(block: block::Block) -> candle_core::Result<Block> {
        let head_norms =
            block.head_norms.map(|(query, key)| Ok::<_, candle_core::Error>([Norm::new(&query)?, Norm::new(&key)?]));
        Ok(Block {
            attention_norm: Norm::new(&block.attention_norm)?,
            query: dense(block.query)?,
            key: dense(block.key)?,
            value: dense(block.value)?,
            out: dense(block.out)?,
            head_norms: head_norms.transpose()?,
            mlp_norm: Norm::new(&block.mlp_norm)?,
            gate: dense(block.gate)?,
            up: dense(block.up)?,
            down: dense(block.down)?,
            n_heads: block.n_heads,
            n_kv_heads: block.n_kv_heads,
            head_dim: block.head_dim,
        })
    }

    /// (batch, tokens, dim) to the same.
    pub(super) fn forward(
        &self,
        states: &Tensor,
        around: &Around,
        kept: Option<&mut KeyValues>,
        room: &mut Room,
    ) -> candle_core::Result<Tensor> {
        let n_threads = rayon::current_num_threads();
        let mut rows = numbers(states)?; // (batch * tokens, dim)
        self.attend(&rows, states.dims(), around, kept, room)?;
        self.out.add(&room.attended, &mut rows, n_threads);
        self.mlp_norm.forward(&rows, &mut room.normed);
        self.gate.forward(&room.normed, &mut room.gate, n_threads);
        self.up.forward(&room.normed, &mut room.up, n_threads);
        gate(&mut room.gate, &room.up);
        self.down.add(&room.gate, &mut rows, n_threads);
        Tensor::from_vec(rows, states.dims(), states.device())
    }

    /// Leaves in `room.attended` what each row saw of its text.
    fn attend(
        &self,
        states: &[f32],
        dims: &[usize],
        around: &Around,
        kept: Option<&mut KeyValues>,
        room: &mut Room,
    ) -> candle_core::Result<()> {
        let n_threads = rayon::current_num_threads();
        let Room { normed, query, key, value, .. } = room;
        self.attention_norm.forward(states, normed);
        self.query.forward(normed, query, n_threads);
        self.key.forward(normed, key, n_threads);
        self.value.forward(normed, value, n_threads);
        if let Some([query_norm, key_norm]) = &self.head_norms {
            query_norm.apply(query);
            key_norm.apply(key);
        }
        if let Some(Rotation { cos, sin }) = &around.rotation {
            let (cos, sin) = (numbers(cos)?, numbers(sin)?);
            rotate(query, self.head_dim, (&cos, &sin));
            rotate(key, self.head_dim, (&cos, &sin));
        }
        let (batch, length) = (dims[0], dims[1]);
        if let Some(kept) = kept {
            let rows = |rows: &[f32]| Tensor::from_slice(rows, (batch, 1, length, ()), &Device::Cpu);
            let (keys, values) = extend(kept, rows(key)?, rows(value)?)?;
            (*key, *value) = (numbers(&keys)?, numbers(&values)?);
        }
        let mask = around.mask.map(numbers).transpose()?;
        self.mix(batch, mask.as_deref(), room);
        Ok(())
    }

    /// Softmax of queries and keys, times values; `mask` is that of each text or of all.
    fn mix(&self, batch: usize, mask: Option<&[f32]>, room: &mut Room) {
        let Room { query, key, value, scores, attended, .. } = room;
        let (dim, kv_dim, width) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim, self.head_dim);
        let (length, seen) = (query.len() / (batch * dim), key.len() / (batch * kv_dim));
        let n_threads = rayon::current_num_threads();
        scores.resize(length * seen, 0.0);
        attended.resize(query.len(), 0.0);
        for (text, head) in (0..batch).flat_map(|text| (0..self.n_heads).map(move |head| (text, head))) {
            let at = text * length * dim + head * width;
            let kv_at = text * seen * kv_dim + head / (self.n_heads / self.n_kv_heads) * width;
            let scaled = Product { size: [length, seen, width], scale: 1.0 / (width as f32).sqrt(), n_threads };
            scaled.write(View::rows(&query[at..], dim), View::rows(&key[kv_at..], kv_dim).transposed(), scores, seen);
            if let Some(mask) = mask {
                let n_masks = mask.len() / (length * seen);
                add_to_each(scores, &mask[text % n_masks * length * seen..][..length * seen]);
            }
            softmax(scores, seen, false);
            let mixed = Product { size: [length, width, seen], scale: 1.0, n_threads };
            mixed.write(View::rows(scores, seen), View::rows(&value[kv_at..], kv_dim), &mut attended[at..], dim);
        }
    }
}

/// Each row divided by its root mean square, times a gain.
struct Norm {
    gain: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn new(norm: &RmsNorm) -> candle_core::Result<Norm> {
        Ok(Norm { gain: numbers(norm.weight())?, epsilon: norm.eps() as f32 })
    }

    fn forward(&self, x: &[f32], into: &mut Vec<f32>) {
        into.clear();
        into.extend_from_slice(x);
        self.apply(into);
    }

    fn apply(&self, x: &mut [f32]) {
        scale_to_unit(x, &self.gain, self.epsilon);
    }
}

fn dense(matrix: Matrix) -> candle_core::Result<Dense> {
    match matrix {
        Matrix::Dense(linear) => Dense::new(&linear),
        Matrix::Blocks(..) => panic!("quantised weights stay in candle's operations"),
    }
}

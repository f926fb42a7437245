//! A network that serves on a CPU: flat f32, pairs in pieces over all cores, and everything folded at load time that can be, exactly.
//!
//! - Of one key the share is always 1: `W_o W_v` is one matrix, and query and key are gone (FrEVL on single vectors).
//! - Gains and biases of norms, the scale of queries, first shares and the spread of extra numbers go into the next matrix.
//! - Large matrices are bf16 where the processor multiplies that (`matrix::Wide`): a logit is then off by some thousandths.
//! - What a side is before the first sum, and all keys and values of the one-way network, are made once an item, not once a pair.
//!
//! `network` says the same in candle's operations, and judges this in the tests.

mod head;

use candle_core::Result;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;

use self::head::Head;
use super::{
    Items, Kind, Network, Scorer, looking,
    matrix::{Matrix, Wide},
    network::{self, distinct},
    side,
};
use crate::{
    flat::{Dense, activate, dot, softmax, standardise},
    pair::Activation,
    vector_unit::on_best_unit,
};

/// Pairs that one thread takes at a time, and states of them: enough that reading the matrices is not what takes the time.
const PIECE: usize = 32;
const PIECE_STATES: usize = 1024;
/// Pairs of distinct images that are scored together.
const BLOCK: usize = 128;
const EPSILON: f32 = 1e-5;

pub(super) struct Folded {
    kind: Kind,
    dim: usize,
    image: Side,
    text: Side,
    layers: Vec<Layer>,
    head: Head,
    /// Of the cosine.
    scale: f32,
}

/// Items of one side as the network first sees them.
#[derive(Default)]
struct Seen {
    /// (items, tokens, dim)
    states: Vec<f32>,
    n_tokens: usize,
    /// (items, vector dim)
    vectors: Vec<f32>,
    /// By layer of the one-way network, of images alone: (items, tokens, key and value).
    keys: Vec<Vec<f32>>,
}

impl Seen {
    fn append(&mut self, other: Seen) {
        self.states.extend(other.states);
        self.vectors.extend(other.vectors);
        self.keys.resize(other.keys.len(), Vec::new());
        self.keys.iter_mut().zip(other.keys).for_each(|(keys, more)| keys.extend(more));
        self.n_tokens = other.n_tokens;
    }
}

/// A piece of pairs on its way.
struct Piece<'a> {
    pairs: &'a [(usize, usize)],
    /// (pairs, tokens, dim)
    text: Vec<f32>,
    image: Vec<f32>,
    n_text: usize,
    n_image: usize,
}

impl Folded {
    /// `network` has to be on the CPU.
    pub(super) fn new(network: &Network) -> Result<Folded> {
        let network::Parts { image, text, layers, head, log_scale } = network.parts();
        let n_heads = network.sizes().n_heads;
        let dim = network.shape().dim;
        Ok(Folded {
            kind: network.kind(),
            dim: network.sizes().dim,
            image: Side::new(image, dim)?,
            text: Side::new(text, dim)?,
            layers: layers.iter().map(|layer| Layer::new(layer, n_heads)).collect::<Result<_>>()?,
            head: Head::new(head, dim)?,
            scale: log_scale.to_scalar::<f32>()?.exp(),
        })
    }

    /// All items at `at`, by pieces over all cores; with keys of every layer, if those follow from an item alone.
    fn see(&self, side: &Side, items: &Items, at: &[usize], with_keys: bool) -> Seen {
        let of_piece = |at: &[usize]| {
            let mut seen = side.see(items, at);
            if with_keys {
                let mut standard = Vec::new();
                standardise(&seen.states, &mut standard, self.dim, EPSILON);
                seen.keys = self.layers.iter().map(|layer| layer.text.keys(&standard)).collect();
            }
            seen
        };
        let pieces: Vec<Seen> = at.par_chunks(evenly(at.len(), PIECE)).map(of_piece).collect();
        let mut all = Seen::default();
        pieces.into_iter().for_each(|piece| all.append(piece));
        all
    }

    fn piece(&self, pairs: &[(usize, usize)], texts: &Seen, images: &Seen) -> Vec<f32> {
        let mut piece = Piece {
            pairs,
            text: gather(&texts.states, texts.n_tokens * self.dim, pairs.iter().map(|pair| pair.0)),
            image: gather(&images.states, images.n_tokens * self.dim, pairs.iter().map(|pair| pair.1)),
            n_text: texts.n_tokens,
            n_image: images.n_tokens,
        };
        match self.kind {
            Kind::FacetFusionOneWay => {
                for (layer, keys) in self.layers.iter().zip(&images.keys) {
                    layer.one_way(&mut piece, keys, self.dim);
                }
            }
            _ => self.layers.iter().for_each(|layer| layer.both_ways(&mut piece, self.dim)),
        }
        self.head.forward(&piece, texts, images, self.scale, self.dim)
    }
}

impl Scorer for Folded {
    fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> crate::Result<Vec<f32>> {
        let (text_at, of_text) = distinct(pairs.iter().map(|pair| pair.0));
        let (image_at, of_image) = distinct(pairs.iter().map(|pair| pair.1));
        // Where no image comes twice, a block at a time keeps all that is made of them in the cache.
        if image_at.len() == pairs.len() && pairs.len() > BLOCK {
            let blocks = pairs.chunks(BLOCK).map(|block| self.score(images, texts, block));
            return Ok(blocks.collect::<crate::Result<Vec<_>>>()?.concat());
        }
        let images = self.see(&self.image, images, &image_at, self.kind == Kind::FacetFusionOneWay);
        let texts = self.see(&self.text, texts, &text_at, false);
        let places: Vec<(usize, usize)> =
            of_text.into_iter().zip(of_image).map(|(text, image)| (text as usize, image as usize)).collect();
        let of_piece = |pairs: &[(usize, usize)]| self.piece(pairs, &texts, &images);
        let n_states = (texts.n_tokens + images.n_tokens).max(1);
        let piece = evenly(places.len(), PIECE.max(PIECE_STATES / n_states));
        Ok(places.par_chunks(piece).flat_map_iter(of_piece).collect())
    }
}

/// A size of pieces, `most` at most, of which every core gets as many.
fn evenly(n: usize, most: usize) -> usize {
    let n_threads = rayon::current_num_threads();
    let n_pieces = n.div_ceil(most).next_multiple_of(n_threads);
    n.div_ceil(n_pieces.max(1)).max(1)
}

/// Rows by place, one after another.
fn gather(rows: &[f32], width: usize, at: impl Iterator<Item = usize>) -> Vec<f32> {
    at.flat_map(|at| &rows[at * width..][..width]).copied().collect()
}

struct Side {
    pooled: Option<Pooled>,
    tokens: Option<Tokens>,
}

struct Pooled {
    vector: Dense,
    extra: Option<Dense>,
    gain: Vec<f32>,
    bias: Vec<f32>,
}

struct Tokens {
    dense: Dense,
    gain: Vec<f32>,
    /// (tokens, dim): the norm's bias and the place of each.
    places: Vec<f32>,
}

impl Side {
    fn new(side: &side::Side, vector_dim: usize) -> Result<Side> {
        let pooled = side.pooled.as_ref().map(|pooled| Pooled::new(pooled, vector_dim));
        let tokens = side.tokens.as_ref().map(|tokens| -> Result<Tokens> {
            let (gain, bias) = tokens.norm.numbers()?;
            let mut places = tokens.places.flatten_all()?.to_vec1::<f32>()?;
            places.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(&bias).for_each(|(x, b)| *x += b));
            Ok(Tokens { dense: Matrix::of(&tokens.linear)?.dense(), gain, places })
        });
        Ok(Side { pooled: pooled.transpose()?, tokens: tokens.transpose()? })
    }

    fn see(&self, items: &Items, at: &[usize]) -> Seen {
        let vectors = gather(&items.vectors, items.dim, at.iter().copied());
        let pooled = self.pooled.as_ref().map(|pooled| pooled.see(items, at, &vectors));
        let tokens = self.tokens.as_ref().map(|tokens| tokens.see(items, at));
        let (states, n_tokens) = match (pooled, tokens) {
            (Some(pooled), None) => (pooled, 1),
            (pooled, Some(tokens)) => beside(pooled, tokens, [at.len(), items.n_tokens]),
            (None, None) => (Vec::new(), 0),
        };
        Seen { states, n_tokens, vectors, keys: Vec::new() }
    }
}

/// The rows of each item: the pooled one, if there is one, then its tokens; and how many there are.
fn beside(pooled: Option<Vec<f32>>, tokens: Vec<f32>, [n, n_tokens]: [usize; 2]) -> (Vec<f32>, usize) {
    let Some(pooled) = pooled else { return (tokens, n_tokens) };
    let (dim, of_item) = (pooled.len() / n.max(1), tokens.len() / n.max(1));
    let mut states = Vec::with_capacity(pooled.len() + tokens.len());
    for (pooled, tokens) in pooled.chunks_exact(dim.max(1)).zip(tokens.chunks_exact(of_item.max(1))) {
        states.extend_from_slice(pooled);
        states.extend_from_slice(tokens);
    }
    (states, 1 + n_tokens)
}

impl Pooled {
    fn new(pooled: &side::Pooled, vector_dim: usize) -> Result<Pooled> {
        let (gain, bias) = pooled.norm.numbers()?;
        let vector = Matrix::of(&pooled.linear)?.with_inputs_times((vector_dim as f32).sqrt());
        let extra = pooled.extra.as_ref().map(|extra| -> Result<Dense> {
            let (mean, deviation) = (extra.mean.to_vec1::<f32>()?, extra.deviation.to_vec1::<f32>()?);
            Ok(Matrix::of(&extra.linear)?.of_standardised(&mean, &deviation).dense())
        });
        Ok(Pooled { vector: vector.dense(), extra: extra.transpose()?, gain, bias })
    }

    /// (items, dim)
    fn see(&self, items: &Items, at: &[usize], vectors: &[f32]) -> Vec<f32> {
        let (mut raised, mut pooled) = (Vec::new(), Vec::new());
        self.vector.forward(vectors, &mut raised, 1);
        if let Some(extra) = &self.extra {
            extra.add(&gather(&items.extra, items.extra_dim, at.iter().copied()), &mut raised, 1);
        }
        activate(&mut raised, Activation::Gelu);
        standardise(&raised, &mut pooled, self.vector.n_out, EPSILON);
        for row in pooled.chunks_exact_mut(self.vector.n_out) {
            row.iter_mut().zip(self.gain.iter().zip(&self.bias)).for_each(|(x, (gain, bias))| *x = *x * gain + bias);
        }
        pooled
    }
}

impl Tokens {
    /// (items, tokens, dim)
    fn see(&self, items: &Items, at: &[usize]) -> Vec<f32> {
        let width = items.n_tokens * items.token_dim;
        let mut tokens = vec![0.0; at.len() * width];
        for (&at, into) in at.iter().zip(tokens.chunks_exact_mut(width.max(1))) {
            items.tokens[at * width..][..width].convert_to_f32_slice(into);
        }
        let (mut standard, mut raised, mut normed) = (Vec::new(), Vec::new(), Vec::new());
        standardise(&tokens, &mut standard, items.token_dim, EPSILON);
        self.dense.forward(&standard, &mut raised, 1);
        standardise(&raised, &mut normed, self.gain.len(), EPSILON);
        for item in normed.chunks_exact_mut(self.places.len()) {
            let gains = self.gain.iter().cycle();
            item.iter_mut().zip(gains.zip(&self.places)).for_each(|(x, (gain, place))| *x = *x * gain + place);
        }
        normed
    }
}

struct Layer {
    text: Looking,
    image: Option<Looking>,
}

/// One side looks at the other.
enum Attention {
    /// At a single state: `W_o W_v`, of its standardised numbers.
    One(Wide),
    Many {
        query: Wide,
        /// Key and value side by side.
        key_value: Wide,
        /// (dim): a key whose value is nothing.
        null: Vec<f32>,
        out: Wide,
        n_heads: usize,
    },
}

struct Looking {
    attention: Attention,
    up: Wide,
    down: Wide,
}

impl Layer {
    fn new(layer: &looking::Layer, n_heads: usize) -> Result<Layer> {
        let image = layer.image.as_ref().map(|image| Looking::new(image, n_heads)).transpose()?;
        Ok(Layer { text: Looking::new(&layer.text, n_heads)?, image })
    }

    fn both_ways(&self, piece: &mut Piece, dim: usize) {
        let image = self.image.as_ref().expect("only the one-way network leaves images as they are");
        let (mut text_seen, mut image_seen) = (Vec::new(), Vec::new());
        standardise(&piece.text, &mut text_seen, dim, EPSILON);
        standardise(&piece.image, &mut image_seen, dim, EPSILON);
        let all = || (0..piece.pairs.len()).map(|pair| (pair, pair));
        let from_image = self.text.look(&text_seen, &self.text.keys(&image_seen), [piece.n_text, piece.n_image], all());
        let from_text = image.look(&image_seen, &image.keys(&text_seen), [piece.n_image, piece.n_text], all());
        self.text.take(&mut piece.text, &from_image, dim);
        image.take(&mut piece.image, &from_text, dim);
    }

    /// `keys` of all images.
    fn one_way(&self, piece: &mut Piece, keys: &[f32], dim: usize) {
        let mut seen = Vec::new();
        standardise(&piece.text, &mut seen, dim, EPSILON);
        let whose = piece.pairs.iter().enumerate().map(|(pair, &(_, image))| (pair, image));
        let from_image = self.text.look(&seen, keys, [piece.n_text, piece.n_image], whose);
        self.text.take(&mut piece.text, &from_image, dim);
    }
}

impl Looking {
    fn new(from: &looking::Looking, n_heads: usize) -> Result<Looking> {
        let share = from.share as f32;
        let (own, other, mlp) = (from.norm.numbers()?, from.of_norm.numbers()?, from.mlp_norm.numbers()?);
        let value = Matrix::of(&from.value)?.of_normed(&other);
        let out = Matrix::of(&from.out)?.times(share);
        let attention = match &from.null {
            None => Attention::One(out.after(&value).wide()),
            Some(null) => {
                let head_dim = null.elem_count() / n_heads;
                let query = Matrix::of(&from.query)?.of_normed(&own).times((head_dim as f32).powf(-0.5));
                let key = Matrix::of(&from.key)?.of_normed(&other);
                Attention::Many {
                    query: query.wide(),
                    key_value: key.beside(value).wide(),
                    null: null.to_vec1()?,
                    out: out.wide(),
                    n_heads,
                }
            }
        };
        let up = Matrix::of(&from.up)?.of_normed(&mlp).wide();
        Ok(Looking { attention, up, down: Matrix::of(&from.down)?.times(share).wide() })
    }

    /// Of the other side's standardised states: key and value of each, or what one alone gives.
    fn keys(&self, seen: &[f32]) -> Vec<f32> {
        let mut keys = Vec::new();
        match &self.attention {
            Attention::One(both) => both.forward(seen, &mut keys),
            Attention::Many { key_value, .. } => key_value.forward(seen, &mut keys),
        }
        keys
    }

    /// What each own state (n_own an item) sees of the item whose keys it looks at (n_others each), by (own item, other item).
    fn look(
        &self,
        seen: &[f32],
        keys: &[f32],
        [n_own, n_others]: [usize; 2],
        whose: impl Iterator<Item = (usize, usize)>,
    ) -> Vec<f32> {
        let (query, null, n_heads) = match &self.attention {
            Attention::One(both) => return gather(keys, both.n_out(), whose.map(|(_, other)| other)),
            Attention::Many { query, null, n_heads, .. } => (query, null, *n_heads),
        };
        let (dim, mut queries) = (null.len(), Vec::new());
        query.forward(seen, &mut queries);
        let mut attended = vec![0.0; queries.len()];
        let mut scores = vec![0.0; n_others + 1];
        for (own, other) in whose {
            let keys = &keys[other * n_others * 2 * dim..][..n_others * 2 * dim];
            let states = own * n_own * dim..(own + 1) * n_own * dim;
            let rows = queries[states.clone()].chunks_exact(dim).zip(attended[states].chunks_exact_mut(dim));
            rows.for_each(|(query, into)| attend(query, keys, null, n_heads, &mut scores, into));
        }
        attended
    }

    /// Adds what was seen to the states, then what the MLP makes of them.
    fn take(&self, states: &mut [f32], attended: &[f32], dim: usize) {
        match &self.attention {
            Attention::One(_) => states.iter_mut().zip(attended).for_each(|(state, seen)| *state += seen),
            Attention::Many { out, .. } => out.add(attended, states),
        }
        let (mut seen, mut wide) = (Vec::new(), Vec::new());
        standardise(states, &mut seen, dim, EPSILON);
        self.up.forward(&seen, &mut wide);
        activate(&mut wide, Activation::Gelu);
        self.down.add(&wide, states);
    }
}

/// One query of all heads, (dim), to what it sees of (others, key and value), added to `into`.
fn attend(query: &[f32], keys: &[f32], null: &[f32], n_heads: usize, scores: &mut [f32], into: &mut [f32]) {
    let (dim, width) = (query.len(), query.len() / n_heads);
    on_best_unit(
        #[inline(always)]
        || {
            for head in (0..dim).step_by(width) {
                let query = &query[head..head + width];
                let (nothing, of_others) = scores.split_last_mut().expect("there is room for the null key");
                *nothing = dot(query, &null[head..head + width]);
                for (score, key) in of_others.iter_mut().zip(keys.chunks_exact(2 * dim)) {
                    *score = dot(query, &key[head..head + width]);
                }
                softmax(scores, scores.len(), false);
                let into = &mut into[head..head + width];
                for (share, value) in scores.iter().zip(keys.chunks_exact(2 * dim)) {
                    let value = &value[dim + head..][..width];
                    into.iter_mut().zip(value).for_each(|(into, value)| *into += share * value);
                }
            }
        },
    );
}

//! From the last states and the vectors of both sides to one number.

use candle_core::Result;

use super::{Piece, Seen, gather};
use crate::{
    flat::{Dense, activate, dot},
    fusion::{
        matrix::{Matrix, Wide},
        network::{self, BEND_SHARE},
    },
    pair::Activation,
};

pub(super) enum Head {
    Joined(Box<Joined>),
    /// The scale of the best token's cosine.
    MaxSim(f32),
}

pub(super) struct Joined {
    up: Wide,
    /// (wide), and the bias.
    out: Vec<f32>,
    out_bias: f32,
    /// What bends the vectors of each side.
    text: Dense,
    image: Dense,
}

impl Head {
    pub(super) fn new(head: &network::Head, vector_dim: usize) -> Result<Head> {
        let bend_share = BEND_SHARE as f32 / (vector_dim as f32).sqrt();
        Ok(match head {
            network::Head::MaxSim(scale) => Head::MaxSim(scale.to_scalar::<f32>()?.exp()),
            network::Head::Joined { up, out, bend, share } => {
                let (out, bias) = Matrix::of(out)?.times(*share as f32).into_parts();
                Head::Joined(Box::new(Joined {
                    up: Matrix::of(up)?.wide(),
                    out,
                    out_bias: bias[0],
                    text: Matrix::of(&bend.text)?.times(bend_share).dense(),
                    image: Matrix::of(&bend.image)?.times(bend_share).dense(),
                }))
            }
        })
    }

    /// A number for each pair of the piece.
    pub(super) fn forward(&self, piece: &Piece, texts: &Seen, images: &Seen, scale: f32, dim: usize) -> Vec<f32> {
        let vector_dim = texts.vectors.len() / (texts.states.len() / (texts.n_tokens * dim));
        let mut text = gather(&texts.vectors, vector_dim, piece.pairs.iter().map(|pair| pair.0));
        let mut image = gather(&images.vectors, vector_dim, piece.pairs.iter().map(|pair| pair.1));
        match self {
            Head::MaxSim(own_scale) => {
                let of_text = piece.text.chunks_exact(piece.n_text * dim);
                let states = of_text.zip(piece.image.chunks_exact(piece.n_image * dim));
                states.map(|(text, image)| own_scale * best_of(text, image, dim)).collect()
            }
            Head::Joined(joined) => {
                let Joined { up, out, out_bias, text: bend_text, image: bend_image } = joined.as_ref();
                let (t, v) = (means(&piece.text, piece.n_text, dim), means(&piece.image, piece.n_image, dim));
                let plain: Vec<f32> = cosines(&text, &image, vector_dim).collect();
                bend_text.add(&t, &mut text, 1);
                bend_image.add(&v, &mut image, 1);
                unit_rows(&mut text, vector_dim);
                unit_rows(&mut image, vector_dim);
                let mut joined = Vec::with_capacity(4 * t.len());
                for (t, v) in t.chunks_exact(dim).zip(v.chunks_exact(dim)) {
                    joined.extend_from_slice(t);
                    joined.extend_from_slice(v);
                    joined.extend(t.iter().zip(v).map(|(t, v)| t * v));
                    joined.extend(t.iter().zip(v).map(|(t, v)| (t - v).abs()));
                }
                let mut raised = Vec::new();
                up.forward(&joined, &mut raised);
                activate(&mut raised, Activation::Gelu);
                let learnt = raised.chunks_exact(out.len()).map(|row| dot(row, out) + out_bias);
                let bent = cosines(&text, &image, vector_dim).zip(plain);
                bent.zip(learnt).map(|((bent, plain), learnt)| scale * (bent - plain) + learnt).collect()
            }
        }
    }
}

/// Row by row.
fn cosines<'a>(a: &'a [f32], b: &'a [f32], dim: usize) -> impl Iterator<Item = f32> + 'a {
    a.chunks_exact(dim).zip(b.chunks_exact(dim)).map(|(a, b)| dot(a, b))
}

/// (items, tokens, dim) to (items, dim)
fn means(states: &[f32], n_tokens: usize, dim: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(states.len() / n_tokens);
    for item in states.chunks_exact(n_tokens * dim) {
        let start = all.len();
        all.extend_from_slice(&item[..dim]);
        let mean = &mut all[start..];
        for token in item[dim..].chunks_exact(dim) {
            mean.iter_mut().zip(token).for_each(|(sum, x)| *sum += x);
        }
        mean.iter_mut().for_each(|x| *x /= n_tokens as f32);
    }
    all
}

fn unit_rows(rows: &mut [f32], dim: usize) {
    for row in rows.chunks_exact_mut(dim) {
        let inverse = 1.0 / (dot(row, row) + network::UNIT_EPSILON as f32).sqrt();
        row.iter_mut().for_each(|x| *x *= inverse);
    }
}

/// The mean over text tokens of the best cosine among image tokens.
fn best_of(text: &[f32], image: &[f32], dim: usize) -> f32 {
    let length = |x: &[f32]| (dot(x, x) + network::UNIT_EPSILON as f32).sqrt();
    let lengths: Vec<f32> = image.chunks_exact(dim).map(length).collect();
    let of_token = |token: &[f32]| {
        let cosines = image.chunks_exact(dim).zip(&lengths).map(|(other, length)| dot(token, other) / length);
        cosines.fold(f32::NEG_INFINITY, f32::max) / length(token)
    };
    text.chunks_exact(dim).map(of_token).sum::<f32>() / (text.len() / dim) as f32
}

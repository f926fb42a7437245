//! What is learnt from and judged on: images and texts as a frozen encoder left them, and which text belongs to which image.

use candle_core::{Device, Result, Tensor};
use half::f16;

use crate::{builtin::layers::View, product::Product};

/// Images, or texts: of each a vector of unit length and a few tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Items {
    pub dim: usize,
    /// (n, dim), unit length
    pub vectors: Vec<f32>,
    /// Of each item; 0 for none.
    pub n_tokens: usize,
    pub token_dim: usize,
    /// (n, n_tokens, token_dim)
    pub tokens: Vec<f16>,
}

impl Items {
    pub fn n(&self) -> usize {
        self.vectors.len() / self.dim.max(1)
    }

    fn vector(&self, at: usize) -> &[f32] {
        &self.vectors[at * self.dim..][..self.dim]
    }

    /// (picked, dim)
    pub(super) fn pick_vectors(&self, at: &[usize], device: &Device) -> Result<Tensor> {
        let values: Vec<f32> = at.iter().flat_map(|&at| self.vector(at)).copied().collect();
        Tensor::from_vec(values, (at.len(), self.dim), device)
    }

    /// (picked, n_tokens, token_dim)
    pub(super) fn pick_tokens(&self, at: &[usize], device: &Device) -> Result<Tensor> {
        let width = self.n_tokens * self.token_dim;
        let rows = at.iter().flat_map(|&at| &self.tokens[at * width..][..width]);
        let values: Vec<f32> = rows.map(|value| value.to_f32()).collect();
        Tensor::from_vec(values, (at.len(), self.n_tokens, self.token_dim), device)
    }

    /// Cosines of some of these with some of others: (ours, theirs), row by row.
    pub(super) fn cosines(&self, ours: &[usize], others: &Items, theirs: &[usize]) -> Vec<f32> {
        let of =
            |items: &Items, at: &[usize]| at.iter().flat_map(|&at| items.vector(at)).copied().collect::<Vec<f32>>();
        let (rows, columns) = (of(self, ours), of(others, theirs));
        let mut scores = vec![0.0; ours.len() * theirs.len()];
        let product = Product { size: [ours.len(), theirs.len(), self.dim], scale: 1.0, n_threads: 1 };
        let (rows, columns) = (View::rows(&rows, self.dim), View::rows(&columns, self.dim).transposed());
        product.write(rows, columns, &mut scores, theirs.len());
        scores
    }
}

/// Every text belongs to one image; an image may have several texts, or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    pub images: Items,
    pub texts: Items,
    /// The place of each text's image.
    pub owner_of: Vec<usize>,
}

impl Pairs {
    /// `Err` says what is wrong: too little to compare, shapes that do not meet, numbers that are none.
    pub fn check(&self) -> std::result::Result<(), String> {
        let (images, texts) = (&self.images, &self.texts);
        for (what, items) in [("images", images), ("texts", texts)] {
            let n = items.n();
            if items.dim == 0 || items.vectors.len() != n * items.dim {
                return Err(format!("{what}: expected whole vectors, received {} numbers", items.vectors.len()));
            }
            let n_tokens = n * items.n_tokens * items.token_dim;
            if items.tokens.len() != n_tokens {
                return Err(format!("{what}: expected {n_tokens} numbers of tokens, received {}", items.tokens.len()));
            }
            if items.vectors.iter().any(|x| !x.is_finite()) || items.tokens.iter().any(|x| !x.is_finite()) {
                return Err(format!("{what}: expected finite numbers, received NaN or infinity"));
            }
        }
        if images.dim != texts.dim {
            return Err(format!("expected vectors of one space, received {} and {} numbers", images.dim, texts.dim));
        }
        if self.owner_of.len() != texts.n() || self.owner_of.iter().any(|&image| image >= images.n()) {
            return Err("expected an image of each text".to_owned());
        }
        Ok(())
    }

    /// The texts of each image.
    pub(super) fn texts_of(&self) -> Vec<Vec<usize>> {
        let mut texts = vec![Vec::new(); self.images.n()];
        self.owner_of.iter().enumerate().for_each(|(text, &image)| texts[image].push(text));
        texts
    }
}

//! What is learnt from and judged on: images and texts as a frozen encoder left them, and which text belongs to which image.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use candle_core::{DType, Device, Result, Tensor};
use half::f16;

use crate::{builtin::layers::View, flat::dot, product::Product};

/// Images, or texts: of each a vector of unit length, perhaps extra numbers, and a few tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Items {
    pub dim: usize,
    /// (n, dim), unit length
    pub vectors: Vec<f32>,
    /// Of each item; 0 for none.
    pub extra_dim: usize,
    /// (n, extra_dim): what no cosine reads, such as the encoder's output before it was brought to where the texts are.
    pub extra: Vec<f32>,
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

    /// Others of the same shape, behind these.
    ///
    /// # Panics
    ///
    /// If their shape is another.
    pub fn append(&mut self, others: &Items) {
        let shape = |items: &Items| (items.dim, items.extra_dim, items.n_tokens, items.token_dim);
        assert_eq!(shape(self), shape(others), "items of another shape");
        self.vectors.extend_from_slice(&others.vectors);
        self.extra.extend_from_slice(&others.extra);
        self.tokens.extend_from_slice(&others.tokens);
    }

    /// Room for others of the same shape.
    pub(super) fn like(other: &Items) -> Items {
        let Items { dim, extra_dim, n_tokens, token_dim, .. } = *other;
        Items { dim, extra_dim, n_tokens, token_dim, ..Items::default() }
    }

    /// Puts the mean of some of others' behind these: its vector of unit length again.
    pub(super) fn push_mean(&mut self, others: &Items, at: &[usize]) {
        let share = 1.0 / at.len().max(1) as f32;
        let mean = |width: usize, number: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
            (0..width).map(|i| at.iter().map(|&at| number(at, i)).sum::<f32>() * share).collect()
        };
        let mut vector = mean(self.dim, &|at, i| others.vectors[at * self.dim + i]);
        let length = dot(&vector, &vector).sqrt();
        if length > 0.0 && at.len() > 1 {
            vector.iter_mut().for_each(|x| *x /= length);
        }
        self.vectors.extend(vector);
        self.extra.extend(mean(self.extra_dim, &|at, i| others.extra[at * self.extra_dim + i]));
        let width = self.n_tokens * self.token_dim;
        let tokens = mean(width, &|at, i| others.tokens[at * width + i].to_f32());
        self.tokens.extend(tokens.into_iter().map(f16::from_f32));
    }

    fn vector(&self, at: usize) -> &[f32] {
        &self.vectors[at * self.dim..][..self.dim]
    }

    /// (picked, dim)
    pub(super) fn pick_vectors(&self, at: &[usize], device: &Device) -> Result<Tensor> {
        let values: Vec<f32> = at.iter().flat_map(|&at| self.vector(at)).copied().collect();
        Tensor::from_vec(values, (at.len(), self.dim), device)
    }

    /// (picked, extra_dim)
    pub(super) fn pick_extra(&self, at: &[usize], device: &Device) -> Result<Tensor> {
        let values: Vec<f32> = at.iter().flat_map(|&at| self.extra_of(at)).copied().collect();
        Tensor::from_vec(values, (at.len(), self.extra_dim), device)
    }

    fn extra_of(&self, at: usize) -> &[f32] {
        &self.extra[at * self.extra_dim..][..self.extra_dim]
    }

    /// Means and deviations of the extra numbers over some items; a number that never changes deviates by 1.
    pub(super) fn spread_of_extra(&self, at: &[usize]) -> [Vec<f32>; 2] {
        let (mut sums, mut squares) = (vec![0f64; self.extra_dim], vec![0f64; self.extra_dim]);
        for (i, &x) in at.iter().flat_map(|&at| self.extra_of(at).iter().enumerate()) {
            sums[i] += f64::from(x);
            squares[i] += f64::from(x) * f64::from(x);
        }
        let n = at.len().max(1) as f64;
        let deviation = |i: usize| {
            let variance = squares[i] / n - (sums[i] / n) * (sums[i] / n);
            if variance > 1e-12 { variance.sqrt() as f32 } else { 1.0 }
        };
        let deviations = (0..self.extra_dim).map(deviation).collect();
        [sums.iter().map(|sum| (sum / n) as f32).collect(), deviations]
    }

    /// (picked, n_tokens, token_dim), in f32
    pub(super) fn pick_tokens(&self, at: &[usize], device: &Device) -> Result<Tensor> {
        let width = self.n_tokens * self.token_dim;
        let mut values = Vec::with_capacity(at.len() * width);
        at.iter().for_each(|&at| values.extend_from_slice(&self.tokens[at * width..][..width]));
        // Half as much to bring to a card.
        Tensor::from_vec(values, (at.len(), self.n_tokens, self.token_dim), device)?.to_dtype(DType::F32)
    }

    /// The product of one of these with one of others.
    pub(super) fn product(&self, at: usize, others: &Items, other: usize) -> f32 {
        dot(self.vector(at), others.vector(other))
    }

    /// Of some, row by row.
    pub fn vectors_of(&self, at: &[usize]) -> Vec<f32> {
        at.iter().flat_map(|&at| self.vector(at)).copied().collect()
    }

    /// Cosines of some of these with some of others: (ours, theirs), row by row.
    pub(super) fn cosines(&self, ours: &[usize], others: &Items, theirs: &[usize]) -> Vec<f32> {
        let (rows, columns) = (self.vectors_of(ours), others.vectors_of(theirs));
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
    /// By text that is several of an image's in one, as long ones to learn from: which.
    pub parts: BTreeMap<usize, Vec<usize>>,
    /// By text, where several images have the same one: all of them. They are none of each other's hard negatives.
    pub shared: BTreeMap<usize, Arc<BTreeSet<usize>>>,
    /// By image: how much of a hub it is; empty if that is not known. A network learns what is to be added to the cosine without it.
    pub hubness: Vec<f32>,
    /// By image: the part of those the encoder was made from that holds it (`Encoder::fold_of`); empty if all are in one. A text's
    /// encoder has seen the images of all other parts, so a text is compared with those of its own alone.
    pub fold_of: Vec<usize>,
    /// By image: which hardly differ from each other; empty if that is not known. Blocks of lists are drawn from them first.
    pub group_of: Vec<usize>,
}

impl Pairs {
    /// Whether a text is several of its image's in one.
    pub fn is_joined(&self, text: usize) -> bool {
        self.parts.contains_key(&text)
    }

    /// Of an image; the same of all if folds are not known.
    pub(super) fn fold(&self, image: usize) -> usize {
        self.fold_of.get(image).copied().unwrap_or_default()
    }

    /// Images, and texts by that of their image.
    pub(super) fn by_fold(&self, images: &[usize], texts: &[usize]) -> Vec<(Vec<usize>, Vec<usize>)> {
        let mut folds: BTreeMap<usize, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        images.iter().for_each(|&image| folds.entry(self.fold(image)).or_default().0.push(image));
        texts.iter().for_each(|&text| folds.entry(self.fold(self.owner_of[text])).or_default().1.push(text));
        folds.into_values().collect()
    }

    pub(super) fn belongs(&self, text: usize, image: usize) -> bool {
        self.owner_of[text] == image || self.shared.get(&text).is_some_and(|images| images.contains(&image))
    }

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
            if items.extra.len() != n * items.extra_dim {
                let (expected, received) = (n * items.extra_dim, items.extra.len());
                return Err(format!("{what}: expected {expected} extra numbers, received {received}"));
            }
            let mut numbers = items.vectors.iter().chain(&items.extra);
            if numbers.any(|x| !x.is_finite()) || items.tokens.iter().any(|x| !x.is_finite()) {
                return Err(format!("{what}: expected finite numbers, received NaN or infinity"));
            }
        }
        if images.dim != texts.dim {
            return Err(format!("expected vectors of one space, received {} and {} numbers", images.dim, texts.dim));
        }
        let of_images = [
            ("their group", self.group_of.len()),
            ("their fold", self.fold_of.len()),
            ("how much of a hub they are", self.hubness.len()),
        ];
        if let Some((what, received)) = of_images.iter().find(|(_, n)| *n != 0 && *n != images.n()) {
            return Err(format!("expected to know of {} images {what}, received {received}", images.n()));
        }
        let mut places = self.parts.iter().flat_map(|(joined, parts)| std::iter::once(joined).chain(parts));
        if places.any(|&text| text >= texts.n()) {
            return Err("expected the parts of texts to be texts".to_owned());
        }
        if self.owner_of.len() != texts.n() || self.owner_of.iter().any(|&image| image >= images.n()) {
            return Err("expected an image of each text".to_owned());
        }
        Ok(())
    }
}

//! The two losses over a batch of pairs, with their gradients: InfoNCE in both directions, and SigLIP's sigmoid.

use crate::builtin::layers::{View, dot, multiply, softmax};

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    InfoNce,
    Sigmoid,
}

impl std::str::FromStr for Loss {
    type Err = String;

    fn from_str(name: &str) -> Result<Loss, String> {
        match name {
            "infonce" => Ok(Loss::InfoNce),
            "sigmoid" => Ok(Loss::Sigmoid),
            _ => Err(format!("expected infonce or sigmoid, received {name:?}")),
        }
    }
}

/// What a batch costs, and which way is down.
pub struct Slope {
    pub loss: f32,
    /// (batch, embedding)
    pub images: Vec<f32>,
    pub texts: Vec<f32>,
    /// Of the logarithm of the scale, and of the bias.
    pub log_scale: f32,
    pub bias: f32,
}

/// Text i belongs to image i and to no other. Embeddings are of unit length, `dim` numbers each.
pub fn slope(loss: Loss, images: &[f32], texts: &[f32], dim: usize, log_scale: f32, bias: f32) -> Slope {
    let n = images.len() / dim;
    let scale = log_scale.exp();
    let mut cosines = vec![0.0; n * n];
    let turned = View::rows(texts, dim).transposed();
    multiply([n, n, dim], View::rows(images, dim), turned, (&mut cosines, n), false, 1.0);
    let (loss, dlogits) = match loss {
        Loss::InfoNce => infonce(&cosines, n, scale),
        Loss::Sigmoid => sigmoid(&cosines, n, scale, bias),
    };
    let (mut dimages, mut dtexts) = (vec![0.0; n * dim], vec![0.0; n * dim]);
    let d = View::rows(&dlogits, n);
    multiply([n, dim, n], d, View::rows(texts, dim), (&mut dimages, dim), false, scale);
    multiply([n, dim, n], d.transposed(), View::rows(images, dim), (&mut dtexts, dim), false, scale);
    let log_scale = scale * dot(&dlogits, &cosines);
    Slope { loss, images: dimages, texts: dtexts, log_scale, bias: dlogits.iter().sum() }
}

/// `weight` times (1 - cosine) between each embedding of unit length and what it should be, where that is known; adds to
/// `slopes` and gives the loss.
pub fn pull(embeddings: &[f32], wanted: &[Option<&[f32]>], dim: usize, weight: f32, slopes: &mut [f32]) -> f32 {
    let mut loss = 0.0;
    let rows = embeddings.chunks_exact(dim).zip(slopes.chunks_exact_mut(dim));
    for ((embedding, slopes), wanted) in rows.zip(wanted) {
        let Some(wanted) = wanted else { continue };
        loss += weight * (1.0 - dot(embedding, wanted));
        slopes.iter_mut().zip(*wanted).for_each(|(slope, wanted)| *slope -= weight * wanted);
    }
    loss
}

/// The slope of `weight` times (1 - cosine) between a vector of any length and a unit vector.
pub fn turn(vector: &[f32], wanted: &[f32], weight: f32, slope: &mut [f32]) {
    let length = dot(vector, vector).sqrt().max(1e-6);
    let cosine = dot(vector, wanted) / length;
    for ((slope, value), wanted) in slope.iter_mut().zip(vector).zip(wanted) {
        *slope += weight * (cosine * value / length - wanted) / length;
    }
}

fn infonce(cosines: &[f32], n: usize, scale: f32) -> (f32, Vec<f32>) {
    let mut by_image: Vec<f32> = cosines.iter().map(|cosine| cosine * scale).collect();
    let mut by_text: Vec<f32> = (0..n * n).map(|at| by_image[at % n * n + at / n]).collect();
    by_image.chunks_exact_mut(n).for_each(softmax);
    by_text.chunks_exact_mut(n).for_each(softmax);
    let weight = 0.5 / n as f32;
    let surprise = |at: usize| -(by_image[at].max(1e-30).ln() + by_text[at].max(1e-30).ln());
    let loss = (0..n).map(|i| surprise(i * n + i)).sum::<f32>() * weight;
    let slope = |at: usize| {
        let own = if at / n == at % n { 2.0 } else { 0.0 };
        (by_image[at] + by_text[at % n * n + at / n] - own) * weight
    };
    (loss, (0..n * n).map(slope).collect())
}

fn sigmoid(cosines: &[f32], n: usize, scale: f32, bias: f32) -> (f32, Vec<f32>) {
    let mut loss = 0.0;
    let mut slopes = vec![0.0; n * n];
    for (at, slope) in slopes.iter_mut().enumerate() {
        let sign = if at / n == at % n { 1.0 } else { -1.0 };
        let logit = sign * (cosines[at] * scale + bias);
        // -log sigmoid(logit), without overflow.
        loss += (-logit.abs()).exp().ln_1p() + (-logit).max(0.0);
        *slope = -sign / (1.0 + logit.exp()) / n as f32;
    }
    (loss / n as f32, slopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_finite_differences() {
        let (n, dim) = (4, 3);
        let images: Vec<f32> = (0..n * dim).map(|i| ((i * 5) % 7) as f32 / 7.0 - 0.4).collect();
        let texts: Vec<f32> = (0..n * dim).map(|i| ((i * 3) % 11) as f32 / 11.0 - 0.4).collect();
        for loss in [Loss::InfoNce, Loss::Sigmoid] {
            let at = |images: &[f32], texts: &[f32], log_scale, bias| slope(loss, images, texts, dim, log_scale, bias);
            let here = at(&images, &texts, 1.2, -0.7);
            let step = 1e-2;
            let check = |expected: f32, received: f32| {
                assert!((expected - received).abs() < 2e-3 + 0.02 * expected.abs(), "{loss:?}: {expected} {received}");
            };
            let between = |up: Slope, down: Slope| (up.loss - down.loss) / (2.0 * step);
            for i in 0..n * dim {
                let nudged = |values: &[f32], by: f32| {
                    let mut values = values.to_vec();
                    values[i] += by;
                    values
                };
                let up = at(&nudged(&images, step), &texts, 1.2, -0.7);
                check(between(up, at(&nudged(&images, -step), &texts, 1.2, -0.7)), here.images[i]);
                let up = at(&images, &nudged(&texts, step), 1.2, -0.7);
                check(between(up, at(&images, &nudged(&texts, -step), 1.2, -0.7)), here.texts[i]);
            }
            let of_scale = between(at(&images, &texts, 1.2 + step, -0.7), at(&images, &texts, 1.2 - step, -0.7));
            check(of_scale, here.log_scale);
            if loss == Loss::Sigmoid {
                check(between(at(&images, &texts, 1.2, -0.7 + step), at(&images, &texts, 1.2, -0.7 - step)), here.bias);
            }
        }
    }
}

//! What a batch of images and their texts costs. A text belongs to one image; an image may have several texts.

use candle_core::{D, Device, Result, Tensor};

use crate::train::Loss;

/// Who belongs to whom, in a batch.
pub(super) struct Owners {
    /// (images, texts): 1 where they belong together.
    together: Tensor,
    n_texts: usize,
}

impl Owners {
    /// `owner_of` each text is the place of its image.
    pub(super) fn new(owner_of: &[usize], n_images: usize, device: &Device) -> Result<Owners> {
        let n_texts = owner_of.len();
        let mut together = vec![0f32; n_images * n_texts];
        owner_of.iter().enumerate().for_each(|(text, image)| together[image * n_texts + text] = 1.0);
        Ok(Owners { together: Tensor::from_vec(together, (n_images, n_texts), device)?, n_texts })
    }
}

/// Of unit-length embeddings in f32: (images, dim), (texts, dim). `log_scale` and `bias` are scalars.
pub(super) fn of(
    loss: Loss,
    (images, texts): (&Tensor, &Tensor),
    owners: &Owners,
    (log_scale, bias): (&Tensor, &Tensor),
    smoothing: f64,
) -> Result<Tensor> {
    let logits = images.matmul(&texts.t()?)?.broadcast_mul(&log_scale.exp()?)?;
    match loss {
        Loss::Sigmoid => sigmoid(&logits.broadcast_add(bias)?, owners),
        Loss::InfoNce => infonce(&logits, owners, smoothing),
    }
}

/// FLAME's multi-positive sigmoid: the mean over texts, not over images, of -log sigmoid of each signed logit.
fn sigmoid(logits: &Tensor, owners: &Owners) -> Result<Tensor> {
    let signed = (logits * ((&owners.together * 2.0)? - 1.0)?)?;
    // -log sigmoid(x) = max(-x, 0) + log(1 + exp(-|x|)), without overflow.
    let costs = (signed.neg()?.relu()? + (signed.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    costs.sum_all()? / owners.n_texts as f64
}

/// In both directions; the texts of an image share what it is to give, and `smoothing` is shared by all.
fn infonce(logits: &Tensor, owners: &Owners, smoothing: f64) -> Result<Tensor> {
    let way = |logits: &Tensor, together: &Tensor| -> Result<Tensor> {
        let shares = together.broadcast_div(&together.sum_keepdim(D::Minus1)?.maximum(1.0)?)?;
        let wanted = ((shares * (1.0 - smoothing))? + smoothing / logits.dim(1)? as f64)?;
        let top = logits.max_keepdim(D::Minus1)?.detach();
        let level = logits.broadcast_sub(&top)?;
        let total = level.exp()?.sum_keepdim(D::Minus1)?.log()?;
        (level.broadcast_sub(&total)? * wanted)?.sum_all()?.neg()? / logits.dim(0)? as f64
    };
    let by_text = way(&logits.t()?.contiguous()?, &owners.together.t()?.contiguous()?)?;
    (way(logits, &owners.together)? + by_text)? / 2.0
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    fn unit_rows(n: usize, seed: usize) -> Tensor {
        let values: Vec<f32> = (0..n * 5).map(|i| ((i * 31 + seed) % 17) as f32 / 17.0 - 0.4).collect();
        let rows = Tensor::from_vec(values, (n, 5), &Device::Cpu).unwrap();
        rows.broadcast_div(&rows.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap()
    }

    fn scalar(value: f32) -> Var {
        Var::new(value, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_sigmoid_is_flames_formula() {
        let (images, texts, owner_of) = (unit_rows(3, 1), unit_rows(7, 5), [0, 0, 2, 1, 1, 1, 2]);
        let owners = Owners::new(&owner_of, 3, &Device::Cpu).unwrap();
        let (log_scale, bias) = (scalar(10f32.ln()), scalar(-10.0));
        let loss = of(Loss::Sigmoid, (&images, &texts), &owners, (&log_scale, &bias), 0.0).unwrap();
        let cosines: Vec<Vec<f32>> = images.matmul(&texts.t().unwrap()).unwrap().to_vec2().unwrap();
        let mut expected = 0.0;
        for (image, row) in cosines.iter().enumerate() {
            for (text, cosine) in row.iter().enumerate() {
                let sign = if owner_of[text] == image { 1.0 } else { -1.0 };
                expected -= (1.0 / (1.0 + (-sign * (10.0 * f64::from(*cosine) - 10.0)).exp())).ln() / 7.0;
            }
        }
        let received = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!((received - expected).abs() < 1e-5, "{received} {expected}");
    }

    #[test]
    fn one_text_an_image_is_what_the_builtin_pair_learns_by() {
        let (images, texts) = (unit_rows(4, 3), unit_rows(4, 8));
        let owners = Owners::new(&[0, 1, 2, 3], 4, &Device::Cpu).unwrap();
        for kind in [Loss::InfoNce, Loss::Sigmoid] {
            let (log_scale, bias) = (scalar(1.2), scalar(-0.7));
            let [images_var, texts_var] = [&images, &texts].map(|rows| Var::from_tensor(rows).unwrap());
            let loss = of(kind, (&images_var, &texts_var), &owners, (&log_scale, &bias), 0.0).unwrap();
            let flat = |rows: &Tensor| rows.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = crate::train::slope(kind, &flat(&images), &flat(&texts), 5, 1.2, -0.7);
            assert!((loss.to_scalar::<f32>().unwrap() - expected.loss).abs() < 1e-5, "{kind:?}");
            let slopes = loss.backward().unwrap();
            let of_images = flat(slopes.get(&images_var).unwrap());
            let far = of_images.iter().zip(&expected.images).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5, "{kind:?}: {far}");
        }
    }
}

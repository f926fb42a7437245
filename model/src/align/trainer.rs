//! One step after another: a batch, perhaps in parts, its loss, the gradients, the weights.
//!
//! Parts do not change what a step is: every image is compared with every text of the batch. The embeddings of all parts
//! are made first; what the loss asks of each is then brought back through its part, which is computed anew (as OpenCLIP's
//! `accum_freq` does), so that no more than a part's activations are ever held.

use candle_core::{DType, Result, Tensor, Var};

use super::{
    Plan,
    feed::{Batch, Feed, Images, Texts},
    loss::Owners,
    network::{FrozenRows, Network},
};
use crate::learn::{
    layers::Pass,
    optimizer::{AdamW, follow},
};

/// First factor of the loss in f16, and how many good steps double it.
const FIRST_LOSS_SCALE: f32 = 65_536.0;
const GOOD_STEPS: u64 = 2000;
/// Steps one after another without finite gradients, after which none is expected: the factor has come down to 1 long before.
pub(super) const MAX_LEFT_OUT: u64 = 50;

pub(super) struct Trainer {
    pub plan: Plan,
    pub network: Network,
    pub feed: Feed,
    pub rows: Option<FrozenRows>,
    pub optimizer: AdamW,
    /// The running mean of each parameter; empty without one.
    pub followed: Vec<Tensor>,
    pub step: u64,
    /// What the loss is multiplied with before its gradients are taken, so that they are not lost in f16.
    pub loss_scale: f32,
    /// Steps since the scale was last changed.
    pub n_good: u64,
    /// Steps before this one that were left out, one after another.
    n_left_out: u64,
}

/// A part of a batch.
struct Part {
    images: Images,
    texts: Texts,
}

impl Trainer {
    pub(super) fn new(plan: Plan, network: Network, feed: Feed, rows: Option<FrozenRows>) -> Result<Trainer> {
        let followed = match plan.mean_kept > 0.0 {
            true => network.parameters.iter().map(|p| p.var.as_tensor().copy()).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        let loss_scale = if network.dtype() == DType::F16 { FIRST_LOSS_SCALE } else { 1.0 };
        let optimizer = AdamW::new(&network.parameters)?;
        Ok(Trainer { plan, network, feed, rows, optimizer, followed, step: 0, loss_scale, n_good: 0, n_left_out: 0 })
    }

    /// Takes one step; gives the loss.
    pub(super) fn step(&mut self) -> crate::Result<f32> {
        let batch = self.feed.next()?;
        let (loss, gradients) = self.gradients(batch)?;
        if self.usable(&gradients)? {
            let unscale = 1.0 / self.loss_scale;
            self.optimizer.step(&self.network.parameters, &gradients, &self.plan.recipe, self.step, unscale)?;
            self.network.clamp_scale()?;
            self.follow()?;
            self.n_left_out = 0;
        } else {
            self.n_left_out += 1;
        }
        self.step += 1;
        Ok(loss)
    }

    /// Whether so many steps were left out that nothing more is learnt.
    pub(super) fn is_lost(&self) -> bool {
        self.n_left_out >= MAX_LEFT_OUT
    }

    /// Of every parameter, times `loss_scale`; with the loss itself.
    pub(super) fn gradients(&self, batch: Batch) -> Result<(f32, Vec<Option<Tensor>>)> {
        let owners = Owners::new(&batch.owner_of, batch.images.n(), self.network.device())?;
        let parts = parts(batch, self.plan.n_parts);
        if let [part] = &parts[..] {
            let (images, texts) = self.embed(part, 0)?;
            let loss = self.network.loss(&self.plan, &images, &texts, &owners)?;
            return Ok((loss.to_scalar()?, self.collect(&(loss * f64::from(self.loss_scale))?, None)?));
        }
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        for (at, part) in parts.iter().enumerate() {
            let (of_images, of_texts) = self.embed(part, at)?;
            images.push(of_images.detach());
            texts.push(of_texts.detach());
        }
        let whole = |pieces: &[Tensor]| Var::from_tensor(&Tensor::cat(pieces, 0)?);
        let (all_images, all_texts) = (whole(&images)?, whole(&texts)?);
        let loss = self.network.loss(&self.plan, &all_images, &all_texts, &owners)?;
        let scaled = (&loss * f64::from(self.loss_scale))?;
        let slopes = scaled.backward()?;
        let mut gradients = self.collect(&scaled, None)?; // of scale and bias
        let (mut first_image, mut first_text) = (0, 0);
        for (at, part) in parts.iter().enumerate() {
            let (of_images, of_texts) = self.embed(part, at)?;
            let pull = |whole: &Var, first: &mut usize, embeddings: Tensor| -> Result<Tensor> {
                let n = embeddings.dim(0)?;
                let wanted = match slopes.get(whole) {
                    Some(slopes) => slopes.narrow(0, *first, n)?.contiguous()?.detach(),
                    None => embeddings.zeros_like()?,
                };
                *first += n;
                (embeddings * wanted)?.sum_all()
            };
            let of_images = pull(&all_images, &mut first_image, of_images)?;
            let of_texts = pull(&all_texts, &mut first_text, of_texts)?;
            gradients = self.collect(&(of_images + of_texts)?, Some(gradients))?;
        }
        Ok((loss.to_scalar()?, gradients))
    }

    fn embed(&self, part: &Part, at: usize) -> Result<(Tensor, Tensor)> {
        let pass = |side: u64| {
            let stream = (self.step << 12) + 2 * at as u64 + side;
            Pass::noisy(self.network.dtype(), self.plan.dropout, self.plan.seed, stream)
        };
        let images = self.network.images(&part.images, self.rows.as_ref(), &pass(0))?;
        Ok((images, self.network.texts(&part.texts, &pass(1))?))
    }

    fn collect(&self, loss: &Tensor, before: Option<Vec<Option<Tensor>>>) -> Result<Vec<Option<Tensor>>> {
        let mut slopes = loss.backward()?;
        let before = before.unwrap_or_else(|| vec![None; self.network.parameters.len()]);
        let both = self.network.parameters.iter().zip(before).map(|(parameter, before)| {
            Ok(match (slopes.remove(parameter.var.as_tensor()), before) {
                (Some(slope), Some(before)) => Some((slope + before)?),
                (slope, before) => slope.or(before),
            })
        });
        both.collect()
    }

    /// In f16, whether every gradient is finite; the loss's scale follows.
    fn usable(&mut self, gradients: &[Option<Tensor>]) -> Result<bool> {
        if self.network.dtype() != DType::F16 {
            return Ok(true);
        }
        for gradient in gradients.iter().flatten() {
            // Zero times anything finite is zero.
            if (gradient * 0.0)?.sum_all()?.to_scalar::<f32>()? != 0.0 {
                (self.loss_scale, self.n_good) = ((self.loss_scale / 2.0).max(1.0), 0);
                return Ok(false);
            }
        }
        self.n_good += 1;
        if self.n_good == GOOD_STEPS {
            (self.loss_scale, self.n_good) = (self.loss_scale * 2.0, 0);
        }
        Ok(true)
    }

    fn follow(&mut self) -> Result<()> {
        // Early on the first weights would weigh too much.
        let kept = self.plan.mean_kept.min((self.step + 1) as f32 / (self.step + 10) as f32);
        for (mean, parameter) in self.followed.iter_mut().zip(&self.network.parameters) {
            follow(mean, parameter.var.as_tensor(), kept)?;
        }
        Ok(())
    }

    /// Calls `look` with the running means in place of the weights.
    pub(super) fn with_means<T>(&self, look: impl FnOnce(&Trainer) -> crate::Result<T>) -> crate::Result<T> {
        let mut kept = Vec::new();
        for (mean, parameter) in self.followed.iter().zip(&self.network.parameters) {
            kept.push(parameter.var.as_tensor().copy()?);
            parameter.var.set(mean)?;
        }
        let seen = look(self);
        for (weights, parameter) in kept.iter().zip(&self.network.parameters) {
            parameter.var.set(weights)?;
        }
        seen
    }
}

impl Images {
    pub(super) fn n(&self) -> usize {
        match self {
            Images::Pictures(all) => all.len(),
            Images::Rows(all) => all.len(),
        }
    }
}

/// The batch in pieces of whole images; their texts stand in the images' order.
fn parts(batch: Batch, n_parts: usize) -> Vec<Part> {
    if n_parts <= 1 {
        return vec![Part { images: batch.images, texts: batch.texts }];
    }
    let n_images = batch.images.n();
    let size = n_images.div_ceil(n_parts);
    let bound = |image: usize| batch.owner_of.partition_point(|&owner| owner < image);
    let starts = (0..n_images).step_by(size);
    starts
        .map(|start| {
            let end = (start + size).min(n_images);
            let texts = bound(start)..bound(end);
            Part {
                images: match &batch.images {
                    Images::Pictures(all) => Images::Pictures(all[start..end].to_vec()),
                    Images::Rows(all) => Images::Rows(all[start..end].to_vec()),
                },
                texts: match &batch.texts {
                    Texts::Words(all) => Texts::Words(all[texts].to_vec()),
                    Texts::Facets { dim, values } => {
                        let values = values[texts.start * dim..texts.end * dim].to_vec();
                        Texts::Facets { dim: *dim, values }
                    }
                },
            }
        })
        .collect()
}

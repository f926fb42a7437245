//! Cross-attention: the layers in which one side looks at the other.

use candle_core::{D, DType, Result, Tensor, Var};

use super::{Kind, Sizes};
use crate::learn::{
    layers::{Linear, Norm, Pass},
    ops,
    parameters::{Maker, cast},
};

/// One layer: the text looks at the image, and the image at the text.
pub(super) struct Layer {
    pub text: Looking,
    pub image: Option<Looking>,
}

impl Layer {
    pub fn new(make: &mut Maker, i: usize, kind: Kind, sizes: &Sizes) -> Result<Layer> {
        let null = kind != Kind::Frevl;
        let image = kind != Kind::FacetFusionOneWay;
        let looking = |make: &mut Maker, who: &str| Looking::new(make, &format!("layers.{i}.{who}"), sizes, null);
        let text = looking(make, "text")?;
        Ok(Layer { text, image: image.then(|| looking(make, "image")).transpose()? })
    }

    pub fn fold_alone(&mut self, whole: &Layer, dtype: DType) -> Result<()> {
        self.text.fold_alone(&whole.text, dtype)?;
        match (&mut self.image, &whole.image) {
            (Some(image), Some(whole)) => image.fold_alone(whole, dtype),
            _ => Ok(()),
        }
    }

    pub fn image(&self) -> Result<&Looking> {
        self.image.as_ref().ok_or_else(|| candle_core::Error::msg("a one-way network leaves images as they are"))
    }
}

/// Cross-attention of one side to the other and an MLP, norms first.
pub(super) struct Looking {
    pub norm: Norm,
    pub query: Linear,
    pub of_norm: Norm,
    pub key: Linear,
    pub value: Linear,
    pub out: Linear,
    pub mlp_norm: Norm,
    pub up: Linear,
    pub down: Linear,
    /// (dim): a key whose value is nothing.
    pub null: Option<Var>,
    /// `W_o W_v`, where the other side is one vector: all shares of it are 1. Only to serve.
    pub alone: Option<Linear>,
    pub n_heads: usize,
    /// Of what is added to the states.
    pub share: f64,
}

/// What there is to look at.
pub(super) enum Keys {
    /// (items, heads, tokens, head dim) each.
    Many { key: Tensor, value: Tensor },
    /// (items, 1, dim): what looking at the only vector gives.
    One(Tensor),
}

impl Keys {
    pub fn select(&self, at: &Tensor) -> Result<Keys> {
        let select = |x: &Tensor| x.index_select(at, 0);
        Ok(match self {
            Keys::Many { key, value } => Keys::Many { key: select(key)?, value: select(value)? },
            Keys::One(seen) => Keys::One(select(seen)?),
        })
    }
}

impl Looking {
    fn new(make: &mut Maker, name: &str, sizes: &Sizes, null: bool) -> Result<Looking> {
        let Sizes { dim, n_heads, wide, share, .. } = *sizes;
        let at = |part: &str| format!("{name}.{part}");
        Ok(Looking {
            norm: Norm::new(make, &at("ln_1"), dim)?,
            query: Linear::new(make, &at("query"), [dim, dim])?,
            of_norm: Norm::new(make, &at("ln_other"), dim)?,
            key: Linear::new(make, &at("key"), [dim, dim])?,
            value: Linear::new(make, &at("value"), [dim, dim])?,
            out: Linear::new(make, &at("out"), [dim, dim])?,
            mlp_norm: Norm::new(make, &at("ln_2"), dim)?,
            up: Linear::new(make, &at("up"), [dim, wide])?,
            down: Linear::new(make, &at("down"), [wide, dim])?,
            null: null.then(|| make.normal(&at("null_key"), &[dim], 0.02)).transpose()?,
            alone: None,
            n_heads,
            share,
        })
    }

    /// Folds what is constant where the other side is one vector, from the weights of `whole`.
    fn fold_alone(&mut self, whole: &Looking, dtype: DType) -> Result<()> {
        self.alone = Some(whole.out.after(&whole.value)?.kept_in(dtype)?);
        Ok(())
    }

    /// Of the other side's states (items, tokens, dim).
    pub fn keys(&self, other: &Tensor, pass: &Pass) -> Result<Keys> {
        let other = self.of_norm.forward(other, pass)?;
        if let Some(alone) = &self.alone {
            return Ok(Keys::One(alone.forward(&other, pass)?));
        }
        let heads = |linear: &Linear| self.heads(&linear.forward(&other, pass)?);
        Ok(Keys::Many { key: heads(&self.key)?, value: heads(&self.value)? })
    }

    /// (items, tokens, dim) to (items, heads, tokens, head dim)
    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let (n, length, dim) = x.dims3()?;
        x.reshape((n, length, self.n_heads, dim / self.n_heads))?.transpose(1, 2)?.contiguous()
    }

    pub fn forward(&self, x: &Tensor, keys: &Keys, pass: &Pass) -> Result<Tensor> {
        let looked = match keys {
            Keys::Many { key, value } => self.out.forward(&self.look(x, (key, value), pass)?, pass)?,
            Keys::One(seen) => seen.clone(),
        };
        let add = |what: Tensor| pass.drop(&(cast(&what, DType::F32)? * self.share)?);
        let x = (x + add(looked)?)?;
        let raised = ops::gelu(&self.up.forward(&self.mlp_norm.forward(&x, pass)?, pass)?)?;
        &x + add(self.down.forward(&raised, pass)?)?
    }

    /// The mean of the values by what each state looks at: (n, length, dim).
    fn look(&self, x: &Tensor, (key, value): (&Tensor, &Tensor), pass: &Pass) -> Result<Tensor> {
        let (n, length, dim) = x.dims3()?;
        let head_dim = dim / self.n_heads;
        let query = self.heads(&self.query.forward(&self.norm.forward(x, pass)?, pass)?)?;
        let query = (query / (head_dim as f64).sqrt())?;
        let scores = query.matmul(&key.t()?)?; // (n, heads, length, others)
        let n_others = scores.dim(D::Minus1)?;
        let shares = match &self.null {
            Some(null) => {
                let null = cast(null, pass.dtype)?.reshape((1, self.n_heads, 1, head_dim))?;
                let nothing = query.broadcast_mul(&null)?.sum_keepdim(D::Minus1)?;
                pass.shares(&Tensor::cat(&[&scores, &nothing], D::Minus1)?)?
                    .narrow(D::Minus1, 0, n_others)?
                    .contiguous()?
            }
            None => pass.shares(&scores)?,
        };
        cast(&shares, pass.dtype)?.matmul(value)?.transpose(1, 2)?.reshape((n, length, dim))
    }
}

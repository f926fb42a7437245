//! Cross-attention: the layers in which one side looks at the other.

use candle_core::{D, Result, Tensor, Var};

use super::{Kind, Sizes};
use crate::learn::{
    layers::{Linear, Norm, Pass},
    ops,
    parameters::Maker,
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
    pub n_heads: usize,
    /// Of what is added to the states.
    pub share: f64,
}

/// (items, heads, tokens, head dim) each.
pub(super) struct Keys {
    key: Tensor,
    value: Tensor,
}

impl Keys {
    pub fn select(&self, at: &Tensor) -> Result<Keys> {
        Ok(Keys { key: self.key.index_select(at, 0)?, value: self.value.index_select(at, 0)? })
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
            n_heads,
            share,
        })
    }

    /// Of the other side's states (items, tokens, dim).
    pub fn keys(&self, other: &Tensor, pass: &Pass) -> Result<Keys> {
        let other = self.of_norm.forward(other)?;
        let heads = |x: Tensor| self.heads(&x);
        Ok(Keys { key: heads(self.key.forward(&other, pass)?)?, value: heads(self.value.forward(&other, pass)?)? })
    }

    /// (items, tokens, dim) to (items, heads, tokens, head dim)
    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let (n, length, dim) = x.dims3()?;
        x.reshape((n, length, self.n_heads, dim / self.n_heads))?.transpose(1, 2)?.contiguous()
    }

    pub fn forward(&self, x: &Tensor, keys: &Keys, pass: &Pass) -> Result<Tensor> {
        let (n, length, dim) = x.dims3()?;
        let head_dim = dim / self.n_heads;
        let query = self.heads(&self.query.forward(&self.norm.forward(x)?, pass)?)?;
        let query = (query / (head_dim as f64).sqrt())?;
        let scores = query.matmul(&keys.key.t()?)?; // (n, heads, length, others)
        let n_others = scores.dim(D::Minus1)?;
        let shares = match &self.null {
            Some(null) => {
                let null = null.reshape((1, self.n_heads, 1, head_dim))?;
                let nothing = query.broadcast_mul(&null)?.sum_keepdim(D::Minus1)?;
                ops::shares(&Tensor::cat(&[&scores, &nothing], D::Minus1)?)?
                    .narrow(D::Minus1, 0, n_others)?
                    .contiguous()?
            }
            None => ops::shares(&scores)?,
        };
        let mixed = shares.matmul(&keys.value)?.transpose(1, 2)?.reshape((n, length, dim))?;
        let x = (x + pass.drop(&(self.out.forward(&mixed, pass)? * self.share)?)?)?;
        let raised = ops::gelu(&self.up.forward(&self.mlp_norm.forward(&x)?, pass)?)?;
        &x + pass.drop(&(self.down.forward(&raised, pass)? * self.share)?)?
    }
}

//! What comes in of one side, brought to the network's width.

use candle_core::{Result, Tensor, Var};

use super::{Items, network::SideShape};
use crate::learn::{
    layers::{Linear, Norm, Pass},
    ops,
    parameters::Maker,
};

/// Some items on the device, projected: rows of the tokens, the pooled vector's first. (items, 1 + tokens, dim)
pub(super) struct Projected(pub Tensor);

/// Brings one side's vector, extra numbers and tokens to the network's width.
pub(super) struct Side {
    pub pooled: Linear,
    pub extra: Option<Extra>,
    pub pooled_norm: Norm,
    pub tokens: Option<Tokens>,
}

/// Numbers of any size, each standardised by its own mean and deviation.
pub(super) struct Extra {
    pub linear: Linear,
    /// (extra) each; measured, not learnt.
    pub mean: Var,
    pub deviation: Var,
}

pub(super) struct Tokens {
    pub linear: Linear,
    pub norm: Norm,
    /// What tells a token's place; in the grid of an image, or among the parts of a text.
    pub places: Var,
}

impl Side {
    pub fn new(make: &mut Maker, name: &str, dim_in: usize, shape: SideShape, dim: usize) -> Result<Side> {
        let SideShape { extra, tokens: [n, token_dim] } = shape;
        let at = |part: &str| format!("{name}.{part}");
        let extra_of = |make: &mut Maker| -> Result<Extra> {
            Ok(Extra {
                linear: Linear::new(make, &at("extra"), [extra, dim])?,
                mean: make.constant(&at("extra_mean"), &[extra], 0.0)?,
                deviation: make.constant(&at("extra_deviation"), &[extra], 1.0)?,
            })
        };
        let tokens = |make: &mut Maker| -> Result<Tokens> {
            Ok(Tokens {
                linear: Linear::new(make, &at("tokens"), [token_dim, dim])?,
                norm: Norm::new(make, &at("tokens_ln"), dim)?,
                places: make.normal(&at("places"), &[n, dim], 0.02)?,
            })
        };
        Ok(Side {
            pooled: Linear::new(make, &at("vector"), [dim_in, dim])?,
            extra: (extra > 0).then(|| extra_of(make)).transpose()?,
            pooled_norm: Norm::new(make, &at("vector_ln"), dim)?,
            tokens: (n > 0).then(|| tokens(make)).transpose()?,
        })
    }

    pub fn forward(&self, items: &Items, at: &[usize], vectors: &Tensor, passes: [&Pass; 2]) -> Result<Projected> {
        let [pass, coming_in] = passes;
        // A vector of unit length has small numbers.
        let mut pooled = self.pooled.forward(&coming_in.drop(&(vectors * (items.dim as f64).sqrt())?)?, pass)?;
        if let Some(extra) = &self.extra {
            pooled = (pooled + extra.forward(items, at, passes)?)?;
        }
        let pooled = pass.drop(&self.pooled_norm.forward(&ops::gelu(&pooled)?)?)?.unsqueeze(1)?;
        let Some(Tokens { linear, norm, places }) = &self.tokens else { return Ok(Projected(pooled)) };
        // Encoders differ in the size of their states.
        let tokens = ops::standardise(&items.pick_tokens(at, vectors.device())?, 1e-5)?;
        let tokens = norm.forward(&linear.forward(&tokens, pass)?)?.broadcast_add(places)?;
        Ok(Projected(Tensor::cat(&[&pooled, &pass.drop(&tokens)?], 1)?))
    }
}

impl Extra {
    fn forward(&self, items: &Items, at: &[usize], [pass, coming_in]: [&Pass; 2]) -> Result<Tensor> {
        let (mean, deviation) = (self.mean.to_vec1()?, self.deviation.to_vec1()?);
        let standard = items.pick_extra(at, (&mean, &deviation), self.mean.device())?;
        self.linear.forward(&coming_in.drop(&standard)?, pass)
    }

    pub fn measure(&self, items: &Items, at: &[usize]) -> Result<()> {
        let [means, deviations] = items.spread_of_extra(at);
        let set = |var: &Var, values: Vec<f32>| var.set(&Tensor::from_vec(values, items.extra_dim, var.device())?);
        set(&self.mean, means)?;
        set(&self.deviation, deviations)
    }
}

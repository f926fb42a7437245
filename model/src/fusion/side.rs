//! What comes in of one side, brought to the network's width.

use candle_core::{Result, Tensor, Var};

use super::{Items, network::SideShape};
use crate::learn::{
    layers::{Linear, Norm, Pass},
    ops,
    parameters::Maker,
};

/// Some items on the device, projected: the pooled vector's row first, if there is one, then those of the tokens. (items, rows, dim)
pub(super) struct Projected(pub Tensor);

/// Brings one side's vector, extra numbers and tokens to the network's width.
pub(super) struct Side {
    /// None: the tokens alone are looked at.
    pub pooled: Option<Pooled>,
    pub tokens: Option<Tokens>,
}

pub(super) struct Pooled {
    pub linear: Linear,
    pub extra: Option<Extra>,
    pub norm: Norm,
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
    /// `dim_in` numbers of a vector; none if it is not looked at.
    pub fn new(make: &mut Maker, name: &str, dim_in: Option<usize>, shape: SideShape, dim: usize) -> Result<Side> {
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
        let pooled = |make: &mut Maker, dim_in: usize| -> Result<Pooled> {
            Ok(Pooled {
                linear: Linear::new(make, &at("vector"), [dim_in, dim])?,
                extra: (extra > 0).then(|| extra_of(make)).transpose()?,
                norm: Norm::new(make, &at("vector_ln"), dim)?,
            })
        };
        Ok(Side {
            pooled: dim_in.map(|dim_in| pooled(make, dim_in)).transpose()?,
            tokens: (n > 0).then(|| tokens(make)).transpose()?,
        })
    }

    pub fn forward(&self, items: &Items, at: &[usize], vectors: &Tensor, passes: [&Pass; 2]) -> Result<Projected> {
        let pooled = self.pooled.as_ref().map(|pooled| pooled.forward(items, at, vectors, passes)).transpose()?;
        let tokens = self.tokens.as_ref().map(|tokens| tokens.forward(items, at, vectors, passes[0])).transpose()?;
        let rows: Vec<Tensor> = pooled.into_iter().chain(tokens).collect();
        Ok(Projected(Tensor::cat(&rows, 1)?))
    }
}

impl Pooled {
    fn forward(
        &self,
        items: &Items,
        at: &[usize],
        vectors: &Tensor,
        passes @ [pass, coming_in]: [&Pass; 2],
    ) -> Result<Tensor> {
        // A vector of unit length has small numbers.
        let mut pooled = self.linear.forward(&coming_in.drop(&(vectors * (items.dim as f64).sqrt())?)?, pass)?;
        if let Some(extra) = &self.extra {
            pooled = (pooled + extra.forward(items, at, passes)?)?;
        }
        pass.drop(&self.norm.forward(&ops::gelu(&pooled)?, pass)?)?.unsqueeze(1)
    }
}

impl Tokens {
    fn forward(&self, items: &Items, at: &[usize], vectors: &Tensor, pass: &Pass) -> Result<Tensor> {
        // Encoders differ in the size of their states.
        let tokens = pass.standardise(&items.pick_tokens(at, vectors.device())?)?;
        pass.drop(&self.norm.forward(&self.linear.forward(&tokens, pass)?, pass)?.broadcast_add(&self.places)?)
    }
}

impl Extra {
    fn forward(&self, items: &Items, at: &[usize], [pass, coming_in]: [&Pass; 2]) -> Result<Tensor> {
        let extra = items.pick_extra(at, self.mean.device())?;
        let standard = extra.broadcast_sub(&self.mean.detach())?.broadcast_div(&self.deviation.detach())?;
        self.linear.forward(&coming_in.drop(&standard)?, pass)
    }

    pub fn measure(&self, items: &Items, at: &[usize]) -> Result<()> {
        let [means, deviations] = items.spread_of_extra(at);
        let set = |var: &Var, values: Vec<f32>| var.set(&Tensor::from_vec(values, items.extra_dim, var.device())?);
        set(&self.mean, means)?;
        set(&self.deviation, deviations)
    }
}

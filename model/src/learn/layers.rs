//! The layers that are trained, by way of candle's gradients. Matrices multiply in the pass's own precision; norms, shares
//! and what is added up stay in f32.

use std::cell::Cell;

use candle_core::{D, DType, Result, Tensor, Var};

use super::{
    noise::Noise,
    ops,
    parameters::{Maker, cast},
};

const EPSILON: f32 = 1e-5;

/// One way through the network.
pub(crate) struct Pass {
    pub dtype: DType,
    dropout: Option<Dropout>,
    /// Nothing is learnt from it, so that operations without a gradient will do.
    serves: bool,
}

/// What is dropped. It follows from seed, step and part, so that a second pass over the same part drops the same.
struct Dropout {
    share: f32,
    seed: u64,
    stream: u64,
    n_drawn: Cell<u64>,
}

impl Pass {
    /// Drops nothing.
    pub(crate) fn quiet(dtype: DType) -> Pass {
        Pass { dtype, dropout: None, serves: false }
    }

    /// Drops nothing, and has no gradient: norms and shares are one kernel each.
    pub(crate) fn serving(dtype: DType) -> Pass {
        Pass { dtype, dropout: None, serves: true }
    }

    /// `ops::standardise`, with the smallest variance of a norm.
    pub(crate) fn standardise(&self, x: &Tensor) -> Result<Tensor> {
        if !self.serves {
            return ops::standardise(x, EPSILON);
        }
        let (n, device) = (x.dim(D::Minus1)?, x.device());
        let (gain, bias) = (Tensor::ones(n, x.dtype(), device)?, Tensor::zeros(n, x.dtype(), device)?);
        candle_nn::ops::layer_norm(&x.contiguous()?, &gain, &bias, EPSILON)
    }

    /// `ops::shares` in f32.
    pub(crate) fn shares(&self, scores: &Tensor) -> Result<Tensor> {
        let scores = cast(scores, DType::F32)?;
        match self.serves {
            true => candle_nn::ops::softmax_last_dim(&scores.contiguous()?),
            false => ops::shares(&scores),
        }
    }

    pub(crate) fn noisy(dtype: DType, share: f32, seed: u64, stream: u64) -> Pass {
        let dropout = Dropout { share, seed, stream, n_drawn: Cell::new(0) };
        Pass { dtype, dropout: (share > 0.0).then_some(dropout), serves: false }
    }

    pub(crate) fn drop(&self, x: &Tensor) -> Result<Tensor> {
        let Some(Dropout { share, seed, stream, n_drawn }) = &self.dropout else { return Ok(x.clone()) };
        let mut noise = Noise::new(*seed, &format!("dropout {stream} {}", n_drawn.get()));
        n_drawn.set(n_drawn.get() + 1);
        let (limit, kept) = ((share * 65_536.0) as u16, 1.0 / (1.0 - share));
        let mut mask = vec![0.0; x.elem_count()];
        for four in mask.chunks_mut(4) {
            let bits = noise.bits();
            let of = |i: usize| if ((bits >> (16 * i)) as u16) < limit { 0.0 } else { kept };
            four.iter_mut().enumerate().for_each(|(i, value)| *value = of(i));
        }
        x * cast(&Tensor::from_vec(mask, x.dims(), x.device())?, x.dtype())?
    }
}

pub(crate) struct Linear {
    /// (out, in)
    weight: Var,
    bias: Option<Var>,
}

impl Linear {
    pub(crate) fn new(make: &mut Maker, name: &str, [n_in, n_out]: [usize; 2]) -> Result<Linear> {
        let weight = make.matrix(&format!("{name}.weight"), [n_in, n_out])?;
        Ok(Linear { weight, bias: Some(make.constant(&format!("{name}.bias"), &[n_out], 0.0)?) })
    }

    pub(crate) fn without_bias(make: &mut Maker, name: &str, [n_in, n_out]: [usize; 2]) -> Result<Linear> {
        Ok(Linear { weight: make.matrix(&format!("{name}.weight"), [n_in, n_out])?, bias: None })
    }

    /// PyTorch's fused projection of attention: `in_proj_weight`, `in_proj_bias`.
    fn fused(make: &mut Maker, name: &str, dim: usize) -> Result<Linear> {
        let weight = make.matrix(&format!("{name}_weight"), [dim, 3 * dim])?;
        Ok(Linear { weight, bias: Some(make.constant(&format!("{name}_bias"), &[3 * dim], 0.0)?) })
    }

    /// One that is not learnt: a weight (out, in) and a bias (out).
    pub(crate) fn fixed(weight: &Tensor, bias: &Tensor) -> Result<Linear> {
        Ok(Linear { weight: Var::from_tensor(weight)?, bias: Some(Var::from_tensor(bias)?) })
    }

    /// What this makes of what `first` makes, as one, computed in f32 and kept as this one's weight is.
    pub(crate) fn after(&self, first: &Linear) -> Result<Linear> {
        let f32_of = |x: &Var| cast(x, DType::F32);
        let (outer, inner) = (f32_of(&self.weight)?, f32_of(&first.weight)?);
        let zeros = |weight: &Tensor| Tensor::zeros(weight.dim(0)?, DType::F32, weight.device());
        let bias = |linear: &Linear, weight| linear.bias.as_ref().map_or_else(|| zeros(weight), f32_of);
        let bias = (outer.matmul(&bias(first, &inner)?.unsqueeze(1)?)?.squeeze(1)? + bias(self, &outer)?)?;
        Linear::fixed(&outer.matmul(&inner)?, &bias)
    }

    /// The same, its matrix in another precision.
    pub(crate) fn kept_in(&self, dtype: DType) -> Result<Linear> {
        let weight = Var::from_tensor(&cast(&self.weight, dtype)?)?;
        Ok(Linear { weight, bias: self.bias.clone() })
    }

    /// Weight (out, in) one row after another, bias (out), and n_in.
    pub(crate) fn numbers(&self) -> Result<(Vec<f32>, Vec<f32>, usize)> {
        let (n_out, n_in) = self.weight.dims2()?;
        let bias = self.bias.as_ref().map_or(Ok(vec![0.0; n_out]), |bias| bias.to_vec1())?;
        Ok((self.weight.flatten_all()?.to_vec1()?, bias, n_in))
    }

    /// (.., in) to (.., out)
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let weight = cast(&self.weight, pass.dtype)?;
        let mut shape = x.dims().to_vec();
        let n_in = shape.pop().unwrap_or(0);
        shape.push(weight.dim(0)?);
        let y = cast(x, pass.dtype)?.reshape(((), n_in))?.matmul(&weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(&cast(bias, pass.dtype)?)?,
            None => y,
        };
        y.reshape(shape)
    }
}

pub(crate) struct Norm {
    gain: Var,
    bias: Var,
}

impl Norm {
    pub(crate) fn new(make: &mut Maker, name: &str, dim: usize) -> Result<Norm> {
        let gain = make.constant(&format!("{name}.weight"), &[dim], 1.0)?;
        Ok(Norm { gain, bias: make.constant(&format!("{name}.bias"), &[dim], 0.0)? })
    }

    /// Gain and bias.
    pub(crate) fn numbers(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((self.gain.to_vec1()?, self.bias.to_vec1()?))
    }

    /// In f32, whatever comes in.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = cast(x, DType::F32)?;
        if pass.serves {
            return candle_nn::ops::layer_norm(&x.contiguous()?, &self.gain, &self.bias, EPSILON);
        }
        ops::standardise(&x, EPSILON)?.broadcast_mul(&self.gain)?.broadcast_add(&self.bias)
    }
}

/// A block of a transformer with the norms first, named as OpenCLIP names it.
pub(crate) struct Block {
    attention_norm: Norm,
    in_proj: Linear,
    out_proj: Linear,
    mlp_norm: Norm,
    up: Linear,
    down: Linear,
    n_heads: usize,
}

impl Block {
    pub(crate) fn new(make: &mut Maker, name: &str, dim: usize, n_heads: usize, wide: usize) -> Result<Block> {
        let at = |part: &str| format!("{name}.{part}");
        Ok(Block {
            attention_norm: Norm::new(make, &at("ln_1"), dim)?,
            in_proj: Linear::fused(make, &at("attn.in_proj"), dim)?,
            out_proj: Linear::new(make, &at("attn.out_proj"), [dim, dim])?,
            mlp_norm: Norm::new(make, &at("ln_2"), dim)?,
            up: Linear::new(make, &at("mlp.c_fc"), [dim, wide])?,
            down: Linear::new(make, &at("mlp.c_proj"), [wide, dim])?,
            n_heads,
        })
    }

    /// (batch, tokens, dim) to the same; `mask` (batch, 1, 1, tokens) is added to the scores.
    pub(crate) fn forward(&self, x: &Tensor, mask: Option<&Tensor>, pass: &Pass) -> Result<Tensor> {
        let qkv = self.in_proj.forward(&self.attention_norm.forward(x, pass)?, pass)?;
        let mixed = self.out_proj.forward(&attend(&qkv, self.n_heads, mask, pass)?, pass)?;
        let x = (x + pass.drop(&cast(&mixed, DType::F32)?)?)?;
        let raised = ops::gelu(&self.up.forward(&self.mlp_norm.forward(&x, pass)?, pass)?)?;
        let mixed = self.down.forward(&raised, pass)?;
        x + pass.drop(&cast(&mixed, DType::F32)?)?
    }
}

/// (batch, tokens, 3 dim) to (batch, tokens, dim).
fn attend(qkv: &Tensor, n_heads: usize, mask: Option<&Tensor>, pass: &Pass) -> Result<Tensor> {
    let (batch, length, width) = qkv.dims3()?;
    let head_dim = width / 3 / n_heads;
    let parts = qkv.reshape((batch, length, 3, n_heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| parts.get(i)?.contiguous(); // (batch, heads, tokens, head_dim)
    let query = (part(0)? / (head_dim as f64).sqrt())?;
    let scores = cast(&query.matmul(&part(1)?.t()?)?, DType::F32)?;
    let scores = mask.map_or(Ok(scores.clone()), |mask| scores.broadcast_add(mask))?;
    let shares = cast(&pass.shares(&scores)?, qkv.dtype())?;
    shares.matmul(&part(2)?)?.transpose(1, 2)?.reshape((batch, length, width / 3))
}

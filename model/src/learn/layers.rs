//! The layers that are trained, by way of candle's gradients. Matrices multiply in the pass's own precision; norms, shares
//! and what is added up stay in f32.

use std::cell::Cell;

use candle_core::{DType, Result, Tensor, Var};

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
        Pass { dtype, dropout: None }
    }

    pub(crate) fn noisy(dtype: DType, share: f32, seed: u64, stream: u64) -> Pass {
        let dropout = Dropout { share, seed, stream, n_drawn: Cell::new(0) };
        Pass { dtype, dropout: (share > 0.0).then_some(dropout) }
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
        let weight = make.normal(&format!("{name}.weight"), &[n_out, n_in], (n_in as f32).powf(-0.5))?;
        Ok(Linear { weight, bias: Some(make.constant(&format!("{name}.bias"), &[n_out], 0.0)?) })
    }

    pub(crate) fn without_bias(make: &mut Maker, name: &str, [n_in, n_out]: [usize; 2]) -> Result<Linear> {
        let weight = make.normal(&format!("{name}.weight"), &[n_out, n_in], (n_in as f32).powf(-0.5))?;
        Ok(Linear { weight, bias: None })
    }

    /// PyTorch's fused projection of attention: `in_proj_weight`, `in_proj_bias`.
    fn fused(make: &mut Maker, name: &str, dim: usize) -> Result<Linear> {
        let weight = make.normal(&format!("{name}_weight"), &[3 * dim, dim], (dim as f32).powf(-0.5))?;
        Ok(Linear { weight, bias: Some(make.constant(&format!("{name}_bias"), &[3 * dim], 0.0)?) })
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

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::standardise(&cast(x, DType::F32)?, EPSILON)?.broadcast_mul(&self.gain)?.broadcast_add(&self.bias)
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
        let qkv = self.in_proj.forward(&self.attention_norm.forward(x)?, pass)?;
        let mixed = self.out_proj.forward(&attend(&qkv, self.n_heads, mask)?, pass)?;
        let x = (x + pass.drop(&cast(&mixed, DType::F32)?)?)?;
        let raised = ops::gelu(&self.up.forward(&self.mlp_norm.forward(&x)?, pass)?)?;
        let mixed = self.down.forward(&raised, pass)?;
        x + pass.drop(&cast(&mixed, DType::F32)?)?
    }
}

/// (batch, tokens, 3 dim) to (batch, tokens, dim).
fn attend(qkv: &Tensor, n_heads: usize, mask: Option<&Tensor>) -> Result<Tensor> {
    let (batch, length, width) = qkv.dims3()?;
    let head_dim = width / 3 / n_heads;
    let parts = qkv.reshape((batch, length, 3, n_heads, head_dim))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| parts.get(i)?.contiguous(); // (batch, heads, tokens, head_dim)
    let query = (part(0)? / (head_dim as f64).sqrt())?;
    let scores = cast(&query.matmul(&part(1)?.t()?)?, DType::F32)?;
    let scores = mask.map_or(Ok(scores.clone()), |mask| scores.broadcast_add(mask))?;
    let shares = cast(&ops::shares(&scores)?, qkv.dtype())?;
    shares.matmul(&part(2)?)?.transpose(1, 2)?.reshape((batch, length, width / 3))
}

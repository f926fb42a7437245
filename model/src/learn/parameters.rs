//! What is learnt: tensors in f32 with names, their first values by a seed, and which of them decay.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::noise::Noise;

#[derive(Clone)]
pub(crate) struct Parameter {
    pub name: String,
    pub var: Var,
}

impl Parameter {
    /// By FLAME's rule: not vectors and scalars, nor what a norm, a bias or the scale is called.
    pub(crate) fn decays(&self) -> bool {
        self.var.rank() >= 2 && !["bn", "ln", "bias", "logit_scale"].iter().any(|word| self.name.contains(word))
    }
}

/// Makes parameters one after another; each one's numbers follow from the seed and its name alone.
pub(crate) struct Maker<'a> {
    pub device: &'a Device,
    /// None: all are 0 where they would be drawn, to be set later.
    pub seed: Option<u64>,
    /// What matrices are kept in: f32 to learn, perhaps half of it to serve.
    pub matrices: DType,
    pub made: Vec<Parameter>,
}

impl<'a> Maker<'a> {
    /// Of what is to be learnt.
    pub(crate) fn new(device: &'a Device, seed: u64) -> Maker<'a> {
        Maker { device, seed: Some(seed), matrices: DType::F32, made: Vec::new() }
    }

    /// The weight (out, in) of a linear layer.
    pub(crate) fn matrix(&mut self, name: &str, [n_in, n_out]: [usize; 2]) -> Result<Var> {
        let weight = self.drawn(name, &[n_out, n_in], (n_in as f32).powf(-0.5))?;
        self.keep(name, cast(&weight, self.matrices)?)
    }

    pub(crate) fn normal(&mut self, name: &str, shape: &[usize], deviation: f32) -> Result<Var> {
        let drawn = self.drawn(name, shape, deviation)?;
        self.keep(name, drawn)
    }

    fn drawn(&self, name: &str, shape: &[usize], deviation: f32) -> Result<Tensor> {
        let Some(seed) = self.seed else { return Tensor::zeros(shape, DType::F32, self.device) };
        let (mut noise, n) = (Noise::new(seed, name), shape.iter().product::<usize>());
        let pairs = (0..n.div_ceil(2)).flat_map(|_| noise.normals());
        let values: Vec<f32> = pairs.take(n).map(|x| deviation * x).collect();
        Tensor::from_vec(values, shape, self.device)
    }

    pub(crate) fn constant(&mut self, name: &str, shape: &[usize], value: f32) -> Result<Var> {
        self.keep(name, Tensor::full(value, shape, self.device)?)
    }

    fn keep(&mut self, name: &str, first: Tensor) -> Result<Var> {
        let var = Var::from_tensor(&first)?;
        self.made.push(Parameter { name: name.to_owned(), var: var.clone() });
        Ok(var)
    }
}

/// As the forward pass computes: half precision on a card, f32 elsewhere.
pub(crate) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype { Ok(x.clone()) } else { x.to_dtype(dtype) }
}

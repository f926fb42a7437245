//! The weights of a decoder by the names of transformers, from safetensors or GGUF: only those that are asked for are
//! read, and each is refused if it has another shape or a number that is none.

use candle_core::{
    DType, Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};
use candle_nn::Linear;

use super::gguf::Gguf;
use crate::{
    Error, Result,
    pair::{Weights, is_finite, n_numbers},
};

pub(super) enum Store {
    Safetensors(Weights),
    Gguf(Gguf),
}

/// A store, and where its tensors go.
pub(super) struct Source<'a> {
    pub store: &'a Store,
    pub device: &'a Device,
    pub dtype: DType,
}

/// A linear map, or the rows of an embedding.
#[derive(Clone)]
pub(super) enum Matrix {
    Dense(Linear),
    /// Quantised in blocks, as the file has it.
    Blocks(QMatMul, Option<Tensor>),
}

impl Source<'_> {
    /// What a tensor takes in memory once it is loaded.
    pub(super) fn n_bytes(&self, tensor: &(String, Vec<usize>)) -> u64 {
        match self.store {
            Store::Gguf(gguf) => gguf.n_bytes(tensor),
            Store::Safetensors(_) => n_numbers(tensor) * self.dtype.size_in_bytes() as u64,
        }
    }

    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = match self.store {
            Store::Safetensors(weights) => weights.get(name, shape, self.device)?, // f32
            Store::Gguf(gguf) => self.quantised(gguf, name, shape)?.dequantize(self.device)?,
        };
        Ok(tensor.to_dtype(self.dtype)?)
    }

    pub(super) fn matrix(&self, name: &str, shape: [usize; 2], has_bias: bool) -> Result<Matrix> {
        let weight = format!("{name}.weight");
        let bias = has_bias.then(|| self.tensor(&format!("{name}.bias"), &shape[..1])).transpose()?;
        if let Store::Gguf(gguf) = self.store {
            let tensor = self.quantised(gguf, &weight, &shape)?;
            if !matches!(tensor.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) {
                return Ok(Matrix::Blocks(QMatMul::from_qtensor(tensor)?, bias));
            }
        }
        Ok(Matrix::Dense(Linear::new(self.tensor(&weight, &shape)?, bias)))
    }

    fn quantised(&self, gguf: &Gguf, name: &str, shape: &[usize]) -> Result<QTensor> {
        let tensor = gguf.get(name, shape, self.device)?;
        if is_finite(&tensor.dequantize(self.device)?)? {
            return Ok(tensor);
        }
        Err(Error::WrongTensor {
            file: gguf.path().to_owned(),
            tensor: name.to_owned(),
            expected: "finite numbers".to_owned(),
            received: "NaN or infinity".to_owned(),
        })
    }
}

impl Matrix {
    /// Whether it is f32 on the CPU.
    pub(super) fn is_flat(&self) -> bool {
        let flat = |weight: &Tensor| weight.device().is_cpu() && weight.dtype() == DType::F32;
        matches!(self, Matrix::Dense(linear) if flat(linear.weight()))
    }

    /// (.., in) to (.., out)
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Matrix::Dense(linear) => linear.forward(x),
            Matrix::Blocks(weight, None) => weight.forward(x),
            Matrix::Blocks(weight, Some(bias)) => weight.forward(x)?.broadcast_add(bias),
        }
    }

    /// The rows that ids name: (batch, tokens) to (batch, tokens, in).
    pub(super) fn rows(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        match self {
            Matrix::Dense(linear) => linear.weight().index_select(&ids.flatten_all()?, 0)?.reshape((batch, length, ())),
            Matrix::Blocks(weight, _) => weight.embedding(ids),
        }
    }
}

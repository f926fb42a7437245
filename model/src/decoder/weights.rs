//! The weights of a decoder by the names of transformers, from safetensors or GGUF: only those that are asked for are
//! read, and each is refused if it has another shape or a number that is none.

use std::path::Path;

use candle_core::{
    DType, Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};
use candle_nn::Linear;

use super::{config::Config, gguf::Gguf};
use crate::{
    Error, Result,
    pair::{CONFIG_FILE, TensorFault, Weights, is_finite, n_numbers},
};

pub(crate) enum Store {
    Safetensors(Weights),
    Gguf(Gguf),
}

impl Store {
    /// Of a folder in the Hugging Face layout, or a `.gguf` file.
    pub(crate) fn open(path: &Path) -> Result<Store> {
        Ok(match path.is_dir() {
            true => Store::Safetensors(Weights::open(path)?),
            false => Store::Gguf(Gguf::open(path)?),
        })
    }

    /// From the `path` that was opened: a GGUF file holds it, a folder has a file of it.
    pub(crate) fn config(&self, path: &Path) -> Result<Config> {
        match self {
            Store::Safetensors(_) => Config::read(&path.join(CONFIG_FILE)),
            Store::Gguf(gguf) => gguf.config(),
        }
    }

    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self, Store::Gguf(_))
    }

    /// What is wrong with a tensor that should have this shape.
    pub(crate) fn fault(&self, name: &str, shape: &[usize]) -> Option<TensorFault> {
        match self {
            Store::Safetensors(weights) => weights.fault(name, shape),
            Store::Gguf(gguf) => gguf.fault(name, shape),
        }
    }

    /// Names of tensors that are none of these.
    pub(crate) fn unread(&self, read: &[(String, Vec<usize>)]) -> Vec<&str> {
        match self {
            Store::Safetensors(weights) => weights.unread(read),
            Store::Gguf(gguf) => gguf.unread(read),
        }
    }

    /// `Err` if it is not there as it should be, or has a number that is none.
    pub(crate) fn try_tensor(&self, name: &str, shape: &[usize]) -> Result<()> {
        Source { store: self, device: &Device::Cpu, dtype: DType::F32 }.tensor(name, shape).map(drop)
    }

    /// What tensors take in memory once they are loaded as numbers of so many bytes; those in blocks stay as they are.
    pub(crate) fn n_bytes(&self, tensors: &[(String, Vec<usize>)], dtype: DType) -> u64 {
        let size = dtype.size_in_bytes() as u64;
        match self {
            Store::Safetensors(_) => tensors.iter().map(|tensor| n_numbers(tensor) * size).sum(),
            Store::Gguf(gguf) => tensors.iter().map(|tensor| gguf.n_bytes(tensor)).sum(),
        }
    }
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

//! The network on disk: a safetensors file in f16, its sizes in the header.

use std::{collections::HashMap, path::Path};

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{
    layout::{Layout, Sizes},
    net::Network,
};
use crate::{Error, Result};

const KEY: &str = "firn.sizes";

impl Network {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let path = Path::new("weights");
        let halves: Vec<f16> = self.weights.iter().map(|&weight| f16::from_f32(weight)).collect();
        let mut views = Vec::new();
        for (name, range, shape) in &self.layout.tensors {
            let bytes = bytemuck::cast_slice(&halves[range.clone()]);
            let view = TensorView::new(Dtype::F16, shape.clone(), bytes).map_err(|fault| bad(path, fault))?;
            views.push((name.clone(), view));
        }
        let sizes = serde_json::to_string(&self.layout.sizes).map_err(|fault| bad(path, fault))?;
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), sizes)]))).map_err(|fault| bad(path, fault))
    }

    /// `path` is only named in errors.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Network> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|fault| bad(path, fault))?;
        let sizes = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
        let sizes = sizes.ok_or_else(|| bad(path, format!("expected {KEY:?} in the header")))?;
        let sizes: Sizes = serde_json::from_str(sizes).map_err(|fault| bad(path, fault))?;
        sizes.check().map_err(|detail| bad(path, detail))?;
        let layout = Layout::new(sizes);
        let tensors = SafeTensors::deserialize(bytes).map_err(|fault| bad(path, fault))?;
        let mut weights = vec![0.0; layout.len()];
        for (name, range, shape) in &layout.tensors {
            let tensor = tensors.tensor(name).map_err(|fault| bad(path, fault))?;
            if tensor.shape() != shape || tensor.dtype() != Dtype::F16 {
                return Err(Error::WrongTensor {
                    file: path.to_owned(),
                    tensor: name.clone(),
                    expected: format!("F16 {shape:?}"),
                    received: format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                });
            }
            let halves: Vec<f16> = bytemuck::pod_collect_to_vec(tensor.data());
            weights[range.clone()].iter_mut().zip(halves).for_each(|(weight, half)| *weight = half.to_f32());
        }
        if weights.iter().any(|weight| !weight.is_finite()) {
            return Err(bad(path, "expected finite weights"));
        }
        Ok(Network { layout, weights })
    }
}

fn bad(path: &Path, detail: impl ToString) -> Error {
    Error::BadFile { file: path.to_owned(), detail: detail.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::net::tests::TINY;

    #[test]
    fn weights_come_back_as_halves() {
        let network = Network::random(TINY, 3);
        let read = Network::from_bytes(&network.to_bytes().unwrap(), Path::new("x")).unwrap();
        assert_eq!(read.layout.sizes, TINY);
        assert!(network.weights.iter().zip(&read.weights).all(|(a, b)| f16::from_f32(*a).to_f32() == *b));
        assert_eq!(read.to_bytes().unwrap(), network.to_bytes().unwrap());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let bytes = Network::random(TINY, 3).to_bytes().unwrap();
        let check = |bytes: &[u8]| {
            let error = Network::from_bytes(bytes, Path::new("w.safetensors")).unwrap_err().to_string();
            assert!(error.contains("w.safetensors"), "{error}");
        };
        check(&bytes[..bytes.len() / 2]);
        check(b"");
        let text = String::from_utf8_lossy(&bytes[..2000]).into_owned();
        let at = text.find("\\\"dim\\\":8").unwrap();
        let mut other = bytes.clone();
        other[at + 8] = b'9';
        check(&other);
    }
}

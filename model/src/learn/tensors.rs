//! Named tensors in a file, with a word about them.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor, WithDType};
use safetensors::SafeTensors;

use crate::{Error, Result, pair::is_finite, train::write_whole};

/// Named tensors with a word about them, in one go: a crash leaves the old file or the new one.
pub(crate) fn write_tensors(path: &Path, tensors: &[(String, Tensor)], about: (&str, &str)) -> Result<()> {
    write_whole(path, &serialize(tensors, about).map_err(|detail| bad(path, detail))?)
}

pub(crate) fn serialize(
    tensors: &[(String, Tensor)],
    (key, word): (&str, &str),
) -> std::result::Result<Vec<u8>, String> {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let metadata = HashMap::from([(key.to_owned(), word.to_owned())]);
    safetensors::serialize(named, Some(metadata)).map_err(|error| error.to_string())
}

pub(crate) fn read_tensors(path: &Path, key: &str, device: &Device) -> Result<(String, HashMap<String, Tensor>)> {
    let bytes = std::fs::read(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    parse_tensors(&bytes, path, key, device)
}

/// `path` is what errors call it.
pub(crate) fn parse_tensors(
    bytes: &[u8],
    path: &Path,
    key: &str,
    device: &Device,
) -> Result<(String, HashMap<String, Tensor>)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| bad(path, e.to_string()))?;
    let word = metadata.metadata().as_ref().and_then(|entries| entries.get(key)).cloned();
    let word = word.ok_or_else(|| bad(path, format!("expected a file of `firn train` with {key:?}")))?;
    Ok((word, candle_core::safetensors::load_buffer(bytes, device)?))
}

/// A tensor of this shape.
pub(crate) fn take(tensors: &HashMap<String, Tensor>, name: &str, shape: &[usize], path: &Path) -> Result<Tensor> {
    let wrong = |received: String| Error::WrongTensor {
        file: path.to_owned(),
        tensor: name.to_owned(),
        expected: format!("{shape:?}"),
        received,
    };
    match tensors.get(name) {
        None => Err(wrong("no such tensor".to_owned())),
        Some(tensor) if tensor.dims() != shape => Err(wrong(format!("{:?}", tensor.dims()))),
        Some(tensor) => Ok(tensor.clone()),
    }
}

/// The numbers of a tensor of this shape and kind.
pub(crate) fn numbers<T: WithDType>(
    tensors: &HashMap<String, Tensor>,
    name: &str,
    shape: &[usize],
    path: &Path,
) -> Result<Vec<T>> {
    Ok(of_kind(take(tensors, name, shape, path)?, T::DTYPE, name, path)?.flatten_all()?.to_vec1()?)
}

/// A tensor of this shape, in f32, all of whose numbers are finite.
pub(crate) fn weights(tensors: &HashMap<String, Tensor>, name: &str, shape: &[usize], path: &Path) -> Result<Tensor> {
    let tensor = of_kind(take(tensors, name, shape, path)?, DType::F32, name, path)?;
    match is_finite(&tensor)? {
        true => Ok(tensor),
        false => Err(bad(path, format!("{name}: expected finite numbers, received NaN or infinity"))),
    }
}

fn of_kind(tensor: Tensor, expected: DType, name: &str, path: &Path) -> Result<Tensor> {
    if tensor.dtype() == expected {
        return Ok(tensor);
    }
    Err(Error::WrongTensor {
        file: path.to_owned(),
        tensor: name.to_owned(),
        expected: format!("{expected:?}"),
        received: format!("{:?}", tensor.dtype()),
    })
}

fn bad(path: &Path, detail: String) -> Error {
    Error::BadFile { file: path.to_owned(), detail }
}

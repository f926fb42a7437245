//! Named tensors in a file, with a word about them.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::{Error, Result, train::write_whole};

/// Named tensors with a word about them, in one go: a crash leaves the old file or the new one.
pub(crate) fn write_tensors(path: &Path, tensors: &[(String, Tensor)], (key, word): (&str, &str)) -> Result<()> {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let metadata = HashMap::from([(key.to_owned(), word.to_owned())]);
    let bytes = safetensors::serialize(named, Some(metadata)).map_err(|e| bad(path, e.to_string()))?;
    write_whole(path, &bytes)
}

pub(crate) fn read_tensors(path: &Path, key: &str, device: &Device) -> Result<(String, HashMap<String, Tensor>)> {
    let bytes = std::fs::read(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(path, e.to_string()))?;
    let word = metadata.metadata().as_ref().and_then(|entries| entries.get(key)).cloned();
    let word = word.ok_or_else(|| bad(path, format!("expected a file of `firn train` with {key:?}")))?;
    Ok((word, candle_core::safetensors::load_buffer(&bytes, device)?))
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

fn bad(path: &Path, detail: String) -> Error {
    Error::BadFile { file: path.to_owned(), detail }
}

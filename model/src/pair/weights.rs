//! The weight files of a folder: `model.safetensors`, or its shards by way of `model.safetensors.index.json`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors::MmapedSafetensors};
use safetensors::Dtype;
use serde_json::Value;

use crate::{Error, Result, folder};

const ONE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const MAX_SHARDS: usize = 256;

pub(crate) struct Weights {
    folder: PathBuf,
    files: Vec<(PathBuf, MmapedSafetensors)>,
}

/// A tensor that is not what the config promises.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TensorFault {
    pub file: PathBuf,
    pub tensor: String,
    pub expected: String,
    pub received: String,
}

impl Weights {
    pub(crate) fn open(folder: &Path) -> Result<Weights> {
        let names = file_names(folder)?.into_iter().filter(|name| name.ends_with(".safetensors"));
        let files = names.map(|name| open(&folder.join(name))).collect::<Result<_>>()?;
        Ok(Weights { folder: folder.to_owned(), files })
    }

    /// A tensor of exactly this shape, as f32.
    pub(crate) fn get(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        if let Some(fault) = self.fault(name, shape) {
            let TensorFault { file, tensor, expected, received } = fault;
            return Err(Error::WrongTensor { file, tensor, expected, received });
        }
        let (_, file) = self.holder(name).expect("a tensor without a fault stands in one of the files");
        Ok(file.load(name, device)?.to_dtype(DType::F32)?)
    }

    pub(crate) fn fault(&self, name: &str, shape: &[usize]) -> Option<TensorFault> {
        let fault = |file: &Path, received: String| TensorFault {
            file: file.to_owned(),
            tensor: name.to_owned(),
            expected: format!("{shape:?} of f32, f16 or bf16"),
            received,
        };
        let Some((path, file)) = self.holder(name) else {
            let path = if self.files.len() == 1 { &self.files[0].0 } else { &self.folder };
            return Some(fault(path, "no such tensor".to_owned()));
        };
        let view = file.get(name).expect("the holder of a tensor has it");
        let readable = matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16);
        let dtype = format!("{:?}", view.dtype()).to_lowercase();
        (view.shape() != shape || !readable).then(|| fault(path, format!("{:?} of {dtype}", view.shape())))
    }

    /// Of every tensor in the files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.files.iter().flat_map(|(_, file)| file.tensors()).map(|(name, _)| name).collect()
    }

    fn holder(&self, name: &str) -> Option<&(PathBuf, MmapedSafetensors)> {
        self.files.iter().find(|(_, file)| file.get(name).is_ok())
    }
}

/// The names of the weight files, and of their index if there is one.
pub(crate) fn file_names(folder: &Path) -> Result<Vec<String>> {
    if folder.join(ONE_FILE).is_file() {
        return Ok(vec![ONE_FILE.to_owned()]);
    }
    let index = folder.join(INDEX_FILE);
    if !index.is_file() {
        return Err(Error::MissingFile { folder: folder.to_owned(), file: ONE_FILE.to_owned() });
    }
    let mut names =
        shard_names(&folder::read_json(&index)?).map_err(|detail| Error::BadFile { file: index.clone(), detail })?;
    if let Some(missing) = names.iter().find(|name| !folder.join(name).is_file()) {
        return Err(Error::MissingFile { folder: folder.to_owned(), file: missing.clone() });
    }
    names.push(INDEX_FILE.to_owned());
    Ok(names)
}

/// The shards that an index names; only plain names, since an index may come from anywhere.
pub(crate) fn shard_names(index: &Value) -> Result<Vec<String>, String> {
    let map = index["weight_map"].as_object().ok_or("weight_map: expected an object")?;
    let mut names: Vec<String> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(format!("expected 1 to {MAX_SHARDS} shards, received {}", names.len()));
    }
    match names.iter().find(|name| !folder::is_plain_name(name) || !name.ends_with(".safetensors")) {
        Some(odd) => Err(format!("expected plain names of .safetensors files, received {odd:?}")),
        None => Ok(names),
    }
}

fn open(path: &Path) -> Result<(PathBuf, MmapedSafetensors)> {
    // SAFETY: the map is only read. A model folder that is written to while it is loaded is outside the contract of
    // every reader of this format; firn itself replaces files by renaming.
    let file = unsafe { MmapedSafetensors::new(path) };
    let file =
        file.map_err(|e| Error::BadFile { file: path.to_owned(), detail: format!("not a safetensors file: {e}") })?;
    Ok((path.to_owned(), file))
}

//! The weight files of a model: safetensors, which are mapped into memory, or what `torch.save` wrote, read tensor by tensor; one
//! file, or shards by way of an index.
//!
//! Whatever names a file uses, tensors are asked for by those of transformers; faults name them as the file does.

mod naming;
mod pickle;
mod torch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors::MmapedSafetensors};
use safetensors::Dtype;
use serde_json::Value;

pub(crate) use self::naming::Naming;
pub use self::torch::read_tensor;
use self::{naming::Origin, torch::TorchFile};
use crate::{Error, Result, folder};

/// A file of weights and the index of its shards, best first.
pub(crate) type Candidates = [(&'static str, Option<&'static str>)];

/// In the Hugging Face layout.
pub(crate) const CANDIDATES: &Candidates = &[
    ("model.safetensors", Some("model.safetensors.index.json")),
    ("pytorch_model.bin", Some("pytorch_model.bin.index.json")),
];
const MAX_SHARDS: usize = 256;
/// Endings of the files that can be read.
const ENDINGS: [&str; 4] = [".safetensors", ".bin", ".pt", ".pth"];
/// What `DistributedDataParallel` puts before every name.
const WRAPPER: &str = "module.";

pub(crate) struct Weights {
    /// The folder, or the one file.
    at: PathBuf,
    files: Vec<File>,
    /// By name without `module.`.
    tensors: BTreeMap<String, Place>,
    naming: Naming,
}

struct File {
    path: PathBuf,
    content: Content,
}

enum Content {
    Safetensors(MmapedSafetensors),
    Torch(TorchFile),
}

/// Where a tensor stands, and what it is.
struct Place {
    file: usize,
    /// As the file has it.
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
}

/// A tensor that is not what the config promises.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TensorFault {
    pub file: PathBuf,
    pub tensor: String,
    pub expected: String,
    pub received: String,
}

impl From<TensorFault> for Error {
    fn from(TensorFault { file, tensor, expected, received }: TensorFault) -> Error {
        Error::WrongTensor { file, tensor, expected, received }
    }
}

impl Weights {
    /// Of a folder in the Hugging Face layout.
    pub(crate) fn open(folder: &Path) -> Result<Weights> {
        Weights::open_one_of(folder, CANDIDATES)
    }

    pub(crate) fn open_one_of(folder: &Path, candidates: &Candidates) -> Result<Weights> {
        let names = file_names(folder, candidates)?;
        let paths = names.iter().filter(|name| is_weight_file(name)).map(|name| folder.join(name));
        Weights::of_files(folder.to_owned(), paths)
    }

    pub(crate) fn open_file(path: &Path) -> Result<Weights> {
        Weights::of_files(path.to_owned(), [path.to_owned()])
    }

    fn of_files(at: PathBuf, paths: impl IntoIterator<Item = PathBuf>) -> Result<Weights> {
        let files = paths.into_iter().map(File::open).collect::<Result<Vec<_>>>()?;
        let mut tensors = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for (name, shape, dtype) in file.tensors() {
                let plain = name.strip_prefix(WRAPPER).unwrap_or(&name).to_owned();
                tensors.insert(plain, Place { file: i, name, shape, dtype });
            }
        }
        let naming = Naming::of(|name| tensors.contains_key(name));
        Ok(Weights { at, files, tensors, naming })
    }

    pub(crate) fn naming(&self) -> &Naming {
        &self.naming
    }

    /// The folder, or the one file.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// A tensor of exactly this shape, as finite f32.
    pub(crate) fn get(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        let parts = self.naming.origins(name, shape);
        let parts = parts.iter().map(|origin| self.part(origin, device)).collect::<Result<Vec<_>>>()?;
        match &parts[..] {
            [whole] => Ok(whole.clone()),
            parts => Ok(Tensor::cat(parts, 0)?),
        }
    }

    fn part(&self, origin: &Origin, device: &Device) -> Result<Tensor> {
        if let Some(fault) = self.origin_fault(origin) {
            return Err(fault.into());
        }
        let place = &self.tensors[&origin.name];
        let file = &self.files[place.file];
        let tensor = origin.take(&file.load(&place.name, device)?)?.to_dtype(DType::F32)?;
        if is_finite(&tensor)? {
            return Ok(tensor);
        }
        Err(Error::WrongTensor {
            file: file.path.clone(),
            tensor: place.name.clone(),
            expected: "finite numbers".to_owned(),
            received: "NaN or infinity".to_owned(),
        })
    }

    pub(crate) fn fault(&self, name: &str, shape: &[usize]) -> Option<TensorFault> {
        self.naming.origins(name, shape).iter().find_map(|origin| self.origin_fault(origin))
    }

    fn origin_fault(&self, origin: &Origin) -> Option<TensorFault> {
        let fault = |file: &Path, tensor: &str, received: String| TensorFault {
            file: file.to_owned(),
            tensor: tensor.to_owned(),
            expected: format!("{:?} of f32, f16 or bf16", origin.shape),
            received,
        };
        let Some(Place { file, name, shape, dtype }) = self.tensors.get(&origin.name) else {
            let path = if self.files.len() == 1 { &self.files[0].path } else { &self.at };
            return Some(fault(path, &origin.name, "no such tensor".to_owned()));
        };
        let readable = matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        let received = format!("{shape:?} of {}", format!("{dtype:?}").to_lowercase());
        (*shape != origin.shape || !readable).then(|| fault(&self.files[*file].path, name, received))
    }

    /// The shape of a tensor by its name in the files, `module.` left out.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|place| &place.shape[..])
    }

    /// The files' names of tensors that are none of those in `read`.
    pub(crate) fn unread(&self, read: &[(String, Vec<usize>)]) -> Vec<&str> {
        let read: BTreeSet<String> =
            read.iter().flat_map(|(name, shape)| self.naming.origins(name, shape)).map(|origin| origin.name).collect();
        self.tensors.iter().filter(|(name, _)| !read.contains(*name)).map(|(_, place)| &*place.name).collect()
    }
}

impl File {
    fn open(path: PathBuf) -> Result<File> {
        let content = if path.extension().is_some_and(|ending| ending == "safetensors") {
            Content::Safetensors(map(&path)?)
        } else {
            Content::Torch(TorchFile::open(&path)?)
        };
        Ok(File { path, content })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>, Dtype)> {
        match &self.content {
            Content::Safetensors(file) => {
                file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.dtype())).collect()
            }
            Content::Torch(file) => {
                file.tensors.iter().map(|(name, stored)| (name.clone(), stored.shape.clone(), stored.dtype)).collect()
            }
        }
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        match &self.content {
            Content::Safetensors(file) => Ok(file.load(name, device)?),
            Content::Torch(file) => file.load(name, device),
        }
    }
}

pub(crate) fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    // Zero times anything finite is zero.
    Ok((tensor * 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}

fn candle_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

pub(crate) fn is_weight_file(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The names of the weight files, and of their index if there is one.
pub(crate) fn file_names(folder: &Path, candidates: &Candidates) -> Result<Vec<String>> {
    for (file, index) in candidates {
        if folder.join(file).is_file() {
            return Ok(vec![(*file).to_owned()]);
        }
        if let Some(index) = index.filter(|index| folder.join(index).is_file()) {
            return shard_file_names(folder, index);
        }
    }
    Err(Error::MissingFile { folder: folder.to_owned(), file: candidates[0].0.to_owned() })
}

fn shard_file_names(folder: &Path, index: &str) -> Result<Vec<String>> {
    let path = folder.join(index);
    let mut names =
        shard_names(&folder::read_json(&path)?).map_err(|detail| Error::BadFile { file: path.clone(), detail })?;
    if let Some(missing) = names.iter().find(|name| !folder.join(name).is_file()) {
        return Err(Error::MissingFile { folder: folder.to_owned(), file: missing.clone() });
    }
    names.push(index.to_owned());
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
    let is_shard =
        |name: &str| folder::is_plain_name(name) && (name.ends_with(".safetensors") || name.ends_with(".bin"));
    match names.iter().find(|name| !is_shard(name)) {
        Some(odd) => Err(format!("expected plain names of .safetensors or .bin files, received {odd:?}")),
        None => Ok(names),
    }
}

fn map(path: &Path) -> Result<MmapedSafetensors> {
    folder::open(path)?;
    // SAFETY: the map is only read. A model folder that is written to while it is loaded is outside the contract of
    // every reader of this format; firn itself replaces files by renaming.
    let file = unsafe { MmapedSafetensors::new(path) };
    file.map_err(|e| Error::BadFile { file: path.to_owned(), detail: format!("not a safetensors file: {e}") })
}

#[cfg(test)]
mod tests;

//! Files of `torch.save`: a zip of one pickle, which says what tensors there are, and of their numbers as they are in memory.
//!
//! Every tensor is checked against the length of its part when the file is opened; its numbers are read when it is asked for.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::{
    candle_dtype,
    pickle::{Id, Object, Pickle},
};
use crate::{Error, Result, folder};

/// Largest pickle that is read: names and shapes, not numbers.
const MAX_PICKLE_BYTES: u64 = 256 << 20;
/// Names under which a checkpoint keeps its weights beside what training left there.
const INNER: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// Dicts within dicts that are looked into for weights.
const MAX_DEPTH: usize = 4;

pub(super) struct TorchFile {
    path: PathBuf,
    pub(super) tensors: BTreeMap<String, Stored>,
}

/// Where the numbers of a tensor stand.
pub(super) struct Stored {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    /// Numbers from one index to the next, for each dimension.
    strides: Vec<usize>,
    /// Bytes from the start of the file.
    start: u64,
    /// Numbers of the part that it stands in, those of other tensors included.
    n_in_part: u64,
}

impl TorchFile {
    pub(super) fn open(path: &Path) -> Result<TorchFile> {
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let file = folder::open(path)?;
        let tensors = read_pickle(file, |reader| reader.state_dict()).map_err(bad)?;
        Ok(TorchFile { path: path.to_owned(), tensors })
    }

    pub(super) fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let stored = &self.tensors[name];
        stored.check_not_expanded().map_err(|received| Error::WrongTensor {
            file: self.path.clone(),
            tensor: name.to_owned(),
            expected: "as many numbers as the file holds for it".to_owned(),
            received,
        })?;
        let size = stored.dtype.bitsize() / 8;
        let mut bytes = vec![0; stored.span() * size];
        let mut file = folder::open(&self.path)?;
        let read = file.seek(SeekFrom::Start(stored.start)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| Error::Io { path: self.path.clone(), error })?;
        if stored.strides != contiguous(&stored.shape) {
            bytes = stored.gather(&bytes, size);
        }
        let dtype = candle_dtype(stored.dtype).expect("only tensors of a known kind are asked for");
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &stored.shape, device)?)
    }
}

impl Stored {
    /// Numbers from the first to the last, those between that are not its own included.
    fn span(&self) -> usize {
        span(&self.shape, &self.strides).expect("checked when the file was opened")
    }

    /// A few numbers may be said to be any many, which would take all memory.
    fn check_not_expanded(&self) -> Result<(), String> {
        let (shape, n_in_part) = (&self.shape, self.n_in_part);
        match shape.iter().product::<usize>() as u64 <= n_in_part {
            true => Ok(()),
            false => Err(format!("{shape:?} expanded from {n_in_part}; hint: .clone() it before torch.save")),
        }
    }

    /// The numbers in the order of the shape.
    fn gather(&self, span: &[u8], size: usize) -> Vec<u8> {
        let n_numbers = self.shape.iter().product();
        let mut numbers = Vec::with_capacity(n_numbers * size);
        let (mut index, mut place) = (vec![0; self.shape.len()], 0);
        for _ in 0..n_numbers {
            numbers.extend_from_slice(&span[place * size..][..size]);
            place = self.step(&mut index, place);
        }
        numbers
    }

    /// Moves to the next index, and from its predecessor's place to its own.
    fn step(&self, index: &mut [usize], mut place: usize) -> usize {
        for ((i, &n), &stride) in index.iter_mut().zip(&self.shape).zip(&self.strides).rev() {
            if *i + 1 < n {
                *i += 1;
                return place + stride;
            }
            place -= *i * stride;
            *i = 0;
        }
        place
    }
}

fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides: Vec<usize> =
        shape.iter().rev().scan(1, |step, &n| Some(std::mem::replace(step, *step * n))).collect();
    strides.reverse();
    strides
}

/// `None` past the end of memory, to which an empty shape may reach in its other dimensions.
fn span(shape: &[usize], strides: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n.max(1)))?;
    if shape.contains(&0) {
        return Some(0);
    }
    let steps = shape.iter().zip(strides).map(|(n, stride)| (n - 1).checked_mul(*stride));
    steps.into_iter().try_fold(1usize, |last, step| last.checked_add(step?))
}

/// A part of the zip, as it stands in the file.
#[derive(Clone, Copy)]
struct Part {
    start: u64,
    length: u64,
}

/// Shape and numbers, row after row, of a file that holds one tensor of at most `max_numbers`.
pub fn read_tensor(path: &Path, max_numbers: usize) -> Result<(Vec<usize>, Vec<f32>)> {
    let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
    let stored = read_pickle(folder::open(path)?, |reader| reader.one_tensor()).map_err(bad)?;
    let shape = stored.shape.clone();
    if shape.iter().product::<usize>() > max_numbers {
        return Err(bad(format!("a tensor of shape {shape:?}: at most {max_numbers} numbers")));
    }
    if candle_dtype(stored.dtype).is_none() {
        let received = format!("{:?}", stored.dtype).to_lowercase();
        return Err(bad(format!("expected a tensor of f32, f16 or bf16, received {received}")));
    }
    let file = TorchFile { path: path.to_owned(), tensors: BTreeMap::from([(String::new(), stored)]) };
    let numbers = file.load("", &Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok((shape, numbers))
}

/// What `take` makes of the pickle in a file.
fn read_pickle<T>(file: File, take: impl Fn(&Reader) -> Result<T, String>) -> Result<T, String> {
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|e| {
        format!("not a zip file of torch.save ({e}); hint: what PyTorch before 1.6 saved must be loaded and saved anew")
    })?;
    let names = zip.file_names().collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let at =
        names.iter().find_map(|name| name.strip_suffix("data.pkl").filter(|at| at.is_empty() || at.ends_with('/')));
    let at = at.ok_or("a zip file, but not of torch.save: expected data.pkl in it")?.to_owned();
    if names.iter().any(|name| **name == format!("{at}constants.pkl")) {
        return Err(
            "a TorchScript program: expected a state dict; hint: torch.save(torch.jit.load(FILE).state_dict(), ...)"
                .to_owned(),
        );
    }
    drop(names);
    let parts = read_parts(&mut zip)?;
    let mut file = zip.into_inner();
    if let Some(order) = parts.get(&format!("{at}byteorder"))
        && read_part(&mut file, order)? != b"little"
    {
        return Err("numbers are stored with their highest byte first: expected little-endian".to_owned());
    }
    let pickle = Pickle::read(&read_part(&mut file, &parts[&format!("{at}data.pkl")])?)?;
    take(&Reader { pickle: &pickle, parts: &parts, at: &at })
}

fn read_parts(zip: &mut ZipArchive<BufReader<File>>) -> Result<HashMap<String, Part>, String> {
    let mut parts = HashMap::with_capacity(zip.len());
    for i in 0..zip.len() {
        let part = zip.by_index_raw(i).map_err(|e| format!("part {i} of the zip file: {e}"))?;
        let name = part.name().map_err(|e| format!("part {i} of the zip file: {e}"))?.into_owned();
        if part.compression() != CompressionMethod::Stored {
            return Err(format!("{name}: compressed: expected parts that are only stored, as torch.save writes them"));
        }
        let start = part.data_start().ok_or_else(|| format!("{name}: no place in the zip file"))?;
        parts.insert(name, Part { start, length: part.size() });
    }
    Ok(parts)
}

fn read_part(file: &mut BufReader<File>, part: &Part) -> Result<Vec<u8>, String> {
    if part.length > MAX_PICKLE_BYTES {
        return Err(format!("a pickle of {} bytes: expected at most {MAX_PICKLE_BYTES}", part.length));
    }
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(part.start)).and_then(|_| file.take(part.length).read_to_end(&mut bytes));
    read.map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Makes tensors of what a pickle says.
struct Reader<'a> {
    pickle: &'a Pickle,
    parts: &'a HashMap<String, Part>,
    /// Folder in the zip, with its slash.
    at: &'a str,
}

impl Reader<'_> {
    fn one_tensor(&self) -> Result<Stored, String> {
        match self.tensor_arguments(self.pickle.root_id()) {
            Some(arguments) => self.tensor(arguments),
            None => Err(format!("expected one tensor, received {}", self.describe(self.pickle.root()))),
        }
    }

    fn state_dict(&self) -> Result<BTreeMap<String, Stored>, String> {
        let mut object = self.pickle.root();
        for _ in 0..MAX_DEPTH {
            let Object::Dict(pairs) = object else { break };
            let inner = INNER.into_iter().find_map(|key| {
                let (_, value) = pairs.iter().find(|(k, _)| self.pickle.text(*k) == Some(key))?;
                Some(self.pickle.at(*value)).filter(|value| matches!(value, Object::Dict(_)))
            });
            match inner {
                Some(inner) => object = inner,
                None => break,
            }
        }
        let Object::Dict(pairs) = object else {
            return Err(format!("expected a state dict (names and tensors), received {}", self.describe(object)));
        };
        let mut tensors = BTreeMap::new();
        for (key, value) in pairs {
            let (Some(name), Some(arguments)) = (self.pickle.text(*key), self.tensor_arguments(*value)) else {
                continue;
            };
            let tensor = self.tensor(arguments).map_err(|detail| format!("tensor {name}: {detail}"))?;
            tensors.insert(name.to_owned(), tensor);
        }
        if tensors.is_empty() {
            return Err("expected a state dict (names and tensors), received a dict without tensors".to_owned());
        }
        Ok(tensors)
    }

    fn describe(&self, object: &Object) -> String {
        match object {
            Object::Call { function, .. } => match self.pickle.class(*function) {
                Some(name) => format!("an object of {name}; hint: save its state_dict()"),
                None => "an object".to_owned(),
            },
            Object::Row(_) => "a list".to_owned(),
            Object::Dict(_) => "a dict".to_owned(),
            _ => "something else".to_owned(),
        }
    }

    /// What a tensor is rebuilt from, whatever it is wrapped in; `None` of what is no tensor.
    fn tensor_arguments(&self, mut id: Id) -> Option<&[Id]> {
        for _ in 0..MAX_DEPTH {
            let Object::Call { function, arguments } = self.pickle.at(id) else { return None };
            let arguments = self.pickle.row(*arguments)?;
            match self.pickle.class(*function)? {
                "torch._utils._rebuild_tensor_v2" => return Some(arguments),
                "torch._utils._rebuild_parameter" => id = *arguments.first()?,
                // (function, type, its arguments, state)
                "torch._tensor._rebuild_from_type_v2" => {
                    let is_plain = self.pickle.class(*arguments.first()?)? == "torch._utils._rebuild_tensor_v2";
                    return self.pickle.row(*arguments.get(2)?).filter(|_| is_plain);
                }
                _ => return None,
            }
        }
        None
    }

    /// Of storage, offset, shape, strides, ...
    fn tensor(&self, arguments: &[Id]) -> Result<Stored, String> {
        let [storage, offset, shape, strides, ..] = *arguments else {
            return Err("expected storage, offset, shape and strides".to_owned());
        };
        let counts =
            |id| -> Option<Vec<usize>> { self.pickle.row(id)?.iter().map(|&n| self.pickle.count(n)).collect() };
        let (Some(offset), Some(shape), Some(strides)) = (self.pickle.count(offset), counts(shape), counts(strides))
        else {
            return Err("expected offset, shape and strides of whole numbers".to_owned());
        };
        let (dtype, part) = self.storage(storage)?;
        let size = dtype.bitsize() / 8;
        let end = span(&shape, &strides).filter(|_| shape.len() == strides.len());
        let end = end.and_then(|span| span.checked_add(offset)?.checked_mul(size));
        if end.is_none_or(|end| end as u64 > part.length) {
            return Err(format!("{shape:?} by {strides:?} from {offset} does not fit into {} bytes", part.length));
        }
        let (start, n_in_part) = (part.start + (offset * size) as u64, part.length / size as u64);
        Ok(Stored { shape, dtype, strides, start, n_in_part })
    }

    /// Of ("storage", class, key, device, count), kept outside of the pickle.
    fn storage(&self, id: Id) -> Result<(Dtype, Part), String> {
        let Object::Outside(name) = self.pickle.at(id) else {
            return Err("expected a storage in the same file".to_owned());
        };
        let Some([_, class, key, ..]) = self.pickle.row(*name) else {
            return Err("expected the class and the key of a storage".to_owned());
        };
        let class = self.pickle.class(*class).unwrap_or_default();
        let dtype = dtype(class).ok_or_else(|| format!("expected a storage of numbers, received {class:?}"))?;
        let path = format!("{}data/{}", self.at, self.pickle.text(*key).unwrap_or_default());
        let part = self.parts.get(&path).ok_or_else(|| format!("{path} is missing in the zip file"))?;
        Ok((dtype, *part))
    }
}

fn dtype(storage: &str) -> Option<Dtype> {
    Some(match storage.strip_prefix("torch.")?.strip_suffix("Storage")? {
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Double" => Dtype::F64,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::BOOL,
        _ => return None,
    })
}

//! Precomputed embeddings in safetensors: each tensor (rows, dim) is the vector of its name, `NAME.tokens` (rows, n, dim) the
//! tokens beside it, and all have as many rows.
//!
//! The file is streamed, a row at a time from each tensor; that is why the header is read here. Ids stand in the metadata
//! under "ids" (a JSON list), else they are `x:0`, `x:1` and so on for `x.safetensors`.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use firn_index::{Limits, PointId, TokenConfig};
use serde::Deserialize;
use serde_json::Value;

use super::{Fault, Item, Next, Progress, SourceError, kind::row_id, npy::Number};

/// What a tensor's name ends with that holds tokens.
const TOKENS: &str = ".tokens";
const FLOATS: &str = "F16, BF16, F32 or F64";
/// As the format itself limits it.
const MAX_HEADER_BYTES: u64 = 100_000_000;

pub struct Safetensors {
    path: PathBuf,
    tensors: Vec<Tensor>,
    ids: Option<Vec<PointId>>,
    rows: usize,
    row: usize,
    ended: bool,
    progress: Arc<Progress>,
}

struct Tensor {
    /// The vector that it is, or that its tokens are kept beside.
    of: String,
    number: Number,
    /// Tokens of a row; none: it is a vector.
    n: Option<usize>,
    dim: usize,
    from: BufReader<File>,
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl Safetensors {
    pub fn open(path: &Path, progress: Arc<Progress>) -> Result<Safetensors, SourceError> {
        let damaged = |detail| SourceError::Damaged { path: path.to_owned(), detail };
        let (header, data) = read_header(path)?;
        let mut ids = None;
        let mut tensors = Vec::new();
        let mut counts = BTreeMap::new();
        for (name, value) in header {
            if name == "__metadata__" {
                ids = ids_of(&value).map_err(damaged)?;
                continue;
            }
            let info: Info =
                serde_json::from_value(value).map_err(|error| damaged(format!("tensor {name:?}: {error}")))?;
            counts.insert(name.clone(), info.shape.first().copied().unwrap_or(0));
            tensors.push(Tensor::open(path, name, &info, data)?);
        }
        let rows = counts.values().next().copied().ok_or_else(|| damaged("it holds no tensor".to_owned()))?;
        if counts.values().any(|&n| n != rows) {
            return Err(damaged(format!("all tensors must have as many rows: {counts:?}")));
        }
        if let Some(ids) = &ids
            && ids.len() != rows
        {
            return Err(damaged(format!("{rows} rows, but {} ids in the metadata", ids.len())));
        }
        let is_vector = |of: &str| tensors.iter().any(|tensor| tensor.of == of && tensor.n.is_none());
        if let Some(alone) = tensors.iter().find(|tensor| !is_vector(&tensor.of)) {
            return Err(damaged(format!("tokens of {0:?}, but no vector: expected a tensor {0:?} too", alone.of)));
        }
        progress.expect(rows as u64);
        Ok(Safetensors { path: path.to_owned(), tensors, ids, rows, row: 0, ended: false, progress })
    }

    pub fn dims(&self) -> BTreeMap<String, usize> {
        self.tensors.iter().filter(|tensor| tensor.n.is_none()).map(|tensor| (tensor.of.clone(), tensor.dim)).collect()
    }

    pub fn tokens(&self) -> BTreeMap<String, TokenConfig> {
        let shape = |tensor: &Tensor| Some((tensor.of.clone(), TokenConfig { n: tensor.n?, dim: tensor.dim }));
        self.tensors.iter().filter_map(shape).collect()
    }

    fn item(&mut self, name: String) -> Result<Item, Fault> {
        let (mut vectors, mut tokens) = (BTreeMap::new(), BTreeMap::new());
        for Tensor { of, number, n, dim, from } in &mut self.tensors {
            match *n {
                None => drop(vectors.insert(of.clone(), number.read(from, *dim)?)),
                Some(n) => drop(tokens.insert(of.clone(), number.read_tokens(from, n, *dim)?)),
            }
        }
        let id = match &self.ids {
            Some(ids) => ids[self.row].clone(),
            None => row_id(&self.path, self.row),
        };
        Ok(Item { name, id: Some(id), vectors, tokens, ..Item::default() })
    }
}

impl Iterator for Safetensors {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        if self.ended || self.row == self.rows {
            return None;
        }
        let name = format!("row {}", self.row);
        let item = self.item(name.clone()).map_err(|fault| fault.at(name));
        self.ended = item.is_err();
        self.row += 1;
        self.progress.advance(1);
        Some(item)
    }
}

impl Tensor {
    fn open(path: &Path, name: String, info: &Info, data: u64) -> Result<Tensor, SourceError> {
        let unsupported = |expected: &str, received: String| SourceError::Unsupported {
            path: path.to_owned(),
            expected: format!("tensor {name:?} {expected}"),
            received,
        };
        let hint = match info.dtype.as_str() {
            "I8" | "U8" => " (hint: scale * (x - zero_point), in half precision)",
            _ => "",
        };
        let number =
            number(&info.dtype).ok_or_else(|| unsupported(&format!("of {FLOATS}{hint}"), info.dtype.clone()))?;
        let (of, n, rows, dim) = match (name.strip_suffix(TOKENS), &info.shape[..]) {
            (None, &[rows, dim]) => (name.as_str(), None, rows, dim),
            (Some(of), &[rows, n, dim]) => (of, Some(n), rows, dim),
            (None, _) => return Err(unsupported("of shape (n, dim)", format!("{:?}", info.shape))),
            (Some(_), _) => return Err(unsupported("of shape (rows, n, dim)", format!("{:?}", info.shape))),
        };
        if dim == 0 || dim > Limits::MAX_DIM {
            return Err(unsupported("of 1 to 16384 dimensions", dim.to_string()));
        }
        if n.is_some_and(|n| n == 0 || n > Limits::MAX_TOKENS) {
            return Err(unsupported("of 1 to 256 tokens a row", format!("{:?}", info.shape)));
        }
        let (start, end) = info.data_offsets;
        let size = rows.checked_mul(n.unwrap_or(1) * dim * number.bytes());
        if size.map(|size| size as u64) != end.checked_sub(start) {
            return Err(unsupported(&format!("of {:?} numbers", info.shape), format!("bytes {start} to {end}")));
        }
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let mut file = File::open(path).map_err(io)?;
        file.seek(SeekFrom::Start(data.saturating_add(start))).map_err(io)?;
        let of = of.to_owned();
        Ok(Tensor { of, number, n, dim, from: BufReader::with_capacity(1 << 18, file) })
    }
}

/// Shape and numbers of the one tensor of a small file.
pub fn array(bytes: &[u8], max_numbers: usize) -> Result<(Vec<usize>, Vec<f32>), Fault> {
    let invalid = |error: String| Fault::InvalidArray { detail: error };
    let (number, shape, mut data) = only_tensor(bytes).map_err(invalid)?;
    let n = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side)).filter(|&n| n <= max_numbers);
    let n = n.ok_or_else(|| invalid(format!("shape {shape:?}: at most {max_numbers} numbers")))?;
    Ok((shape, number.read(&mut data, n)?))
}

fn only_tensor(bytes: &[u8]) -> Result<(Number, Vec<usize>, &[u8]), String> {
    let short = || "not safetensors: shorter than its header".to_owned();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| short())?;
    let (header, data) = rest.split_at_checked(length).ok_or_else(short)?;
    let mut header: BTreeMap<String, Value> =
        serde_json::from_slice(header).map_err(|error| format!("not safetensors: {error}"))?;
    header.remove("__metadata__");
    let (Some((_, value)), true) = (header.pop_first(), header.is_empty()) else {
        return Err("expected one tensor".to_owned());
    };
    let info: Info = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let number = number(&info.dtype).ok_or_else(|| format!("expected {FLOATS}, received {}", info.dtype))?;
    let start = usize::try_from(info.data_offsets.0).map_err(|_| short())?;
    Ok((number, info.shape, data.get(start..).ok_or_else(short)?))
}

fn number(dtype: &str) -> Option<Number> {
    match dtype {
        "F16" => Some(Number::F16),
        "BF16" => Some(Number::Bf16),
        "F32" => Some(Number::F32),
        "F64" => Some(Number::F64),
        _ => None,
    }
}

/// The header, and where the data begins.
fn read_header(path: &Path) -> Result<(BTreeMap<String, Value>, u64), SourceError> {
    let io = |error| SourceError::Io { path: path.to_owned(), error };
    let damaged = |detail| SourceError::Damaged { path: path.to_owned(), detail };
    let mut file = File::open(path).map_err(io)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| damaged("not safetensors: shorter than its header".to_owned()))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > file_bytes {
        return Err(damaged(format!("not safetensors: header of {length} bytes in a file of {file_bytes}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    let header = serde_json::from_slice(&header).map_err(|error| damaged(format!("not safetensors: {error}")))?;
    Ok((header, 8 + length))
}

fn ids_of(metadata: &Value) -> Result<Option<Vec<PointId>>, String> {
    let metadata: HashMap<String, String> =
        serde_json::from_value(metadata.clone()).map_err(|error| format!("metadata: {error}"))?;
    let ids = metadata.get("ids").map(|ids| serde_json::from_str(ids)).transpose();
    ids.map_err(|error| format!("metadata \"ids\": {error}"))
}

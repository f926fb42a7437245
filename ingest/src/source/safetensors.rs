//! Precomputed embeddings in safetensors: each tensor (n, dim) is the vector of its name, and all have the same n.
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

use firn_index::PointId;
use serde::Deserialize;
use serde_json::Value;

use super::{Fault, Item, Next, Progress, SourceError, kind::row_id, npy::Number};

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
    name: String,
    number: Number,
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
        progress.expect(rows as u64);
        Ok(Safetensors { path: path.to_owned(), tensors, ids, rows, row: 0, ended: false, progress })
    }

    pub fn dims(&self) -> BTreeMap<String, usize> {
        self.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dim)).collect()
    }

    fn item(&mut self, name: String) -> Result<Item, Fault> {
        let row = |tensor: &mut Tensor| Ok((tensor.name.clone(), tensor.number.read(&mut tensor.from, tensor.dim)?));
        let vectors = self.tensors.iter_mut().map(row).collect::<Result<_, Fault>>()?;
        let id = match &self.ids {
            Some(ids) => ids[self.row].clone(),
            None => row_id(&self.path, self.row),
        };
        Ok(Item { name, id: Some(id), vectors, ..Item::default() })
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
        let number = match info.dtype.as_str() {
            "F16" => Number::F16,
            "BF16" => Number::Bf16,
            "F32" => Number::F32,
            "F64" => Number::F64,
            other => return Err(unsupported("of F16, BF16, F32 or F64", other.to_owned())),
        };
        let &[rows, dim] = &info.shape[..] else {
            return Err(unsupported("of shape (n, dim)", format!("{:?}", info.shape)));
        };
        if dim == 0 || dim > firn_index::Limits::MAX_DIM {
            return Err(unsupported("of 1 to 16384 dimensions", dim.to_string()));
        }
        let (start, end) = info.data_offsets;
        let size = rows.checked_mul(dim * number.bytes());
        if size.map(|size| size as u64) != end.checked_sub(start) {
            return Err(unsupported(&format!("of {rows} x {dim} numbers"), format!("bytes {start} to {end}")));
        }
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let mut file = File::open(path).map_err(io)?;
        file.seek(SeekFrom::Start(data.saturating_add(start))).map_err(io)?;
        Ok(Tensor { name, number, dim, from: BufReader::with_capacity(1 << 18, file) })
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

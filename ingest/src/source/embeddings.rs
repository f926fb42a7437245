//! Embeddings that `firn embed` wrote, read back: the points that the source would have given, without the model.
//!
//! One shard is in memory at a time. A shard whose checksum is wrong is skipped by its name, and the others are read.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use firn_index::{ModelRef, TokenConfig, Tokens};
use half::f16;
use serde::Deserialize;

use super::{Fault, Item, Next, Progress, SourceError};
use crate::embeddings::{Line, MANIFEST, Manifest, Shard};

pub struct Embeddings {
    folder: PathBuf,
    manifest: Manifest,
    next_shard: usize,
    rows: vec::IntoIter<Item>,
    progress: Arc<Progress>,
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Embeddings {
    pub fn open(folder: &Path, progress: Arc<Progress>) -> Result<Embeddings, SourceError> {
        let path = folder.join(MANIFEST);
        let damaged = |detail: String| SourceError::Manifest { path: path.clone(), detail };
        let manifest = Manifest::read(folder)?.ok_or_else(|| damaged("it is gone".to_owned()))?;
        if !manifest.complete {
            let undone = manifest.undone().join(", ");
            return Err(damaged(format!(
                "these embeddings are not complete, not done: {undone} (hint: the same `firn embed` goes on where it stopped, or gives a source up with --forget)",
            )));
        }
        progress.expect(manifest.rows() as u64);
        Ok(Embeddings { folder: folder.to_owned(), manifest, next_shard: 0, rows: Vec::new().into_iter(), progress })
    }

    pub fn dims(&self) -> BTreeMap<String, usize> {
        self.manifest.vectors.clone()
    }

    pub fn tokens(&self) -> BTreeMap<String, TokenConfig> {
        self.manifest.tokens.clone()
    }

    pub fn model(&self) -> ModelRef {
        self.manifest.model.clone()
    }

    fn items(&self, shard: &Shard) -> Result<Vec<Item>, String> {
        let lines = shard.lines(&self.folder)?;
        let path = shard.arrays_path(&self.folder);
        let bytes = shard.arrays.read(&path)?;
        let arrays = Arrays::parse(&bytes).map_err(|detail| format!("{}: {detail}", path.display()))?;
        let name = |row| format!("{} row {row}", shard.name);
        let item = |(row, line)| self.item(name(row), line, row, &arrays);
        lines.into_iter().enumerate().map(item).collect()
    }

    fn item(&self, name: String, line: Line, row: usize, arrays: &Arrays<'_>) -> Result<Item, String> {
        let mut item = Item { name, id: Some(line.id), texts: line.texts, payload: line.payload, ..Item::default() };
        for of in line.vectors {
            let &dim = self.manifest.vectors.get(&of).ok_or_else(|| format!("a row has an unknown vector {of:?}"))?;
            let bytes = arrays.row(&of, "F32", &[dim], row)?;
            let (numbers, _) = bytes.as_chunks::<4>();
            item.vectors.insert(of, numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        }
        for of in line.tokens {
            let &TokenConfig { n, dim } =
                self.manifest.tokens.get(&of).ok_or_else(|| format!("a row has unknown tokens {of:?}"))?;
            let bytes = arrays.row(&format!("{of}.tokens"), "F16", &[n, dim], row)?;
            let (numbers, _) = bytes.as_chunks::<2>();
            let values = numbers.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
            item.tokens.insert(of, Tokens { n, dim, values });
        }
        Ok(item)
    }
}

impl Iterator for Embeddings {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        loop {
            if let Some(item) = self.rows.next() {
                self.progress.advance(1);
                return Some(Ok(item));
            }
            let shard = self.manifest.shards.get(self.next_shard)?;
            let items = self.items(shard);
            self.next_shard += 1;
            match items {
                Ok(items) => self.rows = items.into_iter(),
                Err(detail) => {
                    self.progress.advance(shard.rows as u64);
                    return Some(Err(Fault::DamagedShard { rows: shard.rows, detail }.at(shard.name.clone())));
                }
            }
        }
    }
}

/// The tensors of a shard.
struct Arrays<'a> {
    header: HashMap<String, Info>,
    data: &'a [u8],
}

impl<'a> Arrays<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Arrays<'a>, String> {
        let short = || "not safetensors: shorter than its header".to_owned();
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| short())?;
        let (header, data) = rest.split_at_checked(length).ok_or_else(short)?;
        let header = serde_json::from_slice(header).map_err(|error| format!("not safetensors: {error}"))?;
        Ok(Arrays { header, data })
    }

    /// The bytes of one row of a tensor whose rows have this shape.
    fn row(&self, name: &str, dtype: &str, shape: &[usize], row: usize) -> Result<&'a [u8], String> {
        let info = self.header.get(name).ok_or_else(|| format!("no tensor {name:?}"))?;
        if info.dtype != dtype || info.shape.get(1..) != Some(shape) {
            let received = format!("{} {:?}", info.dtype, info.shape);
            return Err(format!("tensor {name:?}: expected {dtype} of rows {shape:?}, received {received}"));
        }
        let bytes = shape.iter().product::<usize>() * if dtype == "F32" { 4 } else { 2 };
        let (start, end) = info.data_offsets;
        let found = self.data.get(start..end).and_then(|tensor| tensor.get(row * bytes..(row + 1) * bytes));
        found.ok_or_else(|| format!("tensor {name:?} ends before row {row}"))
    }
}

//! A folder of texts that an LLM has read, a file an image, as FLAME publishes them: `KEY.pth` (or `.npy`, `.safetensors`) holds
//! one tensor (11, dim).
//!
//! Its rows are facets (papers: FLAME): one of the raw caption, three of a short and seven of a long description. The point
//! is called after the file; the last seven rows are its tokens, and their mean, made unit, its vector "text".

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use firn_index::{Limits, PointId, TokenConfig, Tokens};
use half::f16;

use super::{Fault, Item, Next, Progress, SourceError, kind::extension, npy, safetensors, stream::read_file};
use crate::embed::TEXT_VECTOR;

/// Names of files that may hold facets.
pub const ARRAYS: [&str; 3] = ["pth", "npy", "safetensors"];
const ROWS: usize = 11;
/// Of the long description: the last ones.
const KEPT: usize = 7;
/// Folders inside folders that are read.
const MAX_DEPTH: usize = 128;

pub struct Facets {
    root: PathBuf,
    /// From the root to the folder that is read now.
    levels: Vec<vec::IntoIter<PathBuf>>,
    dim: usize,
    progress: Arc<Progress>,
}

impl Facets {
    /// The dimension is that of the first file that can be read.
    pub fn open(root: &Path, progress: Arc<Progress>) -> Result<Facets, SourceError> {
        let io = |error| SourceError::Io { path: root.to_owned(), error };
        let walk = || Ok(vec![entries(root).map_err(io)?.into_iter()]);
        let mut first = Facets { root: root.to_owned(), levels: walk()?, dim: 0, progress: Arc::default() };
        let mut all = Facets { levels: walk()?, root: root.to_owned(), dim: 0, progress: Arc::default() };
        let n = std::iter::from_fn(|| all.next_file()).count();
        let dim = first.find_map(|next| Some(next.ok()?.tokens.get(TEXT_VECTOR)?.dim));
        let dim = dim.ok_or_else(|| SourceError::Damaged {
            path: root.to_owned(),
            detail: format!("no picture in it, and no file that holds facets, a tensor ({ROWS}, dim); other arrays are named as files"),
        })?;
        progress.expect(n as u64);
        Ok(Facets { levels: walk()?, dim, progress, ..first })
    }

    pub fn dims(&self) -> BTreeMap<String, usize> {
        [(TEXT_VECTOR.to_owned(), self.dim)].into()
    }

    pub fn tokens(&self) -> BTreeMap<String, TokenConfig> {
        [(TEXT_VECTOR.to_owned(), TokenConfig { n: KEPT, dim: self.dim })].into()
    }

    fn next_file(&mut self) -> Option<PathBuf> {
        loop {
            let Some(path) = self.levels.last_mut()?.next() else {
                self.levels.pop();
                continue;
            };
            // Links to folders are not followed: a folder of facets needs none.
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                if self.levels.len() < MAX_DEPTH
                    && let Ok(below) = entries(&path)
                {
                    self.levels.push(below.into_iter());
                }
            } else if ARRAYS.contains(&extension(&path.to_string_lossy()).as_str()) {
                return Some(path);
            } else {
                self.progress.ignore();
            }
        }
    }
}

impl Iterator for Facets {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        let path = self.next_file()?;
        self.progress.advance(1);
        let name = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
        Some(item(&path, name.clone()).map_err(|fault| fault.at(name)))
    }
}

fn item(path: &Path, name: String) -> Result<Item, Fault> {
    let key = path.file_stem().and_then(|stem| stem.to_str()).ok_or(Fault::NotUtf8 { what: "the file's name" })?;
    let (shape, values) = read(path)?;
    let &[ROWS, dim] = &shape[..] else {
        return Err(Fault::InvalidArray { detail: format!("expected shape ({ROWS}, dim), received {shape:?}") });
    };
    let kept = &values[(ROWS - KEPT) * dim..];
    let tokens = Tokens { n: KEPT, dim, values: kept.iter().map(|&x| f16::from_f32(x)).collect() };
    let id = Some(PointId::Text(key.to_owned()));
    let vectors = [(TEXT_VECTOR.to_owned(), unit_mean(kept, dim))].into();
    Ok(Item { name, id, vectors, tokens: [(TEXT_VECTOR.to_owned(), tokens)].into(), ..Item::default() })
}

/// Of rows of `dim` numbers; zeros stay zeros, and are refused as such.
fn unit_mean(rows: &[f32], dim: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; dim];
    for row in rows.chunks_exact(dim) {
        sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    sum.into_iter().map(|x| (x / length) as f32).collect()
}

fn read(path: &Path) -> Result<(Vec<usize>, Vec<f32>), Fault> {
    const MAX_NUMBERS: usize = ROWS * Limits::MAX_DIM;
    match extension(&path.to_string_lossy()).as_str() {
        "npy" => npy::array(&read_file(path)?, MAX_NUMBERS),
        "safetensors" => safetensors::array(&read_file(path)?, MAX_NUMBERS),
        _ => firn_model::read_tensor(path, MAX_NUMBERS)
            .map_err(|error| Fault::InvalidArray { detail: without_path(&error.to_string(), path) }),
    }
}

/// A skipped item is named by its file already.
fn without_path(message: &str, path: &Path) -> String {
    message.strip_prefix(&format!("{}: ", path.display())).unwrap_or(message).to_owned()
}

fn entries(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

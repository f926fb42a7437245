//! Embeddings on disk, so that a model runs once and never again: shards of rows, and the manifest that names them.
//!
//! `embeddings.json` is the manifest. `shard-00000.safetensors` holds, of each vector, a tensor (rows, dim) in single
//! precision, and of each kind of tokens a tensor `NAME.tokens` (rows, n, dim) in half precision; `shard-00000.jsonl` a
//! line a row: id, texts, payload, and which vectors and tokens the row has (what it has not is zero in the tensor). A
//! shard's files are on disk before the manifest names them, with their BLAKE3 hashes.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use firn_index::{CollectionConfig, Limits, ModelRef, Payload, PointId, Text, TokenConfig};
use serde::{Deserialize, Serialize};

use crate::source::SourceError;

pub const MANIFEST: &str = "embeddings.json";
const FORMAT: &str = "firn-embeddings";
const VERSION: u32 = 1;
/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 1 << 30;
/// Largest lines of a shard that are read; `shards` ends one long before.
const MAX_LINES_BYTES: u64 = 1 << 30;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    version: u32,
    pub model: ModelRef,
    /// What made the facets of texts, where they were made: the same for every template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<String>,
    /// Dimensions by vector name.
    pub vectors: BTreeMap<String, usize>,
    pub tokens: BTreeMap<String, TokenConfig>,
    /// Whether everything was embedded that should be: all sources are done.
    pub complete: bool,
    /// What was embedded, by full path, and whether a run came to its end.
    #[serde(default)]
    pub sources: BTreeMap<String, bool>,
    pub shards: Vec<Shard>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// `shard-00000` and so on, in order.
    pub name: String,
    pub rows: usize,
    pub arrays: Checksum,
    pub lines: Checksum,
}

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    pub bytes: u64,
    pub blake3: String,
}

/// What a shard's line says of its row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub id: PointId,
    /// A hash of what the row was made from, by which a repeated run knows it.
    pub content: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<Text>,
    #[serde(default, skip_serializing_if = "Payload::is_empty")]
    pub payload: Payload,
    /// Names of the vectors that the row has, and of its tokens.
    pub vectors: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<String>,
}

impl Manifest {
    /// Of embeddings for such a collection; `decoder` as the model says it.
    pub fn new(model: ModelRef, decoder: Option<String>, config: &CollectionConfig) -> Manifest {
        Manifest {
            format: FORMAT.to_owned(),
            version: VERSION,
            model,
            decoder,
            vectors: config.vectors.iter().map(|(name, vector)| (name.clone(), vector.dim)).collect(),
            tokens: config.tokens.clone(),
            complete: false,
            sources: BTreeMap::new(),
            shards: Vec::new(),
        }
    }

    /// The manifest in a folder; none if there is none.
    pub fn read(folder: &Path) -> Result<Option<Manifest>, SourceError> {
        let path = folder.join(MANIFEST);
        let damaged = |detail| SourceError::Manifest { path: path.clone(), detail };
        let io = |error| SourceError::Io { path: path.clone(), error };
        let bytes = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(found) if found.len() > MAX_MANIFEST_BYTES => {
                return Err(damaged(format!("{} bytes: at most {MAX_MANIFEST_BYTES}", found.len())));
            }
            _ => fs::read(&path).map_err(io)?,
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(format!("not a manifest of embeddings: {error}")))?;
        if (manifest.format.as_str(), manifest.version) != (FORMAT, VERSION) {
            let received = format!("{:?} version {}", manifest.format, manifest.version);
            return Err(damaged(format!("expected {FORMAT:?} version {VERSION}, received {received}")));
        }
        if let Some((what, received)) = manifest.out_of_range() {
            return Err(damaged(format!("{what}: {received}, which no collection keeps")));
        }
        // Names are paths: only our own are followed.
        if let Some(shard) = manifest.shards.iter().find(|shard| shard.number().is_none()) {
            return Err(damaged(format!(
                "expected a shard's name like {:?}, received {:?}",
                shard_name(0),
                shard.name
            )));
        }
        match manifest.shards.is_sorted_by(|a, b| a.number() < b.number()) {
            true => Ok(Some(manifest)),
            false => Err(damaged("the shards are not in order".to_owned())),
        }
    }

    /// A shape that is none.
    fn out_of_range(&self) -> Option<(String, String)> {
        let dims = 1..=Limits::MAX_DIM;
        let vector = self.vectors.iter().find(|(_, dim)| !dims.contains(dim));
        let is_good = |shape: &TokenConfig| (1..=Limits::MAX_TOKENS).contains(&shape.n) && dims.contains(&shape.dim);
        let tokens = self.tokens.iter().find(|(_, shape)| !is_good(shape));
        vector
            .map(|(name, dim)| (format!("vector {name:?}"), format!("{dim} dimensions")))
            .or_else(|| tokens.map(|(of, shape)| (format!("tokens {of:?}"), shape.to_string())))
    }

    /// Replaces the manifest in a folder, as a whole or not at all.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("plain data can be written");
        let unfinished = folder.join(format!("{MANIFEST}.new"));
        write_synced(&unfinished, &json)?;
        fs::rename(&unfinished, folder.join(MANIFEST))?;
        sync_folder(folder)
    }

    /// Says of sources whether they are done, and so whether all are.
    pub fn mark(&mut self, sources: &[String], is_done: bool) {
        self.sources.extend(sources.iter().map(|source| (source.clone(), is_done)));
        self.complete = self.undone().is_empty();
    }

    /// Gives up a source that is not done; whether there was one. The rows that it brought stay.
    pub fn forget(&mut self, source: &str) -> bool {
        let is_undone = self.sources.get(source) == Some(&false);
        if is_undone {
            self.sources.remove(source);
            self.complete = self.undone().is_empty();
        }
        is_undone
    }

    /// A name that no shard has, and its place among them.
    pub fn free_place(&self) -> (usize, String) {
        let place = self.shards.iter().zip(0..).take_while(|(shard, n)| shard.number() == Some(*n)).count();
        (place, shard_name(place))
    }

    /// The sources that are not done.
    pub fn undone(&self) -> Vec<&str> {
        self.sources.iter().filter(|(_, is_done)| !**is_done).map(|(source, _)| source.as_str()).collect()
    }

    pub fn rows(&self) -> usize {
        self.shards.iter().map(|shard| shard.rows).sum()
    }
}

impl Shard {
    /// The number in its name; none if that is not one of ours.
    fn number(&self) -> Option<usize> {
        let number = self.name.strip_prefix("shard-")?.parse().ok()?;
        (self.name == shard_name(number)).then_some(number)
    }

    pub fn arrays_path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.safetensors", self.name))
    }

    pub fn lines_path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.jsonl", self.name))
    }

    /// The lines of the shard, checked.
    pub fn lines(&self, folder: &Path) -> Result<Vec<Line>, String> {
        let path = self.lines_path(folder);
        if self.lines.bytes > MAX_LINES_BYTES {
            return Err(format!("{}: {} bytes: at most {MAX_LINES_BYTES}", path.display(), self.lines.bytes));
        }
        let bytes = self.lines.read(&path)?;
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let lines: Result<Vec<Line>, _> = lines.map(serde_json::from_slice).collect();
        let lines = lines.map_err(|error| format!("{}: {error}", path.display()))?;
        if lines.len() != self.rows {
            return Err(format!("{}: expected {} rows, received {}", path.display(), self.rows, lines.len()));
        }
        Ok(lines)
    }
}

impl Checksum {
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum { bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() }
    }

    /// A file whose content it must be.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        let io = |error: io::Error| format!("{}: {error}", path.display());
        let length = fs::metadata(path).map_err(io)?.len();
        expect(path, "bytes", &self.bytes, &length)?;
        let bytes = fs::read(path).map_err(io)?;
        expect(path, "BLAKE3", &self.blake3, &blake3::hash(&bytes).to_hex().to_string())?;
        Ok(bytes)
    }

    /// Looks at a file without keeping it in memory.
    pub fn check(&self, path: &Path) -> Result<(), String> {
        let io = |error: io::Error| format!("{}: {error}", path.display());
        let file = File::open(path).map_err(io)?;
        expect(path, "bytes", &self.bytes, &file.metadata().map_err(io)?.len())?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(io)?;
        expect(path, "BLAKE3", &self.blake3, &hasher.finalize().to_hex().to_string())
    }
}

fn expect<T: PartialEq + Display>(path: &Path, what: &str, expected: &T, received: &T) -> Result<(), String> {
    if expected == received {
        return Ok(());
    }
    Err(format!("{}: {what}: expected {expected}, received {received}", path.display()))
}

pub fn shard_name(place: usize) -> String {
    format!("shard-{place:05}")
}

pub fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened as a file, and its entries are written with the files.
#[cfg(not(unix))]
pub fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_would_fill_the_memory_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let sum = |bytes| Checksum { bytes, blake3: String::new() };
        let shard = Shard { name: shard_name(0), rows: 1, arrays: sum(0), lines: sum(MAX_LINES_BYTES + 1) };
        // Holes only: it takes no room on the disk.
        File::create(shard.lines_path(dir.path())).unwrap().set_len(MAX_LINES_BYTES + 1).unwrap();
        let refused = shard.lines(dir.path()).unwrap_err();
        assert!(refused.ends_with("1073741825 bytes: at most 1073741824"), "{refused}");
    }
}

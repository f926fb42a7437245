//! A sink that writes embeddings to a folder, a shard at a time (`embeddings` says how they lie there).
//!
//! A point is settled when its shard is whole and the manifest names it. So a run that was killed goes on after the last
//! whole shard, and what it knows of the rows before comes from the shards themselves.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io, mem,
    path::{Path, PathBuf},
};

use firn_index::{CollectionConfig, ModelRef, PointId, TokenConfig};
use serde_json::json;

use crate::{
    embed::Input,
    embeddings::{Checksum, Line, Manifest, Shard, sync_folder, write_synced},
    identity::{Key, hex, id_hash},
    journal::{Journal, JournalError, Settled, Written},
    sink::{Outcome, Sink, SinkError, Ticket},
    source::SourceError,
};

/// Limits as DEFAULT / MIN / MAX.
pub const DEFAULT_SHARD_ROWS: usize = 10_000;
pub const MIN_SHARD_ROWS: usize = 1;
pub const MAX_SHARD_ROWS: usize = 1_000_000;
/// A shard ends here too: its rows wait in memory, and must not fill what a run may hold.
const MAX_SHARD_BYTES: usize = crate::pipeline::DEFAULT_BYTES_IN_FLIGHT / 4;

/// Why embeddings cannot be written to a folder.
#[derive(Debug, thiserror::Error)]
pub enum ShardsError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{folder} holds {expected}, this run makes {received}; hint: embed into a new folder")]
    Others { folder: PathBuf, expected: String, received: String },
}

pub struct ShardSink {
    folder: PathBuf,
    manifest: Manifest,
    /// What is wrong with shards that were there: they are taken as gone.
    damage: Vec<String>,
    /// Those of this run, as the manifest names them.
    sources: Vec<String>,
    shard_rows: usize,
    /// Ids and contents of the rows on disk.
    known: Vec<(PointId, Key)>,
    /// The contents by the hash of their id.
    on_disk: HashMap<u128, u128>,
    keys: HashMap<Ticket, Key>,
    rows: Vec<(Ticket, Key, Input)>,
    bytes: usize,
}

impl ShardSink {
    /// Goes on in a folder, or begins one. What is there must be of the same model and shape.
    pub fn open(
        folder: &Path,
        model: ModelRef,
        decoder: Option<String>,
        config: &CollectionConfig,
        shard_rows: usize,
    ) -> Result<ShardSink, ShardsError> {
        let new = Manifest::new(model, decoder, config);
        let mut manifest = match Manifest::read(folder)? {
            None => new,
            Some(mut found) if (&found.model.hash, shapes(&found)) == (&new.model.hash, shapes(&new)) => {
                found.decoder = new.decoder;
                found
            }
            Some(found) => {
                let (folder, expected, received) = (folder.to_owned(), describe(&found), describe(&new));
                return Err(ShardsError::Others { folder, expected, received });
            }
        };
        let mut known = Vec::with_capacity(manifest.rows());
        let mut damage = Vec::new();
        manifest.shards.retain(|shard| match rows(shard, folder) {
            Ok(rows) => {
                known.extend(rows);
                true
            }
            Err(detail) => {
                damage.push(detail);
                false
            }
        });
        let on_disk = known.iter().map(|(_, key)| (key.id, key.content)).collect();
        Ok(ShardSink {
            folder: folder.to_owned(),
            manifest,
            damage,
            sources: Vec::new(),
            shard_rows: shard_rows.clamp(MIN_SHARD_ROWS, MAX_SHARD_ROWS),
            known,
            on_disk,
            keys: HashMap::new(),
            rows: Vec::new(),
            bytes: 0,
        })
    }

    /// Makes a journal say what the shards hold: they are on disk, whatever it said.
    pub fn tell(&self, journal: &mut Journal) -> Result<Written, JournalError> {
        const NAME: &str = "embeddings";
        journal.restart(NAME)?;
        let lines: Vec<(Key, Settled<'_>)> = self.known.iter().map(|(_, key)| (*key, Settled::Written)).collect();
        journal.record(&lines)?;
        journal.load(NAME)
    }

    /// Names the sources of this run in the manifest. One that is done stays so until it brings a row, or a shard is damaged:
    /// whose rows that held is not known, so none is done.
    pub fn begin(&mut self, sources: Vec<String>) -> io::Result<()> {
        if !self.damage.is_empty() {
            let all: Vec<String> = self.manifest.sources.keys().cloned().collect();
            self.manifest.mark(&all, false);
        }
        let new = sources.iter().filter(|source| !self.manifest.sources.contains_key(*source)).cloned().collect();
        self.sources = sources;
        self.mark(new, false)
    }

    /// Says in the manifest that the sources of this run are done.
    pub fn complete(&mut self) -> io::Result<()> {
        self.mark(self.sources.clone(), true)
    }

    /// What is wrong with shards that were there. Their rows are made again when their sources are embedded again.
    pub fn damage(&self) -> &[String] {
        &self.damage
    }

    /// The sources that are not done, of this run and of earlier ones.
    pub fn undone(&self) -> Vec<&str> {
        self.manifest.undone()
    }

    /// A manifest that says so already is left as it is.
    fn mark(&mut self, sources: Vec<String>, is_done: bool) -> io::Result<()> {
        if sources.iter().all(|source| self.manifest.sources.get(source) == Some(&is_done)) {
            return Ok(());
        }
        self.manifest.mark(&sources, is_done);
        self.manifest.write(&self.folder)
    }

    pub fn n_shards(&self) -> usize {
        self.manifest.shards.len()
    }

    fn take(&mut self, ticket: Ticket, input: Input, settled: &mut Vec<(Ticket, Outcome)>) {
        let key = self.keys.remove(&ticket).expect("every point is announced");
        match self.on_disk.get(&key.id) {
            Some(&content) if content == key.content => {
                settled.push((ticket, Outcome::Written { truncated_texts: 0 }));
            }
            Some(_) => {
                let message =
                    format!("the id \"{}\" has a row of other content there (hint: embed into a new folder)", input.id);
                settled.push((ticket, Outcome::Refused { reason: "changed".to_owned(), message }));
            }
            None => {
                self.bytes += input.bytes();
                self.rows.push((ticket, key, input));
            }
        }
    }

    /// Writes the rows that wait as one shard.
    fn write(&mut self, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let rows = mem::take(&mut self.rows);
        let (arrays, lines) = (arrays(&rows, &self.manifest), lines(&rows)?);
        let (place, name) = self.manifest.free_place();
        let shard = Shard { name, rows: rows.len(), arrays: Checksum::of(&arrays), lines: Checksum::of(&lines) };
        write_synced(&shard.arrays_path(&self.folder), &arrays)?;
        write_synced(&shard.lines_path(&self.folder), &lines)?;
        sync_folder(&self.folder)?;
        self.manifest.shards.insert(place, shard);
        self.manifest.mark(&self.sources, false);
        self.manifest.write(&self.folder)?;
        self.bytes = 0;
        for (ticket, key, _) in rows {
            self.on_disk.insert(key.id, key.content);
            settled.push((ticket, Outcome::Written { truncated_texts: 0 }));
        }
        Ok(())
    }
}

impl Sink for ShardSink {
    fn needs_vectors(&self) -> bool {
        true
    }

    fn each_id(&mut self, see: &mut dyn FnMut(&PointId)) -> Result<(), SinkError> {
        mem::take(&mut self.known).iter().for_each(|(id, _)| see(id));
        Ok(())
    }

    fn announce(&mut self, ticket: Ticket, key: Key) {
        self.keys.insert(ticket, key);
    }

    fn put(&mut self, batch: Vec<(Ticket, Input)>, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        for (ticket, input) in batch {
            self.take(ticket, input, settled);
            if self.rows.len() >= self.shard_rows || self.bytes >= MAX_SHARD_BYTES {
                self.write(settled)?;
            }
        }
        Ok(())
    }

    fn wait(&mut self, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        self.write(settled)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// The rows of a shard, both of whose files are whole.
fn rows(shard: &Shard, folder: &Path) -> Result<Vec<(PointId, Key)>, String> {
    shard.arrays.check(&shard.arrays_path(folder))?;
    let row = |line: Line| match u128::from_str_radix(&line.content, 16) {
        Ok(content) => Ok((line.id.clone(), Key { id: id_hash(&line.id), content })),
        Err(error) => Err(format!("{}: content {:?}: {error}", shard.name, line.content)),
    };
    shard.lines(folder)?.into_iter().map(row).collect()
}

fn shapes(manifest: &Manifest) -> (&BTreeMap<String, usize>, &BTreeMap<String, TokenConfig>) {
    (&manifest.vectors, &manifest.tokens)
}

fn describe(manifest: &Manifest) -> String {
    let vectors = manifest.vectors.iter().map(|(name, dim)| format!("{name} {dim}"));
    let tokens = manifest.tokens.iter().map(|(of, shape)| format!("{of} tokens {shape}"));
    let shapes: Vec<String> = vectors.chain(tokens).collect();
    format!("embeddings of {} ({}), {}", manifest.model.name, manifest.model.hash, shapes.join(", "))
}

fn lines(rows: &[(Ticket, Key, Input)]) -> serde_json::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for (_, key, input) in rows {
        let line = Line {
            id: input.id.clone(),
            content: hex(key.content),
            texts: input.texts.clone(),
            payload: input.payload.clone(),
            vectors: input.vectors.keys().cloned().collect(),
            tokens: input.tokens.keys().cloned().collect(),
        };
        serde_json::to_writer(&mut lines, &line)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The tensors of a shard in safetensors: what no row has is left out, what a row has not is zero.
fn arrays(rows: &[(Ticket, Key, Input)], manifest: &Manifest) -> Vec<u8> {
    let mut header = BTreeMap::new();
    let mut data = Vec::new();
    for (name, &dim) in &manifest.vectors {
        if rows.iter().any(|(.., input)| input.vectors.contains_key(name)) {
            let start = data.len();
            for (.., input) in rows {
                match input.vectors.get(name) {
                    Some(vector) => data.extend(vector.iter().flat_map(|x| x.to_le_bytes())),
                    None => data.resize(data.len() + dim * 4, 0),
                }
            }
            header.insert(name.clone(), tensor("F32", &[rows.len(), dim], start, data.len()));
        }
    }
    for (of, &shape) in &manifest.tokens {
        if rows.iter().any(|(.., input)| input.tokens.contains_key(of)) {
            let start = data.len();
            for (.., input) in rows {
                match input.tokens.get(of) {
                    Some(tokens) => data.extend(tokens.values.iter().flat_map(|x| x.to_le_bytes())),
                    None => data.resize(data.len() + shape.bytes(), 0),
                }
            }
            let shape = [rows.len(), shape.n, shape.dim];
            header.insert(format!("{of}.tokens"), tensor("F16", &shape, start, data.len()));
        }
    }
    let mut header = serde_json::to_vec(&header).expect("plain data can be written");
    // The format wants the data on a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn tensor(dtype: &str, shape: &[usize], start: usize, end: usize) -> serde_json::Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] })
}

#[cfg(test)]
mod tests {
    use firn_index::VectorConfig;

    use super::*;

    #[test]
    fn payloads_fill_a_shard_too() {
        let dir = tempfile::tempdir().unwrap();
        let vectors = [("image".to_owned(), VectorConfig::new(1))].into();
        let config = CollectionConfig { vectors, ..CollectionConfig::default() };
        let model = ModelRef { name: "m".to_owned(), hash: "h".to_owned() };
        let mut sink = ShardSink::open(dir.path(), model, None, &config, MAX_SHARD_ROWS).unwrap();
        let payload = json!({ "list": [{ "long": "x".repeat(MAX_SHARD_BYTES / 4) }] });
        for ticket in 0..6 {
            let input = Input {
                id: PointId::Num(ticket),
                image: None,
                texts: Vec::new(),
                payload: payload.as_object().unwrap().clone(),
                vectors: [("image".to_owned(), vec![1.0])].into(),
                tokens: BTreeMap::new(),
            };
            sink.announce(ticket, Key { id: ticket.into(), content: 0 });
            sink.put(vec![(ticket, input)], &mut Vec::new()).unwrap();
        }
        assert_eq!((sink.n_shards(), sink.rows.len()), (1, 2));
    }
}

//! Segments on disk: chunks with checksums, and per named vector one manifest that names the live ones.
//!
//! A segment is there once the manifest names it, and the manifest changes in one atomic commit.

use std::{collections::BTreeMap, ops::ControlFlow};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, key,
    key::Key,
    record,
    segment::SegmentLinks,
    store::{Changes, Store, Tree},
};

const CHUNK_BYTES: usize = 512 << 10;

/// Bytes of chunks that are committed at once.
const COMMIT_BYTES: usize = 16 << 20;

/// Which segments of a named vector are live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub segments: Vec<ManifestEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestEntry {
    pub number: u32,
    pub n_bytes: u64,
    pub n_chunks: u32,
}

/// A named vector of a collection.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub collection: u32,
    pub vector: u8,
}

/// What the disk holds of a named vector's segments.
pub struct Found {
    /// What could be read, by segment.
    pub segments: BTreeMap<u32, SegmentLinks>,
    /// What could not.
    pub damages: Vec<Error>,
    /// Chunks of no live segment.
    pub leftovers: Vec<Key>,
    /// Above the number of every segment, damaged ones and leftovers included.
    pub next_number: u32,
}

/// Writes a segment's chunks. It is not live before `switch`.
pub fn write(store: &Store, place: Place, number: u32, links: &SegmentLinks) -> Result<ManifestEntry> {
    let bytes = links.encode();
    let mut chunks = bytes.chunks(CHUNK_BYTES).enumerate().peekable();
    while chunks.peek().is_some() {
        let mut changes = Changes::new();
        for (i, chunk) in chunks.by_ref().take(COMMIT_BYTES / CHUNK_BYTES) {
            let key = key::chunk(place.collection, place.vector, number, i as u32);
            let value = record::seal(&key, chunk);
            changes.insert(key, Some(value));
        }
        store.commit(Tree::Segments, changes)?;
    }
    let n_chunks = bytes.len().div_ceil(CHUNK_BYTES) as u32;
    Ok(ManifestEntry { number, n_bytes: bytes.len() as u64, n_chunks })
}

/// Makes `manifest` the truth, and removes the chunks of segments that it does not name.
pub fn switch(store: &Store, place: Place, manifest: &Manifest, dropped: &[u32]) -> Result<()> {
    let key = key::manifest(place.collection, place.vector);
    let bytes = postcard::to_stdvec(manifest).expect("plain data can be written");
    let value = record::seal(&key, &bytes);
    let mut changes = Changes::from([(key, Some(value))]);
    for &number in dropped {
        let prefix = key::chunks(place.collection, place.vector, number);
        store.scan(Tree::Segments, &prefix, |key, _| {
            changes.insert(key.to_vec(), None);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    store.commit(Tree::Segments, changes)
}

/// The manifest; an empty one if there is none.
pub fn read_manifest(store: &Store, place: Place) -> Result<Manifest> {
    let key = key::manifest(place.collection, place.vector);
    let Some(value) = store.get(Tree::Segments, &key)? else { return Ok(Manifest::default()) };
    let what = || format!("manifest of vector {}", place.vector);
    let bytes = record::unseal(&key, &value, what)?;
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged { what: what(), detail: e.to_string() })
}

/// Reads all segments of a named vector, each checked as a whole.
pub fn read(store: &Store, place: Place) -> Result<Found> {
    let mut found = Found { segments: BTreeMap::new(), damages: Vec::new(), leftovers: Vec::new(), next_number: 0 };
    let manifest = match read_manifest(store, place) {
        Err(error @ Error::Damaged { .. }) => {
            found.damages.push(error);
            Manifest::default()
        }
        other => other?,
    };
    let mut parts: BTreeMap<u32, Result<Vec<u8>>> =
        manifest.segments.iter().map(|entry| (entry.number, Ok(Vec::new()))).collect();
    store.scan(Tree::Segments, &key::chunks_of_vector(place.collection, place.vector), |key, value| {
        let number = key::parse_segment(key);
        found.next_number = found.next_number.max(number.map_or(0, |n| n.saturating_add(1)));
        match number.and_then(|number| parts.get_mut(&number)) {
            None => found.leftovers.push(key.to_vec()),
            Some(part) => take_chunk(part, key, value),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for entry in manifest.segments {
        found.next_number = found.next_number.max(entry.number.saturating_add(1));
        let bytes = parts.remove(&entry.number).expect("there is a part for every entry");
        match bytes.and_then(|bytes| decode(&entry, &bytes)) {
            Ok(links) => drop(found.segments.insert(entry.number, links)),
            Err(error) => found.damages.push(error),
        }
    }
    Ok(found)
}

fn take_chunk(part: &mut Result<Vec<u8>>, key: &[u8], value: &[u8]) {
    if let Ok(bytes) = part {
        match record::unseal(key, value, || "segment chunk".to_owned()) {
            Ok(chunk) => bytes.extend_from_slice(chunk),
            Err(error) => *part = Err(error),
        }
    }
}

fn decode(entry: &ManifestEntry, bytes: &[u8]) -> Result<SegmentLinks> {
    let damaged = |detail| Error::Damaged { what: format!("segment {}", entry.number), detail };
    if bytes.len() as u64 != entry.n_bytes {
        return Err(damaged(format!("expected {} bytes, received {}", entry.n_bytes, bytes.len())));
    }
    SegmentLinks::decode(bytes).map_err(damaged)
}

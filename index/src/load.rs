//! From disk to memory when a database is opened: the catalog, then each collection, every value checked.
//!
//! The `row_of` keys say which points exist. Rows that no id points to are leftovers of an update that had readers; they
//! are reported for removal. A live point without its record or one of its vectors is damage. Tokens are not read here: `verify`
//! and whoever asks for them find what is wrong with them.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc};

use roaring::RoaringBitmap;

use crate::{
    CollectionConfig, Error, Result, Row,
    catalog::{Catalog, CollectionRecord, Entry, Quarantined},
    fetch,
    generation::{Generation, VectorView},
    key::{self, Key},
    manifest::Place,
    record,
    state::{self, CollectionState},
    store::{Store, Tree},
    stored, vectors,
    words::Words,
};

/// A database as it was found.
pub struct Loaded {
    pub catalog: Catalog,
    pub sequence: u64,
    /// Keys of the points tree that nothing needs.
    pub leftovers: Vec<Key>,
    /// Keys of the segments tree that nothing needs.
    pub leftover_chunks: Vec<Key>,
    /// Deleted collections whose data is still there.
    pub doomed: Vec<u32>,
}

pub fn database(dir: &Path, store: &Store) -> Result<Loaded> {
    let mut loaded = Loaded {
        catalog: Catalog { next_number: counter(store, key::next_collection())?, ..Catalog::default() },
        sequence: sequence(store)?,
        leftovers: Vec::new(),
        leftover_chunks: Vec::new(),
        doomed: doomed(store)?,
    };
    let mut names = BTreeMap::new();
    for (number, name, record) in catalog_records(store)? {
        let opened = record.map(|record| (collection((dir, store), number, &name, &record), record));
        let entry = match opened {
            Ok((Ok(opened), _)) => {
                loaded.leftovers.extend(opened.leftovers);
                loaded.leftover_chunks.extend(opened.leftover_chunks);
                Entry::Serving(Arc::new(opened.state))
            }
            Ok((Err(error), record)) => quarantine(number, &name, Some(record), &error),
            Err(error) => quarantine(number, &name, None, &error),
        };
        names.insert(number, name.clone());
        loaded.catalog.next_number = loaded.catalog.next_number.max(number.saturating_add(1));
        loaded.catalog.collections.insert(name, entry);
    }
    loaded.catalog.aliases = aliases(store, &names)?;
    Ok(loaded)
}

/// A new collection.
pub fn empty(number: u32, name: String, record: CollectionRecord) -> CollectionState {
    let view = |dim| VectorView { dim, ..VectorView::default() };
    let vectors = record.config.vectors.values().map(|v| view(v.dim)).collect();
    let first = Generation { number: 0, sequence: 0, live: Arc::default(), vectors };
    CollectionState::new(number, name, record.uuid, record.config, 0, (first, Words::default()))
}

struct Opened {
    state: CollectionState,
    leftovers: Vec<Key>,
    leftover_chunks: Vec<Key>,
}

fn collection((dir, store): (&Path, &Store), number: u32, name: &str, record: &CollectionRecord) -> Result<Opened> {
    let next_row = counter(store, key::next_row(number))?;
    let live = live_rows(store, number, next_row)?;
    let Points { with_vector, version, mut leftovers } = points(store, number, &record.config, &live)?;
    let (mut views, mut leftover_chunks, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for (place, settings) in record.config.vectors.values().enumerate() {
        let at = Place { collection: number, vector: place as u8 };
        let opened = vectors::load(store, at, settings.dim, &with_vector[place], next_row)?;
        leftovers.extend(opened.leftovers);
        leftover_chunks.extend(opened.leftover_chunks);
        for damage in &opened.damages {
            tracing::error!(collection = name, vector = place, %damage, "segment dropped, to be built anew");
        }
        found.push((!opened.damages.is_empty(), opened.next_segment));
        views.push(opened.view);
    }
    let mut first = Generation { number: 0, sequence: version, live: Arc::new(live), vectors: views };
    first.count_live();
    let CollectionRecord { uuid, config } = record.clone();
    let state =
        CollectionState::new(number, name.to_owned(), uuid, config, next_row, (first, Words::find(dir, number)));
    for (place, (is_damaged, next_segment)) in found.into_iter().enumerate() {
        state.set_lost(place, is_damaged);
        state.skip_segments(place, next_segment);
    }
    Ok(Opened { state, leftovers, leftover_chunks })
}

fn live_rows(store: &Store, number: u32, next_row: Row) -> Result<RoaringBitmap> {
    let mut live = RoaringBitmap::new();
    store.scan(Tree::Points, &key::rows_of(number), |key, value| {
        let row = fetch::decode_row(key, value)?;
        if row >= next_row || !live.insert(row) {
            let detail = format!("expected a row below {next_row} that no other id has, received {row}");
            return Err(Error::Damaged { what: format!("row of an id, key {}", fetch::hex(key)), detail });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(live)
}

struct Points {
    /// For each vector of the configuration, the rows whose point has it.
    with_vector: Vec<RoaringBitmap>,
    /// The youngest.
    version: u64,
    leftovers: Vec<Key>,
}

fn points(store: &Store, number: u32, config: &CollectionConfig, live: &RoaringBitmap) -> Result<Points> {
    let n_vectors = config.vectors.len();
    let mut points = Points { with_vector: vec![RoaringBitmap::new(); n_vectors], version: 0, leftovers: Vec::new() };
    let mut missing = live.clone();
    store.scan(Tree::Points, &key::points(number), |key, value| {
        let Some(row) = key::parse_row(key).filter(|row| live.contains(*row)) else {
            let keys = key::parse_row(key).map(|row| state::keys_of_point(number, config, row));
            points.leftovers.extend(keys.unwrap_or_else(|| vec![key.to_vec()]));
            return Ok(ControlFlow::Continue(()));
        };
        let prefix = stored::decode_prefix(record::unseal(key, value, || format!("point in row {row}"))?)?;
        points.version = points.version.max(prefix.version);
        for place in prefix.vectors.of(n_vectors) {
            points.with_vector[place].insert(row);
        }
        missing.remove(row);
        Ok(ControlFlow::Continue(()))
    })?;
    none_missing("point", &missing)?;
    Ok(points)
}

pub fn none_missing(what: &str, missing: &RoaringBitmap) -> Result<()> {
    match missing.min() {
        None => Ok(()),
        Some(first) => {
            let detail = format!("it is missing, and so are {} others", missing.len() - 1);
            Err(Error::Damaged { what: format!("{what} in row {first}"), detail })
        }
    }
}

fn quarantine(number: u32, name: &str, record: Option<CollectionRecord>, error: &Error) -> Entry {
    tracing::error!(collection = name, %error, "collection quarantined");
    Entry::Quarantined(Arc::new(Quarantined { number, record, reason: error.to_string() }))
}

type CatalogRecord = (u32, String, Result<CollectionRecord>);

fn catalog_records(store: &Store) -> Result<Vec<CatalogRecord>> {
    let mut records = Vec::new();
    store.scan(Tree::Points, &key::collections(), |key, value| {
        let Some((number, name)) = key::parse_collection(key) else {
            let detail = "the key cannot be read".to_owned();
            return Err(Error::Damaged { what: format!("catalog key {}", fetch::hex(key)), detail });
        };
        let what = || format!("catalog record of {name:?}");
        let decoded = record::unseal(key, value, what).and_then(|bytes| {
            postcard::from_bytes(bytes).map_err(|e| Error::Damaged { what: what(), detail: e.to_string() })
        });
        records.push((number, name.to_owned(), decoded));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(records)
}

/// A damaged alias is left out, and said so: it keeps nothing from being served.
fn aliases(store: &Store, names: &BTreeMap<u32, String>) -> Result<BTreeMap<String, String>> {
    let mut aliases = BTreeMap::new();
    store.scan(Tree::Points, &key::aliases(), |key, value| {
        let target = record::unseal(key, value, || "alias".to_owned()).ok().and_then(fetch::decode_u32);
        match (key::parse_alias(key), target.and_then(|number| names.get(&number))) {
            (Some(alias), Some(name)) => drop(aliases.insert(alias.to_owned(), name.clone())),
            _ => tracing::error!(key = fetch::hex(key), "alias without a collection left out"),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(aliases)
}

fn doomed(store: &Store) -> Result<Vec<u32>> {
    let mut doomed = Vec::new();
    store.scan(Tree::Points, &key::all_doomed(), |key, _| {
        doomed.extend(key::parse_doomed(key));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(doomed)
}

/// A counter's value; 0 if it was never written.
fn counter(store: &Store, key: Key) -> Result<u32> {
    number(store, &key, fetch::decode_u32)
}

fn sequence(store: &Store) -> Result<u64> {
    number(store, &key::sequence(), fetch::decode_u64)
}

fn number<T: Default>(store: &Store, key: &[u8], decode: fn(&[u8]) -> Option<T>) -> Result<T> {
    let what = || format!("counter {}", fetch::hex(key));
    let Some(value) = store.get(Tree::Points, key)? else { return Ok(T::default()) };
    let bytes = record::unseal(key, &value, what)?;
    decode(bytes).ok_or_else(|| Error::Damaged { what: what(), detail: "wrong length".to_owned() })
}

//! What a process knows of one collection: its current generation, and what older generations still need.
//!
//! Nothing that a held generation can ask for is removed from disk: a dropped row stays until the last generation that
//! has it is gone, and so do the records that `set_payload` replaces (those are kept in memory).

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, RwLock, Weak,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering},
    },
};

use roaring::RoaringBitmap;

use crate::{
    CollectionConfig, PointId, Row,
    generation::Generation,
    key::{self, Key},
    words::Words,
};

pub struct CollectionState {
    pub number: u32,
    pub name: String,
    pub uuid: String,
    pub config: CollectionConfig,
    /// Set when the collection is deleted: its handles answer `Error::CollectionNotFound` from then on.
    pub is_deleted: AtomicBool,
    /// Optimizations and rebuilds that somebody waits for.
    pub n_jobs: AtomicUsize,
    /// Set when a build has failed: it is not tried again before somebody asks, or the next opening.
    cannot_index: AtomicBool,
    /// Bit i is set while rows of a damaged segment of the i-th vector wait in the buffer to be built anew.
    lost: AtomicU16,
    /// By vector, the number that the next segment gets.
    next_segment: Vec<AtomicU32>,
    current: RwLock<Arc<Generation>>,
    /// The first row that was never given out. Only the writer thread changes it.
    next_row: Mutex<Row>,
    past: Mutex<Past>,
    pub words: Words,
}

/// Generations that are held, so that what they need stays on disk.
pub struct Held {
    /// Live in any of them.
    pub rows: RoaringBitmap,
    _generations: Vec<Arc<Generation>>,
}

/// What is kept for generations that are not current any more.
#[derive(Default)]
struct Past {
    /// Oldest first.
    generations: VecDeque<(u64, Weak<Generation>)>,
    /// In the order of their generations.
    garbage: VecDeque<(u64, Garbage)>,
    /// Dropped rows by the id that had them.
    rows: HashMap<PointId, Vec<Row>>,
    /// Replaced records by their row.
    records: HashMap<Row, Vec<OldRecord>>,
}

/// Version and bytes.
type OldRecord = (u64, Arc<[u8]>);

/// Something that generations from a certain one on do not need.
#[derive(Debug)]
pub enum Garbage {
    Point { id: PointId, row: Row },
    Record { row: Row, version: u64 },
    Vector { vector: u8, row: Row },
}

impl CollectionState {
    pub fn new(
        number: u32,
        name: String,
        uuid: String,
        config: CollectionConfig,
        next_row: Row,
        (first, words): (Generation, Words),
    ) -> CollectionState {
        let first = Arc::new(first);
        let past = Past { generations: [(first.number, Arc::downgrade(&first))].into(), ..Past::default() };
        CollectionState {
            number,
            name,
            uuid,
            config,
            is_deleted: AtomicBool::new(false),
            n_jobs: AtomicUsize::new(0),
            cannot_index: AtomicBool::new(false),
            lost: AtomicU16::new(0),
            next_segment: first.vectors.iter().map(|_| AtomicU32::new(0)).collect(),
            current: RwLock::new(first),
            next_row: Mutex::new(next_row),
            past: Mutex::new(past),
            words,
        }
    }

    pub fn current(&self) -> Arc<Generation> {
        self.current.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Replaces the current generation by what `change` makes of it; `garbage` is what only older ones need.
    pub fn publish(&self, garbage: Vec<Garbage>, change: impl FnOnce(&mut Generation)) {
        let mut past = self.past();
        let mut current = self.current.write().unwrap_or_else(|e| e.into_inner());
        let mut next = Generation::clone(&current);
        next.number += 1;
        change(&mut next);
        next.count_live();
        let next = Arc::new(next);
        past.generations.push_back((next.number, Arc::downgrade(&next)));
        past.garbage.extend(garbage.into_iter().map(|g| (next.number, g)));
        *current = next;
    }

    pub fn next_row(&self) -> Row {
        *self.next_row.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn set_next_row(&self, row: Row) {
        *self.next_row.lock().unwrap_or_else(|e| e.into_inner()) = row;
    }

    pub fn is_deleted(&self) -> bool {
        self.is_deleted.load(Ordering::Acquire)
    }

    pub fn cannot_index(&self) -> bool {
        self.cannot_index.load(Ordering::Acquire)
    }

    pub fn set_cannot_index(&self, value: bool) {
        self.cannot_index.store(value, Ordering::Release);
    }

    /// Whether rows of a damaged segment wait to be built anew.
    pub fn is_lost(&self, place: usize) -> bool {
        self.lost.load(Ordering::Acquire) >> place & 1 == 1
    }

    pub fn set_lost(&self, place: usize, value: bool) {
        if value {
            self.lost.fetch_or(1 << place, Ordering::AcqRel);
        } else {
            self.lost.fetch_and(!(1 << place), Ordering::AcqRel);
        }
    }

    /// From now on the vector's segments get numbers from `next` on.
    pub fn skip_segments(&self, place: usize, next: u32) {
        self.next_segment[place].fetch_max(next, Ordering::AcqRel);
    }

    /// A number that no segment of the vector has on disk, nor had since the database was opened.
    pub fn next_segment(&self, place: usize) -> u32 {
        self.next_segment[place].fetch_add(1, Ordering::AcqRel)
    }

    /// Remembers, before it is overwritten on disk, that `id` had `row`.
    pub fn remember_row(&self, id: &PointId, row: Row) {
        self.past().rows.entry(id.clone()).or_default().push(row);
    }

    /// Remembers a record before it is overwritten on disk.
    pub fn remember_record(&self, row: Row, version: u64, record: Arc<[u8]>) {
        self.past().records.entry(row).or_default().push((version, record));
    }

    /// The row of `id` in `generation`, given the one on disk now.
    pub fn row_in(&self, generation: &Generation, id: &PointId, on_disk: Option<Row>) -> Option<Row> {
        let is_in = |row: &Row| generation.is_live(*row);
        on_disk.filter(is_in).or_else(|| self.past().rows.get(id)?.iter().copied().find(is_in))
    }

    /// The newest remembered record of `row` that is not younger than `sequence`.
    pub fn record_as_of(&self, row: Row, sequence: u64) -> Option<Arc<[u8]>> {
        let past = self.past();
        let versions = past.records.get(&row)?.iter().filter(|(version, _)| *version <= sequence);
        versions.max_by_key(|(version, _)| *version).map(|(_, record)| record.clone())
    }

    /// Takes up to `limit` things that no held generation needs any more, and gives the keys to remove.
    pub fn take_garbage(&self, limit: usize) -> Vec<Key> {
        let mut past = self.past();
        while past.generations.front().is_some_and(|(_, held)| held.strong_count() == 0) {
            past.generations.pop_front();
        }
        let Some(oldest) = past.generations.front().map(|(number, _)| *number) else { return Vec::new() };
        let mut keys = Vec::new();
        while keys.len() < limit && past.garbage.front().is_some_and(|(since, _)| *since <= oldest) {
            let (_, garbage) = past.garbage.pop_front().expect("the front was just seen");
            keys.extend(past.forget(self, garbage));
        }
        keys
    }

    /// All generations that somebody holds, and the current one.
    pub fn held(&self) -> Held {
        let past = self.past();
        let generations: Vec<_> =
            past.generations.iter().filter_map(|(_, held)| held.upgrade()).chain([self.current()]).collect();
        let rows = generations.iter().fold(RoaringBitmap::new(), |rows, generation| rows | &*generation.live);
        Held { rows, _generations: generations }
    }

    /// Whether somebody other than the collection itself holds a generation.
    pub fn has_readers(&self) -> bool {
        let current = self.current();
        self.past().generations.iter().any(|(number, held)| {
            // The collection's own reference, and the one held here.
            held.strong_count() > if *number == current.number { 2 } else { 0 }
        })
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What goes from disk with a dropped row; its vectors stay until no segment has them. The record is the last: while it is
/// there, the next opening finds the rest.
pub fn keys_of_point(collection: u32, config: &CollectionConfig, row: Row) -> Vec<Key> {
    let tokens = (0..config.tokens.len()).map(|place| key::tokens(collection, place as u8, row));
    tokens.chain([key::point(collection, row)]).collect()
}

impl Past {
    /// The keys to remove from disk.
    fn forget(&mut self, collection: &CollectionState, garbage: Garbage) -> Vec<Key> {
        match garbage {
            Garbage::Point { id, row } => {
                if let Some(rows) = self.rows.get_mut(&id) {
                    rows.retain(|r| *r != row);
                    if rows.is_empty() {
                        self.rows.remove(&id);
                    }
                }
                keys_of_point(collection.number, &collection.config, row)
            }
            Garbage::Record { row, version } => {
                if let Some(records) = self.records.get_mut(&row) {
                    records.retain(|(v, _)| *v != version);
                    if records.is_empty() {
                        self.records.remove(&row);
                    }
                }
                Vec::new()
            }
            Garbage::Vector { vector, row } => vec![key::vector(collection.number, vector, row)],
        }
    }
}

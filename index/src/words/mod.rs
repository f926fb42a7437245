//! Full text: the points whose texts hold the words that are asked for, by BM25.
//!
//! Derived from the points, and made when it is first asked for; from then on the indexer keeps it up. Like vectors, young rows wait in
//! a `Buffer`, and the others are on disk; a search reads both, so whatever is written is found at once. What a row holds never
//! changes: rows that are dead to whoever reads are passed over, and removed when they are a fifth.

mod bm25;
mod buffer;
mod disk;
mod terms;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use roaring::RoaringBitmap;

use self::{
    bm25::{Asked, Statistics},
    buffer::Buffer,
    disk::{Changes, Disk, Document},
};
use crate::{
    Candidate, Error, Result, Row, engine::Engine, fetch, select::Best, state::CollectionState, store::Store, stored,
};

/// The part of a data directory that holds full text, by the number of the collection.
const FOLDER: &str = "text";

/// Terms that are buffered: of long texts there are fewer than the buffer's limit.
const BUFFER_TERMS: u64 = 2 << 20;

/// So many buffers wait at most, in memory or to be looked at: whoever searches then puts them on disk first. And so many go to disk at
/// once.
const MAX_BUFFERS: u64 = 4;

/// Different terms of one search; of more, the rarest.
const MAX_ASKED: usize = 1024;

/// Terms of a point; what follows is not looked for.
const MAX_TERMS: usize = 1 << 16;

/// Dead rows are removed when they are more than one in so many.
const MAX_DEAD: u64 = 5;

/// The full text of one collection.
#[derive(Default)]
pub struct Words {
    /// Whether it was ever asked for.
    is_used: AtomicBool,
    /// Whether keeping up failed last.
    is_failing: AtomicBool,
    opened: RwLock<Option<Opened>>,
    /// One at a time fills the buffer.
    filling: Mutex<()>,
    /// One at a time writes to disk. Taken after `filling`, if both are.
    writing: Mutex<()>,
}

struct Opened {
    disk: Disk,
    /// Of the rows from `disk.next()` to `next`.
    buffer: Buffer,
    /// All rows below are on disk, in the buffer, or dead.
    next: Row,
}

/// What is in the index of a collection, and what should be.
pub struct Check {
    pub n_rows: u64,
    pub damages: Vec<Error>,
}

impl Words {
    /// Of a collection as it is opened.
    pub fn find(dir: &Path, number: u32) -> Words {
        Words { is_used: AtomicBool::new(folder(dir, number).exists()), ..Words::default() }
    }

    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// Live rows that hold any of the words, best first, ties by row: the score is that of BM25.
    pub fn search(
        &self,
        (engine, state): (&Engine, &CollectionState),
        live: &RoaringBitmap,
        text: &str,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        let mut best = Best::new(limit);
        // Nobody who writes waits for the part on disk, which may take long.
        let (view, asked, statistics) = {
            let opened = self.filled((engine, state))?;
            let opened = opened.as_ref().expect("it is filled");
            let (asked, statistics) = opened.weigh(text)?;
            opened.buffer.search(&asked, &statistics, live, &mut best);
            (opened.disk.view(), asked, statistics)
        };
        view.search(&asked, &statistics, (live, limit), &mut best)?;
        Ok(best.into_sorted())
    }

    /// Waits for what is being written; nothing is written any more once the indexer has stopped.
    pub fn close(&self) {
        let _writing = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        *self.opened() = None;
    }

    /// What the indexer does, if anybody has ever searched. The first failure of a row is told.
    pub fn keep_up(&self, engine: &Engine, state: &CollectionState) {
        if !self.is_used() || state.is_deleted() {
            return;
        }
        match self.catch_up(engine, state) {
            Ok(()) => self.is_failing.store(false, Ordering::Release),
            Err(Error::Closed) => {}
            Err(error) if self.is_failing.swap(true, Ordering::AcqRel) => {
                tracing::debug!(collection = state.name, %error, "full text");
            }
            Err(error) => tracing::error!(collection = state.name, %error, "full text"),
        }
    }

    fn catch_up(&self, engine: &Engine, state: &CollectionState) -> Result<()> {
        let held = state.held();
        self.fill((engine, state), &held.rows, false)?;
        while self.is_waiting(engine, &held.rows, 1) {
            self.write(engine, state)?;
        }
        Ok(())
    }

    /// Throws away what is on disk and indexes all texts anew; how many rows have some. Nothing if nobody has ever searched.
    pub fn rebuild(&self, engine: &Engine, state: &CollectionState) -> Result<u64> {
        if !self.is_used() {
            return Ok(0);
        }
        let filling = self.filling.lock().unwrap_or_else(|e| e.into_inner());
        {
            let _writing = self.writing.lock().unwrap_or_else(|e| e.into_inner());
            *self.opened() = None;
            remove(&engine.dir, state.number)?;
        }
        drop(filling);
        self.fill((engine, state), &state.held().rows, true)?;
        self.write(engine, state)?;
        Ok((self.rows() & &*state.current().live).len())
    }

    /// Compares checksums, and what is indexed with `expected`, the live rows that have texts. None if nobody has ever searched.
    pub fn check(&self, engine: &Engine, state: &CollectionState, expected: &RoaringBitmap) -> Result<Option<Check>> {
        if !self.is_used() {
            return Ok(None);
        }
        self.fill((engine, state), &state.held().rows, true)?;
        // Files come and go while something is written.
        let _writing = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        let opened = self.opened.read().unwrap_or_else(|e| e.into_inner());
        // Taken away by a rebuild meanwhile: then what is there now is new.
        let Some(opened) = opened.as_ref() else {
            return Ok(Some(Check { n_rows: expected.len(), damages: Vec::new() }));
        };
        let dir = folder(&engine.dir, state.number);
        let mut damages = Vec::from_iter(opened.disk.check(&dir).err());
        let missing = expected - (opened.disk.rows() | opened.buffer.rows());
        if let Some(first) = missing.min() {
            let detail = format!("it is not in the full-text index, nor are {} others", missing.len() - 1);
            damages.push(Error::Damaged { what: format!("texts of the point in row {first}"), detail });
        }
        Ok(Some(Check { n_rows: expected.len(), damages }))
    }

    /// With all that is written, to be read. A rebuild may take it away in between: then once more.
    fn filled(&self, of: (&Engine, &CollectionState)) -> Result<RwLockReadGuard<'_, Option<Opened>>> {
        loop {
            self.fill(of, &of.1.held().rows, true)?;
            let opened = self.opened.read().unwrap_or_else(|e| e.into_inner());
            if opened.is_some() {
                return Ok(opened);
            }
        }
    }

    /// Puts all of these rows that are not on disk into the buffer; whoever may `write` makes room first if they are many.
    fn fill(&self, (engine, state): (&Engine, &CollectionState), rows: &RoaringBitmap, may_write: bool) -> Result<()> {
        let _filling = self.filling.lock().unwrap_or_else(|e| e.into_inner());
        self.is_used.store(true, Ordering::Release);
        self.open(engine, state)?;
        while self.is_waiting(engine, rows, MAX_BUFFERS) {
            if !may_write {
                return Ok(());
            }
            self.write(engine, state)?;
        }
        let Some(next) = self.next() else { return Ok(()) };
        for row in rows.range(next..) {
            if engine.indexer.is_stopped() {
                return Err(Error::Closed);
            }
            let terms = terms_of(&engine.store, state, row)?;
            let mut opened = self.opened();
            let Some(opened) = opened.as_mut() else { return Ok(()) };
            // It may have come to disk meanwhile.
            if !terms.is_empty() && row >= opened.disk.next() {
                opened.buffer.add(row, terms);
            }
            opened.next = opened.next.max(row + 1);
        }
        Ok(())
    }

    /// One that is damaged, or of another format, is thrown away: the next filling makes it anew.
    fn open(&self, engine: &Engine, state: &CollectionState) -> Result<()> {
        if self.next().is_some() {
            return Ok(());
        }
        let mut opened = self.opened();
        if engine.indexer.is_stopped() {
            return Err(Error::Closed);
        }
        if state.is_deleted() {
            return Err(Error::CollectionNotFound { name: state.name.clone() });
        }
        let dir = folder(&engine.dir, state.number);
        let disk = match Words::open_disk(&dir, state) {
            Err(error @ Error::Damaged { .. }) => {
                tracing::error!(collection = state.name, %error, "full-text index dropped, to be built anew");
                remove(&engine.dir, state.number)?;
                Words::open_disk(&dir, state)?
            }
            other => other?,
        };
        let next = disk.next();
        *opened = Some(Opened { disk, buffer: Buffer::default(), next });
        Ok(())
    }

    fn open_disk(dir: &Path, state: &CollectionState) -> Result<Disk> {
        let disk = Disk::open(dir, &state.uuid)?;
        if disk.next() > state.next_row() {
            let detail = format!("expected rows below {}, received {}", state.next_row(), disk.next());
            return Err(Error::Damaged { what: dir.display().to_string(), detail });
        }
        Ok(disk)
    }

    /// Puts the first rows that are not on disk there. Searches go on meanwhile, in what was before.
    fn write(&self, engine: &Engine, state: &CollectionState) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        if engine.indexer.is_stopped() {
            return Err(Error::Closed);
        }
        let (writer, next) = match &*self.opened.read().unwrap_or_else(|e| e.into_inner()) {
            Some(opened) => (opened.disk.writer(), opened.next),
            None => return Ok(()),
        };
        // Later than `next` was read: whatever was looked at by then and is alive is in it.
        let held = state.held();
        let n_rows = engine.options.buffer_limit * MAX_BUFFERS as usize;
        let first = Vec::from_iter(held.rows.range(writer.next()..).take(n_rows));
        engine.check_free_space(first.len() as u64 * 1024, engine.options.min_free_bytes)?;
        let mut documents = first.iter().filter_map(|&row| match terms_of(&engine.store, state, row) {
            Ok(terms) => (!terms.is_empty()).then_some(Ok(Document { row, terms })),
            Err(error) => Some(Err(error)),
        });
        let dead = writer.rows() - &held.rows;
        let dead = if dead.len() * MAX_DEAD > writer.rows().len() { dead } else { RoaringBitmap::new() };
        // If all that is buffered is dead by now, the commit goes past it.
        let next = first.last().map_or(next, |last| last + 1);
        let changes = Changes { documents: &mut documents, dead, next };
        let written = match writer.commit(&state.uuid, changes, &|| engine.indexer.is_stopped()) {
            Err(error @ Error::Storage(_)) => {
                tracing::error!(collection = state.name, %error, "full-text index dropped, to be built anew");
                *self.opened() = None;
                remove(&engine.dir, state.number)?;
                return Err(error);
            }
            other => other?,
        };
        let mut guard = self.opened();
        let Some(opened) = guard.as_mut() else { return Ok(()) };
        if let Err(error) = opened.disk.install(written) {
            // It is on disk, and cannot be shown: whoever comes next opens it anew.
            *guard = None;
            return Err(error);
        }
        opened.buffer.drop_below(opened.disk.next());
        opened.next = opened.next.max(opened.disk.next());
        Ok(())
    }

    /// Whether so many buffers' worth of rows, or of buffered terms, are not on disk.
    fn is_waiting(&self, engine: &Engine, rows: &RoaringBitmap, n_buffers: u64) -> bool {
        let opened = self.opened.read().unwrap_or_else(|e| e.into_inner());
        let Some(opened) = &*opened else { return false };
        let n_rows = rows.range_cardinality(opened.disk.next()..);
        n_rows >= n_buffers * engine.options.buffer_limit as u64 || opened.buffer.n_terms() >= n_buffers * BUFFER_TERMS
    }

    /// All rows below were looked at; none if it is not open.
    fn next(&self) -> Option<Row> {
        self.opened.read().unwrap_or_else(|e| e.into_inner()).as_ref().map(|opened| opened.next)
    }

    fn rows(&self) -> RoaringBitmap {
        let opened = self.opened.read().unwrap_or_else(|e| e.into_inner());
        opened.as_ref().map_or_else(RoaringBitmap::new, |opened| opened.disk.rows() | opened.buffer.rows())
    }

    fn opened(&self) -> RwLockWriteGuard<'_, Option<Opened>> {
        self.opened.write().unwrap_or_else(|e| e.into_inner())
    }
}

impl Opened {
    /// The terms of a text and what they count.
    fn weigh(&self, text: &str) -> Result<(Asked, Statistics)> {
        let mut asked = Asked::new();
        terms::terms(text).into_iter().for_each(|term| *asked.entry(term).or_default() += 1);
        let n_with = |term: &String| Ok((term.clone(), self.disk.n_with(term)? + self.buffer.n_with(term)));
        let mut n_with: BTreeMap<String, u64> = asked.keys().map(n_with).collect::<Result<_>>()?;
        n_with.retain(|_, n| *n > 0);
        if n_with.len() > MAX_ASKED {
            let mut by_rarity: Vec<(String, u64)> = n_with.into_iter().collect();
            by_rarity.sort_by_key(|(_, n)| *n);
            n_with = by_rarity.into_iter().take(MAX_ASKED).collect();
        }
        asked.retain(|term, _| n_with.contains_key(term));
        let n_rows = self.disk.n_rows() + self.buffer.n_rows();
        Ok((asked, Statistics { n_rows, n_terms: self.disk.n_terms()? + self.buffer.n_terms(), n_with }))
    }
}

/// Of all texts of a point. One that is damaged has none here: whoever fetches it is told.
fn terms_of(store: &Store, state: &CollectionState, row: Row) -> Result<Vec<String>> {
    let record =
        fetch::record_on_disk(store, state.number, row).and_then(|record| stored::decode(&record, true, false));
    match record {
        Ok(point) => Ok(point.texts.iter().flat_map(|text| terms::terms(&text.text)).take(MAX_TERMS).collect()),
        Err(error @ Error::Damaged { .. }) => {
            tracing::error!(collection = state.name, row, %error, "a damaged point is left out of the full-text index");
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Whether a point has anything that a search for words finds.
pub fn has_terms(text: &str) -> bool {
    !terms::terms(text).is_empty()
}

/// Removes the full text of a collection that is gone, or is to be built anew.
pub fn remove(dir: &Path, number: u32) -> Result<()> {
    let folder = folder(dir, number);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Storage(format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// Removes the full text of collections that are not there.
pub fn remove_others(dir: &Path, is_there: impl Fn(u32) -> bool) {
    let Ok(entries) = fs::read_dir(dir.join(FOLDER)) else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for number in numbers.filter(|number| !is_there(*number)) {
        if let Err(error) = remove(dir, number) {
            tracing::warn!(%error, "the full text of a deleted collection stays on disk");
        }
    }
}

/// Bytes on disk.
pub fn disk_bytes(dir: &Path) -> u64 {
    let files = |folder: fs::DirEntry| fs::read_dir(folder.path()).into_iter().flatten().flatten();
    let folders = fs::read_dir(dir.join(FOLDER)).into_iter().flatten().flatten();
    folders.flat_map(files).filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn folder(dir: &Path, number: u32) -> PathBuf {
    dir.join(FOLDER).join(number.to_string())
}

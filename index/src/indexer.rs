//! The one thread that builds and merges segments, and clears away deleted collections.
//!
//! A build works on what was there when it began; what is written meanwhile stays in the buffer, and what is deleted
//! meanwhile becomes tombstones. The order is: chunks on disk, manifest, memory, and only then, when no reader has them
//! any more, the vectors of rows that are in no segment.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use roaring::RoaringBitmap;

use crate::{
    Error, RebuildReport, Result, Row,
    catalog::Entry,
    commit::Operation,
    engine::Engine,
    generation::{SegmentView, VectorView},
    graph::{self, BuildSettings, Built, GraphBuilder, HnswRsBuilder, Vectors},
    key::{self, Key},
    manifest::{self, Place},
    plan::{self, Task},
    segment::{Segment, SegmentLinks},
    state::{CollectionState, Garbage},
    store::{Changes, Tree},
    words,
};

/// Writers wait while so many buffers' worth of vectors are not in segments.
const MAX_BACKLOG_BUFFERS: usize = 64;

const REMOVE_KEYS: usize = 2000;

pub struct Indexer {
    work: Mutex<Work>,
    /// There is work, or it is time to stop.
    wake: Condvar,
    /// A build has ended.
    progress: Condvar,
    stop: AtomicBool,
    builder: Box<dyn GraphBuilder>,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    /// Something may have passed a limit since the thread last looked.
    look: bool,
    is_looking: bool,
    /// Deleted collections whose data is still there; with their state if they were open.
    doomed: Vec<(u32, Option<Arc<CollectionState>>)>,
}

/// Asked for by a caller who waits.
struct Job {
    collection: Arc<CollectionState>,
    kind: JobKind,
    reply: SyncSender<Result<RebuildReport>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// One segment per vector, if it is not so.
    Optimize,
    /// One segment per vector, built anew.
    Rebuild,
}

impl Indexer {
    pub fn new() -> Indexer {
        Indexer {
            work: Mutex::default(),
            wake: Condvar::new(),
            progress: Condvar::new(),
            stop: AtomicBool::new(false),
            builder: Box::new(HnswRsBuilder),
        }
    }

    /// Have a look whether there is something to build.
    pub fn notify(&self) {
        self.work().look = true;
        self.wake.notify_all();
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.announce();
        self.wake.notify_all();
    }

    pub fn doom(&self, collection: u32, state: Option<Arc<CollectionState>>) {
        self.work().doomed.push((collection, state));
        self.notify();
    }

    /// Runs a job and waits for its end.
    pub fn run_job(&self, collection: &Arc<CollectionState>, kind: JobKind) -> Result<RebuildReport> {
        let (reply, answer) = sync_channel(1);
        {
            let mut work = self.work();
            if self.stop.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            collection.n_jobs.fetch_add(1, Ordering::AcqRel);
            work.jobs.push_back(Job { collection: collection.clone(), kind, reply });
        }
        self.wake.notify_all();
        answer.recv().map_err(|_| Error::Closed)?
    }

    /// Returns when the collection has not too much that is not in segments.
    pub fn wait_for_room(&self, collection: &CollectionState, buffer_limit: usize) {
        let limit = buffer_limit.saturating_mul(MAX_BACKLOG_BUFFERS);
        let is_crowded = || collection.current().vectors.iter().any(|v| v.buffer.len() > limit);
        if !is_crowded() {
            return;
        }
        self.notify();
        let mut work = self.work();
        while is_crowded() && !collection.cannot_index() && !collection.is_deleted() && !self.is_stopped() {
            work = self.progress.wait(work).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Wakes who waits for the end of a build. The lock makes sure that nobody is between looking and waiting.
    fn announce(&self) {
        drop(self.work());
        self.progress.notify_all();
    }

    /// Waits until there is nothing to do, at most so long. Whether that is so.
    pub fn wait_until_idle(&self, at_most: Duration) -> bool {
        self.notify();
        let is_busy = |work: &mut Work| work.look || work.is_looking || !work.jobs.is_empty();
        let is_waiting = |work: &mut Work| is_busy(work) && !self.is_stopped();
        let waited = self.progress.wait_timeout_while(self.work(), at_most, is_waiting);
        !is_busy(&mut waited.unwrap_or_else(|e| e.into_inner()).0)
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Works until it is stopped.
pub fn run(engine: &Engine) {
    let indexer = &engine.indexer;
    loop {
        let mut work = indexer.work();
        while !indexer.is_stopped() && !work.look && work.jobs.is_empty() {
            work = indexer.wake.wait(work).unwrap_or_else(|e| e.into_inner());
        }
        if indexer.is_stopped() {
            // Callers who wait for a job learn from the dropped reply that the database is closed.
            work.jobs.clear();
            return;
        }
        if let Some(job) = work.jobs.pop_front() {
            work.is_looking = true;
            drop(work);
            do_job(engine, job);
        } else {
            work.look = false;
            work.is_looking = true;
            drop(work);
            look_around(engine);
        }
        indexer.work().is_looking = false;
        indexer.progress.notify_all();
    }
}

fn do_job(engine: &Engine, Job { collection, kind, reply }: Job) {
    collection.set_cannot_index(false);
    let result = catch(|| run_whole(engine, &collection, kind));
    collection.n_jobs.fetch_sub(1, Ordering::AcqRel);
    // A caller that has gone needs no answer.
    let _ = reply.send(result);
}

fn run_whole(engine: &Engine, collection: &CollectionState, kind: JobKind) -> Result<RebuildReport> {
    let started = Instant::now();
    let mut report = RebuildReport::default();
    for place in 0..collection.config.vectors.len() {
        let view = collection.current().vectors[place].clone();
        let task = match kind {
            JobKind::Optimize => plan::whole_task(&view),
            JobKind::Rebuild => Some(plan::everything(&view)),
        };
        if let Some(task) = task {
            build(engine, collection, place, view, &task, &mut report)?;
        }
    }
    if kind == JobKind::Rebuild {
        report.texts_indexed = collection.words.rebuild(engine, collection)?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Does what the plan says of every collection, until it says nothing or a job waits.
fn look_around(engine: &Engine) {
    remove_doomed(engine);
    for entry in engine.catalog().collections.into_values() {
        let Entry::Serving(collection) = entry else { continue };
        let kept_up = catch(|| {
            collection.words.keep_up(engine, &collection);
            Ok(())
        });
        if kept_up.is_err() {
            tracing::error!(collection = collection.name, "keeping up full text panicked");
        }
        for place in 0..collection.config.vectors.len() {
            while let Some(task) = engine.next_task(&collection, place) {
                if engine.indexer.is_stopped() || collection.is_deleted() {
                    break;
                }
                if !engine.indexer.work().jobs.is_empty() {
                    return engine.indexer.notify();
                }
                let view = collection.current().vectors[place].clone();
                let built = catch(|| build(engine, &collection, place, view, &task, &mut RebuildReport::default()));
                if let Err(error) = built {
                    if !matches!(error, Error::Closed) {
                        tracing::error!(collection = collection.name, %error, "building a segment");
                    }
                    collection.set_cannot_index(true);
                    break;
                }
                engine.indexer.announce();
            }
        }
    }
}

/// What a build starts from.
struct Input<'a> {
    rows: Vec<Row>,
    vectors: Vec<&'a [f32]>,
    /// The last buffered row that is in it.
    last_buffered: Option<Row>,
    /// All rows that were looked at, the dead ones too.
    seen: RoaringBitmap,
}

fn build(
    engine: &Engine,
    collection: &CollectionState,
    place: usize,
    view: VectorView,
    task: &Task,
    report: &mut RebuildReport,
) -> Result<()> {
    let live = collection.current().live.clone();
    let merged: Vec<&SegmentView> = view.segments.iter().filter(|s| task.merge.contains(&s.segment.number)).collect();
    let input = gather(&view, &merged, task.take_buffer, &live);
    let on_disk = Place { collection: collection.number, vector: place as u8 };
    let mut manifest = manifest::read_manifest(&engine.store, on_disk).unwrap_or_default();
    let is_live = |number: u32| view.segments.iter().any(|s| s.segment.number == number);
    let dropped: Vec<u32> =
        manifest.segments.iter().map(|e| e.number).filter(|n| task.merge.contains(n) || !is_live(*n)).collect();
    manifest.segments.retain(|entry| !dropped.contains(&entry.number));
    let segment = if input.rows.is_empty() {
        None
    } else {
        let number = collection.next_segment(place);
        let (links, vectors) = link(engine, collection, number, view.dim, &input, report)?;
        engine.check_free_space(links.graph.level0.len() as u64 * 4, engine.options.min_free_bytes)?;
        manifest.segments.push(manifest::write(&engine.store, on_disk, number, &links)?);
        Some(Arc::new(Segment::new(number, links, vectors)))
    };
    if !dropped.is_empty() || segment.is_some() {
        manifest::switch(&engine.store, on_disk, &manifest, &dropped)?;
    }
    install(collection, place, &input, task, segment);
    collection.set_lost(place, false);
    Ok(())
}

fn gather<'a>(view: &'a VectorView, merged: &[&'a SegmentView], take_buffer: bool, live: &RoaringBitmap) -> Input<'a> {
    let mut input = Input { rows: Vec::new(), vectors: Vec::new(), last_buffered: None, seen: RoaringBitmap::new() };
    let in_segments = merged
        .iter()
        .flat_map(|s| s.segment.rows.iter().copied().zip(s.segment.vectors.numbers.chunks_exact(view.dim)));
    let in_buffer = view.buffer.vectors(view.dim).filter(|_| take_buffer);
    input.last_buffered = view.buffer.vectors(view.dim).last().map(|(row, _)| row).filter(|_| take_buffer);
    for (row, vector) in in_segments.chain(in_buffer) {
        input.seen.insert(row);
        if live.contains(row) {
            input.rows.push(row);
            input.vectors.push(vector);
        }
    }
    input
}

fn link(
    engine: &Engine,
    collection: &CollectionState,
    number: u32,
    dim: usize,
    input: &Input<'_>,
    report: &mut RebuildReport,
) -> Result<(SegmentLinks, Vectors)> {
    let hnsw = &collection.config.hnsw;
    let settings = BuildSettings { m: hnsw.m, ef_construction: hnsw.ef_construction, seed: number.into() };
    let indexer = &engine.indexer;
    let pool = engine.build_pool()?;
    let built = pool.install(|| graph::build(&*indexer.builder, dim, &input.vectors, &settings, &indexer.stop));
    let Built { graph, vectors, order, audit } = built.ok_or(Error::Closed)?;
    report.segments_built += 1;
    report.vectors_indexed += order.len() as u64;
    report.vectors_repaired += audit.n_repaired as u64;
    if audit.n_strays > 0 {
        tracing::warn!(collection = collection.name, strays = audit.n_strays, "vectors that no link leads to");
    }
    let rows = order.iter().map(|&i| input.rows[i as usize]).collect();
    Ok((SegmentLinks { graph, rows }, vectors))
}

/// Shows readers the new segment in place of what went into it.
fn install(collection: &CollectionState, place: usize, input: &Input<'_>, task: &Task, new: Option<Arc<Segment>>) {
    let mut gone = input.seen.clone();
    if let Some(segment) = &new {
        gone -= segment.row_set();
    }
    let garbage = gone.iter().map(|row| Garbage::Vector { vector: place as u8, row }).collect();
    collection.publish(garbage, |generation| {
        let view = &mut generation.vectors[place];
        view.segments.retain(|s| !task.merge.contains(&s.segment.number));
        view.segments.extend(new.map(|segment| SegmentView { segment, n_live: 0 }));
        if let Some(last) = input.last_buffered {
            view.buffer = view.buffer.filtered(view.dim, |row| row > last);
        }
    });
}

/// Removes what deleted collections left, except those that somebody still reads.
fn remove_doomed(engine: &Engine) {
    let doomed = std::mem::take(&mut engine.indexer.work().doomed);
    for (number, state) in doomed {
        let is_read = state.as_ref().is_some_and(|state| state.has_readers());
        if is_read || engine.indexer.is_stopped() {
            engine.indexer.work().doomed.push((number, state));
        } else if let Err(error) = remove_collection(engine, number)
            // The next opening finds it: that it is doomed stands on disk.
            && !matches!(error, Error::Closed)
        {
            tracing::warn!(%error, "the data of a deleted collection stays until the next opening");
        }
    }
}

fn remove_collection(engine: &Engine, number: u32) -> Result<()> {
    for prefix in key::owned_segments(number) {
        while let Some(keys) = some_keys(engine, Tree::Segments, &prefix)? {
            let changes: Changes = keys.into_iter().map(|key| (key, None)).collect();
            engine.store.commit(Tree::Segments, changes)?;
        }
    }
    for prefix in key::owned(number) {
        while let Some(keys) = some_keys(engine, Tree::Points, &prefix)? {
            engine.submit(Operation::Remove { keys })?;
        }
    }
    words::remove(&engine.dir, number)?;
    engine.submit(Operation::Remove { keys: vec![key::doomed(number)] }).map(drop)
}

fn some_keys(engine: &Engine, tree: Tree, prefix: &[u8]) -> Result<Option<Vec<Key>>> {
    if engine.indexer.is_stopped() {
        return Err(Error::Closed);
    }
    let mut keys = Vec::new();
    engine.store.scan(tree, prefix, |key, _| {
        keys.push(key.to_vec());
        Ok(if keys.len() < REMOVE_KEYS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok((!keys.is_empty()).then_some(keys))
}

/// A panic of a builder must not end the thread that others wait for.
fn catch<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(Error::Storage("building a segment panicked".to_owned())))
}

//! What all handles of one open database share.

use std::{
    path::PathBuf,
    sync::{
        Mutex, OnceLock, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, sync_channel},
    },
};

use crate::{
    CollectionInfo, Commit, Error, Options, Result, Status,
    catalog::Catalog,
    commit::{Operation, Request},
    generation::VectorView,
    indexer::Indexer,
    plan::{self, Task},
    state::CollectionState,
    store::Store,
};

pub struct Engine {
    pub dir: PathBuf,
    pub options: Options,
    pub store: Store,
    pub catalog: RwLock<Catalog>,
    /// The last commit.
    pub sequence: AtomicU64,
    /// None once closing.
    requests: Mutex<Option<Sender<Request>>>,
    /// Why nothing can be written any more: what a failed write left on the disk is unknown.
    write_failure: Mutex<Option<String>>,
    pub indexer: Indexer,
    /// Made when the first segment is built.
    build_pool: OnceLock<rayon::ThreadPool>,
}

impl Engine {
    pub fn new(dir: PathBuf, options: Options, store: Store, catalog: Catalog, sequence: u64) -> Engine {
        Engine {
            dir,
            options,
            store,
            catalog: RwLock::new(catalog),
            sequence: AtomicU64::new(sequence),
            requests: Mutex::new(None),
            write_failure: Mutex::new(None),
            indexer: Indexer::new(),
            build_pool: OnceLock::new(),
        }
    }

    /// Opens the way to the writer thread; the receiver is its end of it.
    pub fn accept_requests(&self) -> Receiver<Request> {
        let (sender, receiver) = std::sync::mpsc::channel();
        *self.requests.lock().unwrap_or_else(|e| e.into_inner()) = Some(sender);
        receiver
    }

    /// No new requests; the writer ends when it has answered those it got.
    pub fn refuse_requests(&self) {
        self.requests.lock().unwrap_or_else(|e| e.into_inner()).take();
    }

    /// Hands an operation to the writer and waits until it is on disk, or refused.
    pub fn submit(&self, operation: Operation) -> Result<Commit> {
        let (reply, answer) = sync_channel(1);
        let requests = self.requests.lock().unwrap_or_else(|e| e.into_inner()).clone();
        requests.ok_or(Error::Closed)?.send(Request { operation, reply }).map_err(|_| Error::Closed)?;
        answer.recv().map_err(|_| Error::Closed)?
    }

    /// `Error::Storage` after a write has failed.
    pub fn check_writable(&self) -> Result<()> {
        match &*self.write_failure.lock().unwrap_or_else(|e| e.into_inner()) {
            Some(reason) => {
                Err(Error::Storage(format!("an earlier write failed, nothing is written any more: {reason}")))
            }
            None => Ok(()),
        }
    }

    pub fn stop_writing(&self, reason: &Error) {
        let mut failure = self.write_failure.lock().unwrap_or_else(|e| e.into_inner());
        failure.get_or_insert_with(|| reason.to_string());
    }

    /// `Error::DiskFull` unless `bytes` more, with what the store needs to arrange them, leave `reserve` free.
    pub fn check_free_space(&self, bytes: u64, reserve: u64) -> Result<()> {
        let free =
            fs2::available_space(&self.dir).map_err(|e| Error::Storage(format!("{}: {e}", self.dir.display())))?;
        let needed = reserve.saturating_add(bytes.saturating_mul(2));
        if free < needed {
            return Err(Error::DiskFull { path: self.dir.clone(), free, needed });
        }
        Ok(())
    }

    pub fn catalog(&self) -> Catalog {
        self.catalog.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub fn info_of(&self, state: &CollectionState) -> CollectionInfo {
        let generation = state.current();
        let segments = || generation.vectors.iter().flat_map(|view| &view.segments);
        let buffered_in = |view: &VectorView| {
            view.buffer.vectors(view.dim).filter(|(row, _)| generation.is_live(*row)).count() as u64
        };
        CollectionInfo {
            name: state.name.clone(),
            uuid: state.uuid.clone(),
            status: if self.is_indexing(state) { Status::Indexing } else { Status::Ready },
            points_count: generation.live.len(),
            config: state.config.clone(),
            segments_count: segments().count(),
            buffered_vectors_count: generation.vectors.iter().map(buffered_in).sum(),
            tombstones_count: segments().map(|s| s.n_tombstones()).sum(),
            aliases: self.catalog.read().unwrap_or_else(|e| e.into_inner()).aliases_of(&state.name),
        }
    }

    /// What is to be built of a named vector; none if all is well, or building has failed.
    pub fn next_task(&self, state: &CollectionState, place: usize) -> Option<Task> {
        if state.cannot_index() {
            return None;
        }
        plan::next_task(&state.current().vectors[place], self.options.buffer_limit, state.is_lost(place))
    }

    /// The threads that build segments.
    pub fn build_pool(&self) -> Result<&rayon::ThreadPool> {
        if let Some(pool) = self.build_pool.get() {
            return Ok(pool);
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.options.build_threads)
            .thread_name(|i| format!("firn-build-{i}"))
            .build()
            .map_err(|e| Error::Storage(format!("build threads: {e}")))?;
        Ok(self.build_pool.get_or_init(|| pool))
    }

    fn is_indexing(&self, state: &CollectionState) -> bool {
        let has_task = |place| self.next_task(state, place).is_some();
        state.n_jobs.load(Ordering::Acquire) > 0 || (0..state.config.vectors.len()).any(has_task)
    }

    pub fn last_sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }
}

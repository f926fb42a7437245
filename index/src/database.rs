//! One data directory: its collections, aliases, and the threads that write and index.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use crate::{
    Collection, CollectionConfig, CollectionInfo, Error, Options, Result,
    catalog::{Catalog, CollectionRecord, Entry},
    check, commit,
    commit::Operation,
    engine::Engine,
    identity, indexer,
    key::Key,
    load,
    lock::Lock,
    store::{Store, Tree},
    words,
};

/// An open data directory. Clones share it; the last one to go closes it.
#[derive(Clone)]
pub struct Database {
    handle: Arc<Handle>,
}

/// A change of an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasChange {
    Set { alias: String, collection: String },
    Delete { alias: String },
}

/// Closes the database when it goes.
struct Handle {
    engine: Arc<Engine>,
    /// Emptied by `close`.
    running: Mutex<Option<Running>>,
}

struct Running {
    indexer: JoinHandle<()>,
    writer: JoinHandle<()>,
    /// Let go of last.
    _lock: Lock,
}

/// The part of a data directory that sled keeps.
const STORE: &str = "store";

impl Database {
    /// Opens or makes the data directory at `path`. `Error::Locked` when another process has it.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        check::options(&options)?;
        fs::create_dir_all(path).map_err(|e| Error::Storage(format!("{}: {e}", path.display())))?;
        let lock = Lock::take(path)?;
        let store = Store::open(&path.join(STORE), options.cache_bytes)?;
        identity::check(path, &store)?;
        let loaded = load::database(path, &store)?;
        let engine = Arc::new(Engine::new(path.to_owned(), options, store, loaded.catalog, loaded.sequence));
        let requests = engine.accept_requests();
        let writer = start("firn-writer", &engine, move |engine| commit::run(engine, &requests))?;
        let indexer = start("firn-indexer", &engine, indexer::run)?;
        let running = Mutex::new(Some(Running { indexer, writer, _lock: lock }));
        let database = Database { handle: Arc::new(Handle { engine, running }) };
        database.remove_leftovers(loaded.leftovers, loaded.leftover_chunks);
        loaded.doomed.into_iter().for_each(|number| database.engine().indexer.doom(number, None));
        let catalog = database.engine().catalog();
        words::remove_others(path, |number| catalog.collections.values().any(|entry| entry.number() == number));
        database.engine().indexer.notify();
        Ok(database)
    }

    /// Whether there is a data directory at `path`, whole or not.
    pub fn exists(path: &Path) -> bool {
        path.join(identity::FILE).exists() || path.join(STORE).exists()
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        &self.engine().dir
    }

    /// Makes an empty collection.
    pub fn create_collection(&self, name: &str, config: CollectionConfig) -> Result<Collection> {
        check::name(name)?;
        check::config(&config)?;
        let record = CollectionRecord { uuid: identity::uuid(), config };
        self.engine().submit(Operation::CreateCollection { name: name.to_owned(), record })?;
        self.collection(name)
    }

    /// A collection by name or alias. `Error::Quarantined` if it is damaged.
    pub fn collection(&self, name: &str) -> Result<Collection> {
        self.check_open()?;
        let catalog = self.engine().catalog();
        let (name, entry) = catalog.find(name)?;
        Ok(Collection::new(self.engine().clone(), entry.serving(name)?.clone()))
    }

    /// One collection seen from outside, by name or alias; quarantined ones too.
    pub fn collection_info(&self, name: &str) -> Result<CollectionInfo> {
        self.check_open()?;
        let catalog = self.engine().catalog();
        let (name, entry) = catalog.find(name)?;
        Ok(self.info(&catalog, name, entry))
    }

    /// All collections in the order of their names, quarantined ones too.
    pub fn collections(&self) -> Vec<CollectionInfo> {
        let catalog = self.engine().catalog();
        catalog.collections.iter().map(|(name, entry)| self.info(&catalog, name, entry)).collect()
    }

    pub fn delete_collection(&self, name: &str) -> Result<()> {
        self.engine().submit(Operation::DeleteCollection { name: name.to_owned() })?;
        Ok(())
    }

    /// All changes or none.
    pub fn update_aliases(&self, changes: &[AliasChange]) -> Result<()> {
        self.engine().submit(Operation::UpdateAliases { changes: changes.to_vec() })?;
        Ok(())
    }

    /// Bytes the data directory takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.engine().store.disk_bytes() + words::disk_bytes(&self.engine().dir)
    }

    /// Finishes what was submitted, stops background work and releases the directory. Later calls answer `Error::Closed`.
    pub fn close(&self) -> Result<()> {
        self.handle.close()
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.handle.engine
    }

    fn check_open(&self) -> Result<()> {
        let running = self.handle.running.lock().unwrap_or_else(|e| e.into_inner());
        if running.is_some() { Ok(()) } else { Err(Error::Closed) }
    }

    fn info(&self, catalog: &Catalog, name: &str, entry: &Entry) -> CollectionInfo {
        match entry {
            Entry::Serving(state) => self.engine().info_of(state),
            Entry::Quarantined(quarantined) => quarantined.info(name, catalog.aliases_of(name)),
        }
    }

    /// What cannot be removed now, for want of space perhaps, is found again at the next opening.
    fn remove_leftovers(&self, leftovers: Vec<Key>, chunks: Vec<Key>) {
        if !chunks.is_empty() {
            let changes = chunks.into_iter().map(|key| (key, None)).collect();
            if let Err(error) = self.engine().store.commit(Tree::Segments, changes) {
                tracing::warn!(%error, "leftover chunks stay on disk");
            }
        }
        for keys in leftovers.chunks(10_000) {
            if let Err(error) = self.engine().submit(Operation::Remove { keys: keys.to_vec() }) {
                tracing::warn!(%error, "leftovers stay on disk");
                return;
            }
        }
    }
}

impl Handle {
    fn close(&self) -> Result<()> {
        let Some(running) = self.running.lock().unwrap_or_else(|e| e.into_inner()).take() else { return Ok(()) };
        self.engine.indexer.stop();
        self.engine.refuse_requests();
        let joined = running.indexer.join().and(running.writer.join());
        for entry in self.engine.catalog().collections.into_values() {
            if let Entry::Serving(collection) = entry {
                collection.words.close();
            }
        }
        self.engine.store.close()?;
        joined.map_err(|_| Error::Storage("a background thread panicked".to_owned()))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the database");
        }
    }
}

fn start(name: &str, engine: &Arc<Engine>, run: impl FnOnce(&Engine) + Send + 'static) -> Result<JoinHandle<()>> {
    let engine = engine.clone();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || run(&engine)).map_err(|e| Error::Storage(format!("starting thread {name}: {e}")))
}

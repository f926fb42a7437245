//! Keys and values on disk; the only file that names sled.
//!
//! A commit is atomic within one tree, and when it returns it is on the disk: sled's `flush` only starts the write-out
//! (`sync_file_range`), so the data file, new blob files and their directories are synced through handles of our own.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    fs::File,
    io,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{Error, Result, key::Key};

/// The bytes of a stored value.
pub type Value = sled::IVec;

/// Changes to one tree: a value to set, or None to remove the key.
pub type Changes = BTreeMap<Key, Option<Vec<u8>>>;

#[derive(Clone, Copy, Debug)]
pub enum Tree {
    /// The truth.
    Points,
    /// What can be rebuilt from it.
    Segments,
}

pub struct Store {
    /// None once closed.
    open: RwLock<Option<Open>>,
    dir: PathBuf,
    n_syncs: AtomicU64,
}

struct Open {
    db: sled::Db,
    points: sled::Tree,
    segments: sled::Tree,
    data_file: File,
    /// Files of `blobs` that are on disk already.
    synced_blobs: Mutex<HashSet<OsString>>,
}

impl Store {
    /// Opens or makes the store in the directory `dir`, which nobody else has open.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Store> {
        remove_unfinished_snapshots(dir).map_err(|e| io_error(dir, &e))?;
        let db = guarded(dir, || open_sled(dir, cache_bytes)).map_err(unopenable)?;
        let trees = guarded(dir, || Ok((db.open_tree("points")?, db.open_tree("segments")?)));
        let (points, segments) = trees.map_err(unopenable)?;
        let data_file = File::options().write(true).open(dir.join("db")).map_err(|e| io_error(dir, &e))?;
        let synced_blobs = Mutex::new(blob_names(dir).map_err(|e| io_error(dir, &e))?.into_iter().collect());
        let open = Open { db, points, segments, data_file, synced_blobs };
        Ok(Store { open: RwLock::new(Some(open)), dir: dir.to_owned(), n_syncs: AtomicU64::new(0) })
    }

    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Value>> {
        self.with_open(|open| guarded(&self.dir, || open.tree(tree).get(key)))
    }

    /// Calls `each` for every key that starts with `prefix`, in order, until it breaks.
    pub fn scan(
        &self,
        tree: Tree,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.with_open(|open| {
            let mut entries = open.tree(tree).scan_prefix(prefix);
            while let Some((key, value)) = guarded(&self.dir, || entries.next().transpose())? {
                if each(&key, &value)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Makes all changes or none, and returns when they are on disk. After an error the store may not be written again:
    /// what reached the disk is unknown.
    pub fn commit(&self, tree: Tree, changes: Changes) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.with_open(|open| {
            guarded(&self.dir, || open.tree(tree).apply_batch(batch))?;
            guarded(&self.dir, || open.db.flush())?;
            open.sync(&self.dir).map_err(|e| io_error(&self.dir, &e))?;
            self.n_syncs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Syncs so far.
    #[cfg(test)]
    pub fn n_syncs(&self) -> u64 {
        self.n_syncs.load(Ordering::Relaxed)
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.dir).into_iter().chain(std::fs::read_dir(self.dir.join("blobs")));
        files.flatten().flatten().filter_map(|f| f.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
    }

    /// Writes out and lets go of the files. Later calls answer `Error::Closed`.
    pub fn close(&self) -> Result<()> {
        let open = self.open.write().unwrap_or_else(|e| e.into_inner()).take();
        let Some(open) = open else { return Ok(()) };
        let flushed = guarded(&self.dir, || open.db.flush());
        flushed.and_then(|_| open.sync(&self.dir).map_err(|e| io_error(&self.dir, &e)))
    }

    fn with_open<T>(&self, act: impl FnOnce(&Open) -> Result<T>) -> Result<T> {
        act(self.open.read().unwrap_or_else(|e| e.into_inner()).as_ref().ok_or(Error::Closed)?)
    }
}

impl Open {
    fn tree(&self, tree: Tree) -> &sled::Tree {
        match tree {
            Tree::Points => &self.points,
            Tree::Segments => &self.segments,
        }
    }

    fn sync(&self, dir: &Path) -> io::Result<()> {
        let mut synced = self.synced_blobs.lock().unwrap_or_else(|e| e.into_inner());
        let names = blob_names(dir)?;
        let new: Vec<_> = names.iter().filter(|name| !synced.contains(*name)).collect();
        for name in &new {
            match File::open(dir.join("blobs").join(name)) {
                Ok(file) => file.sync_all()?,
                // sled removes blobs that nothing needs any more.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if !new.is_empty() {
            sync_dir(&dir.join("blobs"))?;
        }
        *synced = names.into_iter().collect();
        self.data_file.sync_all()?;
        sync_dir(dir)
    }
}

/// A kill or a full disk can leave a snapshot half written, as `snap.LSN.generating`. sled would take it for the newest
/// snapshot and call the whole store corrupt; without it, it goes on from the last whole one and the log.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::info!(name, "removing a snapshot that was never finished");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled lets go of its file a little after its last handle is dropped, so a fresh open waits for that.
fn open_sled(dir: &Path, cache_bytes: u64) -> sled::Result<sled::Db> {
    let config = sled::Config::new().path(dir).cache_capacity(cache_bytes.max(1 << 20)).flush_every_ms(None);
    let mut attempts_left = 250;
    loop {
        match config.open() {
            Err(e) if attempts_left > 0 && e.to_string().contains("could not acquire lock") => {
                attempts_left -= 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// sled panics on some damage; to its callers that is an error as well.
fn guarded<T>(dir: &Path, act: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => result.map_err(|error| sled_error(dir, &error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let detail = format!("the storage engine gave up: {}", text.unwrap_or("no reason given"));
            Err(Error::Damaged { what: dir.display().to_string(), detail })
        }
    }
}

fn sled_error(dir: &Path, error: &sled::Error) -> Error {
    let damaged = |detail| Error::Damaged { what: dir.display().to_string(), detail };
    match error {
        sled::Error::Corruption { at, .. } => {
            damaged(format!("a checksum is wrong{}", at.map_or_else(String::new, |at| format!(" at {at:?}"))))
        }
        sled::Error::ReportableBug(detail) => damaged(detail.clone()),
        sled::Error::Io(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
            damaged(error.to_string())
        }
        sled::Error::Io(error) => io_error(dir, error),
        other => Error::Storage(other.to_string()),
    }
}

/// A full disk or a missing permission is no damage, and nothing to throw away a store for.
fn unopenable(error: Error) -> Error {
    match error {
        Error::Damaged { what, detail } => Error::Damaged {
            what,
            detail: format!("{detail}; hint: move this directory aside, then restore a backup or ingest again"),
        },
        other => other,
    }
}

fn blob_names(dir: &Path) -> io::Result<Vec<OsString>> {
    match std::fs::read_dir(dir.join("blobs")) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Elsewhere a directory cannot be opened as a file, and its entries are written with the files.
#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

fn io_error(dir: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            let free = fs2::available_space(dir).unwrap_or(0);
            Error::DiskFull { path: dir.to_owned(), free, needed: free + 1 }
        }
        _ => Error::Storage(format!("{}: {error}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_was_never_finished_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), 1 << 20);
        let store = open().unwrap();
        store.commit(Tree::Points, [(b"key".to_vec(), Some(vec![7; 100]))].into()).unwrap();
        store.close().unwrap();
        drop(store);
        for content in [&b""[..], &[1; 5], &[0; 4096]] {
            std::fs::write(dir.path().join("snap.00000000FFFFFFFF.generating"), content).unwrap();
            let store = open().unwrap();
            assert_eq!(store.get(Tree::Points, b"key").unwrap().unwrap(), vec![7; 100]);
            store.close().unwrap();
        }
    }

    #[test]
    fn a_full_disk_and_a_missing_permission_are_told_from_damage() {
        let dir = Path::new("/");
        let full = sled::Error::Io(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(unopenable(sled_error(dir, &full)), Error::DiskFull { .. }));
        let denied = sled::Error::Io(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(matches!(unopenable(sled_error(dir, &denied)), Error::Storage(_)));
        let damaged = sled::Error::Corruption { at: None, bt: () };
        let said = unopenable(sled_error(dir, &damaged)).to_string();
        assert!(said.contains("damaged") && said.contains("hint: "), "{said}");
    }
}

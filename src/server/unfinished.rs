//! A training's checkpoint in the data directory, named by its collection and all it was asked for. It outlives a stop of the server, so that
//! the same request goes on from there; whatever else ends the run removes it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use firn_index::Collection;
use firn_model::fusion::Checkpoint;

use crate::{engine::Engine, reranker::Training};

const FOLDER: &str = "trainings";
/// Steps between checkpoints: a server that is killed loses no more.
const EVERY: u64 = 200;
/// What nobody has asked for again by then is given up.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

pub struct Unfinished {
    path: PathBuf,
    goes_on: bool,
    /// Whether the server stops.
    stops: Arc<AtomicBool>,
}

impl Unfinished {
    pub fn of(
        engine: &Engine,
        collection: &Collection,
        training: &Training,
        stops: Arc<AtomicBool>,
    ) -> io::Result<Unfinished> {
        let folder = engine.db().path().join(FOLDER);
        fs::create_dir_all(&folder)?;
        let asked = blake3::hash(format!("{training:?}").as_bytes()).to_hex();
        let path = folder.join(format!("{}-{}", collection.uuid(), &asked[..16]));
        Ok(Unfinished { goes_on: path.exists(), path, stops })
    }

    pub fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint { path: &self.path, every: EVERY, resume: true, stop_after: None }
    }

    /// Whether there was one when the run began.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// With those of its members, and what a kill left half written.
    pub fn remove(&self) {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let is_part = |path: &Path| path.file_name() == Some(name) || path.file_stem() == Some(name);
        files(folder).iter().filter(|path| is_part(path)).for_each(|path| remove(path));
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.stops.load(Ordering::SeqCst) {
            self.remove();
        }
    }
}

/// Removes what is left of collections that are gone, and what is too old.
pub fn tidy(engine: &Engine) {
    let there: Vec<String> = engine.db().collections().into_iter().map(|info| info.uuid).collect();
    for path in files(&engine.db().path().join(FOLDER)) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let age = fs::metadata(&path).and_then(|about| about.modified()).ok().and_then(|at| at.elapsed().ok());
        if !there.iter().any(|uuid| name.starts_with(uuid.as_str())) || age.is_some_and(|age| age > KEPT) {
            remove(&path);
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("{} cannot be removed: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_its_own_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let all = ["0ab-12", "0ab-12.3", "0ab-12.partial", "0ab-13", "0ab-13.1"];
        all.iter().for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
        let of = |name: &str, stops: bool| Unfinished {
            path: folder.path().join(name),
            goes_on: true,
            stops: Arc::new(stops.into()),
        };
        drop(of("0ab-13", true));
        drop(of("0ab-12", false));
        let mut left: Vec<PathBuf> = files(folder.path());
        left.sort();
        assert_eq!(left, ["0ab-13", "0ab-13.1"].map(|name| folder.path().join(name)));
    }
}

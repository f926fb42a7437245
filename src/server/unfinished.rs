//! Trainings that a stop of the server broke off. Each has a checkpoint in the data directory, named by its collection and all it was asked
//! for, so that the same request goes on from there; whatever else ends it removes the checkpoint.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use firn_index::Collection;
use firn_model::fusion::Checkpoint;

use crate::{
    engine::Engine,
    reranker::{self, Training},
};

const FOLDER: &str = "trainings";
/// Steps between checkpoints: a server that is killed loses no more.
const EVERY: u64 = 200;

pub struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    pub fn of(engine: &Engine, collection: &Collection, training: &Training) -> io::Result<Unfinished> {
        let folder = engine.db().path().join(FOLDER);
        fs::create_dir_all(&folder)?;
        let asked = blake3::hash(format!("{training:?}").as_bytes()).to_hex();
        Ok(Unfinished { path: folder.join(format!("{}-{}", collection.uuid(), &asked[..16])) })
    }

    pub fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint { path: &self.path, every: EVERY, resume: true, stop_after: None }
    }

    /// Whether a file is its checkpoint, or that of a member.
    pub fn holds(&self, file: &Path) -> bool {
        file.parent() == self.path.parent() && file.file_stem() == self.path.file_name()
    }

    pub fn remove(&self) {
        reranker::forget(&self.path);
    }
}

/// Removes what is left of collections that are gone.
pub fn tidy(engine: &Engine) {
    let Ok(entries) = fs::read_dir(engine.db().path().join(FOLDER)) else { return };
    let there: Vec<String> = engine.db().collections().into_iter().map(|info| info.uuid).collect();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !there.iter().any(|uuid| name.starts_with(uuid.as_str()))
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!("{} cannot be removed: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_the_name_of_the_first_and_a_number() {
        let unfinished = Unfinished { path: "data/trainings/0ab-12".into() };
        let holds = |file: &str| unfinished.holds(Path::new(file));
        assert!(holds("data/trainings/0ab-12") && holds("data/trainings/0ab-12.3"));
        assert!(!holds("data/trainings/0ab-13") && !holds("other/0ab-12"));
    }
}

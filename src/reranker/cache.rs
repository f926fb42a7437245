//! The networks that queries use, open and by collection, so that no query reads weights. A change is written first and seen by
//! queries at once; those on their way keep the network they have.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use firn_index::Collection;
use firn_model::Device;

use super::{Error, Reranker, SharedScorer, State};

/// Puts a network where it is to run, such as behind a queue.
pub type Share = Box<dyn Fn(SharedScorer) -> SharedScorer + Send + Sync>;

/// Of a database.
pub struct Cache {
    device: Device,
    share: OnceLock<Share>,
    /// By the collection's uuid.
    known: Mutex<BTreeMap<String, Arc<Known>>>,
    /// Held while something is read or changed, so that nothing old takes the place of what is new.
    changing: Mutex<()>,
}

struct Known {
    state: State,
    open: Mutex<BTreeMap<u32, Arc<Reranker>>>,
}

impl Cache {
    /// Networks compute there.
    pub fn new(device: Device) -> Cache {
        Cache { device, share: OnceLock::new(), known: Mutex::default(), changing: Mutex::default() }
    }

    /// Networks that are opened from now on run where this puts them. Said once, before the first query.
    pub fn run_by(&self, share: Share) {
        let _ = self.share.set(share);
    }

    /// The active network; none if queries go by cosine.
    pub fn active(&self, collection: &Collection) -> Result<Option<Arc<Reranker>>, Error> {
        let known = self.known(collection)?;
        known.state.active.map(|number| self.open(&known, collection, number)).transpose()
    }

    /// Whether there is an active one, which need not be open.
    pub fn is_any_active(&self, collection: &Collection) -> Result<bool, Error> {
        Ok(self.known(collection)?.state.active.is_some())
    }

    /// The network of that number. `Error::UnknownVersion`.
    pub fn version(&self, collection: &Collection, number: u32) -> Result<Arc<Reranker>, Error> {
        self.open(&*self.known(collection)?, collection, number)
    }

    pub fn state(&self, collection: &Collection) -> Result<State, Error> {
        Ok(self.known(collection)?.state.clone())
    }

    /// Writes what `change` makes of the state, for all queries from now on.
    pub fn change(
        &self,
        collection: &Collection,
        change: impl FnOnce(State) -> Result<State, Error>,
    ) -> Result<State, Error> {
        let _changing = lock(&self.changing);
        let state = change(State::of(collection)?)?;
        let mut open = BTreeMap::new();
        if let Some(before) = lock(&self.known).get(collection.uuid()).cloned() {
            for (&number, reranker) in lock(&before.open).iter() {
                let Ok(version) = state.version(number) else { continue };
                let is_same = reranker.version == *version;
                let kept = if is_same { Some(reranker.clone()) } else { reranker.as_version(version).map(Arc::new) };
                open.extend(kept.map(|kept| (number, kept)));
            }
        }
        let known = Arc::new(Known { state: state.clone(), open: Mutex::new(open) });
        // Queries go on with the network before until this one is open; one that cannot be opened is theirs to tell.
        if let Some(number) = state.active
            && let Err(error) = self.open(&known, collection, number)
        {
            tracing::warn!("version {number} of {:?}: {error}", collection.name());
        }
        lock(&self.known).insert(collection.uuid().to_owned(), known);
        Ok(state)
    }

    /// Lets go of what is open of a collection that is gone.
    pub fn forget(&self, uuid: &str) {
        let _changing = lock(&self.changing);
        lock(&self.known).remove(uuid);
    }

    fn known(&self, collection: &Collection) -> Result<Arc<Known>, Error> {
        let find = || lock(&self.known).get(collection.uuid()).cloned();
        if let Some(known) = find() {
            return Ok(known);
        }
        let _changing = lock(&self.changing);
        if let Some(known) = find() {
            return Ok(known);
        }
        let known = Arc::new(Known { state: State::of(collection)?, open: Mutex::default() });
        lock(&self.known).insert(collection.uuid().to_owned(), known.clone());
        Ok(known)
    }

    fn open(&self, known: &Known, collection: &Collection, number: u32) -> Result<Arc<Reranker>, Error> {
        let version = known.state.version(number)?;
        let mut open = lock(&known.open);
        if let Some(reranker) = open.get(&number) {
            return Ok(reranker.clone());
        }
        let mut reranker = Reranker::open(collection, version, self.device)?;
        reranker.warm_up()?;
        if let Some(share) = self.share.get() {
            reranker = reranker.run_by(share);
        }
        let reranker = Arc::new(reranker);
        open.insert(number, reranker.clone());
        Ok(reranker)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is whole: every change is one assignment.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

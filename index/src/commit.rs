//! The one thread that writes. Operations that wait at the same time are put into one commit: one atomic batch, one sync,
//! then memory, then the answers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender},
    },
};

use crate::{
    AliasChange, Commit, Error, Payload, PayloadChange, PointId, Result, attachment,
    catalog::{Catalog, CollectionRecord, Entry},
    check,
    draft::Draft,
    engine::Engine,
    key::{self, Key},
    load, record,
    state::CollectionState,
    store::{Changes, Tree},
};

/// A commit takes no more operations once it has so many bytes.
const GROUP_BYTES: usize = 32 << 20;

/// Keys of dropped rows that one commit removes for each collection.
const GARBAGE_PER_COMMIT: usize = 10_000;

pub struct Request {
    pub operation: Operation,
    pub reply: SyncSender<Result<Commit>>,
}

pub enum Operation {
    Upsert {
        collection: Arc<CollectionState>,
        points: Vec<PreparedPoint>,
    },
    Delete {
        collection: Arc<CollectionState>,
        ids: Vec<PointId>,
    },
    SetPayload {
        collection: Arc<CollectionState>,
        ids: Vec<PointId>,
        payload: Payload,
        change: PayloadChange,
    },
    CreateCollection {
        name: String,
        record: CollectionRecord,
    },
    DeleteCollection {
        name: String,
    },
    UpdateAliases {
        changes: Vec<AliasChange>,
    },
    /// Named bytes of a collection: to set, or None to remove.
    Attach {
        collection: Arc<CollectionState>,
        changes: Vec<(String, Option<Vec<u8>>)>,
    },
    /// Removes keys that nothing needs.
    Remove {
        keys: Vec<Key>,
    },
}

/// A checked point, encoded but for its version.
pub struct PreparedPoint {
    pub id: PointId,
    pub rest: Vec<u8>,
    /// Unit vectors by their place in the configuration.
    pub vectors: Vec<(u8, Vec<f32>)>,
    /// Tokens as they are stored, by their place in the configuration.
    pub tokens: Vec<(u8, Vec<u8>)>,
}

/// Answers requests until nobody can send any.
pub fn run(engine: &Engine, requests: &Receiver<Request>) {
    while let Ok(first) = requests.recv() {
        let (group, replies) = collect(engine, first, requests);
        let outcome = group.commit();
        for (reply, result) in replies {
            let answer = match &outcome {
                Ok(sequence) => result.map(|changed| Commit { sequence: *sequence, changed }),
                Err(error) => result.and(Err(error.again())),
            };
            // A caller that has gone needs no answer.
            let _ = reply.send(answer);
        }
    }
}

type Reply = (SyncSender<Result<Commit>>, Result<u64>);

/// Stages the first request and all that wait behind it.
fn collect<'a>(engine: &'a Engine, first: Request, requests: &Receiver<Request>) -> (Group<'a>, Vec<Reply>) {
    let mut group = Group::new(engine);
    let mut replies = Vec::new();
    let mut next = Some(first);
    while let Some(Request { operation, reply }) = next {
        let result = engine.check_writable().and_then(|()| group.stage(operation));
        replies.push((reply, result));
        next = if group.bytes < GROUP_BYTES { requests.try_recv().ok() } else { None };
    }
    (group, replies)
}

/// One commit in the making.
struct Group<'a> {
    engine: &'a Engine,
    sequence: u64,
    changes: Changes,
    bytes: usize,
    drafts: HashMap<u32, Draft>,
    /// The names as they will be, if they change.
    catalog: Option<Catalog>,
    retired: Vec<Entry>,
    only_removes: bool,
}

impl<'a> Group<'a> {
    fn new(engine: &'a Engine) -> Group<'a> {
        Group {
            engine,
            sequence: engine.last_sequence() + 1,
            changes: Changes::new(),
            bytes: 0,
            drafts: HashMap::new(),
            catalog: None,
            retired: Vec::new(),
            only_removes: true,
        }
    }

    /// Adds an operation as a whole, or not at all, and says how many points it changes.
    fn stage(&mut self, operation: Operation) -> Result<u64> {
        use Operation::{Delete, DeleteCollection, Remove};
        self.only_removes &= matches!(operation, Delete { .. } | DeleteCollection { .. } | Remove { .. });
        match operation {
            Operation::Upsert { collection, points } => self.with_draft(collection, |d, c| d.upsert(points, c)),
            Operation::Delete { collection, ids } => self.with_draft(collection, |d, c| d.delete(&ids, c)),
            Operation::SetPayload { collection, ids, payload, change } => {
                self.with_draft(collection, |d, c| d.set_payload(&ids, &payload, change, c))
            }
            Operation::Attach { collection, changes } => self.attach(&collection, changes),
            Operation::CreateCollection { name, record } => self.create_collection(name, &record),
            Operation::DeleteCollection { name } => self.delete_collection(&name),
            Operation::UpdateAliases { changes } => self.update_aliases(&changes),
            Operation::Remove { keys } => {
                self.changes.extend(keys.into_iter().map(|key| (key, None)));
                Ok(0)
            }
        }
    }

    fn with_draft(
        &mut self,
        collection: Arc<CollectionState>,
        stage: impl FnOnce(&mut Draft, &mut Staging<'_>) -> Result<u64>,
    ) -> Result<u64> {
        self.check_there(&collection)?;
        let draft = self.drafts.entry(collection.number).or_insert_with(|| Draft::new(collection));
        let mut staging = Staging {
            engine: self.engine,
            sequence: self.sequence,
            changes: &mut self.changes,
            bytes: &mut self.bytes,
        };
        stage(draft, &mut staging)
    }

    fn attach(&mut self, collection: &CollectionState, changes: Vec<(String, Option<Vec<u8>>)>) -> Result<u64> {
        self.check_there(collection)?;
        let n = changes.len() as u64;
        let keys_of = |name: &str| attachment::keys(&self.engine.store, collection.number, name);
        let all = changes.iter().map(|(name, _)| keys_of(name)).collect::<Result<Vec<_>>>()?;
        for ((name, bytes), on_disk) in changes.into_iter().zip(all) {
            // Those that this commit was to write are among what it must remove.
            let chunks = key::attachment_chunks(collection.number, &name);
            let staged: Vec<Key> = self
                .changes
                .range(chunks.clone()..)
                .map(|(key, _)| key.clone())
                .take_while(|key| key.starts_with(&chunks))
                .collect();
            self.changes.extend(staged.into_iter().chain(on_disk).map(|key| (key, None)));
            for (key, chunk) in bytes.iter().flat_map(|bytes| attachment::encode(collection.number, &name, bytes)) {
                self.put(key, &chunk);
            }
        }
        Ok(n)
    }

    fn check_there(&self, collection: &CollectionState) -> Result<()> {
        if self.retired.iter().any(|entry| entry.number() == collection.number) || collection.is_deleted() {
            return Err(Error::CollectionNotFound { name: collection.name.clone() });
        }
        Ok(())
    }

    fn create_collection(&mut self, name: String, collection: &CollectionRecord) -> Result<u64> {
        check::name(&name)?;
        let mut catalog = self.catalog();
        catalog.check_free(&name)?;
        let number = catalog.next_number;
        catalog.next_number = number.checked_add(1).ok_or(Error::LimitExceeded {
            what: "collections ever made",
            max: u32::MAX.into(),
            received: 1 << 32,
        })?;
        let state = load::empty(number, name.clone(), collection.clone());
        let bytes = postcard::to_stdvec(collection).expect("plain data can be written");
        self.put(key::collection(number, &name), &bytes);
        self.put(key::next_collection(), &catalog.next_number.to_le_bytes());
        catalog.collections.insert(name, Entry::Serving(Arc::new(state)));
        self.catalog = Some(catalog);
        Ok(0)
    }

    fn delete_collection(&mut self, name: &str) -> Result<u64> {
        let mut catalog = self.catalog();
        let name = catalog.find(name).map(|(own, _)| (own == name).then(|| own.to_owned()))?.ok_or_else(|| {
            // Whoever moves an alias away must not delete what it leads to by the same name.
            let expected = "the collection's own name".to_owned();
            Error::InvalidSetting { field: "collection_name", expected, received: format!("the alias {name:?}") }
        })?;
        let entry = catalog.collections.remove(&name).expect("the name was just found");
        for alias in catalog.aliases_of(&name) {
            catalog.aliases.remove(&alias);
            self.changes.insert(key::alias(&alias), None);
        }
        self.changes.insert(key::collection(entry.number(), &name), None);
        self.put(key::doomed(entry.number()), &[]);
        self.retired.push(entry);
        self.catalog = Some(catalog);
        Ok(0)
    }

    fn update_aliases(&mut self, changes: &[AliasChange]) -> Result<u64> {
        let catalog = self.catalog().with_aliases(changes)?;
        for change in changes {
            let (AliasChange::Set { alias, .. } | AliasChange::Delete { alias }) = change;
            match catalog.aliases.get(alias) {
                Some(target) => {
                    let number = catalog.collections[target].number();
                    self.put(key::alias(alias), &number.to_le_bytes());
                }
                None => {
                    self.changes.insert(key::alias(alias), None);
                }
            }
        }
        self.catalog = Some(catalog);
        Ok(0)
    }

    /// Disk space that stays free: of less when everything in the group removes, or a full disk could not be freed.
    fn reserve(&self) -> u64 {
        let reserve = self.engine.options.min_free_bytes;
        if self.only_removes { reserve / 8 } else { reserve }
    }

    fn catalog(&self) -> Catalog {
        let now = || self.engine.catalog.read().unwrap_or_else(|e| e.into_inner()).clone();
        self.catalog.clone().unwrap_or_else(now)
    }

    fn put(&mut self, key: Key, payload: &[u8]) {
        let value = record::seal(&key, payload);
        self.bytes += value.len();
        self.changes.insert(key, Some(value));
    }

    /// Writes, syncs, and only then changes what readers see.
    fn commit(mut self) -> Result<u64> {
        if self.changes.is_empty() {
            return Ok(self.engine.last_sequence());
        }
        self.put(key::sequence(), &self.sequence.to_le_bytes());
        self.engine.check_free_space(self.bytes as u64, self.reserve())?;
        for draft in self.drafts.values() {
            draft.remember();
            self.changes.extend(draft.state.take_garbage(GARBAGE_PER_COMMIT).into_iter().map(|key| (key, None)));
        }
        if let Err(error) = self.engine.store.commit(Tree::Points, self.changes) {
            self.engine.stop_writing(&error);
            return Err(error);
        }
        self.engine.sequence.store(self.sequence, Ordering::Release);
        for entry in self.retired {
            entry.retire();
            self.engine.indexer.doom(entry.number(), entry.serving("").ok().cloned());
        }
        if let Some(catalog) = self.catalog {
            *self.engine.catalog.write().unwrap_or_else(|e| e.into_inner()) = catalog;
        }
        for draft in self.drafts.into_values() {
            let state = draft.state.clone();
            draft.publish(self.sequence);
            if state.words.is_used()
                || (0..state.config.vectors.len()).any(|place| self.engine.next_task(&state, place).is_some())
            {
                self.engine.indexer.notify();
            }
        }
        Ok(self.sequence)
    }
}

/// Where a draft puts its changes.
pub struct Staging<'a> {
    pub engine: &'a Engine,
    pub sequence: u64,
    changes: &'a mut Changes,
    bytes: &'a mut usize,
}

impl Staging<'_> {
    pub fn put(&mut self, key: Key, payload: &[u8]) {
        let value = record::seal(&key, payload);
        *self.bytes += value.len();
        self.changes.insert(key, Some(value));
    }

    /// Removes a key from disk.
    pub fn remove(&mut self, key: Key) {
        self.changes.insert(key, None);
    }

    /// Forgets a key that this commit was to write.
    pub fn take_back(&mut self, key: &Key) {
        self.changes.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::{CollectionConfig, Options, VectorConfig, store::Store, stored};

    #[test]
    fn operations_that_wait_share_one_sync() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), 1 << 20).unwrap();
        let options = Options { min_free_bytes: 0, ..Options::default() };
        let engine = Engine::new(dir.path().to_owned(), options, store, Catalog::default(), 7);
        let config = CollectionConfig {
            model: None,
            vectors: [("v".to_owned(), VectorConfig::new(1))].into(),
            ..CollectionConfig::default()
        };
        let record = CollectionRecord { uuid: String::new(), config };
        let collection = Arc::new(load::empty(0, "c".to_owned(), record));
        let rest = |n| stored::encode_rest(&PointId::Num(n), &[], &Payload::new());
        let upsert = |n| Operation::Upsert {
            collection: collection.clone(),
            points: vec![PreparedPoint {
                id: PointId::Num(n),
                rest: rest(n),
                vectors: vec![(0, vec![1.0])],
                tokens: Vec::new(),
            }],
        };
        let payload = || [("a".to_owned(), 1.into())].into_iter().collect();
        let set_payload = |n| Operation::SetPayload {
            collection: collection.clone(),
            ids: vec![PointId::Num(n)],
            payload: payload(),
            change: PayloadChange::Merge,
        };
        let delete = |n| Operation::Delete { collection: collection.clone(), ids: vec![PointId::Num(n)] };
        let mut operations: Vec<Operation> = (0..50).map(upsert).collect();
        // Each sees those before it; the second last fails alone.
        operations.extend([upsert(3), set_payload(3), delete(4), delete(4), set_payload(4), delete(5)]);

        let (sender, requests) = channel();
        let mut answers = Vec::new();
        for operation in operations {
            let (reply, answer) = std::sync::mpsc::sync_channel(1);
            sender.send(Request { operation, reply }).unwrap();
            answers.push(answer);
        }
        drop(sender);
        run(&engine, &requests);

        let answers: Vec<Result<Commit>> = answers.into_iter().map(|answer| answer.recv().unwrap()).collect();
        let changed: Vec<Option<u64>> = answers[50..].iter().map(|a| a.as_ref().ok().map(|c| c.changed)).collect();
        assert_eq!(changed, [Some(1), Some(1), Some(1), Some(0), None, Some(1)]);
        assert!(answers.iter().flatten().all(|commit| commit.sequence == 8));
        assert_eq!(engine.store.n_syncs(), 1);
        assert_eq!(collection.current().live.len(), 48);
        assert_eq!(collection.current().vectors[0].buffer.len(), 48);
    }
}

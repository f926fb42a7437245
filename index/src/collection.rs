//! One collection: writing, reading, searching, and looking after its segments.

use std::{sync::Arc, time::Duration};

#[cfg(test)]
use crate::store::Tree;
use crate::{
    CollectionConfig, CollectionInfo, NewPoint, Payload, PointId, Reader, Result, Row, attachment, check,
    commit::{Operation, PreparedPoint},
    engine::Engine,
    indexer::JobKind,
    state::CollectionState,
    stored, verify,
};

/// A handle on a collection; clones are cheap.
#[derive(Clone)]
pub struct Collection {
    engine: Arc<Engine>,
    state: Arc<CollectionState>,
}

/// A write that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Grows with every commit of the database.
    pub sequence: u64,
    /// Points written, deleted or changed.
    pub changed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadChange {
    /// Sets the given fields; null removes one.
    Merge,
    Overwrite,
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct Search<'a> {
    /// Any length but zero; it is scaled to unit length.
    pub vector: &'a [f32],
    /// The named vector to search.
    pub using: &'a str,
    pub limit: usize,
    /// None: the collection's `ef_search`.
    pub ef: Option<usize>,
    /// Compare with every vector.
    pub exact: bool,
}

/// Which words to look for in the texts of points.
#[derive(Clone, Debug)]
pub struct TextSearch<'a> {
    /// Points that hold any of its words are found. Of more than 1024 different ones, the rarest count.
    pub text: &'a str,
    pub limit: usize,
}

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub row: Row,
    /// Cosine, -1 to 1; of a search for words, BM25.
    pub score: f32,
}

/// Something that did not match its checksum or its neighbour.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    pub what: String,
    pub detail: String,
}

/// What a full read of a collection found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct VerifyReport {
    pub points_checked: u64,
    pub vectors_checked: u64,
    pub tokens_checked: u64,
    pub attachments_checked: u64,
    pub segments_checked: u64,
    /// Points with words, if there is a full-text index.
    pub texts_checked: u64,
    /// Vectors in segments that a search for themselves does not find.
    pub unreachable_vectors: u64,
    pub damages: Vec<Damage>,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RebuildReport {
    pub segments_built: u64,
    pub vectors_indexed: u64,
    /// Vectors whose links the audit had to mend.
    pub vectors_repaired: u64,
    /// Points in the full-text index, if there is one.
    pub texts_indexed: u64,
    pub seconds: f64,
}

impl Collection {
    pub(crate) fn new(engine: Arc<Engine>, state: Arc<CollectionState>) -> Collection {
        Collection { engine, state }
    }

    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Made with the collection: another collection of the same name has another one.
    pub fn uuid(&self) -> &str {
        &self.state.uuid
    }

    pub fn config(&self) -> &CollectionConfig {
        &self.state.config
    }

    pub fn info(&self) -> CollectionInfo {
        self.engine.info_of(&self.state)
    }

    /// Writes points, all or none, and returns when they are on disk (calls that wait at the same time share one flush).
    /// A point whose id exists is replaced as a whole.
    pub fn upsert(&self, points: Vec<NewPoint>) -> Result<Commit> {
        check::points(&self.state.config, &points)?;
        self.engine.indexer.wait_for_room(&self.state, self.engine.options.buffer_limit);
        let points = points.into_iter().map(|point| self.prepare(point)).collect::<Result<_>>()?;
        self.engine.submit(Operation::Upsert { collection: self.state.clone(), points })
    }

    /// Checks what `upsert` would refuse of one point, without writing.
    pub fn check(&self, point: &NewPoint) -> Result<()> {
        check::point(&self.state.config, point)
    }

    /// Removes points; unknown ids are ignored and not counted.
    pub fn delete(&self, ids: &[PointId]) -> Result<Commit> {
        ids.iter().try_for_each(check::id)?;
        self.engine.submit(Operation::Delete { collection: self.state.clone(), ids: ids.to_vec() })
    }

    /// `Error::PointNotFound` if one of the ids does not exist; then nothing is changed.
    pub fn set_payload(&self, ids: &[PointId], payload: Payload, change: PayloadChange) -> Result<Commit> {
        ids.iter().try_for_each(check::id)?;
        check::payload(&payload)?;
        let (collection, ids) = (self.state.clone(), ids.to_vec());
        self.engine.submit(Operation::SetPayload { collection, ids, payload, change })
    }

    /// Sets or removes attachments, named bytes that are kept with the collection, all or none. Names as of collections.
    pub fn attach(&self, changes: Vec<(String, Option<Vec<u8>>)>) -> Result<Commit> {
        changes.iter().try_for_each(|(name, bytes)| attachment::check(name, bytes.as_deref()))?;
        self.engine.submit(Operation::Attach { collection: self.state.clone(), changes })
    }

    /// None if there is none of that name.
    pub fn attachment(&self, name: &str) -> Result<Option<Vec<u8>>> {
        attachment::read(&self.engine.store, self.state.number, name)
    }

    /// Names, in order.
    pub fn attachments(&self) -> Result<Vec<String>> {
        attachment::names(&self.engine.store, self.state.number)
    }

    /// The state as of the last commit; it stays as it is while it is held.
    pub fn reader(&self) -> Reader {
        Reader::new(self.engine.clone(), self.state.clone())
    }

    /// Builds what is buffered and merges segments, and waits for it.
    pub fn optimize(&self) -> Result<()> {
        self.engine.indexer.run_job(&self.state, JobKind::Optimize).map(drop)
    }

    /// Waits, at most so long, until the background has built and merged all that is due. Whether it has.
    pub fn wait_until_indexed(&self, at_most: Duration) -> bool {
        self.engine.indexer.wait_until_idle(at_most)
    }

    /// Reads everything, compares every checksum and count, and audits the graphs.
    pub fn verify(&self) -> Result<VerifyReport> {
        verify::verify(&self.engine, &self.state, &self.reader())
    }

    /// Throws all segments and the full-text index away and builds them anew from the points.
    pub fn rebuild(&self) -> Result<RebuildReport> {
        self.engine.indexer.run_job(&self.state, JobKind::Rebuild)
    }

    fn prepare(&self, point: NewPoint) -> Result<PreparedPoint> {
        let config = &self.state.config;
        let rest = stored::encode_rest(&point.id, &point.texts, &point.payload);
        let mut vectors = Vec::with_capacity(point.vectors.len());
        for (place, name) in config.vectors.keys().enumerate() {
            if let Some(numbers) = point.vectors.get(name) {
                vectors.push((place as u8, check::vector(config, name, numbers)?));
            }
        }
        let mut tokens = Vec::with_capacity(point.tokens.len());
        for (place, name) in config.tokens.keys().enumerate() {
            if let Some(given) = point.tokens.get(name) {
                tokens.push((place as u8, stored::encode_tokens(&given.values)));
            }
        }
        Ok(PreparedPoint { id: point.id, rest, vectors, tokens })
    }
}

#[cfg(test)]
impl Collection {
    pub fn first_segment(&self) -> u32 {
        self.state.current().vectors[0].segments[0].segment.number
    }

    pub fn spoil(&self, tree: Tree, key: &[u8], change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        let value = self.engine.store.get(tree, key).unwrap().unwrap();
        self.engine.store.commit(tree, [(key.to_vec(), change(&value))].into()).unwrap();
    }

    pub fn n_keys(&self, prefix: &[u8]) -> usize {
        let mut n = 0;
        let count = |_: &[u8], _: &[u8]| {
            n += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        };
        self.engine.store.scan(Tree::Points, prefix, count).unwrap();
        n
    }
}

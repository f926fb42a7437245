//! One collection: writing, reading, searching, and looking after its segments.

use crate::{CollectionConfig, CollectionInfo, Fields, NewPoint, Page, Payload, Point, PointId, Result, Row};

/// A handle on a collection; clones are cheap.
#[derive(Clone)]
pub struct Collection {}

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

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub row: Row,
    /// Cosine, -1 to 1.
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
    pub segments_checked: u64,
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
    pub seconds: f64,
}

impl Collection {
    pub fn name(&self) -> &str {
        todo!()
    }

    pub fn config(&self) -> &CollectionConfig {
        todo!()
    }

    pub fn info(&self) -> CollectionInfo {
        todo!()
    }

    /// Writes points, all or none, and returns when they are on disk (calls that wait at the same time share one flush).
    /// A point whose id exists is replaced as a whole.
    pub fn upsert(&self, points: Vec<NewPoint>) -> Result<Commit> {
        let _ = points;
        todo!()
    }

    /// Checks what `upsert` would refuse of one point, without writing.
    pub fn check(&self, point: &NewPoint) -> Result<()> {
        let _ = point;
        todo!()
    }

    /// Removes points; unknown ids are ignored and not counted.
    pub fn delete(&self, ids: &[PointId]) -> Result<Commit> {
        let _ = ids;
        todo!()
    }

    /// `Error::PointNotFound` if one of the ids does not exist; then nothing is changed.
    pub fn set_payload(&self, ids: &[PointId], payload: Payload, change: PayloadChange) -> Result<Commit> {
        let _ = (ids, payload, change);
        todo!()
    }

    /// The state as of the last commit; it stays as it is while it is held.
    pub fn reader(&self) -> Reader {
        todo!()
    }

    /// Builds what is buffered and merges segments, and waits for it.
    pub fn optimize(&self) -> Result<()> {
        todo!()
    }

    /// Reads everything, compares every checksum and count, and audits the graphs.
    pub fn verify(&self) -> Result<VerifyReport> {
        todo!()
    }

    /// Throws all segments away and builds them anew from the points.
    pub fn rebuild(&self) -> Result<RebuildReport> {
        todo!()
    }
}

/// One generation of a collection. A query uses one from start to end.
#[derive(Clone)]
pub struct Reader {}

impl Reader {
    pub fn count(&self) -> u64 {
        todo!()
    }

    /// Best first; ties by row. At most `limit`, and never fewer while there are as many points.
    pub fn search(&self, search: &Search<'_>) -> Result<Vec<Candidate>> {
        let _ = search;
        todo!()
    }

    /// The row of a point, if it exists in this generation.
    pub fn row(&self, id: &PointId) -> Result<Option<Row>> {
        let _ = id;
        todo!()
    }

    /// Points by row, in the order asked for.
    pub fn fetch(&self, rows: &[Row], fields: Fields) -> Result<Vec<Point>> {
        let _ = (rows, fields);
        todo!()
    }

    /// Points by id, in the order asked for; unknown ids are left out.
    pub fn get(&self, ids: &[PointId], fields: Fields) -> Result<Vec<Point>> {
        let _ = (ids, fields);
        todo!()
    }

    /// The stored unit vector of a point; none if the point has no vector of that name. `Error::PointNotFound`.
    pub fn vector(&self, id: &PointId, using: &str) -> Result<Option<Vec<f32>>> {
        let _ = (id, using);
        todo!()
    }

    /// Up to `limit` points from `from` on, in the order they were written.
    pub fn scroll(&self, from: Row, limit: usize, fields: Fields) -> Result<Page> {
        let _ = (from, limit, fields);
        todo!()
    }
}

//! What a commit will do to one collection. Every operation sees those before it in the same commit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use roaring::RoaringBitmap;

use crate::{
    Error, Limits, Payload, PayloadChange, PointId, Result, Row,
    buffer::Block,
    check,
    commit::{PreparedPoint, Staging},
    fetch, key,
    state::{CollectionState, Garbage},
    stored::{self, Places, Prefix},
};

pub struct Draft {
    pub state: Arc<CollectionState>,
    next_row: Row,
    /// The rows of ids that this commit changes; None: deleted.
    rows: HashMap<PointId, Option<Row>>,
    /// New rows.
    added: BTreeMap<Row, Added>,
    /// Records that this commit writes.
    records: HashMap<Row, Vec<u8>>,
    /// Rows that were there before this commit and are not after it.
    dropped: Vec<(PointId, Row)>,
    /// Records that were there before: row, version and bytes.
    replaced: BTreeMap<Row, (u64, Arc<[u8]>)>,
}

/// What a new row has besides its record.
struct Added {
    /// By their place in the configuration.
    vectors: Vec<(u8, Vec<f32>)>,
    tokens: Places,
}

impl Draft {
    pub fn new(state: Arc<CollectionState>) -> Draft {
        Draft {
            next_row: state.next_row(),
            state,
            rows: HashMap::new(),
            added: BTreeMap::new(),
            records: HashMap::new(),
            dropped: Vec::new(),
            replaced: BTreeMap::new(),
        }
    }

    pub fn upsert(&mut self, points: Vec<PreparedPoint>, staging: &mut Staging<'_>) -> Result<u64> {
        let rows_after = u64::from(self.next_row) + points.len() as u64;
        if rows_after > Limits::MAX_ROWS.into() {
            let max = Limits::MAX_ROWS.into();
            return Err(Error::LimitExceeded { what: "rows of a collection", max, received: rows_after });
        }
        let old: Vec<Option<Row>> = points.iter().map(|p| self.row(&p.id, staging)).collect::<Result<_>>()?;
        let changed = points.len() as u64;
        for (point, old) in points.into_iter().zip(old) {
            if let Some(row) = old {
                self.drop_row(point.id.clone(), row, staging);
            }
            self.add_row(point, staging);
        }
        staging.put(key::next_row(self.state.number), &self.next_row.to_le_bytes());
        Ok(changed)
    }

    pub fn delete(&mut self, ids: &[PointId], staging: &mut Staging<'_>) -> Result<u64> {
        let rows: Vec<Option<Row>> = ids.iter().map(|id| self.row(id, staging)).collect::<Result<_>>()?;
        let mut changed = 0;
        for (id, row) in ids.iter().zip(rows) {
            // An id may be given twice.
            let is_gone = self.rows.get(id) == Some(&None);
            if let Some(row) = row.filter(|_| !is_gone) {
                self.drop_row(id.clone(), row, staging);
                staging.remove(key::row_of(self.state.number, id));
                self.rows.insert(id.clone(), None);
                changed += 1;
            }
        }
        Ok(changed)
    }

    pub fn set_payload(
        &mut self,
        ids: &[PointId],
        payload: &Payload,
        change: PayloadChange,
        staging: &mut Staging<'_>,
    ) -> Result<u64> {
        let mut changed = BTreeMap::new();
        for id in ids {
            let row = self.row(id, staging)?.ok_or_else(|| Error::PointNotFound { id: id.clone() })?;
            let old = self.record(row, staging)?;
            let mut point = stored::decode(&old, true, true)?;
            apply(&mut point.payload, payload, change);
            check::payload(&point.payload)?;
            let prefix = Prefix { version: staging.sequence, ..point.prefix };
            let new = stored::with_prefix(prefix, &stored::encode_rest(&point.id, &point.texts, &point.payload));
            changed.insert(row, (point.prefix.version, old, new));
        }
        let n_changed = changed.len() as u64;
        for (row, (version, old, new)) in changed {
            if !self.records.contains_key(&row) {
                self.replaced.insert(row, (version, old.into()));
            }
            staging.put(key::point(self.state.number, row), &new);
            self.records.insert(row, new);
        }
        Ok(n_changed)
    }

    /// Before the commit: keeps what readers of older generations will not find on disk any more.
    pub fn remember(&self) {
        for (id, row) in &self.dropped {
            self.state.remember_row(id, *row);
        }
        for (row, (version, record)) in &self.replaced {
            self.state.remember_record(*row, *version, record.clone());
        }
    }

    /// After the commit: makes it visible.
    pub fn publish(self, sequence: u64) {
        self.state.set_next_row(self.next_row);
        let dropped: RoaringBitmap = self.dropped.iter().map(|(_, row)| *row).collect();
        let points = self.dropped.into_iter().map(|(id, row)| Garbage::Point { id, row });
        let records = self.replaced.into_iter().map(|(row, (version, _))| Garbage::Record { row, version });
        self.state.publish(points.chain(records).collect(), |generation| {
            generation.sequence = sequence;
            let live = Arc::make_mut(&mut generation.live);
            *live -= dropped;
            live.extend(self.added.keys());
            let mut blocks: Vec<Block> = generation.vectors.iter().map(|_| Block::default()).collect();
            for (row, added) in self.added {
                for (place, vector) in added.vectors {
                    let block = &mut blocks[usize::from(place)];
                    block.rows.push(row);
                    block.numbers.extend(vector);
                }
            }
            for (view, block) in generation.vectors.iter_mut().zip(blocks) {
                view.buffer.append(block);
            }
        });
    }

    fn add_row(&mut self, point: PreparedPoint, staging: &mut Staging<'_>) {
        let (collection, row) = (self.state.number, self.next_row);
        self.next_row += 1;
        let vectors = point.vectors.iter().map(|(place, _)| *place).collect();
        let tokens = point.tokens.iter().map(|(place, _)| *place).collect();
        let record = stored::with_prefix(Prefix { version: staging.sequence, vectors, tokens }, &point.rest);
        staging.put(key::point(collection, row), &record);
        staging.put(key::row_of(collection, &point.id), &row.to_le_bytes());
        for (place, vector) in &point.vectors {
            staging.put(key::vector(collection, *place, row), &stored::encode_vector(vector));
        }
        for (place, bytes) in &point.tokens {
            staging.put(key::tokens(collection, *place, row), bytes);
        }
        self.records.insert(row, record);
        self.rows.insert(point.id, Some(row));
        self.added.insert(row, Added { vectors: point.vectors, tokens });
    }

    fn drop_row(&mut self, id: PointId, row: Row, staging: &mut Staging<'_>) {
        let collection = self.state.number;
        if let Some(added) = self.added.remove(&row) {
            staging.take_back(&key::point(collection, row));
            for (place, _) in added.vectors {
                staging.take_back(&key::vector(collection, place, row));
            }
            for place in added.tokens.of(self.state.config.tokens.len()) {
                staging.take_back(&key::tokens(collection, place as u8, row));
            }
            return;
        }
        // A changed payload of a row that goes needs no writing; readers before find the old record.
        if let Some((version, old)) = self.replaced.remove(&row) {
            staging.take_back(&key::point(collection, row));
            debug_assert!(version < staging.sequence && !old.is_empty());
        }
        self.dropped.push((id, row));
    }

    /// The row of `id` as of the operations so far.
    fn row(&self, id: &PointId, staging: &Staging<'_>) -> Result<Option<Row>> {
        match self.rows.get(id) {
            Some(row) => Ok(*row),
            None => fetch::row_on_disk(&staging.engine.store, self.state.number, id),
        }
    }

    /// The record of `row` as of the operations so far.
    fn record(&self, row: Row, staging: &Staging<'_>) -> Result<Vec<u8>> {
        match self.records.get(&row) {
            Some(record) => Ok(record.clone()),
            None => fetch::record_on_disk(&staging.engine.store, self.state.number, row),
        }
    }
}

fn apply(payload: &mut Payload, new: &Payload, change: PayloadChange) {
    match change {
        PayloadChange::Overwrite => *payload = new.clone(),
        PayloadChange::Merge => {
            for (field, value) in new {
                if value.is_null() {
                    payload.remove(field);
                } else {
                    payload.insert(field.clone(), value.clone());
                }
            }
        }
    }
}

//! Reading one generation: search, lookup, scrolling.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Candidate, Error, Fields, Limits, Page, Point, PointId, Result, Row, Search, TextSearch, Tokens, check, distance,
    engine::Engine,
    fetch,
    generation::{Generation, SegmentView, VectorView},
    segment::SegmentQuery,
    select::Best,
    state::CollectionState,
    stored,
};

/// One generation of a collection. A query uses one from start to end.
#[derive(Clone)]
pub struct Reader {
    engine: Arc<Engine>,
    state: Arc<CollectionState>,
    generation: Arc<Generation>,
}

impl Reader {
    pub(crate) fn new(engine: Arc<Engine>, state: Arc<CollectionState>) -> Reader {
        let generation = state.current();
        Reader { engine, state, generation }
    }

    pub(crate) fn generation(&self) -> &Generation {
        &self.generation
    }

    pub fn count(&self) -> u64 {
        self.generation.live.len()
    }

    /// Vectors that no segment has yet: every search compares all of those of its name.
    pub fn n_buffered(&self) -> usize {
        self.generation.vectors.iter().map(|view| view.buffer.len()).sum()
    }

    /// Whether any point has a vector of that name.
    pub fn holds(&self, using: &str) -> Result<bool> {
        let view = &self.generation.vectors[self.place(using)?];
        let buffered = || view.buffer.vectors(view.dim).any(|(row, _)| self.generation.is_live(row));
        Ok(view.segments.iter().any(|segment| segment.n_live > 0) || buffered())
    }

    /// Best first; ties by row. At most `limit`, and never fewer while there are as many points.
    pub fn search(&self, search: &Search<'_>) -> Result<Vec<Candidate>> {
        let query = check::search(&self.state.config, search)?;
        let view = &self.generation.vectors[self.place(search.using)?];
        let mut best = Best::new(search.limit);
        self.search_buffer(view, &query, &mut best);
        let live = &*self.generation.live;
        for SegmentView { segment, n_live } in &view.segments {
            if search.exact {
                segment.search_exact(&query, live, &mut best);
            } else {
                let ef = search.ef.unwrap_or(self.state.config.hnsw.ef_search);
                let query = SegmentQuery { vector: &query, limit: search.limit, ef, live, n_live: *n_live };
                segment.search(&query, &mut best);
            }
        }
        Ok(best.into_sorted())
    }

    /// Points whose texts hold the words, best first by BM25; ties by row. The first search of a collection indexes all its texts; from
    /// then on that is kept up.
    pub fn search_text(&self, search: &TextSearch<'_>) -> Result<Vec<Candidate>> {
        check::at_most("hits of a search", Limits::MAX_LIMIT, search.limit)?;
        check::at_most("bytes of a text", Limits::MAX_TEXT_BYTES, search.text.len())?;
        let TextSearch { text, limit } = *search;
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.state.words.search((&self.engine, &self.state), &self.generation.live, text, limit)
    }

    /// The cosine of a vector, of any length but zero, with the one of that name in a row; none if the row has none, or is not
    /// in this generation.
    pub fn cosine(&self, row: Row, using: &str, vector: &[f32]) -> Result<Option<f32>> {
        let query = check::vector(&self.state.config, using, vector)?;
        let place = self.place(using)?;
        if !self.generation.is_live(row) {
            return Ok(None);
        }
        match self.vector_if_stored(place, row)? {
            // Only now is it worth reading whether there should be one.
            None if stored::decode_prefix(&self.record(row)?)?.vectors.has(place) => {
                Err(fetch::missing(fetch::vector_name(place, row)))
            }
            found => Ok(found.map(|found| distance::cosine(&query, &found))),
        }
    }

    /// The cosine of a vector with every one of that name, in no order.
    pub fn cosines(&self, using: &str, vector: &[f32]) -> Result<Vec<Candidate>> {
        let query = check::vector(&self.state.config, using, vector)?;
        let view = &self.generation.vectors[self.place(using)?];
        let live = &*self.generation.live;
        let buffered = view.buffer.vectors(view.dim).filter(|(row, _)| live.contains(*row));
        let built = view.segments.iter().flat_map(|view| view.segment.live_vectors(live));
        let candidate = |(row, stored): (Row, &[f32])| Candidate { row, score: distance::cosine(&query, stored) };
        Ok(buffered.chain(built).map(candidate).collect())
    }

    /// The row of a point, if it exists in this generation.
    pub fn row(&self, id: &PointId) -> Result<Option<Row>> {
        let on_disk = fetch::row_on_disk(&self.engine.store, self.state.number, id)?;
        Ok(self.state.row_in(&self.generation, id, on_disk))
    }

    /// Points by row, in the order asked for; rows that are not in this generation are left out.
    pub fn fetch(&self, rows: &[Row], fields: Fields) -> Result<Vec<Point>> {
        let live = rows.iter().filter(|row| self.generation.is_live(**row));
        live.map(|row| self.point(*row, fields)).collect()
    }

    /// Points by id, in the order asked for; unknown ids are left out.
    pub fn get(&self, ids: &[PointId], fields: Fields) -> Result<Vec<Point>> {
        let rows: Vec<Option<Row>> = ids.iter().map(|id| self.row(id)).collect::<Result<_>>()?;
        rows.into_iter().flatten().map(|row| self.point(row, fields)).collect()
    }

    /// The stored unit vector of a point; none if the point has no vector of that name. `Error::PointNotFound`.
    pub fn vector(&self, id: &PointId, using: &str) -> Result<Option<Vec<f32>>> {
        let place = self.place(using)?;
        let row = self.row(id)?.ok_or_else(|| Error::PointNotFound { id: id.clone() })?;
        let has = stored::decode_prefix(&self.record(row)?)?.vectors.has(place);
        if has { self.stored_vector(place, row).map(Some) } else { Ok(None) }
    }

    /// The tokens that a row keeps beside the vector of that name; none if it has none, or is not in this generation.
    pub fn tokens(&self, row: Row, of: &str) -> Result<Option<Tokens>> {
        let place = self.token_place(of)?;
        if !self.generation.is_live(row) {
            return Ok(None);
        }
        match self.stored_tokens(place, row)? {
            // Only now is it worth reading whether there should be some.
            None if stored::decode_prefix(&self.record(row)?)?.tokens.has(place) => {
                Err(fetch::missing(fetch::tokens_name(place, row)))
            }
            found => Ok(found),
        }
    }

    /// Up to `limit` points from `from` on, in the order they were written.
    pub fn scroll(&self, from: Row, limit: usize, fields: Fields) -> Result<Page> {
        check::at_most("points of a page", Limits::MAX_LIMIT, limit)?;
        let mut rows = self.generation.live.range(from..);
        let points = rows.by_ref().take(limit).map(|row| self.point(row, fields)).collect::<Result<_>>()?;
        Ok(Page { points, next: rows.next() })
    }

    fn search_buffer(&self, view: &VectorView, query: &[f32], best: &mut Best) {
        for (row, vector) in view.buffer.vectors(view.dim) {
            if self.generation.is_live(row) {
                best.offer(row, distance::cosine(query, vector));
            }
        }
    }

    fn point(&self, row: Row, fields: Fields) -> Result<Point> {
        let point = stored::decode(&self.record(row)?, fields.texts, fields.payload)?;
        let mut vectors = BTreeMap::new();
        if fields.vectors {
            let names = self.state.config.vectors.keys().enumerate();
            for (place, name) in names.filter(|(place, _)| point.prefix.vectors.has(*place)) {
                vectors.insert(name.clone(), self.stored_vector(place, row)?);
            }
        }
        let mut tokens = BTreeMap::new();
        if fields.tokens {
            let names = self.state.config.tokens.keys().enumerate();
            for (place, name) in names.filter(|(place, _)| point.prefix.tokens.has(*place)) {
                let found = self.stored_tokens(place, row)?;
                tokens.insert(name.clone(), found.ok_or_else(|| fetch::missing(fetch::tokens_name(place, row)))?);
            }
        }
        let stored::StoredPoint { prefix, id, texts, payload, n_bytes } = point;
        let n_bytes = n_bytes
            + vectors.values().map(|vector| vector.len() * 4).sum::<usize>()
            + tokens.values().map(|tokens: &Tokens| tokens.values.len() * 2).sum::<usize>();
        Ok(Point { id, row, version: prefix.version, texts, payload, vectors, tokens, n_bytes })
    }

    /// The record of a live row as this generation has it.
    pub(crate) fn record(&self, row: Row) -> Result<Arc<[u8]>> {
        let on_disk = match fetch::record_on_disk(&self.engine.store, self.state.number, row) {
            Err(Error::Damaged { .. }) if self.state.is_deleted() => {
                return Err(Error::CollectionNotFound { name: self.state.name.clone() });
            }
            other => other?,
        };
        if stored::decode_prefix(&on_disk)?.version <= self.generation.sequence {
            return Ok(on_disk.into());
        }
        self.state.record_as_of(row, self.generation.sequence).ok_or_else(|| Error::Damaged {
            what: format!("point in row {row}"),
            detail: "its record is younger than the last commit".to_owned(),
        })
    }

    /// Of a point that has one.
    fn stored_vector(&self, place: usize, row: Row) -> Result<Vec<f32>> {
        self.vector_if_stored(place, row)?.ok_or_else(|| fetch::missing(fetch::vector_name(place, row)))
    }

    fn vector_if_stored(&self, place: usize, row: Row) -> Result<Option<Vec<f32>>> {
        let dim = self.generation.vectors[place].dim;
        fetch::vector_on_disk(&self.engine.store, self.state.number, place as u8, row, dim)
    }

    fn stored_tokens(&self, place: usize, row: Row) -> Result<Option<Tokens>> {
        let shape = *self.state.config.tokens.values().nth(place).expect("a place of the configuration");
        fetch::tokens_on_disk(&self.engine.store, self.state.number, place as u8, row, shape)
    }

    fn token_place(&self, of: &str) -> Result<usize> {
        let mut names = self.state.config.tokens.keys();
        names.position(|name| name == of).ok_or_else(|| Error::UnknownTokens {
            expected: self.state.config.tokens.keys().cloned().collect(),
            received: of.to_owned(),
        })
    }

    fn place(&self, using: &str) -> Result<usize> {
        let mut names = self.state.config.vectors.keys();
        names.position(|name| name == using).ok_or_else(|| Error::UnknownVector {
            expected: self.state.config.vectors.keys().cloned().collect(),
            received: using.to_owned(),
        })
    }
}

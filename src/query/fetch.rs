//! Last stage: the stored fields of the rows that are given to the user.

use std::collections::BTreeMap;

use firn_index::{Fields, Reader, Row};

use super::{Error, Hit, rerank::Ranked};

/// Hits in the order of `ranked`.
pub fn hits(reader: &Reader, ranked: Vec<Ranked>, fields: Fields) -> Result<Vec<Hit>, Error> {
    let rows: Vec<Row> = ranked.iter().map(|r| r.candidate.row).collect();
    let mut points: BTreeMap<Row, _> = reader.fetch(&rows, fields)?.into_iter().map(|p| (p.row, p)).collect();
    let hit = |ranked: Ranked| {
        let point = points.remove(&ranked.candidate.row)?;
        Some(Hit {
            id: point.id,
            score: ranked.score,
            cosine: ranked.candidate.score,
            payload: point.payload,
            texts: point.texts,
            vectors: point.vectors,
            version: point.version,
        })
    };
    Ok(ranked.into_iter().filter_map(hit).collect())
}

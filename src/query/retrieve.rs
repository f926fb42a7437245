//! Second stage: the rows whose vectors are nearest, a list for each vector that is searched.

use firn_index::{Candidate, Reader, Search};

use super::{
    Error, Limits,
    encode::{Part, Query},
    request::Plan,
};

/// What one part of the query found.
pub struct List {
    /// Best first, unless it is whole.
    pub candidates: Vec<Candidate>,
    /// Every row that has such a vector is in it.
    pub is_whole: bool,
}

/// A list for each part, without the point that asks.
pub fn candidates(reader: &Reader, query: &Query, plan: &Plan) -> Result<Vec<List>, Error> {
    query.parts.iter().map(|part| list(reader, query, part, plan)).collect()
}

fn list(reader: &Reader, query: &Query, part: &Part, plan: &Plan) -> Result<List, Error> {
    // The best of a blend may be the best of none of its parts.
    if query.is_blend && plan.exact {
        let mut candidates = reader.cosines(&part.using, &part.vector)?;
        candidates.retain(|candidate| Some(candidate.row) != query.itself);
        return Ok(List { candidates, is_whole: true });
    }
    let wanted = if query.is_blend { plan.candidates.max(Limits::MIN_BLENDED) } else { plan.candidates };
    let limit = wanted + usize::from(query.itself.is_some());
    let search = Search {
        vector: &part.vector,
        using: &part.using,
        limit: limit.min(firn_index::Limits::MAX_LIMIT),
        ef: plan.ef,
        exact: plan.exact,
    };
    let mut candidates = reader.search(&search)?;
    candidates.retain(|candidate| Some(candidate.row) != query.itself);
    candidates.truncate(wanted);
    Ok(List { candidates, is_whole: false })
}

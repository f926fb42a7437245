//! Second stage: the rows whose vectors are nearest.

use firn_index::{Candidate, Reader, Search};

use super::{Error, encode::Query, request::Plan};

/// Candidates, best first, without the point that asks.
pub fn candidates(reader: &Reader, query: &Query, plan: &Plan) -> Result<Vec<Candidate>, Error> {
    let limit = plan.candidates + usize::from(query.itself.is_some());
    let search = Search {
        vector: &query.vector,
        using: &query.using,
        limit: limit.min(firn_index::Limits::MAX_LIMIT),
        ef: plan.ef,
        exact: plan.exact,
    };
    let mut found = reader.search(&search)?;
    found.retain(|candidate| Some(candidate.row) != query.itself);
    found.truncate(plan.candidates);
    Ok(found)
}

//! Third stage: the order of the answer. Without a fusion network the score is the cosine.

use firn_index::Candidate;

use super::request::Plan;

/// A row with what it is sorted by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    pub candidate: Candidate,
    pub score: f32,
}

/// Keeps the order of retrieval; drops what is below the threshold, before the offset or past the limit.
pub fn by_cosine(candidates: Vec<Candidate>, plan: &Plan) -> Vec<Ranked> {
    candidates
        .into_iter()
        .filter(|candidate| candidate.score >= plan.score_threshold)
        .skip(plan.offset)
        .take(plan.limit)
        .map(|candidate| Ranked { candidate, score: candidate.score })
        .collect()
}

//! Fourth stage: the order of the answer. Without a fusion network the score is the cosine, or the blend of several.

use super::{merge::Merged, request::Plan};

/// A row with what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    pub merged: Merged,
    pub score: f32,
}

/// Keeps the order of retrieval; drops what is below the threshold, before the offset or past the limit.
pub fn by_cosine(merged: Vec<Merged>, plan: &Plan) -> Vec<Ranked> {
    merged
        .into_iter()
        .filter(|merged| merged.candidate.score >= plan.score_threshold)
        .skip(plan.offset)
        .take(plan.limit)
        .map(|merged| Ranked { score: merged.candidate.score, merged })
        .collect()
}

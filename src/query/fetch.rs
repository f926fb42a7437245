//! Last stage: the stored fields of the rows that are given to the user.

use std::collections::BTreeMap;

use firn_index::Reader;

use super::{Error, Hit, Request, encode::Query, merge::Merged, rerank::Ranked};

/// Hits in the order of `ranked`. `Error::AnswerTooLarge` as soon as they take more bytes than the request allows.
pub fn hits(reader: &Reader, ranked: Vec<Ranked>, query: &Query, request: &Request) -> Result<Vec<Hit>, Error> {
    let mut hits = Vec::with_capacity(ranked.len());
    let mut n_bytes = 0;
    for Ranked { merged, score, fusion } in ranked {
        // A point's row is in the generation that found it.
        let Some(point) = reader.fetch(&[merged.candidate.row], request.fields)?.pop() else { continue };
        n_bytes += point.n_bytes;
        if n_bytes > request.max_bytes {
            return Err(Error::AnswerTooLarge { max_bytes: request.max_bytes });
        }
        hits.push(Hit {
            id: point.id,
            score,
            cosine: merged.candidate.score,
            bm25: merged.bm25,
            cosines: by_name(query, &merged),
            fusion: fusion.and_then(|fusion| fusion.logit),
            hubness: fusion.and_then(|fusion| fusion.hubness),
            relevance: fusion.and_then(|fusion| fusion.relevance),
            payload: point.payload,
            texts: point.texts,
            vectors: point.vectors,
            tokens: point.tokens,
            version: point.version,
        });
    }
    Ok(hits)
}

/// Of a blend, the cosine with each vector that the point has.
fn by_name(query: &Query, merged: &Merged) -> BTreeMap<String, f32> {
    let named = query.parts.iter().zip(&merged.cosines);
    named.filter_map(|(part, cosine)| Some((part.using.clone(), (*cosine)?))).collect()
}

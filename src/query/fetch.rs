//! Last stage: the stored fields of the rows that are given to the user.

use firn_index::Reader;

use super::{Error, Hit, Request, rerank::Ranked};

/// Hits in the order of `ranked`. `Error::AnswerTooLarge` as soon as they take more bytes than the request allows.
pub fn hits(reader: &Reader, ranked: Vec<Ranked>, request: &Request) -> Result<Vec<Hit>, Error> {
    let mut hits = Vec::with_capacity(ranked.len());
    let mut n_bytes = 0;
    for Ranked { candidate, score } in ranked {
        // A point's row is in the generation that found it.
        let Some(point) = reader.fetch(&[candidate.row], request.fields)?.pop() else { continue };
        n_bytes += point.n_bytes;
        if n_bytes > request.max_bytes {
            return Err(Error::AnswerTooLarge { max_bytes: request.max_bytes });
        }
        hits.push(Hit {
            id: point.id,
            score,
            cosine: candidate.score,
            payload: point.payload,
            texts: point.texts,
            vectors: point.vectors,
            tokens: point.tokens,
            version: point.version,
        });
    }
    Ok(hits)
}

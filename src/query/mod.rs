//! The way of a question: content in, hits out, one file per stage.

mod asker;
mod blend;
mod encode;
mod error;
mod fetch;
mod given;
mod maker;
mod merge;
mod request;
mod rerank;
mod retrieve;
mod see;
#[cfg(test)]
mod tests;
mod using;
mod words;

use std::time::Instant;

use firn_index::{Candidate, Reader};

pub use blend::{Blend, Fitted};
pub use error::Error;
pub use given::{Given, Item, Score, Scored, score};
pub use request::{
    Answer, Content, FullText, Hit, Limits, Merge, Named, OnFailure, Request, Rerank, Timings, Truncation, Which,
};

use self::{rerank::Order, using::Using, words::Words};
use crate::engine::Engine;

/// Answers one request from one generation of the collection.
pub fn run(engine: &Engine, request: &Request) -> Result<Answer, Error> {
    let start = Instant::now();
    let mut clock = Clock(start);
    let plan = request.plan()?;
    let collection = engine.db().collection(&request.collection)?;
    let reader = collection.reader();

    let words = words::of(request)?;
    let using = match &words {
        Some(words) if words.are_alone() => {
            if request.using.is_some() || request.blend.is_some() {
                // A name that is wrong is a mistake all the same.
                using::of(&collection, &reader, request)?;
            }
            Using::nothing()
        }
        _ => using::of(&collection, &reader, request)?,
    };
    let network = rerank::network(engine, &collection, &using, request)?;
    let plan = network.widen(plan);
    let query = encode::query(engine, &collection, &reader, request, (&using, network.ranker()))?;
    let encode_us = clock.lap_us();
    let wide = words.as_ref().map_or(plan, |words| words.widen(plan));
    let lists = retrieve::candidates(&reader, &query, &wide)?;
    let by_words = words.as_ref().map(|words| words.candidates(&reader, &query, &wide)).transpose()?;
    let retrieve_us = clock.lap_us();
    let mut merged = merge::by_weight(&reader, &query, lists, &wide)?;
    if let (Some(words), Some(by_words)) = (&words, &by_words) {
        merged = words.merged(&reader, &query, merged, by_words)?;
        merged.truncate(plan.candidates);
    }
    let merge_us = clock.lap_us();
    let order = rerank::order(&reader, &query, merged, &network, request)?;
    let ranked = order.page(&plan);
    let rerank_us = clock.lap_us();
    let hits = fetch::hits(&reader, ranked, &query, request)?;
    let fetch_us = clock.lap_us();

    let total_us = start.elapsed().as_micros() as u64;
    let timings = Timings { encode_us, retrieve_us, merge_us, rerank_us, fetch_us, total_us };
    let Order { reranker, skipped, .. } = order;
    let rerank_applied = reranker.is_some();
    Ok(Answer { hits, timings, truncation: query.truncation, rerank_applied, reranker, rerank_skipped: skipped })
}

/// What is looked for in one named vector, and how much its cosine counts.
pub struct Part<'a> {
    pub using: &'a str,
    pub weight: f32,
    pub vector: Vec<f32>,
}

/// How far vectors that are at hand are searched for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    pub limit: usize,
    pub ef: Option<usize>,
    pub exact: bool,
}

/// The candidates of `run` for vectors that are at hand, best first.
pub fn nearest(reader: &Reader, parts: Vec<Part>, reach: Reach) -> Result<Vec<Candidate>, Error> {
    let (query, plan) = at_hand(parts, reach);
    let lists = retrieve::candidates(reader, &query, &plan)?;
    let merged = merge::by_weight(reader, &query, lists, &plan)?;
    Ok(merged.into_iter().map(|merged| merged.candidate).collect())
}

/// The candidates of `run` for vectors that are at hand and the words of a text, best first by what both make: a list for each way to
/// merge them.
pub fn nearest_with_words(
    reader: &Reader,
    parts: Vec<Part>,
    (text, ways): (&str, &[FullText]),
    reach: Reach,
) -> Result<Vec<Vec<Candidate>>, Error> {
    let (query, plan) = at_hand(parts, reach);
    let words: Vec<Words> = ways.iter().map(|how| Words { text, how }).collect();
    let Some(wide) = words.first().map(|words| words.widen(plan)) else { return Ok(Vec::new()) };
    let lists = retrieve::candidates(reader, &query, &wide)?;
    let by_words = words[0].candidates(reader, &query, &wide)?;
    let by_vectors = merge::by_weight(reader, &query, lists, &wide)?;
    let list = |words: &Words| {
        let vectors = if words.are_alone() { Vec::new() } else { by_vectors.clone() };
        let merged = words.merged(reader, &query, vectors, &by_words)?.into_iter().take(plan.limit);
        Ok(merged.map(|merged| Candidate { row: merged.candidate.row, score: merged.score }).collect())
    };
    words.iter().map(list).collect()
}

fn at_hand(parts: Vec<Part>, reach: Reach) -> (encode::Query, request::Plan) {
    let Reach { limit, ef, exact } = reach;
    let plan = request::Plan { limit, offset: 0, candidates: limit, ef, exact, score_threshold: f32::NEG_INFINITY };
    let weight = parts.iter().map(|part| f64::from(part.weight)).sum();
    let is_blend = parts.len() > 1;
    let part = |part: Part| encode::Part { using: part.using.to_owned(), weight: part.weight, vector: part.vector };
    let parts = parts.into_iter().map(part).collect();
    (encode::Query { parts, is_blend, weight, itself: None, truncation: None, asker: None }, plan)
}

/// Measures one stage after the other.
struct Clock(Instant);

impl Clock {
    fn lap_us(&mut self) -> u64 {
        let now = Instant::now();
        let lap = now - self.0;
        self.0 = now;
        lap.as_micros() as u64
    }
}

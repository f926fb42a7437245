//! Candidates that are given, not searched for: a network of the collection says how well each belongs to the one that asks.
//!
//! A score is the cosine, of the vectors that the network was judged with, and what its logit and hubness count; the same as in a query.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use firn_index::{Collection, PointId, Side};
use firn_model::fusion::{Direction, Items};

use super::{
    Clock, Error, Named, Timings, Truncation,
    see::{Eyes, Seen},
};
use crate::{engine::Engine, reranker::Reranker};

/// Who asks, and the candidates.
#[derive(Clone, Debug)]
pub struct Given {
    /// A collection or alias.
    pub collection: String,
    /// The asker is of one side, all candidates are of the other.
    pub direction: Direction,
    pub asker: Item,
    pub candidates: Vec<Item>,
    /// None: the active one.
    pub version: Option<u32>,
}

/// An image, or a text.
#[derive(Clone, Debug)]
pub enum Item {
    Text(String),
    /// An encoded picture.
    Image(Vec<u8>),
    /// A stored point: its image, or its texts.
    Id(PointId),
    /// A vector for each of the network's blend. Those of a text are named as the vectors of images they are compared with.
    Vectors(Named),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Best first; ties in the order of the candidates.
    pub scores: Vec<Score>,
    /// The version of the network.
    pub version: u32,
    /// Texts that were longer than the model reads: of candidates by their place, of the asker without.
    pub truncations: Vec<(Option<usize>, Truncation)>,
    pub timings: Timings,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Which candidate.
    pub index: usize,
    pub score: f32,
    pub cosine: f32,
    /// Of the network, if there is one.
    pub logit: Option<f32>,
    /// How much of a hub it is, if that counts.
    pub hubness: Option<f32>,
    /// How likely it is that it belongs, if that is known.
    pub relevance: Option<f32>,
}

/// Scores all candidates from one generation of the collection, or none: `Error::Item` names what cannot be read.
pub fn score(engine: &Engine, given: &Given) -> Result<Scored, Error> {
    let start = Instant::now();
    let mut clock = Clock(start);
    let collection = engine.db().collection(&given.collection)?;
    let reader = collection.reader();

    let reranker = network(engine, &collection, given.version)?;
    let eyes = Eyes { engine, collection: &collection, reader: &reader, reranker: &reranker };
    let (asks, looked_for) = match given.direction {
        Direction::TextToImage => (Side::Text, Side::Image),
        Direction::ImageToText => (Side::Image, Side::Text),
    };
    let asker = eyes.see(asks, std::slice::from_ref(&given.asker), |_| "query".to_owned())?;
    let candidates = eyes.see(looked_for, &given.candidates, |at| format!("candidates[{at}]"))?;
    let encode_us = clock.lap_us();
    let scores = scores(&reranker, given.direction, &asker, &candidates)?;
    let rerank_us = clock.lap_us();

    let of_candidates = candidates.iter().enumerate().map(|(at, seen)| (Some(at), seen.truncation));
    let all = asker.iter().map(|seen| (None, seen.truncation)).chain(of_candidates);
    let truncations = all.filter_map(|(at, cut)| Some((at, cut?))).collect();
    let total_us = start.elapsed().as_micros() as u64;
    let timings = Timings { encode_us, rerank_us, total_us, ..Timings::default() };
    Ok(Scored { scores, version: reranker.version.number, truncations, timings })
}

fn network(engine: &Engine, collection: &Collection, version: Option<u32>) -> Result<Arc<Reranker>, Error> {
    let found = match version {
        None => engine.rerankers().active(collection)?,
        Some(number) => Some(engine.rerankers().version(collection, number)?),
    };
    let reranker = found.ok_or_else(|| Error::NoReranker { collection: collection.name().to_owned() })?;
    if !reranker.is_for(collection.config()) {
        let model = &reranker.version.reads.model.name;
        return Err(Error::not_reranked(format!("version {} was made for the model {model}", reranker.version.number)));
    }
    Ok(reranker)
}

fn scores(reranker: &Reranker, direction: Direction, asker: &[Seen], candidates: &[Seen]) -> Result<Vec<Score>, Error> {
    let (Some(asker), Some(items)) = (asker.first(), together(candidates)) else { return Ok(Vec::new()) };
    let version = &reranker.version;
    let logits = reranker.logits(direction, &asker.item, &items, None)?;
    let vector_of = |at: usize, name: &str| candidates[at].vectors.get(name).map(Vec::as_slice);
    let hubness = reranker.hubness(direction, &vec![None; candidates.len()], vector_of);
    let scored = |(index, candidate): (usize, &Seen)| {
        let of = |all: &Option<Vec<f32>>| all.as_ref().map(|all| all[index]);
        let (logit, hubness) = (of(&logits), of(&hubness));
        let cosine = cosine(&version.blend, &asker.vectors, &candidate.vectors);
        let score = version.weight(direction).score(cosine, logit.unwrap_or(0.0), hubness.unwrap_or(0.0));
        Score { index, score, cosine, logit, hubness, relevance: version.relevance(direction, score) }
    };
    let mut scores: Vec<Score> = candidates.iter().enumerate().map(scored).collect();
    scores.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(scores)
}

fn together(seen: &[Seen]) -> Option<Items> {
    let (first, others) = seen.split_first()?;
    let mut items = first.item.clone();
    others.iter().for_each(|other| items.append(&other.item));
    Some(items)
}

/// The weighted mean of cosines; of a vector that one of them lacks, 0.
fn cosine(blend: &BTreeMap<String, f32>, one: &BTreeMap<String, Vec<f32>>, other: &BTreeMap<String, Vec<f32>>) -> f32 {
    let of = |name: &String| match (one.get(name), other.get(name)) {
        (Some(one), Some(other)) => one.iter().zip(other).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum(),
        _ => 0.0,
    };
    let (mut sum, mut total) = (0.0, 0.0);
    for (name, weight) in blend {
        sum += f64::from(*weight) * of(name);
        total += f64::from(*weight);
    }
    (sum / total) as f32
}

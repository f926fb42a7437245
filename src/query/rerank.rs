//! Fourth stage: the order of the answer. Without a fusion network the score is the cosine, the blend of several, or what words and
//! cosines make; with one, it is the cosine and what its logit counts.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use firn_index::{Collection, CollectionConfig, Fields, Reader, Row, Side};
use firn_model::fusion::{Direction, Items, Weight};

use super::{
    Content, Error, OnFailure, Request, Which,
    encode::Query,
    merge::Merged,
    request::{Plan, invalid},
    using::Using,
};
use crate::{
    engine::{Engine, texts_beside},
    reranker::{self, Reads, Reranker, Version},
};

/// A row with what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    pub merged: Merged,
    pub score: f32,
    /// What a network says of it, and how likely it is that it belongs.
    pub fusion: Option<Fusion>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fusion {
    /// None if no network was asked.
    pub logit: Option<f32>,
    /// How much of a hub it is, if that counts.
    pub hubness: Option<f32>,
    pub relevance: Option<f32>,
}

/// What re-ranks a question, or why nothing does.
pub enum Network {
    None(Option<String>),
    Of(Box<Ranker>),
}

/// A network, and what it looks at.
pub struct Ranker {
    pub reranker: Arc<Reranker>,
    pub direction: Direction,
    /// What it reads of each candidate.
    pub reads: Reads,
    /// Of each vector of the blend it was judged with, the one that candidates have in its place.
    names: BTreeMap<String, String>,
    /// Whether the network is to look, or hubs alone are told.
    looks: bool,
    candidates: usize,
}

impl Network {
    /// So many candidates as it was judged with, or as the request says.
    pub fn widen(&self, plan: Plan) -> Plan {
        let candidates = self.ranker().map_or(0, |ranker| ranker.candidates);
        Plan { candidates: plan.candidates.max(candidates), ..plan }
    }

    pub fn ranker(&self) -> Option<&Ranker> {
        match self {
            Network::None(_) => None,
            Network::Of(ranker) => Some(ranker),
        }
    }
}

/// All candidates in order, and who ordered them.
pub struct Order {
    ranked: Vec<Ranked>,
    min_relevance: f32,
    /// The version that did.
    pub reranker: Option<u32>,
    /// Why none did, if one was to.
    pub skipped: Option<String>,
}

impl Order {
    /// Without what is below the thresholds, before the offset or past the limit.
    pub fn page(&self, plan: &Plan) -> Vec<Ranked> {
        let relevance = |ranked: &Ranked| ranked.fusion.and_then(|fusion| fusion.relevance).unwrap_or(1.0);
        let is_wanted =
            |ranked: &&Ranked| ranked.score >= plan.score_threshold && relevance(ranked) >= self.min_relevance;
        self.ranked.iter().filter(is_wanted).skip(plan.offset).take(plan.limit).cloned().collect()
    }
}

/// The network that the request names, else the collection's active one. One that cannot re-rank this question is said, or is
/// `Error::NotReranked` if the request wants that.
pub fn network(engine: &Engine, collection: &Collection, using: &Using, request: &Request) -> Result<Network, Error> {
    let asked = &request.rerank;
    let cache = engine.rerankers();
    let found = match asked.which {
        // Nothing is opened for what is never re-ranked.
        Which::Active if matches!(request.content, Content::Vector(_)) => match cache.is_any_active(collection) {
            Ok(true) => return skipped(request, LONE_VECTOR.to_owned()).map(Network::None),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        },
        Which::None => return Ok(Network::None(None)),
        Which::Active => cache.active(collection),
        Which::Version(number) => cache.version(collection, number).map(Some),
    };
    let reranker = match found {
        Ok(None) => return Ok(Network::None(None)),
        Ok(Some(reranker)) => reranker,
        Err(reranker::Error::UnknownVersion { received, expected }) => {
            let expected = format!("one of the versions {expected:?}");
            return Err(invalid("rerank.version", expected, received.to_string()));
        }
        Err(error) => return skipped(request, error.to_string()).map(Network::None),
    };
    match fit(&reranker, collection.config(), using, request) {
        Ok((direction, reads)) => {
            let candidates = asked.candidates.unwrap_or(reranker.version.candidates);
            // Where hubness alone counts, the network is only asked if its version is named.
            let weight = reranker.version.weight(direction);
            let looks = asked.which != Which::Active || weight.logit != 0.0 || weight.hubness == 0.0;
            let names = names(&reranker.version, collection.config(), using, direction);
            Ok(Network::Of(Box::new(Ranker { reranker, direction, reads, names, looks, candidates })))
        }
        Err(reason) => skipped(request, reason).map(Network::None),
    }
}

const LONE_VECTOR: &str = "a vector alone does not say whether a text or an image asks";

/// Who looks for whom and what is read of the candidates, or why the network cannot re-rank them.
fn fit(
    reranker: &Reranker,
    config: &CollectionConfig,
    using: &Using,
    request: &Request,
) -> Result<(Direction, Reads), String> {
    if using.weights.is_empty() {
        return Err("only words are looked for".to_owned());
    }
    if request.rerank.which == Which::Active && request.full_text.is_some() {
        return Err("it was not judged on candidates that words found; hint: name its version".to_owned());
    }
    let (direction, reads) = match &request.content {
        Content::Text(_) => (Direction::TextToImage, reranker.version.reads.clone()),
        Content::Vector(_) => return Err(LONE_VECTOR.to_owned()),
        Content::Image(_) | Content::Id(_) | Content::Vectors(_) => {
            (Direction::ImageToText, of_texts(reranker, config, using)?)
        }
    };
    let is_idle = direction == Direction::ImageToText && reranker.version.weight(direction) == Weight::NONE;
    if request.rerank.which == Which::Active && is_idle {
        return Err("where an image looks for texts, it makes nothing better".to_owned());
    }
    if !reranker.is_for(config) {
        return Err(format!("it was made for the model {}", reranker.version.reads.model.name));
    }
    if request.rerank.which == Which::Active && !is_judged(&reranker.version, config, using, direction) {
        let names: Vec<String> =
            reranker.version.blend.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
        return Err(format!("it was judged on candidates by {}", names.join(",")));
    }
    Ok((direction, reads))
}

/// What is read of the texts that an image looks for: the first vector that is searched and lies where the images do.
fn of_texts(reranker: &Reranker, config: &CollectionConfig, using: &Using) -> Result<Reads, String> {
    let texts = texts_beside(config, &reranker.version.reads.image);
    let Some((name, _)) = using.weights.iter().find(|(name, _)| texts.contains(&name.as_str())) else {
        return Err("it re-ranks images that a text looks for, and texts that an image looks for".to_owned());
    };
    let reads = reranker.reads(Side::Text, name);
    if reads.tokens && !config.tokens.contains_key(name) {
        return Err(format!("it reads tokens of texts, and the collection keeps none beside {name:?}"));
    }
    Ok(reads)
}

/// What the candidates have in the place of the blend's vectors: those themselves, or of texts those that are searched and lie where
/// they do.
fn names(
    version: &Version,
    config: &CollectionConfig,
    using: &Using,
    direction: Direction,
) -> BTreeMap<String, String> {
    let stands_for = |judged: &String| match direction {
        Direction::TextToImage => Some(judged.clone()),
        Direction::ImageToText => {
            let texts = texts_beside(config, judged);
            let searched = using.weights.iter().find(|(name, _)| texts.contains(&name.as_str()));
            searched.map(|(name, _)| name.clone())
        }
    };
    version.blend.keys().filter_map(|judged| Some((judged.clone(), stands_for(judged)?))).collect()
}

/// Whether the first order is the one it was judged with. An image looks for texts by the vectors that lie where those of the blend do.
fn is_judged(version: &Version, config: &CollectionConfig, using: &Using, direction: Direction) -> bool {
    let total: f32 = version.blend.values().sum();
    let stands_for = |judged: &str, name: &str| match direction {
        Direction::TextToImage => judged == name,
        Direction::ImageToText => texts_beside(config, judged).contains(&name),
    };
    let is_alike = |(judged, of): (&String, &f32), (name, weight): &(String, f32)| {
        stands_for(judged, name) && (of / total - weight / using.weight() as f32).abs() < 1e-3
    };
    let is_searched = |judged| using.weights.iter().any(|name| is_alike(judged, name));
    let is_of_blend = |name| version.blend.iter().any(|judged| is_alike(judged, name));
    using.weights.len() == version.blend.len()
        && version.blend.iter().all(is_searched)
        && using.weights.iter().all(is_of_blend)
}

/// `Error::NotReranked`, or the reason for the reply.
fn skipped(request: &Request, reason: String) -> Result<Option<String>, Error> {
    match request.rerank.on_failure {
        OnFailure::Error => Err(Error::NotReranked { reason }),
        OnFailure::Skip => Ok(Some(reason)),
    }
}

/// All candidates, best first.
pub fn order(
    reader: &Reader,
    query: &Query,
    merged: Vec<Merged>,
    network: &Network,
    request: &Request,
) -> Result<Order, Error> {
    let min_relevance = request.rerank.min_relevance.unwrap_or(f32::NEG_INFINITY);
    let by_cosine = |merged: Vec<Merged>, skipped| {
        let plain = |merged: Merged| Ranked { score: merged.score, merged, fusion: None };
        Order { ranked: merged.into_iter().map(plain).collect(), min_relevance, reranker: None, skipped }
    };
    let ranker = match network {
        Network::None(reason) => return Ok(by_cosine(merged, reason.clone())),
        Network::Of(ranker) => ranker,
    };
    match looked_at(reader, query, &merged, ranker, request) {
        Ok(seen) => {
            let ranked = by_network(ranker, merged, seen);
            Ok(Order { ranked, min_relevance, reranker: Some(ranker.reranker.version.number), skipped: None })
        }
        Err(reason) => Ok(by_cosine(merged, skipped(request, reason)?)),
    }
}

/// What is known of each candidate.
struct Seen {
    logits: Option<Vec<f32>>,
    hubness: Option<Vec<f32>>,
}

fn looked_at(
    reader: &Reader,
    query: &Query,
    merged: &[Merged],
    Ranker { reranker, direction, reads, looks, names, .. }: &Ranker,
    request: &Request,
) -> Result<Seen, String> {
    /// Kept for what comes after it: payloads and the way back.
    const REST: Duration = Duration::from_millis(5);
    let (estimate, now) = (reranker.estimate(*direction, merged.len(), *looks), Instant::now());
    let deadline = request.deadline.map(|deadline| deadline.checked_sub(REST).unwrap_or(now));
    if let Some(left) = deadline.map(|deadline| deadline.saturating_duration_since(now))
        && left < estimate
    {
        reranker.doubt_estimate();
        return Err(format!("it takes about {estimate:.1?}, and {left:.1?} are left until the deadline"));
    }
    let rows: Vec<Row> = merged.iter().map(|merged| merged.candidate.row).collect();
    let fields = Fields { vectors: true, tokens: reads.tokens, ..Fields::default() };
    let mut points = reader.fetch(&rows, fields).map_err(|error| error.to_string())?;
    if points.len() != rows.len() {
        return Err("a candidate is gone".to_owned());
    }
    let stored: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    let vector_of = |at: usize, name: &str| points[at].vectors.get(names.get(name)?).map(Vec::as_slice);
    let hubness = reranker.hubness(*direction, &stored, vector_of);
    if !looks {
        return Ok(Seen { logits: None, hubness });
    }
    let asker = query.asker.as_ref().ok_or("nobody asks whom it reads")?.as_ref().map_err(String::clone)?;
    let mut candidates = Items::default();
    for point in &mut points {
        let read = reads.add(point, &mut candidates);
        read.map_err(|what| reranker::Error::Lacking { id: point.id.clone(), what }.to_string())?;
    }
    let logits = reranker.logits(*direction, asker, &candidates, deadline).map_err(|error| error.to_string())?;
    Ok(Seen { logits, hubness })
}

/// Ties keep the order of retrieval.
fn by_network(Ranker { reranker, direction, .. }: &Ranker, merged: Vec<Merged>, seen: Seen) -> Vec<Ranked> {
    let version = &reranker.version;
    let scored = |(at, merged): (usize, Merged)| {
        let of = |all: &Option<Vec<f32>>| all.as_ref().map(|all| all[at]);
        let (logit, hubness) = (of(&seen.logits), of(&seen.hubness));
        let weight = version.weight(*direction);
        let score = weight.score(merged.candidate.score, logit.unwrap_or(0.0), hubness.unwrap_or(0.0));
        let relevance = version.relevance(*direction, score);
        Ranked { merged, score, fusion: Some(Fusion { logit, hubness, relevance }) }
    };
    let mut ranked: Vec<Ranked> = merged.into_iter().enumerate().map(scored).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}

//! Fourth stage: the order of the answer. Without a fusion network the score is the cosine, or the blend of several; with one,
//! what its logit counts is added.

use std::sync::Arc;

use firn_index::{Collection, Fields, Reader, Row};

use super::{
    Content, Error, OnFailure, Request, Which,
    encode::Query,
    merge::Merged,
    request::{Plan, invalid},
    using::Using,
};
use crate::{
    engine::Engine,
    reranker::{self, Reads, Reranker},
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
    pub logit: f32,
    pub relevance: Option<f32>,
}

/// What re-ranks a question, or why nothing does.
pub enum Network {
    None(Option<String>),
    Of { reranker: Arc<Reranker>, candidates: usize },
}

impl Network {
    /// So many candidates as it was judged with, or as the request says.
    pub fn widen(&self, plan: Plan) -> Plan {
        match self {
            Network::None(_) => plan,
            Network::Of { candidates, .. } => Plan { candidates: plan.candidates.max(*candidates), ..plan },
        }
    }

    pub fn reads(&self) -> Option<&Reads> {
        match self {
            Network::None(_) => None,
            Network::Of { reranker, .. } => Some(&reranker.version.reads),
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
    let found = match asked.which {
        Which::None => return Ok(Network::None(None)),
        Which::Active => engine.rerankers().active(collection),
        Which::Version(number) => engine.rerankers().version(collection, number).map(Some),
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
    if let Some(reason) = unfit(&reranker, collection, using, request) {
        return skipped(request, reason).map(Network::None);
    }
    let candidates = asked.candidates.unwrap_or(reranker.version.candidates);
    Ok(Network::Of { reranker, candidates })
}

/// Why a network cannot re-rank the candidates of a question.
fn unfit(reranker: &Reranker, collection: &Collection, using: &Using, request: &Request) -> Option<String> {
    let version = &reranker.version;
    if !matches!(request.content, Content::Text(_)) {
        return Some("it re-ranks images that a text looks for".to_owned());
    }
    let model = collection.config().model_of(&version.reads.image);
    if model.is_none_or(|model| model.hash != version.reads.model.hash) {
        return Some(format!("it was made for the model {}", version.reads.model.name));
    }
    if request.rerank.which != Which::Active {
        return None;
    }
    let total: f32 = version.blend.values().sum();
    let is_judged = |(name, weight): &(String, f32)| {
        version.blend.get(name).is_some_and(|judged| (judged / total - weight / using.weight() as f32).abs() < 1e-3)
    };
    let is_same = using.weights.len() == version.blend.len() && using.weights.iter().all(is_judged);
    (!is_same).then(|| {
        let names: Vec<String> = version.blend.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
        format!("it was judged on candidates by {}", names.join(","))
    })
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
        let plain = |merged: Merged| Ranked { score: merged.candidate.score, merged, fusion: None };
        Order { ranked: merged.into_iter().map(plain).collect(), min_relevance, reranker: None, skipped }
    };
    let reranker = match network {
        Network::None(reason) => return Ok(by_cosine(merged, reason.clone())),
        Network::Of { reranker, .. } => reranker,
    };
    match logits(reader, query, &merged, reranker, request) {
        Ok(logits) => {
            let ranked = by_network(reranker, merged, logits);
            Ok(Order { ranked, min_relevance, reranker: Some(reranker.version.number), skipped: None })
        }
        Err(reason) => Ok(by_cosine(merged, skipped(request, reason)?)),
    }
}

fn logits(
    reader: &Reader,
    query: &Query,
    merged: &[Merged],
    reranker: &Reranker,
    request: &Request,
) -> Result<Vec<f32>, String> {
    let estimate = reranker.estimate(merged.len());
    if let Some(left) = request.deadline.map(|deadline| deadline.saturating_duration_since(std::time::Instant::now()))
        && left < estimate
    {
        return Err(format!("it takes about {estimate:.1?}, and {left:.1?} are left until the deadline"));
    }
    let asker = query.asker.as_ref().ok_or("there is no text that asks")?;
    let rows: Vec<Row> = merged.iter().map(|merged| merged.candidate.row).collect();
    let fields = Fields { vectors: true, tokens: reranker.version.reads.tokens, ..Fields::default() };
    let points = reader.fetch(&rows, fields).map_err(|error| error.to_string())?;
    if points.len() != rows.len() {
        return Err("a candidate is gone".to_owned());
    }
    reranker.logits(asker, points).map_err(|error| error.to_string())
}

/// Ties keep the order of retrieval.
fn by_network(reranker: &Reranker, merged: Vec<Merged>, logits: Vec<f32>) -> Vec<Ranked> {
    let weight = reranker.version.weights[0];
    let scored = |(merged, logit): (Merged, f32)| {
        let score = merged.candidate.score + weight * logit;
        let relevance = reranker.version.calibration.as_ref().map(|calibration| calibration.relevance(score));
        Ranked { merged, score, fusion: Some(Fusion { logit, relevance }) }
    };
    let mut ranked: Vec<Ranked> = merged.into_iter().zip(logits).map(scored).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}
